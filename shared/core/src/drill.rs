//! The rehearsal of a key compromise on a *shadow*: a key that is published like any other, whose private half nobody has.
//!
//! ```text
//! published ---(everybody who decides holds it, or the wait is over)---> withdrawn
//!           ---(nobody decides on anything before that, or the wait is over)---> ended, and gone
//! ```
//!
//! A stop of the authority, and an operator who aborts it, lead to the same end from either.
//!
//! What is rehearsed is what a compromise does to verifiers: they are told to refuse a key that they hold. How long that takes
//! until the last of them does is the *time to safe*. No token is ever under a shadow, so none is refused because of a drill.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::VerifierKey;
use crate::names::KeyId;
use crate::time::Timestamp;
use crate::trust::Epoch;

/// One drill among all of an authority. They are counted from 1.
pub type DrillId = u64;

/// The most verifiers that are kept by name for one drill.
pub const MAX_NAMED: usize = 100;

/// A drill, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// Which.
    pub id: DrillId,
    /// The shadow.
    pub key_id: KeyId,
    /// Who started it.
    pub started_by: String,
    /// Why, in that operator's words.
    pub reason: String,
    /// The shadow was published.
    pub published: Change,
    /// Everybody who decided held it.
    pub held: Option<Reached>,
    /// It was declared compromised.
    pub withdrawn: Option<Change>,
    /// It is over, and the shadow gone.
    pub end: Option<DrillEnd>,
}

/// A change that verifiers are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch that tells it.
    pub epoch: Epoch,
    /// When it was made.
    pub at: Timestamp,
}

/// A change has come to everybody who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// When.
    pub at: Timestamp,
    /// How long after the change, in elapsed time.
    pub after: Duration,
}

/// The end of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillEnd {
    /// What came of it.
    pub outcome: DrillOutcome,
    /// When.
    pub at: Timestamp,
    /// What was found out. Nothing when the shadow was not withdrawn, or the authority has crashed since.
    pub measured: Option<Measured>,
    /// Who aborted it. There if, and only if, that is its outcome.
    pub aborted: Option<Aborted>,
}

/// An operator has ended a drill before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Who.
    pub by: String,
    /// Why, in that operator's words.
    pub reason: String,
}

/// What came of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillOutcome {
    /// Nobody decides on anything before the withdrawal any more.
    Complete,
    /// The wait was over before.
    GaveUp,
    /// The authority was stopped, or crashed.
    Interrupted,
    /// An operator has ended it.
    Aborted,
}

impl DrillOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Complete, Self::GaveUp, Self::Interrupted, Self::Aborted];

    /// Its name in records and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::GaveUp => "gave_up",
            Self::Interrupted => "interrupted",
            Self::Aborted => "aborted",
        }
    }

    /// The outcome of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// Withdraw the shadow.
    Withdraw,
    /// End the drill.
    End(DrillOutcome),
}

impl Drill {
    /// The epoch that is on its way to the verifiers.
    #[must_use]
    pub const fn awaited(&self) -> Epoch {
        match self.withdrawn {
            Some(withdrawn) => withdrawn.epoch,
            None => self.published.epoch,
        }
    }

    /// Whether the shadow is still published.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.end.is_none()
    }

    /// What comes next, when the epoch that is awaited `is_everywhere` or not, and the wait for that `is_over` or not.
    ///
    /// A verifier that does not hold the shadow in time does not keep the others from being measured: a compromise would not
    /// wait for it either.
    #[must_use]
    pub const fn next(&self, is_everywhere: bool, is_over: bool) -> Next {
        match (self.withdrawn, is_everywhere, is_over) {
            (_, false, false) => Next::Wait,
            (None, _, _) => Next::Withdraw,
            (Some(_), true, _) => Next::End(DrillOutcome::Complete),
            (Some(_), false, true) => Next::End(DrillOutcome::GaveUp),
        }
    }
}

/// How a verifier answered to the withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Which.
    pub verifier: VerifierKey,
    /// How long it took to acknowledge it. Nothing when it did not.
    pub took: Option<Duration>,
    /// Until when, at most, it decides on something earlier. Nothing when it does not any more.
    pub until: Option<Timestamp>,
}

/// How long the verifiers that acknowledged a withdrawal took for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Half of them took at most this long.
    pub p50: Duration,
    /// Ninety-nine of a hundred took at most this long.
    pub p99: Duration,
    /// All of them took at most this long.
    pub max: Duration,
}

/// What a drill found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// How many verifiers decided when the shadow was withdrawn.
    pub verifiers: u64,
    /// How many of them have acknowledged that.
    pub acknowledged: u64,
    /// How long they took. Nothing when none has.
    pub spread: Option<Spread>,
    /// Nobody decided on anything earlier any more: the time to safe. Nothing when it did not come to that.
    pub safe: Option<Reached>,
    /// At most [`MAX_NAMED`] of them: first those that decide on something earlier, for longest first; then those that have
    /// stopped without an answer; then the others, the slowest first.
    pub responses: Vec<Response>,
}

impl Measured {
    /// What `responses`, one of each verifier that decided, come to.
    #[must_use]
    pub fn of(mut responses: Vec<Response>, safe: Option<Reached>) -> Self {
        let mut took: Vec<Duration> = responses.iter().filter_map(|response| response.took).collect();
        took.sort_unstable();
        let (verifiers, acknowledged) = (count(responses.len()), count(took.len()));
        responses.sort_by_key(|response| {
            let stopped = response.took.is_none();
            (
                Reverse((response.until, stopped, response.took)),
                response.verifier.clone(),
            )
        });
        responses.truncate(MAX_NAMED);
        Self {
            verifiers,
            acknowledged,
            spread: Spread::of(&took),
            safe,
            responses,
        }
    }
}

impl Spread {
    /// The spread of these, which are sorted.
    fn of(took: &[Duration]) -> Option<Self> {
        // The nearest rank: the smallest that so many of a hundred are not above.
        let rank = |percent: usize| {
            let rank = took.len().saturating_mul(percent).div_ceil(100);
            took.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            p50: rank(50)?,
            p99: rank(99)?,
            max: rank(100)?,
        })
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Takes down when the verifiers that decided at one moment acknowledge the epoch of that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopwatch {
    epoch: Epoch,
    since: Duration,
    took: BTreeMap<VerifierKey, Option<Duration>>,
}

impl Stopwatch {
    /// Starts at `since`, in elapsed time, for `epoch` and those who are `deciding`.
    pub fn start(epoch: Epoch, since: Duration, deciding: impl Iterator<Item = VerifierKey>) -> Self {
        Self {
            epoch,
            since,
            took: deciding.map(|verifier| (verifier, None)).collect(),
        }
    }

    /// A verifier has acknowledged `epoch` at `elapsed`.
    pub fn acknowledged(&mut self, verifier: &VerifierKey, epoch: Epoch, elapsed: Duration) {
        if epoch < self.epoch {
            return;
        }
        // Who came later did not decide on anything earlier.
        if let Some(took @ None) = self.took.get_mut(verifier) {
            *took = Some(elapsed.saturating_sub(self.since));
        }
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How long it has run at `elapsed`.
    #[must_use]
    pub const fn read(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.since)
    }

    /// How long each took, if it has acknowledged the epoch.
    pub fn took(&self) -> impl Iterator<Item = (&VerifierKey, Option<Duration>)> {
        self.took.iter().map(|(verifier, took)| (verifier, *took))
    }
}

#[cfg(test)]
mod tests;
