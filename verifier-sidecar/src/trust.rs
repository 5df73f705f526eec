//! The trust in force in this process: which keys and revocations every decision is made on, and how old they are.
//!
//! One writer (the trust stream's loop) swaps the whole; readers take it without a lock. The store only ever moves
//! forward: an older epoch, or the same epoch with other content, is refused, and neither touches what is in force. What
//! an update takes back is heeded even if the update cannot be taken over ([`TrustStore::heed`]).
//!
//! Age counts from the moment when the ping was sent to which the authority answered that exactly this state was its
//! current one, on a clock that goes on while the machine is suspended. A state that was never confirmed has no age
//! and counts as expired: that a signature is good does not say that nothing newer exists.

mod ledger;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use countersign_core::freshness::{Freshness, StalenessBudget};
use countersign_core::names::Issuer;
use countersign_core::ports::{Clock, Sha256};
use countersign_core::trust::{Applied, Epoch, StateDigest, TrustState, Update, UpdateRefused, UpdateRules};
use countersign_core::verifying::TrustView;
use tokio::sync::watch;

pub use ledger::{Floor, TrustAlarm};
use ledger::{Ledger, contradicts};

/// When the authority last confirmed the state in force, and how old that confirmation was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Confirmed {
    at: Duration,
    age_then: Duration,
}

impl Confirmed {
    const fn age(self, elapsed: Duration) -> Duration {
        self.age_then.saturating_add(elapsed.saturating_sub(self.at))
    }
}

/// One trust state with what is needed to tell its age.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Keys and revocations of one epoch, exactly those that its digest is of.
    pub state: TrustState,
    /// The same with what was taken back since by updates that could not be taken over, if there is any.
    stricter: Option<TrustState>,
    installed_at: Duration,
    confirmed: Option<Confirmed>,
    budget: StalenessBudget,
}

impl InForce {
    /// Time since the authority confirmed this state, at `elapsed` of the store's clock. Nothing when it never did.
    #[must_use]
    pub fn age(&self, elapsed: Duration) -> Option<Duration> {
        self.confirmed.map(|confirmed| confirmed.age(elapsed))
    }

    /// What that age means. Never confirmed counts as expired.
    #[must_use]
    pub fn freshness(&self, elapsed: Duration) -> Freshness {
        self.age(elapsed)
            .map_or(Freshness::Expired, |age| self.budget.judge(age))
    }

    /// Time until decisions stop if the authority stays away. Nothing is left when it never confirmed this state.
    #[must_use]
    pub fn refuses_in(&self, elapsed: Duration) -> Duration {
        self.age(elapsed)
            .map_or(Duration::ZERO, |age| self.budget.left(age))
    }

    /// What decisions are made on.
    #[must_use]
    pub fn view(&self, elapsed: Duration) -> TrustView<'_> {
        TrustView {
            state: self.stricter.as_ref().unwrap_or(&self.state),
            freshness: self.freshness(elapsed),
        }
    }
}

/// A look at the trust in force. Short-lived: not to be held over an `await`.
#[derive(Debug)]
pub struct Current(Guard<Option<Arc<InForce>>>);

impl Current {
    /// The trust, when there is any.
    #[must_use]
    pub fn in_force(&self) -> Option<&InForce> {
        self.0.as_deref()
    }

    /// What decisions are made on, at `elapsed` of the store's clock.
    #[must_use]
    pub fn view(&self, elapsed: Duration) -> Option<TrustView<'_>> {
        self.in_force().map(|trust| trust.view(elapsed))
    }
}

/// What an update would do.
#[derive(Clone, Debug)]
pub enum Considered {
    /// Put this in force.
    Advance(TrustState),
    /// Nothing: it leads to the state that is in force.
    InForce,
    /// Nothing: it led to a state that was in force before this one. Streams repeat themselves after a reconnect.
    Repeated,
}

/// What became of a state that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in force now.
    Installed,
    /// It was in force already.
    Confirmed,
}

