//! A verifier in this process: trust, cache and stream, from the few things that one has to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::freshness::StalenessRules;
use countersign_core::names::{Audience, Issuer};
use countersign_core::ports::Clock;
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::verifying::Expectations;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_mtls::TlsFiles;
use countersign_mtls::files::read_public;
use countersign_runtime::SystemClock;
use countersign_verifier::defaults;
use countersign_verifier::metrics::DecisionMetrics;
use countersign_verifier::source::{Authority, SourceError, TrustSettings, TrustSource};
use countersign_verifier::sync::{HEARTBEAT_PERIOD, OnStop};
use countersign_verifier::token_cache::TokenCache;
use countersign_verifier::trust::TrustStore;
use countersign_verifier::verifier::Verifier;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::layer::VerifyLayer;
use crate::methods::{InvalidMethods, Methods};

/// The largest JWK Set that is read.
const MAX_KEYS_BYTES: u64 = 256 * 1024;

/// What was said makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("`{what}`: {why}")]
pub struct InvalidSettings {
    what: &'static str,
    why: String,
}

/// Why nothing can be verified.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was said makes no sense.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// What was said of a method makes no sense.
    #[error(transparent)]
    Methods(#[from] InvalidMethods),
    /// There is no trust to be had.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Whom to trust, and for what.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EmbeddedBuilder {
    issuer: String,
    trust_domain: String,
    audience: String,
    authority: (String, String),
    server_name: Option<String>,
    certificate: [PathBuf; 3],
    publishing_keys: PathBuf,
    state_dir: PathBuf,
    warm_start: Option<PathBuf>,
    methods: Methods,
}

impl EmbeddedBuilder {
    /// The issuer of the tokens: an `https` URL, compared byte for byte.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// The trust domain that callers are registered in.
    pub fn trust_domain(mut self, trust_domain: impl Into<String>) -> Self {
        self.trust_domain = trust_domain.into();
        self
    }

    /// What tokens for this service are for: their `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Where the authority is (`https://host:port`), and the SPIFFE ID that must answer there.
    pub fn authority(mut self, uri: impl Into<String>, spiffe_id: impl Into<String>) -> Self {
        self.authority = (uri.into(), spiffe_id.into());
        self
    }

