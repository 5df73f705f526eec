//! How far an epoch has come, and what a rotation has to wait for.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Register, Verifier, VerifierKey};
use crate::names::ClassName;
use crate::planted::{Bug, planted};
use crate::trust::Epoch;

/// How far an epoch has come. Times are elapsed time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Verifiers that decide, or may still decide on what they were granted.
    pub live: usize,
    /// Those of them on which it is in force.
    pub in_force: usize,
    /// Those of them that hold it on disk.
    pub durable: usize,
    /// By when each class is decided on it everywhere, whoever crashes. A class in which it is so already is left out.
    pub bounds: BTreeMap<ClassName, Duration>,
    /// When the last trust file of an earlier epoch has expired. Nothing: there is none.
    pub files_until: Option<Duration>,
}

impl Reach {
    /// Whether nobody decides on anything earlier.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_on_all_verifiers() && self.files_until.is_none()
    }

    /// The same of the verifiers that are known: whoever starts from a trust file is not.
    #[must_use]
    pub fn is_on_all_verifiers(&self) -> bool {
        self.in_force == self.live && self.bounds.is_empty()
    }
}

/// A live verifier on which an epoch is not in force, or would not be after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// Which.
    pub key: VerifierKey,
    /// Whether its stream is open.
    pub connected: bool,
    /// The last epoch that it acknowledged.
    pub acknowledged: Epoch,
    /// When it has stopped deciding on anything earlier, if it is granted nothing more.
    pub until: Duration,
    /// Whether it is granted nothing.
    pub quarantined: bool,
}

/// Whether a key that an epoch published may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Every live verifier holds the epoch, and every trust file.
    Open,
    /// Not yet.
    Waits {
        /// How many lack it, trust files among them.
        laggards: usize,
        /// When the last of them has stopped deciding, in elapsed time, if it is granted nothing more.
        until: Duration,
    },
}

impl Register {
    /// Whether some verifier that is connected has not acknowledged `epoch`. Quick, whatever their number.
    #[must_use]
    pub fn is_lacking(&self, epoch: Epoch) -> bool {
        self.by_epoch.range(..epoch).next().is_some()
    }

    /// How many verifiers that are connected have not acknowledged `epoch`. Quick, too.
    #[must_use]
    pub fn lacking(&self, epoch: Epoch) -> usize {
        self.by_epoch.range(..epoch).map(|(_, count)| count).sum()
    }

    /// How far `epoch` has come at `elapsed`.
    #[must_use]
    pub fn reach(&self, epoch: Epoch, elapsed: Duration) -> Reach {
        let mut reach = Reach {
            files_until: self.files.before(epoch, elapsed).1,
            ..Reach::default()
        };
        for (_, verifier) in self.live(elapsed) {
            reach.live += 1;
            reach.durable += usize::from(verifier.durable >= epoch);
            reach.in_force += usize::from(verifier.acknowledged >= epoch);
            for (class, end) in verifier.ends_before(epoch, elapsed) {
                match reach.bounds.get_mut(class) {
                    Some(bound) => *bound = end.max(*bound),
                    None => drop(reach.bounds.insert(class.clone(), end)),
                }
            }
        }
        reach
    }

    /// Who lacks `epoch` at `elapsed`, or does not hold it on disk: at most `most`, those that may go on for longest first.
    #[must_use]
    pub fn laggards(&self, epoch: Epoch, elapsed: Duration, most: usize) -> Vec<Laggard> {
        let lacks = |(_, verifier): &(_, &Verifier)| !verifier.holds(epoch, elapsed);
        let behind = self.live(elapsed).filter(lacks);
        let mut behind: Vec<_> = behind
            .map(|(key, verifier)| (Reverse(end_before(verifier, epoch, elapsed)), key, verifier))
            .collect();
        let order = |a: &Behind<'_>, b: &Behind<'_>| (a.0, a.1).cmp(&(b.0, b.1));
        // There may be thousands, of whom a hundred are named.
        if behind.len() > most {
            behind.select_nth_unstable_by(most, order);
            behind.truncate(most);
        }
        behind.sort_unstable_by(order);
        let laggard = |(Reverse(until), key, verifier)| self.laggard(key, verifier, until);
        behind.into_iter().map(laggard).collect()
    }

    /// Whether a key that `epoch` published may sign from now on: whoever may verify a token holds it, or decides nothing.
    #[must_use]
    pub fn gate(&self, epoch: Epoch, elapsed: Duration) -> Gate {
        let (mut laggards, end) = self.files.before(epoch, elapsed);
        let mut until = end.unwrap_or(elapsed);
        for (_, verifier) in self.live(elapsed) {
            if !verifier.holds(epoch, elapsed) {
                laggards += 1;
                until = until.max(end_before(verifier, epoch, elapsed));
            }
        }
        if laggards == 0 || planted(Bug::GateSkipped) {
            Gate::Open
        } else {
            Gate::Waits { laggards, until }
        }
    }

    /// Whether every live verifier holds `epoch`, whatever trust files there are.
    #[must_use]
    pub fn is_held(&self, epoch: Epoch, elapsed: Duration) -> bool {
        self.live(elapsed)
            .all(|(_, verifier)| verifier.holds(epoch, elapsed))
    }

    /// Those who may decide. One that was granted nothing, or whose grants have ended, decides nothing, whether its stream is open
    /// or not.
    fn live(&self, elapsed: Duration) -> impl Iterator<Item = (&VerifierKey, &Verifier)> {
        self.verifiers
            .iter()
            .filter(move |(_, verifier)| verifier.end() > elapsed)
    }

    fn laggard(&self, key: &VerifierKey, verifier: &Verifier, until: Duration) -> Laggard {
        Laggard {
            key: key.clone(),
            connected: verifier.stream.is_some(),
            acknowledged: verifier.acknowledged,
            until,
            quarantined: self.is_quarantined(&key.spiffe_id),
        }
    }
}

/// Who lacks an epoch, and until when it goes on: the longest first.
type Behind<'a> = (Reverse<Duration>, &'a VerifierKey, &'a Verifier);

/// When the last class has stopped deciding on anything before `epoch`.
fn end_before(verifier: &Verifier, epoch: Epoch, elapsed: Duration) -> Duration {
    let ends = verifier.ends_before(epoch, elapsed);
    ends.map(|(_, end)| end).max().unwrap_or(elapsed)
}
