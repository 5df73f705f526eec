//! What goes on being heeded beside the state in force, past a recovery and past a restart.

use super::HeldTrust;
use crate::planted::{Bug, planted};
use crate::revocation::RevocationList;
use crate::time::Timestamp;
use crate::trust::{Ahead, Descent, TrustState};
use crate::verifier::Moment;

impl HeldTrust {
    /// Which certificates are revoked by more than the state in force.
    #[must_use]
    pub fn certificates(&self) -> RevocationList {
        self.ahead.certificates()
    }

    /// Goes on heeding that the certificates in `revocations` are revoked, as they were written down by an earlier process.
    pub fn carry(&mut self, revocations: &RevocationList, at: Moment) {
        if planted(Bug::CertificatesNotRestored) {
            return;
        }
        let time = self.clock.best(at.elapsed);
        self.rules.carry(&mut self.ahead, revocations, time);
    }

    /// Which certificates are revoked once `state`, which came as a snapshot, is in force, and not by that itself: to be written down
    /// beside it.
    #[must_use]
    pub fn carried(&self, state: &TrustState, at: Moment) -> RevocationList {
        self.ahead_of(state, &Descent::default(), at).certificates()
    }

    /// What goes on being heeded once `state` is in force.
    pub(super) fn ahead_of(&self, state: &TrustState, descent: &Descent, at: Moment) -> Ahead {
        let before = self.in_force.as_ref().map(|trust| &trust.state);
        let before = before.filter(|_| !planted(Bug::CertificatesForgotten));
        // A wall clock that nobody has confirmed may be far ahead, and what is dropped is not heard of again.
        let expired_by = if self.clock.is_heard() {
            self.clock.best(at.elapsed)
        } else {
            Timestamp::default()
        };
        self.ahead.past(before, state, descent, expired_by)
    }

    /// Holds nothing in force any more. The floor stays, and which certificates are revoked.
    pub fn let_go(&mut self) {
        if let Some(trust) = self.in_force.take() {
            self.ahead.carry(trust.state.revocations());
        }
        self.changes = self.changes.saturating_add(1);
    }
}
