//! One trust state in force, with how the authority confirmed it.

use std::time::Duration;

use super::{Confirmations, Grant};
use crate::staleness::StalenessBudget;
use crate::trust::{Ahead, Descent, TrustState};
use crate::verifying::TrustView;

/// One trust state in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Keys and revocations of one epoch, exactly those that its digest is of.
    pub state: TrustState,
    /// The same with what was taken back since by updates that could not be taken over, if there is any.
    stricter: Option<TrustState>,
    pub(super) installed_at: Duration,
    pub(super) confirmations: Confirmations,
}

impl InForce {
    /// `state`, which came about from what was in force `before` by `descent`, with `ahead` heeded beside it.
    pub(super) fn new(
        state: TrustState,
        (before, descent): (Option<&Self>, &Descent),
        ahead: &Ahead,
        installed_at: Duration,
        confirmations: Confirmations,
    ) -> Self {
        let stricter = (!ahead.is_empty()).then(|| {
            let before = before.and_then(|before| before.stricter.as_ref());
            let next = before.and_then(|before| ahead.over_next(&state, before, descent));
            next.unwrap_or_else(|| ahead.over(&state))
        });
        Self {
            state,
            stricter,
            installed_at,
            confirmations,
        }
    }

    /// Decisions heed `ahead` from now on.
    pub(super) fn tighten(&mut self, ahead: &Ahead) {
        self.stricter = (!ahead.is_empty()).then(|| ahead.over(&self.state));
    }

    /// Takes note that the state was confirmed with `grant`.
    pub(super) fn renew(&mut self, grant: Grant, elapsed: Duration) {
        self.confirmations.renew(grant, elapsed);
    }

    /// [`Confirmations::age`].
    #[must_use]
    pub fn age(&self, elapsed: Duration) -> Option<Duration> {
        self.confirmations.age(elapsed)
    }

    /// [`Confirmations::overdue`].
    #[must_use]
    pub fn overdue(&self, elapsed: Duration) -> Option<Duration> {
        self.confirmations.overdue(elapsed)
    }

    /// [`Confirmations::refuses_in`].
    #[must_use]
    pub fn refuses_in(&self, budget: &StalenessBudget, elapsed: Duration) -> Duration {
        self.confirmations.refuses_in(budget, elapsed)
    }

    /// How the authority confirmed it.
    #[must_use]
    pub const fn confirmations(&self) -> Confirmations {
        self.confirmations
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
