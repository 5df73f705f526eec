//! The listeners of a sidecar and what is served on them.

use std::fmt::Display;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{
    ClientCertificates, ClientTls, DEFAULT_WATCH_INTERVAL, Protocols, ServerTls, TlsFiles, Worker,
};
use countersign_runtime::Shutdown;
use countersign_runtime::busy::retry_while_busy;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::services::Behind;
use crate::agent::AgentService;
use crate::api::{ApiService, Health};
use crate::config::{Config, ExtAuthzConfig, ListenerConfig, LocalAddress};
use crate::ext_authz::ExtAuthzService;
use crate::metrics::{ConnectionMetrics, TlsParts};
use crate::outbound::{Outbound, OutboundService};
use crate::proxy::{Proxy, ProxyService};
use crate::server::listener::Listener;
use crate::server::{Limits, Serve, Terms, serve};

/// What is served, and what every listener grants.
pub(super) struct Services {
    pub(super) proxy: Arc<Proxy>,
    pub(super) behind: Behind,
    pub(super) api: ApiService,
    pub(super) agent: Option<AgentService>,
    /// In the order of the configuration, for each worker.
    pub(super) ways_out: Vec<Vec<Arc<Outbound>>>,
    /// Answers Envoy, if Envoy is to ask.
    pub(super) ext_authz: Option<ExtAuthzService>,
    pub(super) health: Vec<Health>,
    pub(super) connections: ConnectionMetrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
}

/// What listens at one place, for each worker.
type Shared = Vec<Listener>;

/// Everything that is bound, the admin port apart.
pub(super) struct Listeners {
    workers: Vec<Worker>,
    proxy: Vec<(Shared, ListenerConfig)>,
    api: Vec<Shared>,
    agent: Vec<Shared>,
    ext_authz: Vec<Shared>,
    /// In the order of the configuration.
    outbound: Vec<Shared>,
    tls: Vec<Arc<ServerTls>>,
}

impl Listeners {
    /// Binds what `config` names. Connections will be accepted on the first of `calls`, and served on that which has the fewest.
    pub(super) async fn bind(
        config: &Config,
        clock: Arc<dyn Clock>,
        calls: &[Handle],
    ) -> Result<Self, StartError> {
        let workers: Vec<_> = calls.iter().cloned().map(Worker::new).collect();
        let mut listeners = Self {
            workers: workers.clone(),
            proxy: Vec::new(),
            api: Vec::new(),
            agent: Vec::new(),
            ext_authz: Vec::new(),
            outbound: Vec::new(),
            tls: Vec::new(),
        };
        let limits = config.limits;
        for place in &config.listeners {
            let tls = place.tls.as_ref();
            let tls = tls.map(|(files, certificates)| (files, *certificates));
            let tls = listeners.tls(tls, protocols(place), &clock)?;
            let listener = bind_tcp(&workers, place.address, tls, limits).await?;
            listeners.proxy.push((listener, place.clone()));
        }
        let (verify, agent) = (&config.verify, &config.agent);
        listeners.api = bind_local(&workers, verify.grpc, verify.unix.as_deref(), limits).await?;
        listeners.agent = bind_local(&workers, agent.grpc, agent.unix.as_deref(), limits).await?;
        if let Some(ext_authz) = &config.ext_authz {
            listeners.bind_ext_authz(ext_authz, limits, &clock).await?;
        }
        for way in &config.outbound {
            let (grpc, unix) = match &way.listen {
                LocalAddress::Tcp(address) => (Some(*address), None),
                LocalAddress::Unix(path) => (None, Some(path.as_path())),
            };
            let bound = bind_local(&workers, grpc, unix, limits).await?;
            listeners.outbound.extend(bound);
        }
        Ok(listeners)
    }

    async fn bind_ext_authz(
        &mut self,
        config: &ExtAuthzConfig,
        limits: Limits,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), StartError> {
        self.ext_authz = bind_local(&self.workers, None, config.unix.as_deref(), limits).await?;
        if let Some((address, files)) = &config.grpc {
            let files = files.as_ref();
            let files = files.map(|files| (files, ClientCertificates::Required));
            let tls = self.tls(files, Protocols::Http2, clock)?;
            self.ext_authz
                .push(bind_tcp(&self.workers, *address, tls, limits).await?);
        }
        Ok(())
    }

