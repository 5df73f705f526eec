//! How the model hears of what authorities do: it is told what they decided and when, and works out by itself what must follow.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::trust::TrustState;

use crate::authority::{Mutation, Outcome};
use crate::invariants::is_state;
use crate::model::{Receipt, Scope};
use crate::toy::Signed;
use crate::world::{Event, World};

/// For how long after its end a revocation is kept, by the authority's clock: verifiers may be behind it.
const KEPT_AFTER: Duration = Duration::from_secs(60);

impl World {
    pub(crate) fn note_first_state(&mut self) {
        let trust = &self.authorities[0].stored.trust;
        let id = (trust.epoch(), *trust.digest());
        self.model
            .published
            .insert(id, crate::model::Published::default());
    }

    /// Something is being committed. From now on it may be true.
    pub(crate) fn note_pending(&mut self, authority: usize) {
        let Some(outcome) = &self.authorities[authority].pending else {
            return;
        };
        let epoch = outcome.books.trust.epoch();
        let scope = match (&outcome.mutation, &outcome.revoked) {
            (Mutation::Compromise(key_id), _) => Some(Scope::Key(key_id.clone())),
            (_, Some(revocation)) => Some(Scope::Tokens(
                revocation.subject.clone(),
                revocation.issued_before,
            )),
            (_, None) => None,
        };
        if let Mutation::Quarantine(spiffe_id, false) = &outcome.mutation {
            let released = self
                .verifiers
                .iter()
                .position(|verifier| verifier.key.spiffe_id == *spiffe_id);
            if let Some(verifier) = released {
                self.model.verifiers[verifier].quarantine = None;
                self.model.verifiers[verifier].released = Some(self.now);
            }
        }
        let until = outcome.revoked.as_ref().map(|revocation| revocation.expires_at);
        if let Some(scope) = scope {
            let fact = self.model.fact(scope, epoch);
            self.model.facts[fact].until = until.unwrap_or_default();
            self.memory.pending = Some(fact);
        }
    }

    /// What was being committed was not.
    pub(crate) fn note_void(&mut self) {
        if let Some(fact) = self.memory.pending.take() {
            self.model.facts[fact].void = true;
        }
    }

    /// A mutation was committed, and its operator was told if `acknowledged`.
    pub(crate) fn note_committed(
        &mut self,
        authority: usize,
        before: &TrustState,
        outcome: &Outcome,
        acknowledged: bool,
    ) {
        let published = outcome.update.as_ref().map(|update| update.epoch);
        self.check_stopped(authority, &outcome.mutation, published);
        if matches!(outcome.mutation, Mutation::Stop(_)) {
            self.note_stopped(authority);
        }
        self.note_publishing(outcome);
        if let Some(update) = &outcome.update {
            let signs = outcome.books.publishing.signs.clone();
            self.memory
                .note_update(Signed::update(Arc::clone(update), self.now, signs));
            self.memory.note_commit(self.now, update.epoch);
            self.note_published(before, outcome);
        }
        for key_id in &outcome.ungated {
            let epoch = outcome.books.trust.epoch();
            self.model.ungated.insert(key_id.clone(), epoch);
        }
        self.counts.activated += u64::from(matches!(outcome.mutation, Mutation::Activate { .. }));
        let fact = self.memory.pending.take();
        if !acknowledged || authority != 0 {
            return;
        }
        self.note_exported(outcome);
        if let Mutation::Quarantine(spiffe_id, true) = &outcome.mutation {
            let held = self
                .verifiers
                .iter()
                .position(|verifier| verifier.key.spiffe_id == *spiffe_id);
            if let Some(verifier) = held {
                self.note_quarantined(verifier);
            }
        }
        if let Some(fact) = fact {
            self.model.facts[fact].acknowledged = true;
            self.promise(fact);
            for after in [500, 2_000, 9_000] {
                self.after(Duration::from_millis(after), Event::Ask { fact });
            }
        }
    }

    pub(crate) fn note_published(&mut self, before: &TrustState, outcome: &Outcome) {
        let after = &outcome.books.trust;
        let ring = outcome.books.ring.iter();
        let keys = ring.map(|key| (key.jwk.key_id().clone(), key.times)).collect();
        let id = (after.epoch(), *after.digest());
        let dropped = self.model.publish(
            (before.epoch(), *before.digest()),
            id,
            keys,
            outcome.revoked.as_ref(),
            outcome.pruned,
        );
        let right = self
            .model
            .published
            .get(&id)
            .is_some_and(|published| is_state(published, after));
        self.check(right, "I-10", |_| {
            format!("the authority publishes another state as epoch {}", id.0)
        });
        let now = self.authorities[0].wall(self.now);
        let soon = dropped.into_iter().find(|(subject, entry)| {
            let tokens = self.model.tokens.iter().filter(|token| !token.forged);
            let mut concerned = tokens.filter(|token| token.is_of(subject, entry.0));
            concerned.any(|token| token.claims.expires_at.saturating_add(KEPT_AFTER) > now)
        });
        let excused = self.model.broken.is_some() || self.model.leapt;
        self.check(excused || soon.is_none(), "I-11", |_| {
            format!("{soon:?} is dropped")
        });
        let other = outcome.books.ring.iter().find(|key| !self.model.names(&key.jwk));
        let other = other.map(|key| key.jwk.key_id().clone());
        self.check(other.is_none(), "I-06", |_| {
            format!("{other:?} is the name of two keys")
        });
        let ring = &outcome.books.ring;
        let signs = ring
            .iter()
            .filter(|key| key.times.state(now) == countersign_core::key_set::KeyState::Active);
        let signing = signs.count();
        self.check(signing <= 1 || excused, "I-02", |_| {
            format!("{signing} keys are active")
        });
    }

    /// By when a verifier that is granted nothing any more has stopped.
    fn note_quarantined(&mut self, verifier: usize) {
        let authority = &self.authorities[0];
        let Some(process) = &authority.process else { return };
        let known = process.register.find(&self.verifiers[verifier].key);
        let elapsed = authority.clock.elapsed(self.now);
        let ends = known.into_iter().flat_map(|known| known.ends(elapsed));
        let ends: Receipt = ends
            .map(|(class, end)| (class.clone(), authority.clock.true_time(self.now, end)))
            .collect();
        let budgets = self.verifiers[verifier].budgets.iter();
        let promised = budgets.map(|budget| {
            let by = ends.get(&budget.class).copied().unwrap_or(self.now);
            (budget.class.clone(), by)
        });
        let promised = promised.collect();
        let known = &mut self.model.verifiers[verifier];
        known.quarantine = known.file.is_none().then_some(promised);
    }

    /// An authority has started: what it acknowledged is there (I-13).
    pub(crate) fn check_kept(&mut self, authority: usize) {
        let epoch = self.authorities[authority].stored.trust.epoch();
        let facts = self.model.facts.iter();
        let lost = facts
            .filter(|fact| fact.acknowledged && fact.epoch > epoch)
            .count();
        let broken = self.model.broken.is_some();
        self.check(broken || lost == 0, "I-13", |_| {
            format!("{lost} revocations are lost")
        });
    }
}
