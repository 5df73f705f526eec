//! Calls out: where the app makes them, whom they reach, and the routes that say with which tokens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_core::names::{Audience, Scope};
use serde::Deserialize;

use super::addresses::Local;
use super::services::Written;
use super::{Checker, ServiceConfig};
use crate::agent::TokenKey;
use crate::outbound::Route;
use crate::routes::Paths;

/// One `[[outbound]]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    address: Option<String>,
    unix: Option<PathBuf>,
    upstream: String,
    spiffe_id: Option<String>,
    server_name: Option<String>,
    trust_roots: Option<PathBuf>,
    #[serde(default)]
    own_tokens: bool,
    #[serde(default)]
    route: Vec<RouteFile>,
}

/// One `[[outbound.route]]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    host: Option<String>,
    path: Option<String>,
    audience: String,
    #[serde(default)]
    scopes: Vec<String>,
}

/// A way out to one neighbour.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// Where the app calls.
    pub listen: LocalAddress,
    /// Whom it reaches.
    pub neighbour: ServiceConfig,
    /// Which calls, with which tokens. The first that leads a call is taken.
    pub routes: Vec<Route>,
    /// Whether calls may bring their own credential.
    pub own_tokens: bool,
}

/// An address that only this machine reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// Loopback.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Checker {
    pub(super) fn outbound(&mut self, files: &[File]) -> Vec<OutboundConfig> {
        let named = files.iter().enumerate();
        let ways: Vec<OutboundConfig> = named
            .filter_map(|(index, file)| self.way_out(&format!("outbound.{index}"), file))
            .collect();
        // A call would go round for ever.
        let served: Vec<Local> = local(&ways).collect();
        for (index, way) in ways.iter().enumerate() {
            self.check_elsewhere(&format!("outbound.{index}.upstream"), &way.neighbour, &served);
        }
        ways
    }

    /// Every complaint is made before anything is given up.
    fn way_out(&mut self, key: &str, file: &File) -> Option<OutboundConfig> {
        let listen = self.local_address(key, file);
        let neighbour = self.neighbour(key, file);
        let routes = self.routes(key, &file.route);
        Some(OutboundConfig {
            listen: listen?,
            neighbour: neighbour?,
            routes,
            own_tokens: file.own_tokens,
        })
    }

    fn local_address(&mut self, key: &str, file: &File) -> Option<LocalAddress> {
        match (&file.address, &file.unix) {
            (Some(address), None) => self
                .loopback(&format!("{key}.address"), address)
                .map(LocalAddress::Tcp),
            (None, Some(path)) => Some(LocalAddress::Unix(self.path(path))),
            (Some(_), Some(_)) | (None, None) => {
                self.complaints.push(key, "needs either `address` or `unix`");
                None
            }
        }
    }

    fn neighbour(&mut self, key: &str, file: &File) -> Option<ServiceConfig> {
        let written = Written {
            uri: file.upstream.clone(),
            spiffe_id: file.spiffe_id.clone(),
            server_name: file.server_name.clone(),
            trust_roots: file.trust_roots.clone(),
        };
        self.service(key, &format!("{key}.upstream"), &written)
    }

    fn routes(&mut self, key: &str, files: &[RouteFile]) -> Vec<Route> {
        if files.is_empty() {
            self.complaints.push(
                key,
                "needs a `[[outbound.route]]`: without one every call would be refused",
            );
        }
        let mut routes: Vec<Route> = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            let key = format!("{key}.route.{index}");
            let Some(route) = self.route(&key, file) else {
                continue;
            };
            let earlier: Vec<_> = routes.iter().map(|earlier| &earlier.calls).collect();
            self.check_reached(&key, &route.calls, &earlier);
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, key: &str, file: &RouteFile) -> Option<Route> {
        let calls = self.calls(key, file.host.as_deref(), file.path.as_deref(), Paths::parse);
        let audience = Audience::parse(&file.audience);
        let audience = self.complaints.accept(&format!("{key}.audience"), audience);
        let mut scopes = BTreeSet::new();
        for name in &file.scopes {
            let scope = self
                .complaints
                .accept(&format!("{key}.scopes"), Scope::parse(name));
            scopes.extend(scope);
        }
        Some(Route {
            calls: calls?,
            key: TokenKey {
                audience: Some(audience?),
                scopes,
            },
        })
    }
}

/// Where calls out are made.
pub(super) fn local(ways: &[OutboundConfig]) -> impl Iterator<Item = Local> {
    let ways = ways.iter().enumerate();
    ways.map(|(index, way)| match &way.listen {
        LocalAddress::Tcp(address) => Local::Tcp(format!("outbound.{index}.address"), *address),
        LocalAddress::Unix(path) => Local::Unix(format!("outbound.{index}.unix"), path.clone()),
    })
}