/// What a heartbeat says about the state in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It is the current one; its age counts anew.
    Confirmed,
    /// The authority is at a later epoch. Nothing is confirmed.
    Behind,
    /// The answer is from before the state in force was. Nothing is confirmed.
    Superseded,
    /// The authority states an earlier epoch: [`TrustAlarm::Regressed`].
    Regressed,
    /// The authority states other content for the same epoch, or did so before: [`TrustAlarm::Fork`].
    Fork,
    /// Nothing is in force.
    Cold,
}

/// What there is to tell about the trust in force, for status answers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustStatus {
    /// The epoch. Zero: nothing is in force.
    pub epoch: Epoch,
    /// The digest of the state at that epoch.
    pub digest: StateDigest,
    /// Time since the authority confirmed it. Nothing when it never did.
    pub age: Option<Duration>,
    /// What the age means. Nothing when nothing is in force.
    pub freshness: Option<Freshness>,
    /// Time until decisions stop if the authority stays away. Nothing when nothing is in force.
    pub refuses_in: Option<Duration>,
    /// Keys in force.
    pub keys: usize,
    /// Revocations in force.
    pub revocations: usize,
    /// The highest epoch that was ever in force here.
    pub floor: Epoch,
    /// What is wrong with the authority, if anything.
    pub alarm: Option<TrustAlarm>,
}

impl TrustStatus {
    /// `fresh`, `stale`, `expired`, or `cold` when nothing is in force.
    #[must_use]
    pub fn freshness_name(&self) -> &'static str {
        self.freshness.map_or("cold", Freshness::name)
    }

    /// Whether calls are decided now rather than refused for want of trust.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.freshness
            .is_some_and(|freshness| freshness != Freshness::Expired)
    }
}

/// How often it is looked whether readers have let go of what was in force before. They look for microseconds.
const MOST_LOOKS: usize = 1000;

/// Holds the trust in force. One writer, any number of readers.
#[derive(Debug)]
pub struct TrustStore {
    rules: UpdateRules,
    budget: StalenessBudget,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<InForce>,
    ledger: Mutex<Ledger>,
    epoch: watch::Sender<Epoch>,
}

impl TrustStore {
    /// A store with nothing in force.
    #[must_use]
    pub fn new(rules: UpdateRules, budget: StalenessBudget, clock: Arc<dyn Clock>) -> Self {
        Self {
            rules,
            budget,
            clock,
            current: ArcSwapOption::empty(),
            ledger: Mutex::default(),
            epoch: watch::Sender::new(0),
        }
    }

