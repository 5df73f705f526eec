//! The composition root: the one place that names redb, the sockets and the loops, and puts everything together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::ports::Clock;
use countersign_core::trust::Epoch;
use countersign_mtls::{ClientCertificates, DEFAULT_WATCH_INTERVAL, Limits as ListenerLimits};
use countersign_mtls::{ServerTls, TlsError, TlsListener};
use countersign_runtime::admin_http::{self, AdminEndpoints, Readiness};
use countersign_runtime::busy::{Busy, retry_while_busy};
use countersign_runtime::{Shutdown, metrics as registries};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::config::secret_key::{self, SecretKeyError};
use crate::driller::Driller;
use crate::feed::Feed;
use crate::fleet::{Fleet, FleetLimits};
use crate::ledger::{self, Ledger, NotRecovered, Opened, Opening, Recovered, StartError};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::metrics::connections::Connections;
use crate::registrar;
use crate::revoker;
use crate::rotator::Rotator;
use crate::server::{self, ServeError, Services};
use crate::service::Desk;
use crate::service::clients::Clients;
use crate::service::drills::Drills;
use crate::service::fleet::Verifiers;
use crate::service::issuing::Tokens;
use crate::service::keys::{KeyPolicy, Keys};
use crate::service::publishing::PublishingKeys;
use crate::service::revocations::Revocations;
use crate::service::sync::{StreamParts, Streams};
use crate::service::trust::Exports;
use crate::store::Store;
use crate::store::redb::{OpenError, RedbStore};
use crate::upkeep::{self, Upkeep};

