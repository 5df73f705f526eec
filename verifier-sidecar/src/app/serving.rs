//! The listeners of a sidecar and what is served on them.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{
    ClientCertificates, ClientTls, DEFAULT_WATCH_INTERVAL, Protocols, ServerTls, TlsFiles,
};
use countersign_runtime::Shutdown;
use countersign_runtime::busy::retry_while_busy;
use futures_util::future::join_all;
use tokio::runtime::Handle;
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
    /// In the order of the configuration.
    pub(super) ways_out: Vec<Arc<Outbound>>,
    /// Answers Envoy, if Envoy is to ask.
    pub(super) ext_authz: Option<ExtAuthzService>,
    pub(super) health: Vec<Health>,
    pub(super) connections: ConnectionMetrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
}

/// Everything that is bound, the admin port apart.
pub(super) struct Listeners {
    proxy: Vec<(Listener, ListenerConfig)>,
    api: Vec<Listener>,
    agent: Vec<Listener>,
    ext_authz: Vec<Listener>,
    /// In the order of the configuration.
    outbound: Vec<Listener>,
    tls: Vec<Arc<ServerTls>>,
}

impl Listeners {
    /// Binds what `config` names. Connections will be accepted on `calls`.
    pub(super) async fn bind(
        config: &Config,
        clock: Arc<dyn Clock>,
        calls: &Handle,
    ) -> Result<Self, StartError> {
        let mut listeners = Self {
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
            let listener = bind_tcp(calls, place.address, tls, limits).await?;
            listeners.proxy.push((listener, place.clone()));
        }
        let (verify, agent) = (&config.verify, &config.agent);
        listeners.api = bind_local(calls, verify.grpc, verify.unix.as_deref(), limits).await?;
        listeners.agent = bind_local(calls, agent.grpc, agent.unix.as_deref(), limits).await?;
        if let Some(ext_authz) = &config.ext_authz {
            listeners.bind_ext_authz(ext_authz, limits, &clock, calls).await?;
        }
        for way in &config.outbound {
            let (grpc, unix) = match &way.listen {
                LocalAddress::Tcp(address) => (Some(*address), None),
                LocalAddress::Unix(path) => (None, Some(path.as_path())),
            };
            let bound = bind_local(calls, grpc, unix, limits).await?;
            listeners.outbound.extend(bound);
        }
        Ok(listeners)
    }

