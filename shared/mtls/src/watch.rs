//! A TLS configuration that follows its files: the last good one stays in force until a whole new one was built.
//!
//! Files are compared by content at an interval. Notifications miss the symbolic-link swap by which mounted secrets
//! change, and a read that met half a change is simply corrected by the next one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::error::TlsError;
use crate::files::{Contents, Fingerprint, Material, TlsFiles};

/// How often files are compared: a withdrawn root is out of force within this, and three small reads cost nothing.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// No interval is shorter, whatever is asked for.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// How the files of a configuration are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsHealth {
    /// How often a new configuration came into force after the first.
    pub reloads: u64,
    /// How often changed files could not be used.
    pub failed_reloads: u64,
    /// Whether the files are unusable now, so that older ones are in force.
    pub failing: bool,
    /// When our certificate in force expires.
    pub not_after: Timestamp,
}

type Build<C> = dyn Fn(Material) -> Result<C, TlsError> + Send + Sync;

/// A configuration in force and the files it comes from.
pub(crate) struct Watched<C> {
    /// `server` or `client`, for logs.
    role: &'static str,
    files: TlsFiles,
    with_roots: bool,
    build: Box<Build<C>>,
    current: ArcSwap<C>,
    /// What was last tried, so that one broken state is complained about once.
    attempted: Mutex<Attempt>,
    reloads: AtomicU64,
    failures: AtomicU64,
    failing: AtomicBool,
    not_after: AtomicU64,
    certificate: ArcSwap<PeerCertificate>,
}

#[derive(PartialEq, Eq)]
enum Attempt {
    Contents(Fingerprint),
    Unreadable(String),
}

impl<C: Send + Sync + 'static> Watched<C> {
    pub(crate) fn load(
        role: &'static str,
        files: &TlsFiles,
        with_roots: bool,
        build: Box<Build<C>>,
    ) -> Result<Self, TlsError> {
        let contents = Contents::read(files, with_roots)?;
        let material = contents.parse(files)?;
        let not_after = material.identity.not_after.as_seconds();
        let certificate = material.identity.certificate();
        Ok(Self {
            role,
            files: files.clone(),
            with_roots,
            current: ArcSwap::from_pointee(build(material).map_err(|e| e.with_files(files))?),
            build,
            attempted: Mutex::new(Attempt::Contents(contents.fingerprint())),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            not_after: AtomicU64::new(not_after),
            certificate: ArcSwap::from_pointee(certificate),
        })
    }

    /// The configuration for the next handshake.
    pub(crate) fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    pub(crate) fn certificate_path(&self) -> &Path {
        &self.files.certificate
    }

    /// Our certificate in force.
    pub(crate) fn certificate(&self) -> PeerCertificate {
        PeerCertificate::clone(&self.certificate.load())
    }

    pub(crate) fn health(&self) -> TlsHealth {
        TlsHealth {
            reloads: self.reloads.load(Ordering::Relaxed),
            failed_reloads: self.failures.load(Ordering::Relaxed),
            failing: self.failing.load(Ordering::Relaxed),
            not_after: Timestamp::from_seconds(self.not_after.load(Ordering::Relaxed)),
        }
    }

    /// Looks at the files once. `Ok(true)` when a new configuration is in force.
    ///
    /// Fails once for each broken state of the files; later looks at the same state answer `Ok(false)`.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let mut attempted = self.attempted.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = Contents::read(&self.files, self.with_roots);
        let attempt = match &contents {
            Ok(contents) => Attempt::Contents(contents.fingerprint()),
            Err(error) => Attempt::Unreadable(error.to_string()),
        };
        if *attempted == attempt {
            return Ok(false);
        }
        *attempted = attempt;
        let result = contents
            .map_err(TlsError::from)
            .and_then(|contents| self.replace(&contents));
        self.failing.store(result.is_err(), Ordering::Relaxed);
        let counter = if result.is_err() {
            &self.failures
        } else {
            &self.reloads
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result.map(|()| true)
    }

    fn replace(&self, contents: &Contents) -> Result<(), TlsError> {
        let material = contents.parse(&self.files)?;
        let not_after = material.identity.not_after.as_seconds();
        let certificate = material.identity.certificate();
        let config = (self.build)(material).map_err(|error| error.with_files(&self.files))?;
        // INVARIANT (a reload is whole): nothing changes before this store, and everything changes with it.
        self.current.store(Arc::new(config));
        self.not_after.store(not_after, Ordering::Relaxed);
        self.certificate.store(Arc::new(certificate));
        Ok(())
    }

    /// Looks at the files every `interval` until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(interval.max(MIN_INTERVAL));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let watched = Arc::clone(&self);
            // Reading may hang on a network file system; the connections must not.
            let looked = tokio::task::spawn_blocking(move || watched.reload()).await;
            match looked {
                Ok(outcome) => self.log(outcome),
                Err(error) => tracing::error!(role = self.role, %error, "looking at the TLS files failed"),
            }
        }
    }

    fn log(&self, outcome: Result<bool, TlsError>) {
        let certificate = self.certificate_path().display();
        match outcome {
            Ok(false) => {}
            Ok(true) => tracing::info!(role = self.role, %certificate, "changed TLS files are in force"),
            Err(error) => tracing::error!(
                role = self.role, %certificate, error = crate::connect::chain(&error), reason = "reload_failed",
                "changed TLS files cannot be used; the last good ones stay in force"
            ),
        }
    }
}
