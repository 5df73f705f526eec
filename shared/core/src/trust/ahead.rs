//! What is taken back beside the state in force: ahead of it, or by a state before it that a recovery replaced.
//!
//! An update that cannot be taken over, because it follows on a state that was missed or because something in it is not
//! understood, may still take back tokens, clients and keys. Said by the authority, that is true in any order and on any
//! base, so it is heeded at once; everything else in such an update is not. It makes decisions stricter and changes
//! nothing of the state in force: epoch and digest stay, no heartbeat of a later epoch confirms them, and the trust grows
//! old until a state with the digest stated can be taken over.
//!
//! An authority that was recovered from a backup gives up every key, and with them all that its verifiers hold against tokens.
//! That a certificate is revoked is also held against tokens yet to be issued, to it or to its SPIFFE ID, and the backup may not
//! know of it. So it is carried along.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{Epoch, MAX_EPOCH_STEP, StateDigest, TrustState, Update, UpdateContent, UpdateRules};
use crate::key_set::{KeySet, PublishedKey};
use crate::names::KeyId;
use crate::revocation::RevocationList;
use crate::time::Timestamp;

/// How a state came about, as far as it matters to what is heeded beside it. By default nobody knows, and it may lack anything.
#[derive(Clone, Debug, Default)]
pub struct Descent {
    published_at: Timestamp,
    step: Option<Step>,
}

/// A change of one state.
#[derive(Clone, Debug)]
struct Step {
    base: (Epoch, StateDigest),
    revoked: RevocationList,
    prune_before: Option<Timestamp>,
}

impl Descent {
    /// By `update`.
    #[must_use]
    pub fn by(update: &Update) -> Self {
        let step = match &update.content {
            UpdateContent::Snapshot { .. } => None,
            UpdateContent::Delta {
                base_epoch,
                base_digest,
                change,
            } => Some(Step {
                base: (*base_epoch, *base_digest),
                revoked: change.revoked.clone(),
                prune_before: change.prune_before,
            }),
        };
        Self {
            published_at: update.published_at,
            step,
        }
    }

    /// When the last update on the way was published, by the authority's clock. Zero: nobody knows.
    #[must_use]
    pub const fn published_at(&self) -> Timestamp {
        self.published_at
    }

    /// The same of a state that may lack anything.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { step: None, ..self }
    }

    /// The change by which it came about from `before`, if that is how it did.
    fn step_from(&self, before: Option<&TrustState>) -> Option<&Step> {
        let base = before.map(|before| (before.epoch, before.digest));
        self.step.as_ref().filter(|step| Some(step.base) == base)
    }
}

/// How long what has expired may be held still, so that entries of which one ends after the other are gone through together. A token
/// that is issued meanwhile is good: it is from after their end.
pub const LINGERS: Duration = Duration::from_secs(60);

/// What was taken back by updates that could not be taken over, and certificates that were revoked in a state before.
///
/// INVARIANT (nothing heeded is forgotten): an entry stays until the state in force has it, or until it has expired, and no longer than
/// [`LINGERS`] after that.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    revocations: RevocationList,
    compromised: BTreeMap<KeyId, Timestamp>,
    /// No revocation ends before this. Nothing: there is none.
    first_end: Option<Timestamp>,
}

