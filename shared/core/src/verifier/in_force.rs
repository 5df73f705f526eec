//! One trust state with what is needed to tell its age.
//!
//! Age counts from the moment when the ping was sent to which the authority answered that exactly this state was its
//! current one, on a clock that goes on while the machine is suspended. A state that was never confirmed has no age
//! and counts as expired: that a signature is good does not say that nothing newer exists.

use std::time::Duration;

use super::Grant;
use crate::staleness::MAX_LEASE;
use crate::trust::{Ahead, TrustState};
use crate::verifying::TrustView;

/// The shortest time that is not none.
const SHORTEST: Duration = Duration::from_nanos(1);

/// When the authority last confirmed the state in force, how old that confirmation was then, and for how long it granted that
/// the state counts as current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) at: Duration,
    pub(super) age_then: Duration,
    pub(super) lease: Duration,
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
    pub(super) installed_at: Duration,
    pub(super) confirmed: Option<Confirmed>,
}

impl InForce {
    pub(super) fn new(
        state: TrustState,
        ahead: &Ahead,
        installed_at: Duration,
        confirmed: Option<Confirmed>,
    ) -> Self {
        let mut trust = Self {
            state,
            stricter: None,
            installed_at,
            confirmed,
        };
        trust.tighten(ahead);
        trust
    }

    /// Decisions heed `ahead` from now on.
    pub(super) fn tighten(&mut self, ahead: &Ahead) {
        self.stricter = (!ahead.is_empty()).then(|| ahead.over(&self.state));
    }

    /// Takes note that the state was confirmed with `grant`. The answer to an earlier ping may come late; it makes nothing
    /// older.
    pub(super) fn renew(&mut self, grant: Grant, elapsed: Duration) {
        let confirmed = Confirmed {
            at: grant.sent_at.min(elapsed),
            age_then: Duration::ZERO,
            lease: grant.lease.min(MAX_LEASE),
        };
        if self.age(elapsed).is_none_or(|age| confirmed.age(elapsed) <= age) {
            self.confirmed = Some(confirmed);
        }
    }

    /// Time since the authority confirmed this state, at `elapsed`. Nothing when it never did.
    #[must_use]
    pub fn age(&self, elapsed: Duration) -> Option<Duration> {
        self.confirmed.map(|confirmed| confirmed.age(elapsed))
    }

    /// How long ago the lease on this state ended, at `elapsed`. Zero while it lasts, and more than that from the very
    /// instant at which it has ended; nothing when the authority never confirmed the state.
    #[must_use]
    pub fn overdue(&self, elapsed: Duration) -> Option<Duration> {
        let confirmed = self.confirmed?;
        let age = confirmed.age(elapsed);
        Some(if age < confirmed.lease {
            Duration::ZERO
        } else {
            age.saturating_sub(confirmed.lease).max(SHORTEST)
        })
    }

    /// How long the lease on this state still lasts, at `elapsed`.
    #[must_use]
    pub fn lease_left(&self, elapsed: Duration) -> Duration {
        self.confirmed.map_or(Duration::ZERO, |confirmed| {
            confirmed.lease.saturating_sub(confirmed.age(elapsed))
        })
    }

    /// What decisions are made on.
    #[must_use]
    pub fn view(&self, elapsed: Duration) -> TrustView<'_> {
        TrustView {
            state: self.stricter.as_ref().unwrap_or(&self.state),
            overdue: self.overdue(elapsed),
        }
    }
}