    /// The TLS of a listener with these files, which are followed from then on.
    fn tls(
        &mut self,
        configured: Option<(&TlsFiles, ClientCertificates)>,
        protocols: Protocols,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Arc<ServerTls>>, StartError> {
        let load =
            |(files, certificates)| ServerTls::speaking(protocols, files, certificates, Arc::clone(clock));
        let tls = configured.map(load).transpose()?;
        self.tls.extend(tls.clone());
        Ok(tls)
    }

    pub(super) fn proxy_addresses(&self) -> Vec<SocketAddr> {
        self.proxy
            .iter()
            .filter_map(|(listeners, _)| address(listeners))
            .collect()
    }

    pub(super) fn api_address(&self) -> Option<SocketAddr> {
        self.api.iter().find_map(address)
    }

    pub(super) fn agent_address(&self) -> Option<SocketAddr> {
        self.agent.iter().find_map(address)
    }

    pub(super) fn ext_authz_address(&self) -> Option<SocketAddr> {
        self.ext_authz.iter().find_map(address)
    }

    pub(super) fn outbound_addresses(&self) -> Vec<SocketAddr> {
        self.outbound.iter().filter_map(address).collect()
    }

    pub(super) fn tls_parts(&self, authority: Arc<ClientTls>) -> TlsParts {
        let all = self.proxy.iter().map(|(listeners, _)| listeners);
        let local = self.api.iter().chain(&self.agent).chain(&self.ext_authz);
        let all = all.chain(local).chain(&self.outbound);
        TlsParts {
            authority,
            listeners: self.tls.clone(),
            // Those of one place count together.
            stats: all.filter_map(|shared| shared.first()?.stats()).collect(),
        }
    }

    /// Follows the TLS files until `stop`.
    pub(super) fn watch(&self, tasks: &TaskTracker, stop: &Shutdown) {
        for tls in &self.tls {
            tasks.spawn(tls.watch(DEFAULT_WATCH_INTERVAL, stop.token()));
        }
    }

    /// Serves until `shutdown` and until the last connection has ended.
    pub(super) async fn serve(self, services: Services, shutdown: &Shutdown) {
        let terms = Terms {
            limits: services.limits,
            metrics: services.connections.clone(),
            clock: Arc::clone(&services.clock),
            drain: shutdown.token(),
        };
        let mut serving = Serving {
            workers: self.workers,
            terms,
            running: Vec::new(),
        };
        for ((listeners, place), apps) in self.proxy.into_iter().zip(services.behind.apps) {
            let (proxy, protocols) = (&services.proxy, protocols(&place));
            let service = |apps| ProxyService::new(Arc::clone(proxy), place.disclosures, protocols, apps);
            serving.serve(listeners, apps.into_iter().map(service));
        }
        for listeners in self.api {
            serving.serve(listeners, iter::repeat(services.api.clone()));
        }
        for (listeners, service) in self.agent.into_iter().zip(services.agent.iter().cycle()) {
            serving.serve(listeners, iter::repeat(service.clone()));
        }
        for (listeners, service) in self.ext_authz.into_iter().zip(services.ext_authz.iter().cycle()) {
            serving.serve(listeners, iter::repeat(service.clone()));
        }
        for (listeners, ways) in self.outbound.into_iter().zip(services.ways_out) {
            serving.serve(listeners, ways.into_iter().map(OutboundService::new));
        }
        for ended in join_all(serving.running).await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener has failed");
            }
        }
    }
}

/// What is served.
struct Serving {
    workers: Vec<Worker>,
    terms: Terms,
    running: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Serves on each worker what it has of `listeners`, with the one of `services` in its place.
    fn serve<S: Serve>(&mut self, listeners: Shared, services: impl IntoIterator<Item = S>) {
        let of_workers = self.workers.iter().zip(listeners).zip(services);
        self.running
            .extend(of_workers.map(|((worker, listener), service)| {
                let serving = serve(listener, service, self.terms.clone());
                worker.runtime().spawn(serving)
            }));
    }
}

/// Where all of them listen.
fn address(listeners: &Shared) -> Option<SocketAddr> {
    listeners.first().and_then(Listener::address)
}

/// What callers may speak who connect to a listener of the proxy.
const fn protocols(place: &ListenerConfig) -> Protocols {
    if place.grpc_only {
        Protocols::Http2
    } else {
        Protocols::Any
    }
}

/// Binds an address, with TLS or without.
async fn bind_tcp(
    workers: &[Worker],
    address: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
) -> Result<Shared, StartError> {
    let bind = |workers: Vec<Worker>| {
        let tls = tls.clone();
        async move {
            match tls {
                None => Listener::plaintext(&workers, address, limits).await,
                Some(tls) => Listener::tls(&workers, address, tls, limits).await,
            }
        }
    };
    bound(workers, &address, bind).await
}

/// Binds what is for this machine only.
async fn bind_local(
    workers: &[Worker],
    grpc: Option<SocketAddr>,
    unix: Option<&Path>,
    limits: Limits,
) -> Result<Vec<Shared>, StartError> {
    let mut listeners = Vec::new();
    if let Some(address) = grpc {
        listeners.push(bind_tcp(workers, address, None, limits).await?);
    }
    if let Some(path) = unix {
        let place = format!("unix://{}", path.display());
        let bind = |workers: Vec<Worker>| {
            let path = path.to_owned();
            async move { Listener::unix(&workers, &path, limits) }
        };
        listeners.push(bound(workers, &place, bind).await?);
    }
    Ok(listeners)
}

/// Binds on the runtime that will accept: a socket belongs to one.
async fn bound<F>(
    workers: &[Worker],
    place: &impl Display,
    bind: impl Fn(Vec<Worker>) -> F,
) -> Result<Shared, StartError>
where
    F: Future<Output = io::Result<Shared>> + Send + 'static,
{
    let accepting = workers.first().ok_or(StartError::Stopped)?.runtime();
    let binding = retry_while_busy(place, async || {
        let bound = accepting
            .spawn(bind(workers.to_vec()))
            .await
            .map_err(|_stopped| StartError::Stopped)?;
        bound.map_err(|source| StartError::Listen {
            place: place.to_string(),
            source,
        })
    });
    binding.await
}