impl Ahead {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.revocations.is_empty() && self.compromised.is_empty()
    }

    /// Goes on heeding that the certificates in `revocations` are revoked.
    pub fn carry(&mut self, revocations: &RevocationList) {
        self.revocations.merge(&revocations.about_certificates());
        self.note_ends();
    }

    fn note_ends(&mut self) {
        let ends = self.revocations.expiries().map(|(expires_at, _)| expires_at);
        self.first_end = ends.min();
    }

    /// Holds no more than `room` entries: of certificates those that end last. How many it drops.
    pub fn bound(&mut self, room: usize) -> usize {
        let excess = self.revocations.len().saturating_sub(room);
        if excess == 0 {
            return 0;
        }
        self.revocations.drop_certificates(excess)
    }

    /// Heeds nothing for longer than until `latest`. Whether there was anything.
    fn cap(&mut self, latest: Timestamp) -> bool {
        let is_overlong = self.revocations.outlasting(latest) > 0;
        if is_overlong {
            self.revocations = self.revocations.capped(latest);
            self.note_ends();
        }
        is_overlong
    }

    /// Drops what has expired by `now`, once something has been over for [`LINGERS`]. Whether there was anything; looks at nothing as long as
    /// there cannot be.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        if self
            .first_end
            .is_none_or(|end| end.saturating_add(LINGERS) >= now)
        {
            return false;
        }
        let held = self.revocations.len();
        self.revocations = self.revocations.pruned(now);
        self.note_ends();
        self.revocations.len() < held
    }

    /// Which certificates are revoked by this, and not by the state in force.
    #[must_use]
    pub fn certificates(&self) -> RevocationList {
        self.revocations.about_certificates()
    }

    /// Whether nothing of it was copied that is not in `other`.
    #[cfg(test)]
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.revocations.shares_others_with(&other.revocations)
    }

    /// What goes on being heeded once `state` is in force, in place of `before`: what of this `state` does not have, and certificates
    /// that it leaves out, which only the state of a recovered authority does. Nothing is added that has expired by `now`.
    ///
    /// A change says itself what it adds and drops, so that nothing else is looked at: it comes with every revocation.
    #[must_use]
    pub fn past(
        &self,
        before: Option<&TrustState>,
        state: &TrustState,
        descent: &Descent,
        now: Timestamp,
    ) -> Self {
        let step = descent.step_from(before);
        let mut past = self.clone();
        let revocations = &mut past.revocations;
        match step {
            Some(step) => revocations.settle(&step.revoked, &state.revocations),
            None => *revocations = revocations.pruned(now).beyond(&state.revocations),
        }
        let leaves_out = step.is_none_or(|step| step.prune_before.is_some_and(|time| time > now));
        if let Some(before) = before.filter(|_| leaves_out) {
            let left_out = before.revocations.certificates_beyond(&state.revocations);
            revocations.extend(left_out.filter(|entry| entry.expires_at >= now));
            past.note_ends();
        }
        let holds_still = |key_id: &KeyId| {
            let key = state.keys.find(key_id);
            key.is_some_and(|key| key.times.compromised_at.is_none())
        };
        past.compromised.retain(|key_id, _| holds_still(key_id));
        past
    }

    /// `state` as decisions are to be made on it: with all of this taken back. Its digest is still that of `state`, so no
    /// update is to be applied to it.
    #[must_use]
    pub fn over(&self, state: &TrustState) -> TrustState {
        let mut revocations = state.revocations.clone();
        revocations.merge(&self.revocations);
        self.withdrawing(state, revocations)
    }

    /// The same from `stricter`, which is what decisions were made on before `state` came about by a change that drops nothing.
    /// Nothing when it came about otherwise.
    #[must_use]
    pub fn over_next(
        &self,
        state: &TrustState,
        stricter: &TrustState,
        descent: &Descent,
    ) -> Option<TrustState> {
        let step = descent.step_from(Some(stricter))?;
        step.prune_before.is_none().then(|| {
            let mut revocations = stricter.revocations.clone();
            revocations.merge(&step.revoked);
            self.withdrawing(state, revocations)
        })
    }

    fn withdrawing(&self, state: &TrustState, revocations: RevocationList) -> TrustState {
        let withdrawn = |key: &PublishedKey| {
            let mut key = key.clone();
            let heard = self.compromised.get(key.jwk.key_id()).copied();
            key.times.compromised_at = key.times.compromised_at.or(heard);
            key
        };
        let keys = state.keys.keys().iter().map(withdrawn).collect();
        TrustState {
            keys: Arc::new(KeySet::new(keys)),
            revocations,
            ..state.clone()
        }
    }
}

impl UpdateRules {
    /// Of what was written down of certificates that are revoked, and claims to matter for longer than any may, as much is believed as of
    /// an entry in an update. Whether `ahead` had any of that.
    pub fn cap(&self, ahead: &mut Ahead, now: Timestamp) -> bool {
        ahead.cap(self.latest_expiry(now))
    }

    /// Adds to `ahead` what `update`, which is not taken over, takes back beyond `current`. An entry that claims to
    /// matter for longer than any may is heeded for as long as one may. Nothing is heeded of another issuer's
    /// update, of one that is no later than `current`, of an impossible epoch, or beyond `max_revocations`: how many of its entries that
    /// leaves out is returned. What time it is is known as well as `now` says.
    #[must_use]
    pub fn heed(
        &self,
        ahead: &mut Ahead,
        current: &TrustState,
        update: &Update,
        now: &RangeInclusive<Timestamp>,
    ) -> usize {
        let later = update.epoch.saturating_sub(current.epoch);
        if update.issuer != self.issuer || later == 0 || later > MAX_EPOCH_STEP {
            return 0;
        }
        let told = update.revocations().capped(self.latest_expiry(*now.end()));
        let new = told
            .pruned(*now.start())
            .beyond(&current.revocations)
            .beyond(&ahead.revocations);
        let held = current.revocations.len().saturating_add(ahead.revocations.len());
        let room = self.max_revocations.saturating_sub(held);
        if new.len() <= room {
            ahead.revocations.merge(&new);
        } else {
            ahead.revocations.extend(new.iter().take(room));
        }
        ahead.note_ends();
        for key in update.key_set().into_iter().flat_map(|keys| keys.keys()) {
            let key_id = key.jwk.key_id();
            if let Some(at) = key.times.compromised_at
                && current.keys.find(key_id).is_some()
            {
                ahead.compromised.insert(key_id.clone(), at);
            }
        }
        new.len().saturating_sub(room)
    }
}
