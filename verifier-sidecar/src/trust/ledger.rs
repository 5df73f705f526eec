//! What must not be forgotten about the past: the floor, what was in force before, and what is wrong with the authority.

use std::collections::VecDeque;

use countersign_core::trust::{Ahead, Epoch, StateDigest, TrustState, UpdateRefused};

/// The highest state that was ever in force here, also before a restart. Nothing below it is taken over again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Its epoch. Zero: there was none.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: StateDigest,
}

/// The authority, or somebody in its name, contradicts itself. What is in force stays and grows old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrustAlarm {
    /// Two states were signed for one epoch. Nothing is confirmed until a later epoch is in force.
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

/// How many earlier states are remembered, to tell an update that is merely repeated from one that steps back.
const REMEMBERED: usize = 64;

/// What only the writer changes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) floor: Floor,
    pub(super) alarm: Option<TrustAlarm>,
    pub(super) ahead: Ahead,
    earlier: VecDeque<Floor>,
}

impl Ledger {
    /// Whether this very state was in force before the one that is.
    pub(super) fn was_in_force(&self, offered: Floor) -> bool {
        self.earlier.contains(&offered)
    }

    /// `state` with what was taken back ahead of it. Nothing when nothing was.
    pub(super) fn stricter(&self, state: &TrustState) -> Option<TrustState> {
        (!self.ahead.is_empty()).then(|| self.ahead.over(state))
    }

    pub(super) const fn told(&self) -> (Floor, Option<TrustAlarm>) {
        (self.floor, self.alarm)
    }

    // INVARIANT (no way back): the floor is never below what is in force, and never sinks.
    pub(super) fn advance(&mut self, to: Floor, from_a_state: bool) {
        if from_a_state {
            if self.earlier.len() == REMEMBERED {
                self.earlier.pop_front();
            }
            self.earlier.push_back(self.floor);
        }
        self.floor = to;
        self.alarm = None;
    }

    /// A fork outweighs a step back, and stays until a later epoch is in force.
    pub(super) fn raise(&mut self, alarm: TrustAlarm) {
        if self.alarm != Some(TrustAlarm::Fork) {
            self.alarm = Some(alarm);
        }
    }

    pub(super) fn note(&mut self, refused: UpdateRefused) {
        if refused == UpdateRefused::Fork {
            self.raise(TrustAlarm::Fork);
        } else if refused == UpdateRefused::Regressed {
            self.raise(TrustAlarm::Regressed);
        }
    }
}

/// Whether the two are of one epoch and differ.
pub(super) fn contradicts(floor: Floor, offered: Floor) -> bool {
    floor.epoch != 0 && floor.epoch == offered.epoch && floor.digest != offered.digest
}
