//! The composition root: the one place that names concrete parts, builds them from the configuration and runs them.
//!
//! Two runtimes can be given: calls are served on one of their own, so that a large update of the trust, which is
//! verified and applied on the other, does not make them wait.

mod addresses;
mod serving;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::names::VerifierId;
use countersign_core::ports::{Clock, Entropy as _, EntropyFailed};
use countersign_crypto::AwsLc;
use countersign_mtls::files::read_public;
use countersign_mtls::{
    ChannelOptions, ClientCertificates, ClientTls, DEFAULT_WATCH_INTERVAL, ExpectedServer, FileError,
    PeerIdentity, ServerTls, TlsError,
};
use countersign_runtime::Shutdown;
use countersign_runtime::admin_http::{self, AdminEndpoints, Readiness};
use countersign_runtime::busy::{Busy, retry_while_busy};
use prometheus_client::registry::Registry;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::api::{ApiService, VerifyApi, report_health};
use crate::cache::{self, CacheError, CacheIdentity, CacheSettings, Opened, TrustCache};
use crate::config::Config;
use crate::metrics::{self, ConnectionMetrics, DecisionMetrics, ProxyMetrics};
use crate::proxy::{Proxy, ProxySettings, Upstream};
use crate::refusal_log::RefusalLog;
use crate::sync::{Dial, Publishers, Supervisor, SyncMetrics, SyncSettings};
use crate::token_cache::TokenCache;
use crate::trust::TrustStore;
use crate::verifier::Verifier;
pub use addresses::Addresses;
use serving::{Listeners, Services};

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates, keys or roots cannot be used.
    #[error("the TLS files cannot be used")]
    Tls(#[from] TlsError),
    /// Our certificate cannot be read.
    #[error("the sidecar's certificate cannot be read")]
    Certificate(#[from] FileError),
    /// Our certificate does not say who we are, so no authority would admit us.
    #[error("the certificate in `authority.certificate` has no SPIFFE ID, which verifiers are known by")]
    NoIdentity,
    /// An address cannot be listened on.
    #[error("cannot listen on {place}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be had.
    #[error("`state_dir` cannot be used")]
    Cache(#[from] CacheError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFailed),
    /// The descriptors of the API are damaged.
    #[error("the descriptors of the local API cannot be served")]
    Reflection(#[from] countersign_wire::reflection::Error),
    /// The runtime for calls has stopped.
    #[error("the runtime for calls has stopped")]
    Stopped,
}

impl Busy for StartError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Cache(CacheError::InUse))
            || matches!(self, Self::Listen { source, .. } if source.is_busy())
    }
}

