//! From records back to trust: every step and the result are verified, or nothing is taken over.
//!
//! The signed heartbeat is the manifest. Where it stands in the chain of epochs, the state must have its digest and its
//! number of revocations; what follows in the chain is signed with its own digests; and the end of the chain must not be
//! below the floor. So a record that is missing, repeated, swapped or of another verifier always shows.

use std::time::Duration;

use super::{Age, BootId, ClockMark, MAX_CLOCK_DIFFERENCE, Moment, StateId};
use crate::planted::{Bug, planted};
use crate::ports::Sha256;
use crate::time::Timestamp;
use crate::trust::{
    Applied, Epoch, Heartbeat, TrustState, Update, UpdateContent, UpdateRefused, UpdateRules,
};

/// The last heartbeat that was kept.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// What the authority stated.
    pub heartbeat: Heartbeat,
    /// Where this verifier's clocks stood when the ping was sent that it answers.
    pub sent: ClockMark,
}

impl Manifest {
    /// Whether `state` is what the heartbeat states; nothing when it states another epoch.
    fn matches(&self, state: &TrustState) -> Option<bool> {
        let count = u64::try_from(state.revocations().len()).unwrap_or(u64::MAX);
        let heartbeat = &self.heartbeat;
        (heartbeat.epoch == state.epoch())
            .then(|| heartbeat.state_digest == *state.digest() && heartbeat.revocation_count == count)
    }

    /// How old it is at `now`. Within one start of the machine, `boot`, that is exact. Otherwise it is
    /// the longer of what the authority's clock and this one's wall clock said then; unknown when this one reads clearly
    /// earlier than then: it was set back, or lost.
    #[must_use]
    pub fn age(&self, boot: Option<&BootId>, now: Moment) -> Option<Age> {
        Some(Age {
            so_far: self.stated_before(boot, now)?,
            lifetime: self.heartbeat.lifetime(),
        })
    }

    fn stated_before(&self, boot: Option<&BootId>, now: Moment) -> Option<Duration> {
        let then = self.age_then();
        let passed = self.sent.passed(boot, now.elapsed);
        if let Some(passed) = passed.filter(|_| !planted(Bug::AgeByWall)) {
            return Some(then.saturating_add(passed));
        }
        let stated_at = self.heartbeat.authority_time_millis;
        let sent_at = self.sent.moment.wall_millis;
        let latest = Duration::from_millis(stated_at.max(sent_at));
        let went_back = Duration::from_millis(now.wall_millis).saturating_add(MAX_CLOCK_DIFFERENCE) < latest;
        let by_wall = Duration::from_millis(now.wall_millis.saturating_sub(stated_at.min(sent_at)));
        (!went_back).then(|| by_wall.max(then))
    }

    /// How old it was when it was kept: one that answers a ping is no older than that, and a file may have lain about.
    fn age_then(&self) -> Duration {
        if self.heartbeat.expires_at_millis.is_none() {
            return Duration::ZERO;
        }
        let time_millis = self.sent.earliest(None, Duration::ZERO);
        Duration::from_millis(time_millis.saturating_sub(self.heartbeat.authority_time_millis))
    }
}

/// Why records give nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsound {
    /// The floor is not there, so that nobody can tell whether the end of the chain is.
    FloorMissing,
    /// The records end before the floor: they are older than they were.
    BelowFloor,
    /// The records end at the floor with another state.
    FloorContradicted,
    /// A record is in the place of another.
    Misplaced,
    /// The state does not have the digest or the number of revocations that the authority stated.
    Manifest,
    /// A step is refused.
    Refused(UpdateRefused),
}

/// Why records give nothing, and the highest state that they prove was signed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub reason: Unsound,
    /// The highest state.
    pub highest: Option<StateId>,
}

/// What records give.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The state at the end of the chain.
    pub state: TrustState,
    /// The heartbeat that attests it, or a state before it. Nothing when none was kept.
    pub manifest: Option<Manifest>,
}

/// The chain of epochs, as far as it is walked.
#[derive(Debug)]
pub struct Replay<'a> {
    rules: &'a UpdateRules,
    sha256: &'a dyn Sha256,
    now: Timestamp,
    manifest: Option<Manifest>,
    state: TrustState,
    attested: bool,
}

impl<'a> Replay<'a> {
    /// Begins with the snapshot.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn begin(
        rules: &'a UpdateRules,
        sha256: &'a dyn Sha256,
        now: Timestamp,
        manifest: Option<Manifest>,
        snapshot: &Update,
    ) -> Result<Self, Rejected> {
        let state = match &snapshot.content {
            UpdateContent::Snapshot { .. } => step(rules, sha256, now, None, snapshot),
            UpdateContent::Delta { .. } => Err(Unsound::Misplaced),
        };
        let mut replay = Self {
            rules,
            sha256,
            now,
            manifest,
            state: state.map_err(|reason| Rejected {
                reason,
                highest: None,
            })?,
            attested: false,
        };
        replay.attest()?;
        Ok(replay)
    }

    /// Goes on with what was kept as the delta that leads to `epoch`.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn follow(&mut self, epoch: Epoch, delta: &Update) -> Result<(), Rejected> {
        // A snapshot in a delta's place, or a delta in another one's, is well signed and still in the wrong place.
        let next = match &delta.content {
            UpdateContent::Delta { .. } if delta.epoch == epoch => {
                step(self.rules, self.sha256, self.now, Some(&self.state), delta)
            }
            UpdateContent::Delta { .. } | UpdateContent::Snapshot { .. } => Err(Unsound::Misplaced),
        };
        self.state = next.map_err(|reason| self.rejected(reason))?;
        self.attest()
    }

    /// Ends, where nothing below `floor` may be taken over. Nothing: the floor is not there.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn finish(self, floor: Option<StateId>) -> Result<Restored, Rejected> {
        let highest = self.highest();
        let floor = floor.or_else(|| planted(Bug::FloorZeroWhenMissing).then(StateId::default));
        let floor = floor.ok_or_else(|| self.rejected(Unsound::FloorMissing))?;
        if highest.epoch < floor.epoch {
            return Err(self.rejected(Unsound::BelowFloor));
        }
        if highest.contradicts(&floor) {
            return Err(self.rejected(Unsound::FloorContradicted));
        }
        if self.manifest.is_some() && !self.attested {
            return Err(self.rejected(Unsound::Manifest));
        }
        Ok(Restored {
            state: self.state,
            manifest: self.manifest,
        })
    }

    /// The state that it has arrived at.
    #[must_use]
    pub const fn highest(&self) -> StateId {
        StateId::of(&self.state)
    }

    fn attest(&mut self) -> Result<(), Rejected> {
        let manifest = self.manifest.as_ref();
        match manifest.and_then(|manifest| manifest.matches(&self.state)) {
            Some(false) => Err(self.rejected(Unsound::Manifest)),
            Some(true) => {
                self.attested = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    const fn rejected(&self, reason: Unsound) -> Rejected {
        Rejected {
            reason,
            highest: Some(self.highest()),
        }
    }
}

fn step(
    rules: &UpdateRules,
    sha256: &dyn Sha256,
    now: Timestamp,
    from: Option<&TrustState>,
    update: &Update,
) -> Result<TrustState, Unsound> {
    // The floor is for the end of the chain; on the way there, every epoch is below it.
    match rules.apply(from, 0, update, now, sha256) {
        Ok(Applied::Advanced(state)) => Ok(state),
        Ok(Applied::Confirmed) => Err(Unsound::Misplaced),
        Err(refused) => Err(Unsound::Refused(refused)),
    }
}
