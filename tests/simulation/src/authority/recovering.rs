//! What an authority does that is shown something that is not of its store, and what its operator does then.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::feed::{Held, Standing};
use countersign_core::recovery::{self, Highest};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{Change, TrustState};

use super::Authority;
use super::plans::{Mutation, Outcome};
use crate::clock::Clock;
use crate::toy::{Signed, Stated, ToyHash};

impl Authority {
    /// Another authority, on a copy of the store, which makes keys of its own.
    pub(crate) fn twin(&self, clock: Clock, former: Option<&Self>) -> Self {
        let keys_made = former.map_or(0, |former| former.keys_made);
        Self {
            clock,
            stored: self.stored.clone(),
            pending: None,
            process: None,
            life: self.life.max(former.map_or(0, |former| former.life)) + 1,
            paused_until: Duration::ZERO,
            lease: self.lease,
            policy: self.policy,
            max_lifetime: self.max_lifetime,
            keys_made: (keys_made >> 32 | 1) << 32 | (keys_made & 0xffff_ffff),
        }
    }

    /// What `latest`, which a verifier shows, makes it write down, if anything.
    pub(crate) fn shown(&self, latest: &Signed) -> Option<Mutation> {
        let shown = latest.stated();
        let held = Held {
            epoch: shown.epoch,
            digest: shown.digest,
            highest_epoch: shown.epoch,
            ..Held::default()
        };
        let standing = self.process.as_ref().map(|process| process.feed.standing(&held));
        let known = self.stored.recovery.map(|known| known.epoch);
        let standing = standing.unwrap_or(Standing::Consistent);
        recovery::has_to_stop(standing, known, shown.epoch).then_some(Mutation::Stop(shown))
    }

    /// Has the books go on above all that was shown, and above `known`; while it does not run. What came of it.
    pub(crate) fn recover(&mut self, known: Option<Stated>, at: Duration) -> Option<Outcome> {
        let before = self.stored.clone();
        let highest = Highest {
            epoch: before.trust.epoch(),
            not_before: before.committed_at,
        };
        let shown = before.recovery.into_iter().chain(known);
        let highest = shown.fold(highest, |highest, shown| highest.or(shown.epoch, shown.signed_at));
        let epoch = highest.goes_on_from()?;
        let now = highest.goes_on_at(self.wall(at));
        let mut outcome = Outcome::nothing(Mutation::Recover, before.clone());
        for key in &mut outcome.books.ring {
            key.times = recovery::withdrawn(key.times, now);
        }
        let successor = self.new_key(recovery::successor(now), epoch);
        outcome.ungated.push(successor.jwk.key_id().clone());
        outcome.books.ring.push(successor);
        let everything = Revocation {
            subject: RevokedSubject::Everything,
            issued_before: now,
            expires_at: now.saturating_add(self.revocation_life()),
        };
        outcome.revoked = Some(everything.clone());
        let change = Change {
            revoked: RevocationList::from([everything]),
            ..Change::default()
        };
        let mut outcome = outcome.changed(change, &before, now);
        let trust = &outcome.books.trust;
        outcome.books.trust = TrustState::new(
            trust.issuer().clone(),
            epoch,
            Arc::clone(trust.keys()),
            trust.revocations().clone(),
            &ToyHash,
        )
        .published_under(before.trust.publishers(), &ToyHash);
        outcome.books.recovery = None;
        outcome.books.committed_at = now;
        // Nobody was told of it: there is no update to it, only what those who come are sent.
        outcome.update = None;
        self.stored = outcome.books.clone();
        Some(outcome)
    }

    /// The latest that it can be behind, as an operator reads it off the verifiers.
    pub(crate) fn highest(&self) -> Stated {
        let trust = &self.stored.trust;
        let stored = Stated {
            epoch: trust.epoch(),
            digest: *trust.digest(),
            signed_at: self.stored.committed_at,
        };
        let shown = self.stored.recovery;
        shown.filter(|shown| shown.epoch > stored.epoch).unwrap_or(stored)
    }

    /// Whether the store has the verifier.
    pub(crate) fn knows(&self, key: &countersign_core::fleet::VerifierKey) -> bool {
        self.stored.roster.contains_key(key)
    }

    /// Whether nothing but an operator gets it to go on.
    pub(crate) const fn is_stopped(&self) -> bool {
        self.stored.recovery.is_some()
    }
}