    /// The name in the authority's certificate, where it is not the host of its address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Our certificate, whose SPIFFE ID the authority knows this verifier by, its key, and the roots that the authority's certificate
    /// is under: PEM files, which are read again when they change.
    pub fn certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        private_key: impl Into<PathBuf>,
        trust_roots: impl Into<PathBuf>,
    ) -> Self {
        self.certificate = [certificate.into(), private_key.into(), trust_roots.into()];
        self
    }

    /// The JWK Set of the keys that publish trust.
    pub fn publishing_keys(mut self, path: impl Into<PathBuf>) -> Self {
        self.publishing_keys = path.into();
        self
    }

    /// A folder of this process alone, where the last trust is kept, so that a start needs no authority.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = path.into();
        self
    }

    /// A file that `countersign trust export` wrote, for a first start while the authority is away.
    pub fn warm_start(mut self, path: impl Into<PathBuf>) -> Self {
        self.warm_start = Some(path.into());
        self
    }

    /// What methods ask for. Where nothing is said, each asks for a good token.
    pub fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }

    /// Puts what is on disk in force, and opens the stream to the authority. The authority may be away; until there is trust, every
    /// call but those of open methods is refused with `UNAVAILABLE`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self) -> Result<Embedded, StartError> {
        let mut registry = Registry::default();
        self.start_in(&mut registry, Arc::new(SystemClock)).await
    }

    /// The same with this clock; what there is to measure is shown in `registry`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_in(
        self,
        registry: &mut Registry,
        clock: Arc<dyn Clock>,
    ) -> Result<Embedded, StartError> {
        let (methods, classes) = self.methods.check()?;
        let (settings, expectations) = self.settings()?;
        let default_class = classes.first().cloned().unwrap_or_default();
        let settings = TrustSettings {
            staleness: Arc::new(StalenessRules {
                default_class,
                classes,
                ..StalenessRules::default()
            }),
            ..settings
        };
        let source = TrustSource::open(&settings, &clock, registry).await?;
        let verifier = Arc::new(Verifier::new(
            Arc::clone(source.trust()),
            expectations,
            methods,
            TokenCache::new(defaults::TOKEN_CACHE_BYTES),
            DecisionMetrics::register(registry),
        ));
        let source = source.telling_of(Arc::clone(verifier.key_uses()));
        let stop = CancellationToken::new();
        let running = tokio::spawn(source.run(stop.clone()));
        Ok(Embedded {
            verifier,
            stop,
            running,
        })
    }

    fn settings(&self) -> Result<(TrustSettings, Expectations), InvalidSettings> {
        let issuer = valid("issuer", Issuer::parse(&self.issuer))?;
        let trust_domain = valid("trust_domain", TrustDomain::parse(&self.trust_domain))?;
        let audience = valid("audience", Audience::parse(&self.audience))?;
        let [certificate, private_key, trust_roots] = self.certificate.clone();
        let keys = valid(
            "publishing_keys",
            read_public(&self.publishing_keys, MAX_KEYS_BYTES),
        )?;
        let authority = Authority {
            uri: authority_uri(&self.authority.0)?,
            spiffe_id: valid("authority", SpiffeId::parse(&self.authority.1))?,
            server_name: self.server_name.clone(),
            files: TlsFiles {
                certificate,
                private_key,
                trust_roots,
            },
            publishers: valid("publishing_keys", PinnedKeys::read(&keys, &AwsLc))?,
        };
        let settings = TrustSettings {
            authority,
            trust_domain: trust_domain.clone(),
            audience: audience.clone(),
            state_dir: named("state_dir", &self.state_dir)?,
            warm_start: self.warm_start.clone(),
            on_stop: OnStop::default(),
            rules: defaults::rules(issuer.clone()),
            staleness: Arc::default(),
            heartbeat: HEARTBEAT_PERIOD,
        };
        let expectations = Expectations {
            issuer,
            trust_domain,
            audience,
            max_lifetime: defaults::MAX_LIFETIME,
            leeway: defaults::LEEWAY,
            several_audiences: false,
        };
        Ok((settings, expectations))
    }
}

fn valid<T, E: std::fmt::Display>(what: &'static str, value: Result<T, E>) -> Result<T, InvalidSettings> {
    value.map_err(|error| InvalidSettings {
        what,
        why: error.to_string(),
    })
}

fn named(what: &'static str, path: &Path) -> Result<PathBuf, InvalidSettings> {
    if path.as_os_str().is_empty() {
        return Err(InvalidSettings {
            what,
            why: "is not named".to_owned(),
        });
    }
    Ok(path.to_owned())
}

fn authority_uri(uri: &str) -> Result<String, InvalidSettings> {
    let is_https = uri
        .parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.path() == "/");
    if is_https {
        Ok(uri.to_owned())
    } else {
        Err(InvalidSettings {
            what: "authority",
            why: "is no address of the form `https://host:port`".to_owned(),
        })
    }
}

/// How long [`Embedded::stop`] waits for the authority to be told.
const PATIENCE: Duration = Duration::from_secs(5);

/// A verifier that runs in this process.
#[derive(Debug)]
pub struct Embedded {
    verifier: Arc<Verifier>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Embedded {
    /// Says whom to trust, and for what.
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder::default()
    }

    /// The layer that verifies calls.
    #[must_use]
    pub fn layer(&self) -> VerifyLayer {
        VerifyLayer::new(Arc::clone(&self.verifier))
    }

    /// The trust in force: whether calls are decided, and for how long.
    #[must_use]
    pub fn trust(&self) -> &Arc<TrustStore> {
        self.verifier.trust()
    }

    /// Waits until calls are decided.
    pub async fn ready(&self) {
        let mut epochs = self.trust().changed();
        while !self.trust().status().decides() {
            // A confirmation is no epoch, so the clock is looked at as well.
            let look = tokio::time::timeout(Duration::from_millis(20), epochs.changed());
            let _either = look.await;
        }
    }

    /// Ends the stream, and closes the folder. Calls that go on are no longer told of what changes.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(PATIENCE, self.running).await.is_err() {
            tracing::warn!("the verifier did not stop in time");
        }
    }
}
