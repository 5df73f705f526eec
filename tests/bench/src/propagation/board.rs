//! What all verifiers of a run write down, and whoever measures waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;

/// How often is looked. What is measured are the times written down, so this makes nothing inexact.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// How long anything may take that has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What was written down.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// When each verifier came to an epoch.
    arrivals: BTreeMap<u64, Vec<Instant>>,
    /// Streams that hold a lease.
    pub(super) leased: usize,
    /// When streams were granted their first lease since [`Board::forget`].
    pub(super) returns: Vec<Instant>,
    /// For how long verifiers had no lease before that.
    pub(super) lapses: Vec<Duration>,
    /// Why streams ended since then.
    pub(super) endings: BTreeMap<Ending, usize>,
}

/// Why a stream ended, or none came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Nobody is there.
    Away,
    /// Nobody answered in time.
    NoAnswer,
    /// The server ended it, and asks to come again.
    Unavailable,
    /// The server does not let it in, or not any more.
    Refused,
}

impl Marks {
    /// When verifiers came to `epoch`.
    pub(super) fn arrivals(&self, epoch: u64) -> &[Instant] {
        self.arrivals.get(&epoch).map_or(&[], Vec::as_slice)
    }

    /// How often streams ended so.
    pub(super) fn ended(&self, ending: Ending) -> usize {
        self.endings.get(&ending).copied().unwrap_or_default()
    }
}

/// The board.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Marks>);

impl Board {
    /// A verifier has come to `epoch`.
    pub(super) fn arrived(&self, epoch: u64) {
        let now = Instant::now();
        self.marks().arrivals.entry(epoch).or_default().push(now);
    }

    /// A stream was granted its first lease. The verifier has had none for `lapsed`.
    pub(super) fn leased(&self, lapsed: Duration) {
        let mut marks = self.marks();
        marks.leased += 1;
        marks.returns.push(Instant::now());
        marks.lapses.push(lapsed);
    }

    /// A stream has ended.
    pub(super) fn ended(&self, ending: Ending, was_leased: bool) {
        let mut marks = self.marks();
        marks.leased -= usize::from(was_leased);
        *marks.endings.entry(ending).or_default() += 1;
    }

    /// Forgets returns and endings.
    pub(super) fn forget(&self) {
        let mut marks = self.marks();
        marks.returns.clear();
        marks.lapses.clear();
        marks.endings.clear();
    }

    /// Waits until `happened`.
    pub(super) async fn wait(&self, what: &str, happened: impl Fn(&Marks) -> bool) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        while !happened(&self.marks()) {
            if Instant::now() > end {
                let marks = self.marks();
                let state = (marks.leased, &marks.endings);
                return Err(format!("{what} did not happen: {state:?}").into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
