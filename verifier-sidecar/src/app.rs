//! The composition root: the one place that names concrete parts, builds them from the configuration and runs them.
//!
//! Calls can be served on runtimes of their own, so that a large update of the trust, which is verified and applied on the one that the
//! sidecar is built on, does not make them wait. Each of several has connections of its own, to callers and to services, and no call
//! goes from one to another; what decides is shared by all.

mod addresses;
mod agent;
mod ext_authz;
mod outbound;
mod services;
mod serving;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::ports::Clock;
use countersign_mtls::{ClientCertificates, ServerTls, TlsError};
use countersign_runtime::Shutdown;
use countersign_runtime::admin_http::{self, AdminEndpoints, Readiness};
use countersign_runtime::busy::{Busy, retry_while_busy};
use countersign_verifier::metrics::DecisionMetrics;
use countersign_verifier::source::{self, SourceError, TrustSource};
use countersign_verifier::sync::SyncMetrics;
use countersign_verifier::token_cache::TokenCache;
use countersign_verifier::trust::TrustStore;
use countersign_verifier::verifier::Verifier;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::access_log::{AccessLog, AccessLogConfig, AccessLogError, LastLines};
use crate::api::{ApiService, VerifyApi, report_health};
use crate::config::{Config, ExtAuthzConfig};
use crate::metrics::{self, ConnectionMetrics, ProxyMetrics};
use crate::observations::Observations;
use crate::proxy::{Proxy, ProxySettings};
use crate::refusal_log::RefusalLog;
pub use addresses::Addresses;
use agent::Outgoing;
use services::Behind;
use serving::{Listeners, Services};

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no trust to be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Certificates, keys or roots of a listener cannot be used.
    #[error("the TLS files cannot be used")]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("cannot listen on {place}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Calls cannot be told of.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The descriptors of the API are damaged.
    #[error("the descriptors of the local API cannot be served")]
    Reflection(#[from] countersign_wire::reflection::Error),
    /// The runtime for calls has stopped.
    #[error("the runtime for calls has stopped")]
    Stopped,
}

impl Busy for StartError {
    fn is_busy(&self) -> bool {
        match self {
            Self::Source(source) => source.is_busy(),
            Self::Listen { source, .. } => source.is_busy(),
            Self::Tls(_) | Self::AccessLog(_) | Self::Reflection(_) | Self::Stopped => false,
        }
    }
}

/// A sidecar that is built and bound, and does not run yet.
pub struct App {
    source: TrustSource,
    verifier: Arc<Verifier>,
    outgoing: Outgoing,
    services: Services,
    listeners: Listeners,
    admin: TcpListener,
    registry: Arc<Registry>,
    addresses: Addresses,
    drain: Duration,
    last_lines: Option<LastLines>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Builds a sidecar from `config` with the time of `clock`. Calls will be served on `calls`, of which there is at least one, everything
    /// else on the runtime that this is awaited on. Trust that was kept on disk is in force when this returns. A state directory and
    /// addresses that a predecessor still holds are waited for ([`countersign_runtime::busy`]).
    ///
    /// # Errors
    /// [`StartError`]. That the authority is away is none.
    pub async fn build(config: Config, clock: Arc<dyn Clock>, calls: &[Handle]) -> Result<Self, StartError> {
        let program = ("countersign-sidecar", env!("CARGO_PKG_VERSION"));
        let mut registry = countersign_runtime::metrics::registry(program.0, program.1);
        let source = TrustSource::open(&config.trust, &clock, &mut registry).await?;
        let verifier = Arc::new(Verifier::new(
            Arc::clone(source.trust()),
            config.expectations.clone(),
            config.methods.clone(),
            TokenCache::new(config.token_cache_bytes),
            DecisionMetrics::register(&mut registry),
        ));
        let source = source.telling_of(Arc::clone(verifier.key_uses()));
        let (access_log, last_lines) = access_log(&config, source.trust(), &mut registry)?;
        let sync = source.metrics().clone();
        let mut services = services(&config, &verifier, sync, access_log, &mut registry, calls.len())?;
        let outgoing = Outgoing::new(
            &config,
            &source,
            &clock,
            &mut registry,
            &mut services,
            calls.len(),
        )?;
        let listeners = Listeners::bind(&config, clock, calls).await?;
        let (admin, admin_address) = bind_admin(config.admin).await?;
        let tls = listeners.tls_parts(Arc::clone(source.authority()));
        metrics::register_tls(&mut registry, tls);
        Ok(Self {
            addresses: Addresses {
                listeners: listeners.proxy_addresses(),
                verify_grpc: listeners.api_address(),
                verify_unix: config.verify.unix,
                agent_grpc: listeners.agent_address(),
                agent_unix: config.agent.unix,
                ext_authz_grpc: listeners.ext_authz_address(),
                ext_authz_unix: config.ext_authz.and_then(|ext_authz| ext_authz.unix),
                outbound: listeners.outbound_addresses(),
                admin: admin_address,
            },
            source,
            verifier,
            outgoing,
            services,
            listeners,
            admin,
            registry: Arc::new(registry),
            drain: config.limits.drain,
            last_lines,
        })
    }

