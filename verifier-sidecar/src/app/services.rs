//! Services: the apps behind the sidecar, which are put together here, and the TLS to them and to those that they call.

use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{ClientTls, DEFAULT_WATCH_INTERVAL, TlsError, TlsFiles};
use countersign_runtime::Shutdown;
use tokio_util::task::TaskTracker;

use crate::config::{AppConfig, Config, ServiceConfig, TlsServiceConfig};
use crate::proxy::apps::{App, Apps};
use crate::proxy::{Dial, Upstream};
use crate::routes::Calls;

/// The TLS to `service`, with the sidecar's certificate: the one that its tokens are bound to.
pub(super) fn tls(
    config: &Config,
    service: &TlsServiceConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ClientTls>, TlsError> {
    let own = &config.trust.authority.files;
    let roots = service.trust_roots.as_ref().unwrap_or(&own.trust_roots);
    let files = TlsFiles {
        trust_roots: roots.clone(),
        ..own.clone()
    };
    ClientTls::load(&files, service.server.clone(), Arc::clone(clock))
}

/// Where the calls of each listener go.
pub(super) struct Behind {
    /// Of each listener, in the order of the configuration, for each worker: what goes to an app stays on its thread.
    pub(super) apps: Vec<Vec<Arc<Apps>>>,
    /// The TLS to those that have it.
    pub(super) tls: Vec<Arc<ClientTls>>,
}

impl Behind {
    /// The apps that `config` names, each once for each of so many workers, however often it is named.
    pub(super) fn new(config: &Config, clock: &Arc<dyn Clock>, workers: usize) -> Result<Self, TlsError> {
        let mut dials = Dials {
            config,
            clock,
            known: Vec::new(),
            tls: Vec::new(),
        };
        let mut apps = vec![Vec::with_capacity(workers); config.listeners.len()];
        for _ in 0..workers {
            let of_worker = Building {
                dials: &mut dials,
                known: Vec::new(),
            };
            for (of_listener, apps) in apps.iter_mut().zip(of_worker.apps()?) {
                of_listener.push(apps);
            }
        }
        Ok(Self { apps, tls: dials.tls })
    }

    /// Follows the TLS files until `stop`.
    pub(super) fn watch(&self, tasks: &TaskTracker, stop: &Shutdown) {
        for tls in &self.tls {
            tasks.spawn(tls.watch(DEFAULT_WATCH_INTERVAL, stop.token()));
        }
    }
}

/// How apps are connected to. Files are read once.
struct Dials<'a> {
    config: &'a Config,
    clock: &'a Arc<dyn Clock>,
    known: Vec<(&'a ServiceConfig, Dial)>,
    tls: Vec<Arc<ClientTls>>,
}

impl<'a> Dials<'a> {
    fn dial(&mut self, service: &'a ServiceConfig) -> Result<Dial, TlsError> {
        if let Some((_, dial)) = self.known.iter().find(|(known, _)| *known == service) {
            return Ok(dial.clone());
        }
        let dial = match service {
            ServiceConfig::Plaintext(address) => Dial::Plaintext(address.clone()),
            ServiceConfig::Tls(service) => {
                let tls = tls(self.config, service, self.clock)?;
                self.tls.push(Arc::clone(&tls));
                Dial::Tls {
                    uri: service.uri.to_string(),
                    tls,
                    keepalive: self.config.limits.keepalive,
                }
            }
        };
        self.known.push((service, dial.clone()));
        Ok(dial)
    }
}

/// The apps of one worker.
struct Building<'a, 'b> {
    dials: &'b mut Dials<'a>,
    known: Vec<(&'a ServiceConfig, Arc<Upstream>)>,
}

impl<'a> Building<'a, '_> {
    /// Where calls go at each listener.
    fn apps(mut self) -> Result<Vec<Arc<Apps>>, TlsError> {
        let shared = self.shared()?;
        let listeners = &self.dials.config.listeners;
        let mut apps = Vec::with_capacity(listeners.len());
        for listener in listeners {
            apps.push(match &listener.app {
                Some(own) => Arc::new(Apps::new([(Calls::ALL, self.app(own)?)])),
                None => Arc::clone(&shared),
            });
        }
        Ok(apps)
    }

    /// Where calls go at listeners without an app of their own.
    fn shared(&mut self) -> Result<Arc<Apps>, TlsError> {
        let apps = &self.dials.config.apps;
        let mut routes = Vec::with_capacity(apps.routes.len() + 1);
        for route in &apps.routes {
            routes.push((route.calls.clone(), self.app(&route.app)?));
        }
        if let Some(default) = &apps.default {
            routes.push((Calls::ALL, self.app(default)?));
        }
        Ok(Arc::new(Apps::new(routes)))
    }

    fn app(&mut self, app: &'a AppConfig) -> Result<App, TlsError> {
        Ok(App {
            upstream: self.upstream(&app.service)?,
            speaks: app.speaks,
        })
    }

    fn upstream(&mut self, service: &'a ServiceConfig) -> Result<Arc<Upstream>, TlsError> {
        if let Some((_, upstream)) = self.known.iter().find(|(known, _)| *known == service) {
            return Ok(Arc::clone(upstream));
        }
        let dial = self.dials.dial(service)?;
        let connections = self.dials.config.upstream_connections;
        let upstream = Arc::new(Upstream::dialling(dial, connections));
        self.known.push((service, Arc::clone(&upstream)));
        Ok(upstream)
    }
}

/// What of the files that `config` names for services cannot be used.
pub(super) fn check(config: &Config, clock: &Arc<dyn Clock>) -> Vec<TlsError> {
    let apps = config
        .apps
        .services(&config.listeners)
        .map(|(_, service)| service);
    let neighbours = config.outbound.iter().map(|way| &way.neighbour);
    let tried = apps.chain(neighbours).filter_map(|service| match service {
        ServiceConfig::Plaintext(_) => None,
        ServiceConfig::Tls(service) => tls(config, service, clock).err(),
    });
    tried.collect()
}
