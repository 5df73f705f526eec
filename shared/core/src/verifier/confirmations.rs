//! How old the trust in force is.
//!
//! Age counts from the moment when the ping was sent to which the authority answered that exactly this state was its
//! current one, on a clock that goes on while the machine is suspended. A state that was never confirmed has no age
//! and counts as expired: that a signature is good does not say that nothing newer exists.
//!
//! A trust file confirms its state, too, and not for longer than the lifetime that it was exported with, which the authority has
//! written down. What the authority told this very verifier is counted beside it: a file makes nothing older.

use std::time::Duration;

use super::Grant;
use crate::planted::{Bug, planted};
use crate::staleness::{MAX_LEASE, StalenessBudget};

/// The shortest time that is not none.
const SHORTEST: Duration = Duration::from_nanos(1);

/// How old a confirmation is, and how old it may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// How long ago the authority stated it.
    pub so_far: Duration,
    /// At this age nothing is decided on it any more, whatever the budgets.
    pub lifetime: Option<Duration>,
}

/// Of what budgets alone bound.
impl From<Duration> for Age {
    fn from(so_far: Duration) -> Self {
        Self {
            so_far,
            lifetime: None,
        }
    }
}

/// One confirmation: how old it was at one moment, and for how long it granted that the state counts as current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Confirmed {
    at: Duration,
    then: Age,
    lease: Duration,
}

impl Confirmed {
    const fn age(&self, elapsed: Duration) -> Duration {
        self.then.so_far.saturating_add(elapsed.saturating_sub(self.at))
    }

    const fn lease_left(&self, elapsed: Duration) -> Duration {
        self.lease.saturating_sub(self.age(elapsed))
    }

    fn life_left(&self, elapsed: Duration) -> Duration {
        match self.then.lifetime {
            Some(lifetime) if !planted(Bug::LifetimeNotHeeded) => lifetime.saturating_sub(self.age(elapsed)),
            Some(_) | None => Duration::MAX,
        }
    }

    fn overdue(&self, elapsed: Duration) -> Option<Duration> {
        let age = self.age(elapsed);
        let lives = !self.life_left(elapsed).is_zero();
        lives.then(|| match age.checked_sub(self.lease) {
            None => Duration::ZERO,
            Some(overdue) => overdue.max(SHORTEST),
        })
    }

    fn refuses_in(&self, budget: &StalenessBudget, elapsed: Duration) -> Duration {
        budget
            .refuses_in(self.lease_left(elapsed), self.overdue(elapsed))
            .min(self.life_left(elapsed))
    }
}

/// How the authority confirmed the state in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmations {
    /// To this verifier.
    told: Option<Confirmed>,
    /// To whoever has a trust file.
    exported: Option<Confirmed>,
}

impl Confirmations {
    /// What was found at `elapsed`: of each kind one, the youngest. What was granted to another process, `lease`, is usually none.
    pub(super) fn found(ages: impl IntoIterator<Item = Age>, lease: Duration, elapsed: Duration) -> Self {
        let mut found = Self::default();
        for then in ages {
            let kind = match then.lifetime {
                Some(_) => &mut found.exported,
                None => &mut found.told,
            };
            if kind.is_none_or(|before| then.so_far < before.then.so_far) {
                *kind = Some(Confirmed {
                    at: elapsed,
                    then,
                    lease,
                });
            }
        }
        if planted(Bug::FileMakesOlder) && found.exported.is_some() {
            found.told = None;
        }
        found
    }

    /// Takes note that the state was confirmed with `grant`. The answer to an earlier ping may come late; it makes nothing
    /// older.
    pub(super) fn renew(&mut self, grant: Grant, elapsed: Duration) {
        let confirmed = Confirmed {
            at: grant.sent_at.min(elapsed),
            then: Duration::ZERO.into(),
            lease: grant.lease.min(MAX_LEASE),
        };
        let is_younger = |before: Confirmed| confirmed.age(elapsed) <= before.age(elapsed);
        if self.told.is_none_or(is_younger) {
            self.told = Some(confirmed);
        }
    }

    /// Time since the authority confirmed the state, at `elapsed`. Nothing when it never did.
    #[must_use]
    pub fn age(&self, elapsed: Duration) -> Option<Duration> {
        self.all().map(|confirmed| confirmed.age(elapsed)).min()
    }

    /// How long ago the lease on the state ended, at `elapsed`. Zero while it lasts, and more than that from the very
    /// instant at which it has ended; nothing when the authority never confirmed the state, or for no longer than until then.
    #[must_use]
    pub fn overdue(&self, elapsed: Duration) -> Option<Duration> {
        self.all()
            .filter_map(|confirmed| confirmed.overdue(elapsed))
            .min()
    }

    /// How long the lease on the state still lasts, at `elapsed`.
    #[must_use]
    pub fn lease_left(&self, elapsed: Duration) -> Duration {
        let left = self.all().map(|confirmed| confirmed.lease_left(elapsed));
        left.max().unwrap_or_default()
    }

    /// Time from `elapsed` until calls of a class of this `budget` are refused, if nothing is confirmed any more.
    #[must_use]
    pub fn refuses_in(&self, budget: &StalenessBudget, elapsed: Duration) -> Duration {
        let left = self.all().map(|confirmed| confirmed.refuses_in(budget, elapsed));
        left.max().unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = &Confirmed> {
        self.told.iter().chain(&self.exported)
    }
}
