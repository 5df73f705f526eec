//! What one verifier holds: the trust in force, and what of the past must not be forgotten.
//!
//! It only ever moves forward: an older epoch, or the same epoch with other content, is refused, and neither touches what
//! is in force. What an update takes back is heeded even if the update cannot be taken over ([`HeldTrust::heed`]).

mod carrying;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Age, ClockInDoubt, ClockMark, Confirmations, InForce, Moment, StateId, TimeStated, TooFar, VerifierClock,
};
use crate::planted::{Bug, planted};
use crate::ports::Sha256;
use crate::time::Timestamp;
use crate::trust::{
    Ahead, Applied, Descent, Epoch, StateDigest, TrustState, Update, UpdateRefused, UpdateRules,
};

/// How many earlier states are remembered, to tell an update that is merely repeated from one that steps back.
const REMEMBERED: usize = 64;

/// The authority, or somebody in its name, contradicts itself. What is in force stays and grows old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrustAlarm {
    /// Two states were signed for one epoch, or two publisher sets for one generation. Nothing is confirmed until a later epoch is in force.
    Fork,
    /// The authority states an epoch before the floor: it may have been restored from a backup. Ends with the next
    /// confirmation or newer epoch.
    Regressed,
}

impl TrustAlarm {
    /// Every alarm there is.
    pub const ALL: [Self; 2] = [Self::Fork, Self::Regressed];

    /// The stable reason: that of an update which would be refused for the same.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Fork => UpdateRefused::Fork.reason(),
            Self::Regressed => UpdateRefused::Regressed.reason(),
        }
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

/// How long the state that a heartbeat names counts as current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// When the ping was sent that the heartbeat answers, in elapsed time.
    pub sent_at: Duration,
    /// For how long from then on. Zero: nothing is granted. No more than [`MAX_LEASE`](crate::staleness::MAX_LEASE) is
    /// believed.
    pub lease: Duration,
}

/// What a heartbeat says about the state in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It is the current one; its age and its lease count anew.
    Confirmed,
    /// It is the current one, and nothing is granted: the authority does not know yet that it is in force here. Nothing is
    /// confirmed.
    NotGranted,
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

/// What one verifier holds. Cloning is cheap, so that decisions can be made on a copy while the next one is prepared.
#[derive(Clone, Debug)]
pub struct HeldTrust {
    rules: Arc<UpdateRules>,
    clock: VerifierClock,
    in_force: Option<InForce>,
    /// The highest state that was ever in force here, also before a restart.
    // INVARIANT (no way back): never below what is in force, and never sinks.
    floor: StateId,
    alarm: Option<TrustAlarm>,
    ahead: Ahead,
    /// How many revocations there was no room for in that, and nobody was told of.
    dropped: usize,
    earlier: VecDeque<StateId>,
    changes: u64,
}

impl HeldTrust {
    /// Nothing in force yet.
    #[must_use]
    pub fn new(rules: UpdateRules, clock: VerifierClock) -> Self {
        Self {
            rules: Arc::new(rules),
            clock,
            in_force: None,
            floor: StateId::default(),
            alarm: None,
            ahead: Ahead::default(),
            dropped: 0,
            earlier: VecDeque::new(),
            changes: 0,
        }
    }

    /// The rules by which updates are taken over.
    #[must_use]
    pub fn rules(&self) -> &UpdateRules {
        &self.rules
    }

    /// What time it is, for decisions, at `elapsed`.
    ///
    /// # Errors
    /// [`ClockInDoubt`].
    pub fn now(&self, elapsed: Duration) -> Result<Timestamp, ClockInDoubt> {
        self.clock.now(elapsed)
    }

    /// The clock that says so.
    #[must_use]
    pub const fn clock(&self) -> &VerifierClock {
        &self.clock
    }

    /// [`VerifierClock::resume`].
    pub fn resume_clock(&mut self, mark: &ClockMark, now: Moment) {
        self.clock.resume(mark, now);
    }

    /// [`VerifierClock::look`].
    pub fn look_at_clock(&mut self, now: Moment) -> Option<i64> {
        self.clock.look(now)
    }

    /// [`VerifierClock::hear`], and [`HeldTrust::expire`] by that.
    ///
    /// # Errors
    /// [`TooFar`].
    pub fn hear_time(&mut self, stated: TimeStated, now: Moment) -> Result<(), TooFar> {
        let is_first = !self.clock.is_heard();
        self.clock.hear(stated, now)?;
        if is_first {
            self.cap(now);
        }
        self.expire(now);
        Ok(())
    }

