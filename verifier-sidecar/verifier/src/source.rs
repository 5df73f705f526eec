//! Where trust comes from: the disk, and the authority's stream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::freshness::StalenessRules;
use countersign_core::names::{Audience, VerifierId};
use countersign_core::ports::{Clock, Entropy as _, EntropyFailed};
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::trust::UpdateRules;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_mtls::files::read_public;
use countersign_mtls::{
    ChannelOptions, ClientTls, DEFAULT_WATCH_INTERVAL, ExpectedServer, FileError, PeerIdentity, TlsError,
    TlsFiles,
};
use countersign_runtime::busy::{Busy, retry_while_busy};
use prometheus_client::registry::Registry;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_util::sync::CancellationToken;

use crate::cache::{self, CacheError, CacheIdentity, CacheSettings, Opened, TrustCache};
use crate::key_uses::KeyUses;
use crate::metrics;
use crate::sync::{Dial, OnStop, Publishers, Supervisor, SyncMetrics, SyncSettings};
use crate::trust::TrustStore;

/// The largest certificate file that is read, as for TLS.
const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024;

/// Whose trust is held, for what, where and for how long.
#[derive(Clone, Debug)]
pub struct TrustSettings {
    /// The authority.
    pub authority: Authority,
    /// Whose names are in tokens.
    pub trust_domain: TrustDomain,
    /// The service that calls are judged for.
    pub audience: Audience,
    /// Where the last trust is kept.
    pub state_dir: PathBuf,
    /// A file with trust for a start while the authority is away.
    pub warm_start: Option<PathBuf>,
    /// What becomes of the trust at the end.
    pub on_stop: OnStop,
    /// How trust is taken over.
    pub rules: UpdateRules,
    /// How long it is used without the authority.
    pub staleness: Arc<StalenessRules>,
    /// How often a heartbeat is asked for.
    pub heartbeat: Duration,
}

/// The connection to the authority.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Where it is.
    pub uri: String,
    /// Who must answer there.
    pub spiffe_id: SpiffeId,
    /// The name in its certificate, when it is not the host in `uri`.
    pub server_name: Option<String>,
    /// Our certificate, and whom to trust.
    pub files: TlsFiles,
    /// The keys that publish trust.
    pub publishers: PinnedKeys,
}

/// Why there is no trust to be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Certificates, keys or roots cannot be used.
    #[error("the TLS files cannot be used")]
    Tls(#[from] TlsError),
    /// Our certificate cannot be read.
    #[error("our certificate cannot be read")]
    Certificate(#[from] FileError),
    /// Our certificate does not say who we are, so no authority would admit us.
    #[error("the certificate in `authority.certificate` has no SPIFFE ID, which verifiers are known by")]
    NoIdentity,
    /// The state directory cannot be had.
    #[error("`state_dir` cannot be used")]
    Cache(#[from] CacheError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFailed),
}

impl Busy for SourceError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Cache(CacheError::InUse))
    }
}

/// Trust that is in force as far as the disk has it, and a stream that is not open yet.
pub struct TrustSource {
    trust: Arc<TrustStore>,
    cache: Arc<TrustCache>,
    supervisor: Supervisor,
    authority: Arc<ClientTls>,
    metrics: SyncMetrics,
}

impl std::fmt::Debug for TrustSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustSource")
            .field("epoch", &self.trust.epoch())
            .finish_non_exhaustive()
    }
}