/// A sidecar that is built and bound, and does not run yet.
pub struct App {
    source: TrustSource,
    verifier: Arc<Verifier>,
    services: Services,
    listeners: Listeners,
    admin: TcpListener,
    registry: Arc<Registry>,
    addresses: Addresses,
    drain: Duration,
    calls: Handle,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Builds a sidecar from `config` with the time of `clock`. Calls will be served on `calls`, everything else on the
    /// runtime that this is awaited on. Trust that was kept on disk is in force when this returns. A state directory and
    /// addresses that a predecessor still holds are waited for ([`countersign_runtime::busy`]).
    ///
    /// # Errors
    /// [`StartError`]. That the authority is away is none.
    pub async fn build(config: Config, clock: Arc<dyn Clock>, calls: Handle) -> Result<Self, StartError> {
        let program = ("countersign-sidecar", env!("CARGO_PKG_VERSION"));
        let mut registry = countersign_runtime::metrics::registry(program.0, program.1);
        let mut source = TrustSource::open(&config, &clock, &mut registry).await?;
        let verifier = Arc::new(Verifier::new(
            Arc::clone(&source.trust),
            config.expectations.clone(),
            config.methods.clone(),
            TokenCache::new(config.token_cache_bytes),
            DecisionMetrics::register(&mut registry),
        ));
        source.supervisor = source.supervisor.telling_of(Arc::clone(verifier.key_uses()));
        let services = services(&config, &verifier, source.metrics.clone(), &mut registry)?;
        let listeners = Listeners::bind(&config, clock, &calls).await?;
        let (admin, admin_address) = bind_admin(config.admin).await?;
        let tls = listeners.tls_parts(Arc::clone(&source.authority));
        metrics::register_tls(&mut registry, tls);
        Ok(Self {
            addresses: Addresses {
                listeners: listeners.proxy_addresses(),
                verify_grpc: listeners.api_address(),
                verify_unix: config.verify.unix,
                admin: admin_address,
            },
            source,
            verifier,
            services,
            listeners,
            admin,
            registry: Arc::new(registry),
            drain: config.limits.drain,
            calls,
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
        &self.source.trust
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
        let TrustSource {
            trust,
            cache,
            supervisor,
            authority,
            metrics: _,
        } = self.source;
        self.listeners.watch(&background, &stop);
        background.spawn(authority.watch(DEFAULT_WATCH_INTERVAL, stop.token()));
        background.spawn(supervisor.run(stop.token()));
        let endpoints = admin_endpoints(&trust, &shutdown, self.registry);
        background.spawn(serve_admin(self.admin, endpoints, stop.clone()));
        let health = report_health(self.services.health.clone(), Arc::clone(&trust));
        let ended = stop.token();
        background.spawn(async move { ended.run_until_cancelled(health).await.unwrap_or_default() });
        tracing::info!(addresses = %self.addresses, epoch = trust.epoch(), "the sidecar serves");

        let serving = self.listeners.serve(self.services, &self.calls, &shutdown);
        // Connections are cut when their time is over; a second more is for those who have to notice.
        let grace = self.drain.saturating_add(Duration::from_secs(1));
        if let Err(exceeded) = shutdown.drain(grace, serving).await {
            tracing::warn!(%exceeded, "calls were broken off");
        }

        // Calls that drain still need fresh trust, so this comes after them.
        stop.request();
        background.close();
        background.wait().await;
        if let Some(cache) = Arc::into_inner(cache)
            && !cache.close().await
        {
            tracing::warn!("the state directory was not closed in time");
        }
        tracing::info!("the sidecar has stopped");
    }
}

/// Where trust comes from and where it is.
struct TrustSource {
    trust: Arc<TrustStore>,
    cache: Arc<TrustCache>,
    supervisor: Supervisor,
    authority: Arc<ClientTls>,
    metrics: SyncMetrics,
}

impl TrustSource {
    /// Opens the cache, puts what is in it in force, and prepares the stream.
    async fn open(
        config: &Config,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let trust = Arc::new(TrustStore::new(
            config.rules.clone(),
            Arc::clone(&config.staleness),
            Arc::clone(clock),
        ));
        metrics::register_trust(registry, Arc::clone(&trust));
        let metrics = SyncMetrics::default();
        metrics::register_sync(registry, &metrics);
        let authority = authority_tls(config, Arc::clone(clock))?;
        let dial = dial(&authority, &config.authority.uri)?;
        let pinned = &config.authority.publishers;
        let publishers = Publishers::new(config.rules.issuer.clone(), pinned, Arc::new(AwsLc));
        let opened = open_cache(config, &trust, publishers.clone(), Arc::clone(clock)).await?;
        metrics::register_warm_start(registry, opened.warm_start);
        let cache = Arc::new(opened.cache);
        let settings = SyncSettings {
            heartbeat_period: config.heartbeat,
            on_stop: config.on_stop,
            ..SyncSettings::new(random_name()?, opened.verifier_id)
        };
        let supervisor = Supervisor::new(
            settings,
            dial,
            publishers,
            Arc::clone(&trust),
            Arc::clone(&cache),
            metrics.clone(),
        );
        Ok(Self {
            trust,
            cache,
            supervisor,
            authority,
            metrics,
        })
    }
}

/// What of the files and folders that `config` names cannot be used. Listens nowhere and changes nothing.
#[must_use]
pub fn check(config: &Config, clock: &Arc<dyn Clock>) -> Vec<StartError> {
    let authority =
        authority_tls(config, Arc::clone(clock)).and_then(|tls| dial(&tls, &config.authority.uri).map(drop));
    let listeners = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    let listeners = listeners.map(|files| {
        let tls = ServerTls::load(files, ClientCertificates::Required, Arc::clone(clock));
        tls.map(drop).map_err(StartError::from)
    });
    let state = cache::check_access(&config.state_dir).map_err(|exposed| CacheError::Exposed(exposed).into());
    let all = [authority, own_spiffe_id(config).map(drop), state]
        .into_iter()
        .chain(listeners);
    all.filter_map(Result::err).collect()
}

async fn open_cache(
    config: &Config,
    trust: &TrustStore,
    publishers: Publishers,
    clock: Arc<dyn Clock>,
) -> Result<Opened, StartError> {
    let identity = CacheIdentity {
        issuer: config.expectations.issuer.as_str().to_owned(),
        trust_domain: config.expectations.trust_domain.as_str().to_owned(),
        audience: config.expectations.audience.as_str().to_owned(),
        sidecar: own_spiffe_id(config)?,
    };
    let fresh_id = VerifierId::parse(&random_name()?).map_err(|_malformed| EntropyFailed)?;
    let settings = CacheSettings {
        warm_start: config.warm_start.clone(),
        ..CacheSettings::new(config.state_dir.clone(), identity, fresh_id)
    };
    let what = format!("the state directory `{}`", config.state_dir.display());
    let opened = retry_while_busy(what, async || {
        let (settings, publishers) = (settings.clone(), publishers.clone());
        let opening = TrustCache::open(settings, publishers, config.rules.clone(), Arc::clone(&clock));
        opening.await.map_err(StartError::Cache)
    });
    let opened = opened.await?;
    if let Err(refused) = opened.restore(trust) {
        tracing::warn!(reason = refused.reason(), "the trust on disk is not used");
    }
    Ok(opened)
}

/// The largest certificate file that is read, as for TLS.
const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024;

fn own_spiffe_id(config: &Config) -> Result<String, StartError> {
    let pem = read_public(&config.authority.files.certificate, MAX_CERTIFICATE_BYTES)?;
    let identity = CertificateDer::from_pem_slice(&pem)
        .ok()
        .and_then(|leaf| PeerIdentity::from_der(&leaf).ok())
        .and_then(|identity| identity.spiffe_id);
    identity
        .map(|id| id.as_str().to_owned())
        .ok_or(StartError::NoIdentity)
}

fn authority_tls(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<ClientTls>, StartError> {
    let expected = ExpectedServer {
        spiffe_id: Some(config.authority.spiffe_id.clone()),
        server_name: config.authority.server_name.clone(),
    };
    Ok(ClientTls::load(&config.authority.files, expected, clock)?)
}

/// Every stream gets a channel of its own. The address is tried here, so that a wrong one is an error of the start.
fn dial(tls: &Arc<ClientTls>, uri: &str) -> Result<Dial, StartError> {
    tls.channel(uri, ChannelOptions::default())?;
    let (tls, uri) = (Arc::clone(tls), uri.to_owned());
    Ok(Arc::new(move || {
        tls.channel(&uri, ChannelOptions::default())
            .map_err(|error| Box::new(error).into())
    }))
}

/// Nobody else's, for all that anybody knows.
fn random_name() -> Result<String, EntropyFailed> {
    let mut random = [0; 16];
    AwsLc.fill(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn services(
    config: &Config,
    verifier: &Arc<Verifier>,
    sync: SyncMetrics,
    registry: &mut Registry,
) -> Result<Services, StartError> {
    let log = Arc::new(RefusalLog::default());
    let (address, connections) = config.upstream.clone();
    let proxy = Proxy {
        verifier: Arc::clone(verifier),
        upstream: Upstream::new(address, connections),
        settings: ProxySettings {
            longest_timeout: config.longest_timeout,
            tokens: config.tokens,
            traced: config.traced,
        },
        metrics: Arc::new(ProxyMetrics::register(registry)),
        log: Arc::clone(&log),
    };
    let (api, health) = ApiService::new(VerifyApi {
        verifier: Arc::clone(verifier),
        sync,
        log,
    })?;
    Ok(Services {
        proxy: Arc::new(proxy),
        api,
        health,
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