    /// The trust in force, when there is any.
    #[must_use]
    pub const fn in_force(&self) -> Option<&InForce> {
        self.in_force.as_ref()
    }

    /// Which state is in force. Epoch zero: none.
    #[must_use]
    pub fn id(&self) -> StateId {
        self.in_force
            .as_ref()
            .map_or_else(StateId::default, |trust| StateId::of(&trust.state))
    }

    /// The epoch in force. Zero: none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.id().epoch
    }

    /// The highest state that was ever in force here, also before a restart. Nothing below it is taken over again.
    #[must_use]
    pub const fn floor(&self) -> StateId {
        self.floor
    }

    /// What is wrong with the authority, if anything.
    #[must_use]
    pub const fn alarm(&self) -> Option<TrustAlarm> {
        self.alarm
    }

    /// Grows with every change after which a decision may be another one.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// What `update` makes of the state in force. Nothing is put in force yet.
    ///
    /// # Errors
    /// [`UpdateRefused`]. A fork and a step back are remembered as [`TrustAlarm`].
    pub fn consider(
        &mut self,
        update: &Update,
        at: Moment,
        sha256: &dyn Sha256,
    ) -> Result<Considered, UpdateRefused> {
        let offered = StateId::stated_by(update);
        let is_ours = update.issuer == self.rules.issuer;
        if is_ours && self.earlier.contains(&offered) && !planted(Bug::StepsBack) {
            return Ok(Considered::Repeated);
        }
        let applied = if is_ours && offered.contradicts(&self.floor) && !planted(Bug::ForkTaken) {
            Err(UpdateRefused::Fork)
        } else {
            let state = self.in_force.as_ref().map(|trust| &trust.state);
            self.rules.apply(
                state,
                self.floor.epoch,
                update,
                self.clock.best(at.elapsed),
                sha256,
            )
        };
        match applied {
            Ok(Applied::Advanced(next)) => Ok(Considered::Advance(next)),
            Ok(Applied::Confirmed) => Ok(Considered::InForce),
            Err(refused) => Err(self.note(refused)),
        }
    }

    /// Takes back what `update`, which cannot be taken over, takes back. Decisions heed it from now on; the state in force
    /// stays, and is confirmed only once the authority's is taken over.
    pub fn heed(&mut self, update: &Update, at: Moment) {
        let time = self.clock.best(at.elapsed);
        // A wall clock that nobody has confirmed may be wrong by any amount, and so may be an authority's that nobody else has.
        let stated = if self.clock.is_heard() {
            time
        } else {
            update.published_at
        };
        let time = time.min(stated)..=time.max(stated);
        let Some(trust) = self.in_force.as_ref().filter(|_| !planted(Bug::NotHeeded)) else {
            return;
        };
        let left_out = self.rules.heed(&mut self.ahead, &trust.state, update, &time);
        self.count_dropped(left_out);
        self.tighten();
    }

    /// Puts `state` in force. It keeps the age of the state before it, which it contains; without one, it has none until
    /// [`HeldTrust::confirm`].
    ///
    /// # Errors
    /// [`UpdateRefused`] when that would step back or contradict what was in force.
    pub fn install(&mut self, state: TrustState, at: Moment) -> Result<Offered, UpdateRefused> {
        self.advance(state, &Descent::default(), at)
    }

    /// The same of a state that came about by `descent`.
    ///
    /// # Errors
    /// [`UpdateRefused`] when that would step back or contradict what was in force.
    pub fn advance(
        &mut self,
        state: TrustState,
        descent: &Descent,
        at: Moment,
    ) -> Result<Offered, UpdateRefused> {
        let before = self.in_force.as_ref().map(InForce::confirmations);
        self.put(state, descent, before.unwrap_or_default(), at)
    }

    /// Puts `state` in force as it was found on disk, with what is known of the ages of its confirmations.
    ///
    /// # Errors
    /// [`UpdateRefused`] when that would step back or contradict what was in force.
    pub fn restore(
        &mut self,
        state: TrustState,
        ages: impl IntoIterator<Item = Age>,
        at: Moment,
    ) -> Result<Offered, UpdateRefused> {
        // What was granted to another process is not counted on.
        let lease = if planted(Bug::LeaseAfterStart) {
            crate::staleness::MAX_LEASE
        } else {
            Duration::ZERO
        };
        let confirmations = Confirmations::found(ages, lease, at.elapsed);
        self.put(state, &Descent::default(), confirmations, at)
    }

    /// Takes note that `floor` was in force once.
    pub fn raise_floor(&mut self, floor: StateId) {
        if floor.epoch > self.floor.epoch && !planted(Bug::FloorNotHeeded) {
            self.floor = floor;
        }
    }

    /// Takes note that `epoch` with `digest` was the authority's current state when it answered a ping, and granted `grant`
    /// with the answer.
    pub fn confirm(&mut self, epoch: Epoch, digest: &StateDigest, grant: Grant, at: Moment) -> Confirmation {
        let outcome = self.compare(epoch, digest, grant);
        match outcome {
            Confirmation::Confirmed => {
                self.alarm = None;
                if let Some(trust) = &mut self.in_force {
                    trust.renew(grant, at.elapsed);
                }
            }
            Confirmation::NotGranted => self.alarm = None,
            Confirmation::Regressed => self.raise(TrustAlarm::Regressed),
            Confirmation::Fork => self.raise(TrustAlarm::Fork),
            Confirmation::Behind | Confirmation::Superseded | Confirmation::Cold => {}
        }
        outcome
    }

    /// Takes note that the authority does not know the state in force: it is behind it.
    pub fn disowned(&mut self) {
        self.raise(TrustAlarm::Regressed);
    }

    /// Takes note that two publisher sets were signed for one generation: somebody else publishes in the authority's name.
    pub fn contradicted(&mut self) {
        self.raise(TrustAlarm::Fork);
    }

    fn compare(&self, epoch: Epoch, digest: &StateDigest, grant: Grant) -> Confirmation {
        let Some(trust) = &self.in_force else {
            // Nothing that an authority below the floor has can be taken over.
            return if epoch < self.floor.epoch {
                Confirmation::Regressed
            } else {
                Confirmation::Cold
            };
        };
        if planted(Bug::AnyAnswerConfirms) {
            Confirmation::Confirmed
        } else if epoch > trust.state.epoch() {
            Confirmation::Behind
        } else if epoch < trust.state.epoch() {
            // The answer may have been on its way while the update arrived.
            if grant.sent_at < trust.installed_at {
                Confirmation::Superseded
            } else {
                Confirmation::Regressed
            }
        } else if (digest != trust.state.digest() || self.alarm == Some(TrustAlarm::Fork))
            && !planted(Bug::OtherDigestConfirms)
        {
            Confirmation::Fork
        } else if grant.lease.is_zero() && !planted(Bug::ConfirmedWithoutLease) {
            Confirmation::NotGranted
        } else {
            Confirmation::Confirmed
        }
    }

    fn put(
        &mut self,
        state: TrustState,
        descent: &Descent,
        confirmations: Confirmations,
        at: Moment,
    ) -> Result<Offered, UpdateRefused> {
        let offered = StateId::of(&state);
        self.check(&state).map_err(|refused| self.note(refused))?;
        if self.id() == offered {
            return Ok(Offered::Confirmed);
        }
        self.remember();
        self.floor = offered;
        self.alarm = None;
        self.expire_by(self.passed(descent, at));
        let (ahead, dropped) = self.ahead_of(&state, descent, at);
        self.ahead = ahead;
        self.count_dropped(dropped);
        let origin = (self.in_force.as_ref().filter(|_| dropped == 0), descent);
        let trust = InForce::new(state, origin, &self.ahead, at.elapsed, confirmations);
        self.in_force = Some(trust);
        self.changes = self.changes.saturating_add(1);
        Ok(Offered::Installed)
    }

    fn check(&self, state: &TrustState) -> Result<(), UpdateRefused> {
        let offered = StateId::of(state);
        if *state.issuer() != self.rules.issuer {
            Err(UpdateRefused::Issuer)
        } else if (offered.epoch < self.floor.epoch && !planted(Bug::StepsBack)) || offered.epoch == 0 {
            Err(UpdateRefused::Regressed)
        } else if offered.contradicts(&self.floor) && !planted(Bug::ForkTaken) {
            Err(UpdateRefused::Fork)
        } else {
            Ok(())
        }
    }

    /// The state in force is about to be replaced.
    fn remember(&mut self) {
        if self.in_force.is_some() {
            if self.earlier.len() == REMEMBERED {
                self.earlier.pop_front();
            }
            self.earlier.push_back(self.id());
        }
    }

    /// A fork outweighs a step back, and stays until a later epoch is in force.
    fn raise(&mut self, alarm: TrustAlarm) {
        if self.alarm != Some(TrustAlarm::Fork) {
            self.alarm = Some(alarm);
        }
    }

    fn note(&mut self, refused: UpdateRefused) -> UpdateRefused {
        if refused == UpdateRefused::Fork {
            self.raise(TrustAlarm::Fork);
        } else if refused == UpdateRefused::Regressed {
            self.raise(TrustAlarm::Regressed);
        }
        refused
    }
}
