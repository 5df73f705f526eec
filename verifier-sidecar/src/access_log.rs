//! The access log: one line of JSON for each call that was refused or failed, and for a sample of the others (docs/access-log.md).
//!
//! ```text
//! call --> record ---(ended)---> entry --> lines (in memory, bounded) --> writer (a thread) --> file or stdout
//! ```
//!
//! INVARIANT (no waiting): whoever calls never waits for what is written. Where lines come faster than they can be written, some
//! are lost: counted, told, and of what must be told only when the rest has been lost before.
//!
//! `tracing-appender` does the same but for what matters here: it has one queue without precedence, does not say when writing
//! fails, and keeps the file open that was moved away.

pub(crate) mod decided;
mod entry;
mod file;
mod lines;
mod record;
mod writer;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_verifier::trust::TrustStore;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use crate::metrics::AccessLogMetrics;
pub(crate) use entry::Entry;
use file::Place;
pub use file::Unwritable;
use lines::{Lines, Weight};
pub(crate) use record::{Ended, Record};
use writer::{Tally, Writer};

/// How long a stop waits for lines that nobody takes.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// What the operator chose.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogConfig {
    /// Where lines go.
    pub target: AccessLogTarget,
    /// How much is told of what was let in and did not fail: from 0, nothing, to 1, everything.
    pub sample: f64,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// The process's stdout.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// There is no access log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file cannot be written.
    #[error("the access log `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Unwritable,
    },
    /// There is no stdout, or no thread.
    #[error("the access log cannot be written")]
    Process(#[source] io::Error),
}

/// Tells of calls.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lines: Arc<Lines>,
    tally: Arc<Tally>,
    sampler: Sampler,
    trust: Arc<TrustStore>,
}

impl AccessLogConfig {
    /// Whether it can be written there, as far as that can be said without writing.
    ///
    /// # Errors
    /// [`AccessLogError::File`].
    pub fn check(&self) -> Result<(), AccessLogError> {
        match &self.target {
            AccessLogTarget::Stdout => Ok(()),
            AccessLogTarget::File(path) => Place::check(path).map_err(|source| AccessLogError::File {
                path: path.clone(),
                source,
            }),
        }
    }

    fn place(&self) -> Result<Place, AccessLogError> {
        match &self.target {
            AccessLogTarget::Stdout => Place::stdout().map_err(AccessLogError::Process),
            AccessLogTarget::File(path) => Place::file(path).map_err(|source| AccessLogError::File {
                path: path.clone(),
                source,
            }),
        }
    }
}

impl AccessLog {
    /// A log as `config` says, of calls that are decided on `trust`. Lines are written until the second value is.
    pub(crate) fn start(
        config: &AccessLogConfig,
        trust: Arc<TrustStore>,
        registry: &mut Registry,
    ) -> Result<(Arc<Self>, LastLines), AccessLogError> {
        let place = config.place()?;
        let metrics = AccessLogMetrics::register(registry);
        let tally = Arc::new(Tally::new(metrics, Arc::clone(trust.clock())));
        let lines = Arc::<Lines>::default();
        let writer = Writer::new(place, Arc::clone(&tally));
        let ended = writer
            .start(Arc::clone(&lines))
            .map_err(AccessLogError::Process)?;
        let last = LastLines {
            lines: Arc::clone(&lines),
            ended,
        };
        let log = Self {
            lines,
            tally,
            sampler: Sampler::new(config.sample),
            trust,
        };
        Ok((Arc::new(log), last))
    }

    fn tell(&self, entry: &Entry<'_>, weight: Weight) {
        match entry.line() {
            Ok(line) if self.lines.add(&line, weight) => {}
            Ok(_) => self.tally.no_room(),
            Err(error) => tracing::error!(%error, "a line of the access log cannot be made"),
        }
    }
}

/// The end of a log.
#[derive(Debug)]
pub(crate) struct LastLines {
    lines: Arc<Lines>,
    ended: oneshot::Receiver<()>,
}

impl LastLines {
    /// Waits until everything is written that was told before, but not for long.
    pub(crate) async fn write(mut self) {
        self.lines.end();
        if tokio::time::timeout(LAST_WRITE, &mut self.ended).await.is_err() {
            tracing::warn!("the last lines of the access log are not written: nobody takes them");
        }
    }
}

impl Drop for LastLines {
    /// Of a start that failed, no thread is left.
    fn drop(&mut self) {
        self.lines.end();
    }
}

/// Chooses a part of all calls, at random, so that no rhythm among them has a part in it.
#[derive(Debug)]
struct Sampler {
    part: f64,
    random: RandomState,
    number: AtomicU64,
}

impl Sampler {
    fn new(part: f64) -> Self {
        Self {
            part,
            random: RandomState::new(),
            number: AtomicU64::new(0),
        }
    }

    fn takes_this_one(&self) -> bool {
        if self.part <= 0.0 {
            return false;
        }
        let random = self.random.hash_one(self.number.fetch_add(1, Ordering::Relaxed));
        // The upper half of the bits, as a number from 0 to just under 1.
        let random = u32::try_from(random >> 32).map_or(0.0, f64::from) / 4_294_967_296.0;
        random < self.part
    }
}

#[cfg(test)]
mod tests;
