//! The trust in force in this process, for everybody who decides.
//!
//! What is held and how it may change is [`HeldTrust`]; here it is published. Whoever writes prepares the next of it and
//! swaps the whole; readers take it as it is, without a lock. So a large update, which takes long, holds up nobody.

mod status;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use countersign_core::Timestamp;
use countersign_core::freshness::StalenessRules;
use countersign_core::ports::{Clock, Sha256};
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, StateDigest, TrustState, Update, UpdateRefused, UpdateRules};
use countersign_core::verifier::{
    Age, ClockInDoubt, ClockMark, Grant, HeldTrust, InForce, Moment, VerifierClock,
};
use countersign_core::verifying::TrustView;
use tokio::sync::watch;

pub use countersign_core::verifier::{Confirmation, Considered, Offered, StateId, TrustAlarm};
pub use status::TrustStatus;

/// A look at the trust in force. Short-lived: not to be held over an `await`.
#[derive(Debug)]
pub struct Current(Guard<Arc<HeldTrust>>);

impl Current {
    /// The trust, when there is any.
    #[must_use]
    pub fn in_force(&self) -> Option<&InForce> {
        self.0.in_force()
    }

    /// Which certificates are revoked by more than that trust.
    #[must_use]
    pub fn certificates(&self) -> RevocationList {
        self.0.certificates()
    }

    /// What decisions are made on, at `elapsed` of the store's clock.
    #[must_use]
    pub fn view(&self, elapsed: Duration) -> Option<TrustView<'_>> {
        self.in_force().map(|trust| trust.view(elapsed))
    }
}

/// How often it is looked whether readers have let go of what was in force before. They look for microseconds.
const MOST_LOOKS: usize = 1000;

/// Holds the trust in force. One writer at a time, any number of readers.
#[derive(Debug)]
pub struct TrustStore {
    staleness: Arc<StalenessRules>,
    clock: Arc<dyn Clock>,
    held: ArcSwap<HeldTrust>,
    writing: Mutex<()>,
    epoch: watch::Sender<Epoch>,
    /// The latest time that was told, in seconds since 1970.
    told: AtomicU64,
}

