//! The apps behind the sidecar, and which calls reach which of them.

use serde::Deserialize;

use super::services::Upstream;
use super::{Checker, File, ListenerConfig, ServiceConfig};
use crate::proxy::Speaks;
use crate::routes::{Calls, Paths};

/// One `[[route]]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteFile {
    host: Option<String>,
    path: Option<String>,
    upstream: Upstream,
}

/// The apps that calls at listeners without one of their own reach.
#[derive(Clone, Debug, Default)]
pub struct AppsConfig {
    /// The first route that leads a call is taken.
    pub routes: Vec<AppRoute>,
    /// The app for calls that no route leads. None: they are refused.
    pub default: Option<AppConfig>,
}

/// Calls that reach the same app.
#[derive(Clone, Debug)]
pub struct AppRoute {
    /// Which.
    pub calls: Calls,
    /// The app.
    pub app: AppConfig,
}

/// An app, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppConfig {
    /// Where it is.
    pub service: ServiceConfig,
    /// What it speaks.
    pub speaks: Speaks,
}

impl AppsConfig {
    /// Every app here and at `listeners`, by the key that it is configured with.
    pub(crate) fn services<'a>(
        &'a self,
        listeners: &'a [ListenerConfig],
    ) -> impl Iterator<Item = (String, &'a ServiceConfig)> {
        let default = self.default.iter().map(|app| ("upstream".to_owned(), app));
        let routes = self.routes.iter().enumerate();
        let routes = routes.map(|(index, route)| (format!("route.{index}.upstream"), &route.app));
        let listeners = listeners.iter().enumerate();
        let of_listeners = listeners.filter_map(|(index, listener)| {
            Some((format!("listener.{index}.upstream"), listener.app.as_ref()?))
        });
        let apps = default.chain(routes).chain(of_listeners);
        apps.map(|(key, app)| (key, &app.service))
    }
}

impl Checker {
    pub(super) fn listeners(&mut self, file: &File) -> Vec<ListenerConfig> {
        let listeners = file.listener.iter().enumerate();
        listeners
            .filter_map(|(index, file)| self.listener(&format!("listener.{index}"), file))
            .collect()
    }

    /// On a listener that takes gRPC alone, an app that takes none gets no call.
    fn check_takes_grpc(&mut self, file: &File) {
        let speaks_http1 = |app: &Upstream| app.speaks == Speaks::Http1;
        for (index, listener) in file.listener.iter().enumerate() {
            if listener.grpc_only && listener.upstream.as_ref().is_some_and(speaks_http1) {
                self.complaints.push(
                    &format!("listener.{index}.upstream"),
                    "gets no call: the listener takes gRPC alone, which needs HTTP/2",
                );
            }
        }
        let shared: Vec<_> = file
            .listener
            .iter()
            .filter(|listener| listener.upstream.is_none())
            .collect();
        if shared.is_empty() || !shared.iter().all(|listener| listener.grpc_only) {
            return;
        }
        let default = file.upstream.iter().map(|app| ("upstream".to_owned(), app));
        let routes = file.route.iter().enumerate();
        let routes = routes.map(|(index, route)| (format!("route.{index}.upstream"), &route.upstream));
        for (key, _) in default.chain(routes).filter(|(_, app)| speaks_http1(app)) {
            self.complaints.push(
                &key,
                "gets no call: its listeners take gRPC alone, which needs HTTP/2",
            );
        }
    }

    pub(super) fn apps(&mut self, file: &File) -> AppsConfig {
        let mut listeners = file.listener.iter().enumerate();
        let shared = listeners.find(|(_, listener)| listener.upstream.is_none());
        if shared.is_none() && !file.listener.is_empty() && file.upstream.is_some() {
            self.complaints
                .push("upstream", "leads no call: every listener has its own");
        }
        if let Some((index, _)) = shared
            && file.upstream.is_none()
            && file.route.is_empty()
        {
            self.complaints.push(
                &format!("listener.{index}"),
                "leads nowhere: there is neither `upstream`, nor its own, nor a `[[route]]`",
            );
        }
        self.check_takes_grpc(file);
        let default = file.upstream.as_ref();
        let default = default.and_then(|written| self.app("upstream", written));
        let mut routes: Vec<AppRoute> = Vec::with_capacity(file.route.len());
        for (index, written) in file.route.iter().enumerate() {
            let key = format!("route.{index}");
            if shared.is_none() {
                self.complaints.push(
                    &key,
                    "leads no call: there is no listener without an `upstream` of its own",
                );
            }
            routes.extend(self.app_route(&key, written, &routes));
        }
        AppsConfig { routes, default }
    }

    fn app_route(&mut self, key: &str, written: &RouteFile, earlier: &[AppRoute]) -> Option<AppRoute> {
        let calls = self.calls(
            key,
            written.host.as_deref(),
            written.path.as_deref(),
            Paths::parse_any,
        );
        let app = self.app(&format!("{key}.upstream"), &written.upstream);
        let calls = calls?;
        if calls == Calls::ALL {
            self.complaints.push(
                key,
                "needs `host` or `path`; what leads every other call is the `upstream` of the file or of a listener",
            );
        }
        let earlier: Vec<_> = earlier.iter().map(|route| &route.calls).collect();
        self.check_reached(key, &calls, &earlier);
        Some(AppRoute { calls, app: app? })
    }

    /// The app that `key` says. Off this machine, a certificate for its name is not enough: in many networks everybody can have one.
    pub(super) fn app(&mut self, key: &str, written: &Upstream) -> Option<AppConfig> {
        let app = self.service(key, key, &written.service)?;
        if let ServiceConfig::Tls(service) = &app
            && !app.is_on_this_machine()
            && service.server.spiffe_id.is_none()
            && service.trust_roots.is_none()
        {
            self.complaints.push(
                key,
                "is not on this machine: say who must answer there (`spiffe_id`), or whose certificates count (`trust_roots`)",
            );
        }
        Some(AppConfig {
            service: app,
            speaks: written.speaks,
        })
    }
}