    /// Where it listens, with the ports that the system chose.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The trust in force.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustStore> {
        self.source.trust()
    }

    /// The one who decides.
    #[must_use]
    pub const fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Runs until `shutdown` is asked for, and then until calls have ended or their time to drain is over.
    pub async fn run_until(self, shutdown: Shutdown) {
        let background = TaskTracker::new();
        let stop = Shutdown::new();
        let trust = Arc::clone(self.source.trust());
        self.listeners.watch(&background, &stop);
        self.services.behind.watch(&background, &stop);
        background.spawn(self.source.run(stop.token()));
        self.outgoing.run(&background, &stop);
        let endpoints = admin_endpoints(&trust, &shutdown, self.registry);
        background.spawn(serve_admin(self.admin, endpoints, stop.clone()));
        let health = report_health(self.services.health.clone(), Arc::clone(&trust));
        let ended = stop.token();
        background.spawn(async move { ended.run_until_cancelled(health).await.unwrap_or_default() });
        tracing::info!(addresses = %self.addresses, epoch = trust.epoch(), "the sidecar serves");

        let serving = self.listeners.serve(self.services, &shutdown);
        // Connections are cut when their time is over; a second more is for those who have to notice.
        let grace = self.drain.saturating_add(Duration::from_secs(1));
        if let Err(exceeded) = shutdown.drain(grace, serving).await {
            tracing::warn!(%exceeded, "calls were broken off");
        }

        // Calls that drain still need fresh trust, so this comes after them.
        stop.request();
        background.close();
        background.wait().await;
        if let Some(last_lines) = self.last_lines {
            last_lines.write().await;
        }
        tracing::info!("the sidecar has stopped");
    }
}

/// What of the files and folders that `config` names cannot be used. Listens nowhere and changes nothing.
#[must_use]
pub fn check(config: &Config, clock: &Arc<dyn Clock>) -> Vec<StartError> {
    let source = source::check(&config.trust, clock).into_iter();
    let listeners = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .map(|(files, certificates)| (files, *certificates));
    let ext_authz = config.ext_authz.iter().filter_map(ExtAuthzConfig::tls);
    let ext_authz = ext_authz.map(|files| (files, ClientCertificates::Required));
    let listeners = listeners.chain(ext_authz).map(|(files, certificates)| {
        let tls = ServerTls::load(files, certificates, Arc::clone(clock));
        tls.map(drop).map_err(StartError::from)
    });
    let listeners = listeners.filter_map(Result::err);
    let services = services::check(config, clock).into_iter().map(StartError::from);
    let access_log = config.access_log.iter().map(AccessLogConfig::check);
    let access_log = access_log.filter_map(Result::err).map(StartError::from);
    source
        .map(StartError::from)
        .chain(listeners)
        .chain(services)
        .chain(access_log)
        .collect()
}

/// The access log, if there is one, and its end.
fn access_log(
    config: &Config,
    trust: &Arc<TrustStore>,
    registry: &mut Registry,
) -> Result<(Option<Arc<AccessLog>>, Option<LastLines>), AccessLogError> {
    let chosen = config.access_log.as_ref();
    let started = chosen.map(|chosen| AccessLog::start(chosen, Arc::clone(trust), registry));
    Ok(started.transpose()?.unzip())
}

fn services(
    config: &Config,
    verifier: &Arc<Verifier>,
    sync: SyncMetrics,
    access_log: Option<Arc<AccessLog>>,
    registry: &mut Registry,
    workers: usize,
) -> Result<Services, StartError> {
    let log = Arc::new(RefusalLog::default());
    let observations = Arc::new(Observations::default());
    let told = access_log.clone();
    let proxy = Proxy {
        verifier: Arc::clone(verifier),
        settings: ProxySettings {
            longest_timeout: config.longest_timeout,
            tokens: config.tokens,
            identity_headers: Arc::new(config.identity_headers.clone()),
            traced: config.traced,
        },
        metrics: Arc::new(ProxyMetrics::register(registry, access_log)),
        log: Arc::clone(&log),
        observations: Arc::clone(&observations),
        renewals: Arc::default(),
    };
    let ext_authz = ext_authz::service(config, verifier, &log, &observations, told.as_ref(), registry)?;
    let (ext_authz, of_ext_authz) = ext_authz.unzip();
    let (api, of_api) = ApiService::new(VerifyApi {
        verifier: Arc::clone(verifier),
        sync,
        log,
        observations,
    })?;
    Ok(Services {
        proxy: Arc::new(proxy),
        behind: Behind::new(config, verifier.trust().clock(), workers)?,
        api,
        agent: None,
        ways_out: Vec::new(),
        ext_authz,
        health: [Some(of_api), of_ext_authz].into_iter().flatten().collect(),
        connections: ConnectionMetrics::register(registry),
        clock: Arc::clone(verifier.trust().clock()),
        limits: config.limits,
    })
}

async fn bind_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let place = format!("{address} (admin)");
    let binding = retry_while_busy(&place, async || {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    });
    binding
        .await
        .map_err(|source| StartError::Listen { place, source })
}

fn admin_endpoints(trust: &Arc<TrustStore>, shutdown: &Shutdown, registry: Arc<Registry>) -> AdminEndpoints {
    let (trust, shutdown) = (Arc::clone(trust), shutdown.clone());
    let ready = move || {
        let status = trust.status();
        Readiness::ready()
            .unless(status.freshness.is_none(), "trust_cold")
            .unless(!status.time_known, "verifier_clock")
            .unless(status.freshness.is_some() && !status.decides(), "trust_stale")
            .unless(shutdown.is_requested(), "draining")
    };
    AdminEndpoints::new(ready, registry)
}

async fn serve_admin(listener: TcpListener, endpoints: AdminEndpoints, stop: Shutdown) {
    if let Err(error) = admin_http::serve(listener, endpoints, stop.token()).await {
        tracing::error!(%error, "the admin port has failed");
    }
}
