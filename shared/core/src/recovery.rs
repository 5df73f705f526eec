//! No way back: when an authority has to stop because its store is not the one that was last published from, and from where it
//! goes on once an operator has recovered it.
//!
//! A verifier shows what the authority signed itself. Nothing is signed, granted or changed from then on, until an operator has
//! the authority go on above everything that was shown, with every key withdrawn and a new one.

use crate::feed::Standing;
use crate::key_set::KeyTimes;
use crate::planted::{Bug, planted};
use crate::time::Timestamp;
use crate::trust::{Epoch, MAX_EPOCH_STEP};

/// How far above everything that was shown an authority goes on. What was published after the last heartbeat that any verifier
/// keeps is passed, too, at a hundred epochs a second for three hours. Verifiers that hold nothing believe an epoch of at most
/// [`MAX_EPOCH_STEP`], so there is room for four thousand recoveries.
pub const RECOVERY_STEP: Epoch = 1 << 20;

/// Whether an authority has to stop that is shown the state `shown`, signed in its name, of which its feed says `standing`.
/// `known` is the highest that it was stopped by before: what is not above that changes nothing.
#[must_use]
pub fn has_to_stop(standing: Standing, known: Option<Epoch>, shown: Epoch) -> bool {
    let is_another = match standing {
        Standing::Consistent => false,
        Standing::Fork | Standing::Ahead | Standing::SeenLater => !planted(Bug::ProofIgnored),
    };
    is_another && known.is_none_or(|known| known < shown)
}

/// What an authority has to go on above, and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Highest {
    /// The highest epoch that is known of, from wherever.
    pub epoch: Epoch,
    /// The earliest time at which it may go on.
    pub not_before: Timestamp,
}

impl Highest {
    /// The same, if `epoch` was published at `published_at`, too. After that, because a verifier takes a key for a new one only
    /// if it is younger than all that it holds.
    #[must_use]
    pub fn or(self, epoch: Epoch, published_at: Timestamp) -> Self {
        if planted(Bug::ShownEpochForgotten) {
            return self;
        }
        Self {
            epoch: self.epoch.max(epoch),
            not_before: self.not_before.max(Timestamp::from_seconds(
                published_at.as_seconds().saturating_add(1),
            )),
        }
    }

    /// The epoch from which the authority goes on, unless verifiers would not believe it.
    #[must_use]
    pub fn goes_on_from(self) -> Option<Epoch> {
        let step = if planted(Bug::ShownEpochForgotten) {
            1
        } else {
            RECOVERY_STEP
        };
        let epoch = self.epoch.saturating_add(step);
        (epoch <= MAX_EPOCH_STEP).then_some(epoch)
    }

    /// The time at which it does so, if the clock says `clock`.
    #[must_use]
    pub fn goes_on_at(self, clock: Timestamp) -> Timestamp {
        clock.max(self.not_before)
    }
}

/// A key that is withdrawn at `now`: verifiers refuse its tokens whatever they say.
#[must_use]
pub fn withdrawn(times: KeyTimes, now: Timestamp) -> KeyTimes {
    if planted(Bug::KeysSurviveRecovery) {
        return times;
    }
    KeyTimes {
        compromised_at: Some(times.compromised_at.map_or(now, |at| at.min(now))),
        ..times
    }
}

/// The key that signs from `now` on in their place.
#[must_use]
pub const fn successor(now: Timestamp) -> KeyTimes {
    KeyTimes {
        prepared_at: now,
        accepted_from: None,
        active_from: Some(now),
        retired_from: None,
        compromised_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_state_than_ours_stops_an_authority_and_only_one_that_is_news() {
        for standing in [Standing::Fork, Standing::Ahead, Standing::SeenLater] {
            assert!(has_to_stop(standing, None, 7), "{standing:?}");
            assert!(has_to_stop(standing, Some(6), 7), "{standing:?}");
            assert!(!has_to_stop(standing, Some(7), 7), "{standing:?}");
        }
        assert!(!has_to_stop(Standing::Consistent, None, 7));
    }

    /// D17, F30.
    #[test]
    fn an_authority_goes_on_above_and_after_everything_that_was_shown() {
        let stored = Highest {
            epoch: 5,
            not_before: Timestamp::from_seconds(100),
        };
        let highest = stored.or(9, Timestamp::from_seconds(300));
        assert_eq!(highest.goes_on_from(), Some(9 + RECOVERY_STEP));
        assert_eq!(highest.goes_on_at(Timestamp::from_seconds(200)).as_seconds(), 301);
        assert_eq!(highest.goes_on_at(Timestamp::from_seconds(400)).as_seconds(), 400);
        assert_eq!(stored.or(3, Timestamp::default()), stored);
        assert_eq!(stored.goes_on_at(Timestamp::default()).as_seconds(), 100);
    }

    /// K13: verifiers that hold nothing would refuse it for ever.
    #[test]
    fn an_epoch_that_verifiers_do_not_believe_is_not_gone_on_from() {
        let highest = |epoch| Highest {
            epoch,
            not_before: Timestamp::default(),
        };
        let last = MAX_EPOCH_STEP - RECOVERY_STEP;
        assert_eq!(highest(last).goes_on_from(), Some(MAX_EPOCH_STEP));
        assert_eq!(highest(last + 1).goes_on_from(), None);
        assert_eq!(highest(Epoch::MAX).goes_on_from(), None);
    }

    #[test]
    fn a_key_is_withdrawn_since_it_first_was() {
        let now = Timestamp::from_seconds(100);
        let key = successor(Timestamp::from_seconds(50));
        assert_eq!(withdrawn(key, now).compromised_at, Some(now));
        let earlier = withdrawn(key, Timestamp::from_seconds(60));
        assert_eq!(withdrawn(earlier, now), earlier);
    }
}