impl TrustStore {
    /// A store with nothing in force.
    #[must_use]
    pub fn new(rules: UpdateRules, staleness: Arc<StalenessRules>, clock: Arc<dyn Clock>) -> Self {
        let time = VerifierClock::start(clock.boot(), moment(clock.as_ref()));
        Self {
            staleness,
            clock,
            held: ArcSwap::from_pointee(HeldTrust::new(rules, time)),
            writing: Mutex::new(()),
            epoch: watch::Sender::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// How long decisions go on without the authority.
    #[must_use]
    pub const fn staleness(&self) -> &Arc<StalenessRules> {
        &self.staleness
    }

    /// The clock that ages are told by.
    #[must_use]
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What the store's clock says now.
    #[must_use]
    pub fn moment(&self) -> Moment {
        moment(self.clock.as_ref())
    }

    /// What time it is, for decisions. Once the authority has said it, never earlier than what was told before, whoever asks: a
    /// reader that is late with an earlier [`HeldTrust`] is no exception.
    ///
    /// # Errors
    /// [`ClockInDoubt`].
    pub fn now(&self) -> Result<Timestamp, ClockInDoubt> {
        let held = self.held.load();
        let now = held.now(self.clock.elapsed())?;
        if !held.clock().is_heard() {
            return Ok(now);
        }
        let told = self.told.load(Ordering::Relaxed);
        if told < now.as_seconds() {
            self.told.fetch_max(now.as_seconds(), Ordering::Relaxed);
        }
        Ok(now.max(Timestamp::from_seconds(told)))
    }

    /// The trust in force. Takes no lock.
    #[must_use]
    pub fn current(&self) -> Current {
        Current(self.held.load())
    }

    /// Everything that is held, to be kept.
    #[must_use]
    pub fn snapshot(&self) -> Arc<HeldTrust> {
        self.held.load_full()
    }

    /// The epoch in force. Zero: none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.held.load().epoch()
    }

    /// The highest state that was ever in force here.
    #[must_use]
    pub fn floor(&self) -> StateId {
        self.held.load().floor()
    }

    /// Told the epoch of every state put in force, after it is; told it again when that state has become stricter.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    /// Everything there is to tell.
    #[must_use]
    pub fn status(&self) -> TrustStatus {
        TrustStatus::of(&self.held.load(), &self.staleness, self.moment())
    }

    /// Lets `change` make the next of what is held, and puts that in force as a whole. Decisions go on meanwhile, on what
    /// was; another change waits.
    pub fn write<T>(&self, change: impl FnOnce(&mut HeldTrust) -> T) -> T {
        // Nothing is behind the lock that a panic elsewhere could have left half done.
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = (*self.snapshot()).clone();
        let changes = next.changes();
        let outcome = change(&mut next);
        let (changed, epoch) = (next.changes() != changes, next.epoch());
        let replaced = self.held.swap(Arc::new(next));
        if changed {
            self.epoch.send_replace(epoch);
        }
        drop(writing);
        if changed {
            let_go(replaced);
        }
        outcome
    }

    /// [`HeldTrust::consider`], now.
    ///
    /// # Errors
    /// [`UpdateRefused`].
    pub fn consider(&self, update: &Update, sha256: &dyn Sha256) -> Result<Considered, UpdateRefused> {
        let now = self.moment();
        self.write(|held| held.consider(update, now, sha256))
    }

    /// [`HeldTrust::install`], now.
    ///
    /// # Errors
    /// [`UpdateRefused`].
    pub fn install(&self, state: TrustState) -> Result<Offered, UpdateRefused> {
        let now = self.moment();
        self.write(|held| held.install(state, now))
    }

    /// [`HeldTrust::restore`], now.
    ///
    /// # Errors
    /// [`UpdateRefused`].
    pub fn install_cached(
        &self,
        state: TrustState,
        ages: impl IntoIterator<Item = Age>,
    ) -> Result<Offered, UpdateRefused> {
        let now = self.moment();
        self.write(|held| held.restore(state, ages, now))
    }

    /// [`HeldTrust::carry`], now.
    pub fn carry(&self, revocations: &RevocationList) {
        let now = self.moment();
        self.write(|held| held.carry(revocations, now));
    }

    /// [`HeldTrust::resume_clock`], now.
    pub fn resume_clock(&self, mark: &ClockMark) {
        let now = self.moment();
        self.write(|held| held.resume_clock(mark, now));
    }

    /// [`HeldTrust::raise_floor`].
    pub fn raise_floor(&self, floor: StateId) {
        self.write(|held| held.raise_floor(floor));
    }

    /// [`HeldTrust::confirm`], now.
    pub fn confirm(&self, epoch: Epoch, digest: &StateDigest, grant: Grant) -> Confirmation {
        let now = self.moment();
        self.write(|held| held.confirm(epoch, digest, grant, now))
    }

    /// [`HeldTrust::let_go`]. Nothing is decided from here on.
    pub fn let_go(&self) {
        self.write(HeldTrust::let_go);
    }

    /// [`HeldTrust::disowned`].
    pub fn disowned(&self) {
        self.write(HeldTrust::disowned);
    }
}

/// What `clock` says now.
pub(crate) fn moment(clock: &dyn Clock) -> Moment {
    Moment {
        elapsed: clock.elapsed(),
        wall_millis: clock.now_millis(),
    }
}

/// Keeps what was in force until no reader looks at it: the last to let go frees it, and that is long work for a long
/// list, not to be done for one request.
fn let_go(mut replaced: Arc<HeldTrust>) {
    for _ in 0..MOST_LOOKS {
        if Arc::get_mut(&mut replaced).is_some() {
            return;
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests;