impl TrustSource {
    /// Opens the cache, puts what is in it in force, and prepares the stream. A state directory that a predecessor still holds is
    /// waited for ([`countersign_runtime::busy`]).
    ///
    /// # Errors
    /// [`SourceError`]. That the authority is away is none.
    pub async fn open(
        settings: &TrustSettings,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Self, SourceError> {
        let trust = Arc::new(TrustStore::new(
            settings.rules.clone(),
            Arc::clone(&settings.staleness),
            Arc::clone(clock),
        ));
        metrics::register_trust(registry, Arc::clone(&trust));
        let metrics = SyncMetrics::default();
        metrics::register_sync(registry, &metrics);
        let authority = authority_tls(&settings.authority, Arc::clone(clock))?;
        let dial = dial(&authority, &settings.authority.uri)?;
        let pinned = &settings.authority.publishers;
        let publishers = Publishers::new(settings.rules.issuer.clone(), pinned, Arc::new(AwsLc));
        let opened = open_cache(settings, &trust, publishers.clone(), Arc::clone(clock)).await?;
        metrics::register_warm_start(registry, opened.warm_start);
        let cache = Arc::new(opened.cache);
        let sync = SyncSettings {
            heartbeat_period: settings.heartbeat,
            on_stop: settings.on_stop,
            ..SyncSettings::new(random_name()?, opened.verifier_id)
        };
        let supervisor = Supervisor::new(
            sync,
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

    /// Tells the authority which keys are in use.
    #[must_use]
    pub fn telling_of(mut self, key_uses: Arc<KeyUses>) -> Self {
        self.supervisor = self.supervisor.telling_of(key_uses);
        self
    }

    /// The trust in force.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustStore> {
        &self.trust
    }

    /// How the authority is connected to.
    #[must_use]
    pub const fn authority(&self) -> &Arc<ClientTls> {
        &self.authority
    }

    /// What the stream counts.
    #[must_use]
    pub const fn metrics(&self) -> &SyncMetrics {
        &self.metrics
    }

    /// Holds the stream until `stop`, and closes the cache.
    pub async fn run(self, stop: CancellationToken) {
        let watching = self.authority.watch(DEFAULT_WATCH_INTERVAL, stop.clone());
        tokio::join!(watching, self.supervisor.run(stop));
        if let Some(cache) = Arc::into_inner(self.cache)
            && !cache.close().await
        {
            tracing::warn!("the state directory was not closed in time");
        }
    }
}

/// What of the files and folders that `settings` name cannot be used. Changes nothing.
#[must_use]
pub fn check(settings: &TrustSettings, clock: &Arc<dyn Clock>) -> Vec<SourceError> {
    let authority = &settings.authority;
    let tls = authority_tls(authority, Arc::clone(clock));
    let channel = tls.and_then(|tls| dial(&tls, &authority.uri).map(drop));
    let state =
        cache::check_access(&settings.state_dir).map_err(|exposed| CacheError::Exposed(exposed).into());
    [channel, own_spiffe_id(authority).map(drop), state]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

async fn open_cache(
    settings: &TrustSettings,
    trust: &TrustStore,
    publishers: Publishers,
    clock: Arc<dyn Clock>,
) -> Result<Opened, SourceError> {
    let identity = CacheIdentity {
        issuer: settings.rules.issuer.as_str().to_owned(),
        trust_domain: settings.trust_domain.as_str().to_owned(),
        audience: settings.audience.as_str().to_owned(),
        sidecar: own_spiffe_id(&settings.authority)?,
    };
    let fresh_id = VerifierId::parse(&random_name()?).map_err(|_malformed| EntropyFailed)?;
    let cache = CacheSettings {
        warm_start: settings.warm_start.clone(),
        ..CacheSettings::new(settings.state_dir.clone(), identity, fresh_id)
    };
    let what = format!("the state directory `{}`", settings.state_dir.display());
    let opened = retry_while_busy(what, async || {
        let (cache, publishers) = (cache.clone(), publishers.clone());
        let opening = TrustCache::open(cache, publishers, settings.rules.clone(), Arc::clone(&clock));
        opening.await.map_err(SourceError::Cache)
    });
    let opened = opened.await?;
    if let Err(refused) = opened.restore(trust) {
        tracing::warn!(reason = refused.reason(), "the trust on disk is not used");
    }
    Ok(opened)
}

fn own_spiffe_id(authority: &Authority) -> Result<String, SourceError> {
    let pem = read_public(&authority.files.certificate, MAX_CERTIFICATE_BYTES)?;
    let identity = CertificateDer::from_pem_slice(&pem)
        .ok()
        .and_then(|leaf| PeerIdentity::from_der(&leaf).ok())
        .and_then(|identity| identity.spiffe_id);
    identity
        .map(|id| id.as_str().to_owned())
        .ok_or(SourceError::NoIdentity)
}

fn authority_tls(authority: &Authority, clock: Arc<dyn Clock>) -> Result<Arc<ClientTls>, SourceError> {
    let expected = ExpectedServer {
        spiffe_id: Some(authority.spiffe_id.clone()),
        server_name: authority.server_name.clone(),
    };
    Ok(ClientTls::load(&authority.files, expected, clock)?)
}

/// Every stream gets a channel of its own. The address is tried here, so that a wrong one is an error of the start.
fn dial(tls: &Arc<ClientTls>, uri: &str) -> Result<Dial, SourceError> {
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