    /// The issuer whose trust this is.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.rules.issuer
    }

    /// The rules by which updates are taken over.
    #[must_use]
    pub const fn rules(&self) -> &UpdateRules {
        &self.rules
    }

    /// How long decisions go on without the authority.
    #[must_use]
    pub const fn budget(&self) -> StalenessBudget {
        self.budget
    }

    /// The clock that ages are told by.
    #[must_use]
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The trust in force. Takes no lock.
    #[must_use]
    pub fn current(&self) -> Current {
        Current(self.current.load())
    }

    /// The trust in force, to be kept.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<InForce>> {
        self.current.load_full()
    }

    /// The epoch in force. Zero: none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.current().in_force().map_or(0, |trust| trust.state.epoch())
    }

    /// The highest state that was ever in force here.
    #[must_use]
    pub fn floor(&self) -> Floor {
        self.ledger().floor
    }

    /// Told the epoch of every state put in force, after it is; told it again when that state has become stricter.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    /// Everything there is to tell.
    #[must_use]
    pub fn status(&self) -> TrustStatus {
        let (floor, alarm) = self.ledger().told();
        let current = self.current();
        let trust = current.in_force();
        let elapsed = self.clock.elapsed();
        let age = trust.and_then(|trust| trust.age(elapsed));
        TrustStatus {
            epoch: trust.map_or(0, |trust| trust.state.epoch()),
            digest: trust.map_or_else(StateDigest::default, |trust| *trust.state.digest()),
            age,
            freshness: trust.map(|trust| trust.freshness(elapsed)),
            refuses_in: trust.map(|trust| trust.refuses_in(elapsed)),
            keys: trust.map_or(0, |trust| trust.state.keys().keys().len()),
            revocations: trust.map_or(0, |trust| trust.state.revocations().len()),
            floor: floor.epoch,
            alarm,
        }
    }

    /// What `update` makes of the state in force. Nothing is put in force yet.
    ///
    /// # Errors
    /// [`UpdateRefused`]. A fork and a step back are remembered as [`TrustAlarm`].
    pub fn consider(&self, update: &Update, sha256: &dyn Sha256) -> Result<Considered, UpdateRefused> {
        let floor = self.floor();
        let offered = Floor {
            epoch: update.epoch,
            digest: update.state_digest,
        };
        let is_ours = update.issuer == self.rules.issuer;
        if is_ours && self.ledger().was_in_force(offered) {
            return Ok(Considered::Repeated);
        }
        let outcome = if is_ours && contradicts(floor, offered) {
            Err(UpdateRefused::Fork)
        } else {
            let current = self.snapshot();
            let state = current.as_deref().map(|trust| &trust.state);
            // Long for a large snapshot, so no lock is held.
            match self
                .rules
                .apply(state, floor.epoch, update, self.clock.now(), sha256)
            {
                Ok(Applied::Advanced(next)) => Ok(Considered::Advance(next)),
                Ok(Applied::Confirmed) => Ok(Considered::InForce),
                Err(refused) => Err(refused),
            }
        };
        outcome.inspect_err(|refused| self.ledger().note(*refused))
    }

    /// Takes back what `update`, which cannot be taken over, takes back. Decisions heed it from now on; the state in force
    /// stays, and is confirmed only once the authority's is taken over.
    pub fn heed(&self, update: &Update) {
        let mut ledger = self.ledger();
        let Some(trust) = self.snapshot() else { return };
        self.rules
            .heed(&mut ledger.ahead, &trust.state, update, self.clock.now());
        self.current.store(Some(Arc::new(InForce {
            stricter: ledger.stricter(&trust.state),
            ..(*trust).clone()
        })));
        self.epoch.send_replace(trust.state.epoch());
    }

    /// Puts `state` in force. It keeps the age of the state before it, which it contains; without one, it has none until
    /// [`TrustStore::confirm`].
    ///
    /// # Errors
    /// [`UpdateRefused`] when that would step back or contradict what was in force.
    pub fn install(&self, state: TrustState) -> Result<Offered, UpdateRefused> {
        let confirmed = self.snapshot().and_then(|trust| trust.confirmed);
        self.put(state, confirmed)
    }

    /// Puts `state` in force as it was found on disk, last confirmed `age` ago, if that is known.
    ///
    /// # Errors
    /// [`UpdateRefused`] when that would step back or contradict what was in force.
    pub fn install_cached(&self, state: TrustState, age: Option<Duration>) -> Result<Offered, UpdateRefused> {
        let at = self.clock.elapsed();
        self.put(state, age.map(|age_then| Confirmed { at, age_then }))
    }

    /// Takes note that `floor` was in force once.
    pub fn raise_floor(&self, floor: Floor) {
        let mut ledger = self.ledger();
        if floor.epoch > ledger.floor.epoch {
            ledger.floor = floor;
        }
    }

    /// Takes note that `epoch` with `digest` was the authority's current state when it answered a ping that was sent at
    /// `sent_at` of the store's clock.
    pub fn confirm(&self, epoch: Epoch, digest: &StateDigest, sent_at: Duration) -> Confirmation {
        let mut ledger = self.ledger();
        let Some(trust) = self.snapshot() else {
            // Nothing that this authority has can be taken over.
            if epoch < ledger.floor.epoch {
                ledger.raise(TrustAlarm::Regressed);
                return Confirmation::Regressed;
            }
            return Confirmation::Cold;
        };
        let outcome = trust.compare(epoch, digest, sent_at, ledger.alarm);
        match outcome {
            Confirmation::Confirmed => {
                ledger.alarm = None;
                self.renew(&trust, sent_at);
            }
            Confirmation::Regressed => ledger.raise(TrustAlarm::Regressed),
            Confirmation::Fork => ledger.raise(TrustAlarm::Fork),
            Confirmation::Behind | Confirmation::Superseded | Confirmation::Cold => {}
        }
        outcome
    }

    /// Takes note that the authority does not know the state in force: it is behind it.
    pub fn disowned(&self) {
        self.ledger().raise(TrustAlarm::Regressed);
    }

    fn renew(&self, trust: &InForce, sent_at: Duration) {
        let now = self.clock.elapsed();
        let confirmed = Confirmed {
            at: sent_at.min(now),
            age_then: Duration::ZERO,
        };
        // The answer to an earlier ping may come late; it makes nothing older.
        if trust.age(now).is_none_or(|age| confirmed.age(now) < age) {
            self.current.store(Some(Arc::new(InForce {
                confirmed: Some(confirmed),
                ..trust.clone()
            })));
        }
    }

    fn put(&self, state: TrustState, confirmed: Option<Confirmed>) -> Result<Offered, UpdateRefused> {
        let mut ledger = self.ledger();
        let offered = Floor {
            epoch: state.epoch(),
            digest: *state.digest(),
        };
        if let Err(refused) = self.check(ledger.floor, &state, offered) {
            ledger.note(refused);
            return Err(refused);
        }
        let before = self.epoch();
        if before == offered.epoch {
            return Ok(Offered::Confirmed);
        }
        ledger.advance(offered, before != 0);
        ledger.ahead = ledger.ahead.beyond(&state, self.clock.now());
        let replaced = self.current.swap(Some(Arc::new(InForce {
            stricter: ledger.stricter(&state),
            state,
            installed_at: self.clock.elapsed(),
            confirmed,
            budget: self.budget,
        })));
        self.epoch.send_replace(offered.epoch);
        // Whoever asks for the status waits for the ledger.
        drop(ledger);
        if let Some(replaced) = replaced {
            let_go(replaced);
        }
        Ok(Offered::Installed)
    }

    fn check(&self, floor: Floor, state: &TrustState, offered: Floor) -> Result<(), UpdateRefused> {
        if *state.issuer() != self.rules.issuer {
            Err(UpdateRefused::Issuer)
        } else if offered.epoch < floor.epoch || offered.epoch == 0 {
            Err(UpdateRefused::Regressed)
        } else if contradicts(floor, offered) {
            Err(UpdateRefused::Fork)
        } else {
            Ok(())
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change of it leaves it whole, so a panic elsewhere left nothing half done.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what was in force until no reader looks at it: the last to let go frees it, and that is long work for a long
/// list, not to be done for one request.
fn let_go(mut replaced: Arc<InForce>) {
    for _ in 0..MOST_LOOKS {
        if Arc::get_mut(&mut replaced).is_some() {
            return;
        }
        std::thread::yield_now();
    }
}

impl InForce {
    fn compare(
        &self,
        epoch: Epoch,
        digest: &StateDigest,
        sent_at: Duration,
        alarm: Option<TrustAlarm>,
    ) -> Confirmation {
        if epoch > self.state.epoch() {
            Confirmation::Behind
        } else if epoch < self.state.epoch() {
            // The answer may have been on its way while the update arrived.
            if sent_at < self.installed_at {
                Confirmation::Superseded
            } else {
                Confirmation::Regressed
            }
        } else if digest != self.state.digest() || alarm == Some(TrustAlarm::Fork) {
            Confirmation::Fork
        } else {
            Confirmation::Confirmed
        }
    }
}

#[cfg(test)]
mod tests;