    async fn bind_ext_authz(
        &mut self,
        config: &ExtAuthzConfig,
        limits: Limits,
        clock: &Arc<dyn Clock>,
        calls: &Handle,
    ) -> Result<(), StartError> {
        self.ext_authz = bind_local(calls, None, config.unix.as_deref(), limits).await?;
        if let Some((address, files)) = &config.grpc {
            let files = files.as_ref();
            let files = files.map(|files| (files, ClientCertificates::Required));
            let tls = self.tls(files, Protocols::Http2, clock)?;
            self.ext_authz.push(bind_tcp(calls, *address, tls, limits).await?);
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
            .filter_map(|(listener, _)| listener.address())
            .collect()
    }

    pub(super) fn api_address(&self) -> Option<SocketAddr> {
        self.api.iter().find_map(Listener::address)
    }

    pub(super) fn agent_address(&self) -> Option<SocketAddr> {
        self.agent.iter().find_map(Listener::address)
    }

    pub(super) fn ext_authz_address(&self) -> Option<SocketAddr> {
        self.ext_authz.iter().find_map(Listener::address)
    }

    pub(super) fn outbound_addresses(&self) -> Vec<SocketAddr> {
        self.outbound.iter().filter_map(Listener::address).collect()
    }

    pub(super) fn tls_parts(&self, authority: Arc<ClientTls>) -> TlsParts {
        let all = self.proxy.iter().map(|(listener, _)| listener);
        let local = self.api.iter().chain(&self.agent).chain(&self.ext_authz);
        let all = all.chain(local).chain(&self.outbound);
        TlsParts {
            authority,
            listeners: self.tls.clone(),
            stats: all.filter_map(Listener::stats).collect(),
        }
    }

    /// Follows the TLS files until `stop`.
    pub(super) fn watch(&self, tasks: &TaskTracker, stop: &Shutdown) {
        for tls in &self.tls {
            tasks.spawn(tls.watch(DEFAULT_WATCH_INTERVAL, stop.token()));
        }
    }

    /// Serves until `shutdown` and until the last connection has ended.
    pub(super) async fn serve(self, services: Services, calls: &Handle, shutdown: &Shutdown) {
        let terms = || Terms {
            limits: services.limits,
            metrics: services.connections.clone(),
            clock: Arc::clone(&services.clock),
            drain: shutdown.token(),
        };
        let mut running = Vec::new();
        for ((listener, place), apps) in self.proxy.into_iter().zip(services.behind.apps) {
            let (proxy, protocols) = (Arc::clone(&services.proxy), protocols(&place));
            let service = ProxyService::new(proxy, place.disclosures, protocols, apps);
            running.push(spawn(calls, listener, service, terms()));
        }
        for listener in self.api {
            running.push(spawn(calls, listener, services.api.clone(), terms()));
        }
        for (listener, service) in self.agent.into_iter().zip(services.agent.iter().cycle()) {
            running.push(spawn(calls, listener, service.clone(), terms()));
        }
        for (listener, service) in self.ext_authz.into_iter().zip(services.ext_authz.iter().cycle()) {
            running.push(spawn(calls, listener, service.clone(), terms()));
        }
        for (listener, way) in self.outbound.into_iter().zip(services.ways_out) {
            running.push(spawn(calls, listener, OutboundService::new(way), terms()));
        }
        for ended in join_all(running).await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener has failed");
            }
        }
    }
}

/// What callers may speak who connect to a listener of the proxy.
const fn protocols(place: &ListenerConfig) -> Protocols {
    if place.grpc_only {
        Protocols::Http2
    } else {
        Protocols::Any
    }
}

fn spawn<S: Serve>(
    calls: &Handle,
    listener: Listener,
    service: S,
    terms: Terms,
) -> tokio::task::JoinHandle<()> {
    calls.spawn(serve(listener, service, terms))
}

/// Binds an address, with TLS or without.
async fn bind_tcp(
    calls: &Handle,
    address: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
) -> Result<Listener, StartError> {
    match tls {
        None => bound(calls, &address, || Listener::plaintext(address, limits)).await,
        Some(tls) => {
            bound(calls, &address, || {
                Listener::tls(address, Arc::clone(&tls), limits)
            })
            .await
        }
    }
}

/// Binds what is for this machine only.
async fn bind_local(
    calls: &Handle,
    grpc: Option<SocketAddr>,
    unix: Option<&Path>,
    limits: Limits,
) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    if let Some(address) = grpc {
        listeners.push(bound(calls, &address, || Listener::plaintext(address, limits)).await?);
    }
    if let Some(path) = unix {
        let place = format!("unix://{}", path.display());
        let bind = || {
            let path = path.to_owned();
            async move { Listener::unix(&path, limits) }
        };
        listeners.push(bound(calls, &place, bind).await?);
    }
    Ok(listeners)
}

/// Binds on the runtime that will accept: a socket belongs to one.
async fn bound<F>(calls: &Handle, place: &impl Display, bind: impl Fn() -> F) -> Result<Listener, StartError>
where
    F: Future<Output = io::Result<Listener>> + Send + 'static,
{
    let binding = retry_while_busy(place, async || {
        let bound = calls
            .spawn(bind())
            .await
            .map_err(|_stopped| StartError::Stopped)?;
        bound.map_err(|source| StartError::Listen {
            place: place.to_string(),
            source,
        })
    });
    binding.await
}
