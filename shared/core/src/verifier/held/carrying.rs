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
    ///
    /// What claims to matter for longer than anything may is not believed. Until the authority has said what time it is, nobody can tell:
    /// by a wall clock that is behind, everything does.
    pub fn carry(&mut self, revocations: &RevocationList, at: Moment) {
        if planted(Bug::CertificatesNotRestored) {
            return;
        }
        self.ahead.carry(revocations);
        self.cap(at);
        self.expire(at);
        let in_force = self.in_force.as_ref();
        let held = in_force.map_or(0, |trust| trust.state.revocations().len());
        let dropped = self.ahead.bound(self.rules.max_revocations.saturating_sub(held));
        self.count_dropped(dropped);
        self.tighten();
    }

    /// How many revocations there was no room for beside the state in force, since this was asked last.
    #[must_use]
    pub const fn take_dropped(&mut self) -> usize {
        std::mem::replace(&mut self.dropped, 0)
    }

    pub(super) const fn count_dropped(&mut self, count: usize) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// Believes nothing that claims too much, if the authority has said what time it is.
    pub(super) fn cap(&mut self, at: Moment) {
        if self.clock.is_heard() && self.rules.cap(&mut self.ahead, self.clock.best(at.elapsed)) {
            self.tighten();
        }
    }

    /// Which certificates are revoked once `state`, which came as a snapshot by `descent`, is in force, and not by that itself: to be
    /// written down beside it.
    #[must_use]
    pub fn carried(&self, state: &TrustState, descent: &Descent, at: Moment) -> RevocationList {
        let (ahead, _dropped) = self.ahead_of(state, descent, at);
        ahead.certificates()
    }

    /// What goes on being heeded once `state` is in force, and for how many certificates there is no room. With what the state holds there
    /// are never more than there may be in a state.
    pub(super) fn ahead_of(&self, state: &TrustState, descent: &Descent, at: Moment) -> (Ahead, usize) {
        let before = self.in_force.as_ref().map(|trust| &trust.state);
        let before = before.filter(|_| !planted(Bug::CertificatesForgotten));
        let mut ahead = self.ahead.past(before, state, descent, self.passed(descent, at));
        let held = state.revocations().len();
        let dropped = ahead.bound(self.rules.max_revocations.saturating_sub(held));
        (ahead, dropped)
    }

    /// By when entries have expired for sure, for what is dropped is not heard of again. A wall clock that nobody has confirmed may be far
    /// ahead, and so may that of an authority that was just recovered: until it has said what time it is, it is no later than either the
    /// one or the other, by which the last update was published, says.
    pub(super) fn passed(&self, descent: &Descent, at: Moment) -> Timestamp {
        if planted(Bug::CarriedForGood) {
            Timestamp::default()
        } else if self.clock.is_heard() {
            self.clock.best(at.elapsed)
        } else {
            self.clock.best(at.elapsed).min(descent.published_at())
        }
    }

    /// Stops heeding what has expired, if the authority has said what time it is.
    pub fn expire(&mut self, at: Moment) {
        if self.clock.is_heard() {
            self.expire_by(self.passed(&Descent::default(), at));
        }
    }

    pub(super) fn expire_by(&mut self, time: Timestamp) {
        if self.ahead.expire(time) {
            self.tighten();
        }
    }

    /// Decisions heed what is held ahead from now on.
    pub(super) fn tighten(&mut self) {
        if let Some(trust) = &mut self.in_force {
            trust.tighten(&self.ahead);
        }
        self.changes = self.changes.saturating_add(1);
    }

    /// Holds nothing in force any more. The floor stays, and which certificates are revoked.
    pub fn let_go(&mut self) {
        if let Some(trust) = self.in_force.take() {
            self.ahead.carry(trust.state.revocations());
        }
        if planted(Bug::CarriedLetGo) {
            self.ahead = Ahead::default();
        }
        self.changes = self.changes.saturating_add(1);
    }
}