/// The authority does not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The key-encryption key.
    #[error("the key-encryption key cannot be used")]
    SecretKey(#[from] SecretKeyError),
    /// The store's file.
    #[error("the store cannot be opened")]
    Store(#[from] OpenError),
    /// What is in the store.
    #[error("the authority cannot start from its store")]
    Start(#[from] StartError),
    /// It was not recovered.
    #[error("the authority is not recovered")]
    Recover(#[from] NotRecovered),
    /// Certificates and keys.
    #[error("the certificates cannot be used")]
    Tls(#[from] TlsError),
    /// An address.
    #[error("`{address}` cannot be listened on")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The server.
    #[error("the server cannot go on")]
    Serve(#[from] ServeError),
}

impl Busy for AppError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Store(OpenError::InUse))
    }
}

/// Opens the store of `config`, and what the ledger needs besides.
async fn opening(config: &Config, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<Opening, AppError> {
    let envelope = secret_key::read(&config.key_encryption_key)?;
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(&config.store).await?);
    let limits = FleetLimits {
        streams_per_identity: config.limits.streams_per_verifier,
        streams: config.limits.verifiers,
    };
    Ok(Opening {
        store,
        envelope: Arc::new(envelope),
        issuer: config.issuing.issuer.clone(),
        algorithm: config.algorithm,
        policy: config.ledger.clone(),
        leeway: config.leeway,
        accepted_time: config.accepted_time,
        fleet: Fleet::new(limits, config.lease, Arc::clone(&clock), Arc::clone(&metrics)),
        clock,
        metrics,
    })
}

/// The publishing keys of the store of `config`, as a JWK Set. The store is made if it is not there.
///
/// # Errors
/// [`AppError`].
pub async fn publishing_keys(config: &Config, clock: Arc<dyn Clock>) -> Result<String, AppError> {
    let opening = opening(config, clock, Arc::default()).await?;
    Ok(ledger::open_publishers(&opening).await?)
}

/// Recovers the authority whose store `config` names ([`ledger::recover`]).
///
/// # Errors
/// [`AppError`].
pub async fn recover(
    config: &Config,
    clock: Arc<dyn Clock>,
    above: Option<Epoch>,
) -> Result<Recovered, AppError> {
    if above.is_none() && !config.store.exists() {
        return Err(NotRecovered::NotRequired.into());
    }
    let opening = opening(config, clock, Arc::default()).await?;
    Ok(ledger::recover(&opening, above).await?)
}

/// An authority that is bound and not yet serving.
#[derive(Debug)]
pub struct App {
    config: Config,
    listener: TlsListener,
    admin: TcpListener,
    admin_address: SocketAddr,
    tls: Arc<ServerTls>,
    opened: Opened,
    fleet: Fleet,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    registry: prometheus_client::registry::Registry,
}

impl App {
    /// Opens the store, loads the certificates, binds the ports. A store and ports that a predecessor still holds are
    /// waited for ([`countersign_runtime::busy`]).
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::default());
        let mut registry = registries::registry("countersign-authority", env!("CARGO_PKG_VERSION"));
        metrics.register(&mut registry);
        let tls = ServerTls::load(&config.tls, ClientCertificates::Required, Arc::clone(&clock))?;
        let store = format!("the store `{}`", config.store.display());
        let opening = retry_while_busy(store, async || {
            opening(&config, Arc::clone(&clock), Arc::clone(&metrics)).await
        });
        let opening = opening.await?;
        let fleet = opening.fleet.clone();
        let opened = ledger::open(opening).await?;
        let limits = ListenerLimits {
            connections: config.limits.connections,
            ..ListenerLimits::default()
        };
        let cannot = |address: SocketAddr| move |source: io::Error| AppError::Listen { address, source };
        let listener = retry_while_busy(config.listen, async || {
            TlsListener::bind(config.listen, Arc::clone(&tls), limits).await
        });
        let listener = listener.await.map_err(cannot(config.listen))?;
        registry.register_collector(Box::new(Connections {
            stats: listener.stats(),
            tls: Arc::clone(&tls),
        }));
        let admin = retry_while_busy(config.admin, async || TcpListener::bind(config.admin).await);
        let admin = admin.await.map_err(cannot(config.admin))?;
        let admin_address = admin.local_addr().map_err(cannot(config.admin))?;
        Ok(Self {
            limits: Arc::new(Limits::new(config.token_rate, &clock)),
            config,
            listener,
            admin,
            admin_address,
            tls,
            opened,
            fleet,
            metrics,
            registry,
        })
    }

    /// Where clients, verifiers and operators connect.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where probes and scrapers connect.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The publishing keys, as verifiers pin them.
    #[must_use]
    pub fn publishing_keys(&self) -> &str {
        &self.opened.publishing_keys
    }

    /// The ledger, for tests that look inside.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.opened.ledger
    }

    /// The feed, for tests that look inside.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.opened.feed
    }

    /// The certificates, for tests that change them.
    #[must_use]
    pub const fn tls(&self) -> &Arc<ServerTls> {
        &self.tls
    }

    /// Serves until `shutdown` is requested, and then lets calls come to their end, for as long as the configuration says.
    ///
    /// # Errors
    /// [`AppError::Serve`].
    pub async fn run_until(self, shutdown: Shutdown) -> Result<(), AppError> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let tokens = self.tokens();
        let services = self.services(tokens.clone(), self.driller(&tasks, &shutdown));
        self.start_loops(&tasks, &stop);
        let readiness = readiness(tokens, Arc::clone(&self.tls), shutdown.clone());
        let ledger = self.opened.ledger.clone();
        let endings = end_streams(shutdown.clone(), self.opened.feed.clone());
        let endpoints = AdminEndpoints::new(readiness, Arc::new(self.registry));

        // The loops and the admin port go on while calls come to their end.
        tasks.spawn(stop.clone().run_until_cancelled_owned(endings));
        tasks.spawn(admin_http::serve(self.admin, endpoints, stop.clone()));
        let limits = self.config.limits;
        let serving = server::serve(
            services,
            self.listener,
            &limits,
            self.config.reflection,
            shutdown.token(),
        );
        let served = shutdown.drain(limits.drain, Box::pin(serving)).await;
        stop.cancel();
        tasks.close();
        let ended = tokio::time::timeout(LAST_WAIT, async {
            tasks.wait().await;
            ledger.close().await;
        });
        if ended.await.is_err() {
            tracing::warn!("a loop or a change did not come to its end");
        }
        match served {
            Ok(result) => result.map_err(AppError::Serve),
            Err(exceeded) => {
                tracing::warn!(%exceeded, "calls were cut");
                Ok(())
            }
        }
    }

    fn tokens(&self) -> Tokens {
        Tokens::new(
            self.opened.ledger.clone(),
            self.config.issuing.clone(),
            self.opened.shard,
            Arc::clone(&self.limits),
            Arc::clone(&self.metrics),
        )
    }

    fn key_policy(&self) -> KeyPolicy {
        KeyPolicy {
            algorithm: self.config.algorithm,
            activation_lead: self.config.activation_lead,
        }
    }

    fn driller(&self, tasks: &TaskTracker, shutdown: &Shutdown) -> Driller {
        Driller::new(
            self.opened.ledger.clone(),
            self.fleet.clone(),
            self.config.algorithm,
            tasks.clone(),
            shutdown.token(),
        )
    }

    fn services(&self, tokens: Tokens, driller: Driller) -> Services {
        let roles = Arc::new(self.config.roles.clone());
        let desk = Desk {
            roles: Arc::clone(&roles),
            ledger: self.opened.ledger.clone(),
            limits: Arc::clone(&self.limits),
            metrics: Arc::clone(&self.metrics),
        };
        Services {
            tokens,
            sync: Streams::new(StreamParts {
                roles,
                feed: self.opened.feed.clone(),
                fleet: self.fleet.clone(),
                ledger: self.opened.ledger.clone(),
                limits: Arc::clone(&self.limits),
                metrics: Arc::clone(&self.metrics),
                timeline: Arc::clone(self.opened.ledger.timeline()),
                age: self.config.limits.connection_age,
            }),
            clients: Clients {
                desk: desk.clone(),
                fleet: self.fleet.clone(),
            },
            keys: Keys {
                desk: desk.clone(),
                fleet: self.fleet.clone(),
                policy: self.key_policy(),
            },
            publishing: PublishingKeys {
                desk: desk.clone(),
                fleet: self.fleet.clone(),
            },
            revocations: Revocations {
                desk: desk.clone(),
                fleet: self.fleet.clone(),
                keys: self.key_policy(),
            },
            exports: Exports::new(desk.clone(), self.opened.feed.clone(), self.fleet.clone()),
            verifiers: Verifiers {
                desk: desk.clone(),
                fleet: self.fleet.clone(),
            },
            drills: Drills {
                desk,
                fleet: self.fleet.clone(),
                driller,
            },
        }
    }

    fn start_loops(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let rotator = Rotator {
            ledger: self.opened.ledger.clone(),
            fleet: self.fleet.clone(),
            policy: self.config.rotation,
            keys: self.key_policy(),
            metrics: Arc::clone(&self.metrics),
        };
        let upkeep = Upkeep {
            ledger: self.opened.ledger.clone(),
            feed: self.opened.feed.clone(),
            limits: Arc::clone(&self.limits),
            metrics: Arc::clone(&self.metrics),
        };
        tasks.spawn(rotator.run(stop.clone()));
        tasks.spawn(upkeep.run(stop.clone()));
        tasks.spawn(upkeep::keep_store(self.opened.ledger.clone(), stop.clone()));
        tasks.spawn(registrar::run(
            self.fleet.clone(),
            self.opened.ledger.clone(),
            stop.clone(),
        ));
        tasks.spawn(revoker::run(self.opened.ledger.clone(), stop.clone()));
        tasks.spawn(self.tls.watch(DEFAULT_WATCH_INTERVAL, stop.clone()));
    }
}

/// How long the loops and the changes that have begun may take to end when nobody is served any more. A commit takes
/// milliseconds; a disk that hangs has no end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Ready means: a client that asks for a token gets one. A store that cannot be written stops operators and not clients, so
/// it is an alarm and no reason.
fn readiness(
    tokens: Tokens,
    tls: Arc<ServerTls>,
    shutdown: Shutdown,
) -> impl Fn() -> Readiness + Send + Sync + 'static {
    move || {
        let issuing = tokens.is_ready().err();
        let expired = tls.health().not_after < tokens.now();
        Readiness::ready()
            .unless(issuing.is_some(), issuing.unwrap_or_default())
            .unless(expired, "certificate_expired")
            .unless(shutdown.is_requested(), "draining")
    }
}

/// Ends the trust streams when the process is about to stop: nobody else would, and they would last for ever.
async fn end_streams(shutdown: Shutdown, feed: Feed) {
    shutdown.requested().await;
    feed.drain();
}
