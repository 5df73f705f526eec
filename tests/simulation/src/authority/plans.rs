//! What mutations make of the books. The rules are those of the product's ledger, on the same functions of core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::{Gate, VerifierKey};
use countersign_core::key_set::{KeySet, KeyTimes};
use countersign_core::names::KeyId;
use countersign_core::planted::{Bug, planted};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::rotation;
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::ClassBudget;
use countersign_core::trust::{Change, Epoch, Update, UpdateContent};

use super::exports::export;
use super::publishing::retire_publisher;
use super::{Authority, Books, RingKey};
use crate::toy::{Stated, ToyHash, ToyKey};

/// How far ahead an activation is announced.
const LEAD: Duration = Duration::from_secs(2);

/// How long the entry of a token outlives it.
const SLACK: Duration = Duration::from_secs(10);

/// How long it is held against a certificate that it is revoked.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(900);

/// How long an entry is kept after it has expired.
const PRUNE_MARGIN: Duration = Duration::from_secs(60);

/// What operators and the rotator ask for.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    /// Of one token, which expires then.
    RevokeToken(RevokedSubject, Timestamp),
    /// Of all that was issued until now.
    Revoke(RevokedSubject),
    Prepare,
    Activate {
        key_id: KeyId,
        forced: bool,
    },
    Compromise(KeyId),
    Drop(KeyId),
    Prune,
    Quarantine(SpiffeId, bool),
    PreparePublisher,
    ActivatePublisher {
        forced: bool,
    },
    RetirePublisher,
    /// A trust file is to be made, which expires then.
    Export {
        expires_at: Timestamp,
        lifetime: Duration,
    },
    /// Nothing is signed or changed any more, because of this.
    Stop(Stated),
    /// An operator has it go on.
    Recover,
    Enrol {
        known: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
        gone: Vec<VerifierKey>,
        /// Epochs of trust files that nobody decides on any more.
        expired: Vec<Epoch>,
    },
}

/// The books as they will be, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) mutation: Mutation,
    pub(crate) books: Books,
    pub(crate) update: Option<Arc<Update>>,
    /// What was revoked.
    pub(crate) revoked: Option<Revocation>,
    /// Keys that verifiers may not hold when they sign.
    pub(crate) ungated: Vec<KeyId>,
    /// A publishing key that verifiers may not hold when it signs.
    pub(crate) ungated_publisher: Option<KeyId>,
    /// The time before which entries were dropped.
    pub(crate) pruned: Option<Timestamp>,
    pub(super) quarantine: Option<(SpiffeId, bool)>,
    pub(super) known: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
    pub(super) gone: Vec<VerifierKey>,
    /// Epochs of trust files that the store has no record of any more.
    pub(super) struck: Vec<Epoch>,
}

impl Outcome {
    pub(super) fn nothing(mutation: Mutation, books: Books) -> Self {
        Self {
            mutation,
            books,
            update: None,
            revoked: None,
            ungated: Vec::new(),
            ungated_publisher: None,
            pruned: None,
            quarantine: None,
            known: BTreeMap::new(),
            gone: Vec::new(),
            struck: Vec::new(),
        }
    }

    /// The same with `change` made to the trust.
    pub(super) fn changed(mut self, mut change: Change, before: &Books, now: Timestamp) -> Self {
        if self.books.ring.len() != before.ring.len() || self.books.times() != before.times() {
            change.key_set = Some(Arc::new(self.books.key_set()));
        }
        let generation = self.books.publishing.generation();
        change.publishers = (generation != before.publishing.generation()).then_some(generation);
        self.books.trust = before.trust.next(&change, &ToyHash);
        self.update = Some(Arc::new(Update {
            issuer: before.trust.issuer().clone(),
            epoch: self.books.trust.epoch(),
            state_digest: *self.books.trust.digest(),
            published_at: now,
            content: UpdateContent::Delta {
                base_epoch: before.trust.epoch(),
                base_digest: *before.trust.digest(),
                change,
            },
        }));
        self
    }
}

impl Authority {
    /// The longest that a revocation matters.
    pub(super) fn revocation_life(&self) -> Duration {
        self.max_lifetime + SLACK
    }

    /// How long the entry about `subject` is kept.
    fn life_of(&self, subject: &RevokedSubject) -> Duration {
        if matches!(subject, RevokedSubject::Certificate(_)) {
            self.certificate_life().max(self.revocation_life())
        } else {
            self.revocation_life()
        }
    }

    /// For longer than a run lasts, or for so long that its end is seen.
    fn certificate_life(&self) -> Duration {
        // Chosen without a draw, so that a run stays the one that it was.
        match self.lease.as_secs() % 3 {
            0 => self.revocation_life() + Duration::from_secs(20),
            1 => self.revocation_life() + Duration::from_secs(100),
            _ => CERTIFICATE_LIFE,
        }
    }

    pub(super) fn plan(&mut self, mutation: Mutation, now: Timestamp, at: Duration) -> Option<Outcome> {
        let before = self.stored.clone();
        let goes_on = matches!(mutation, Mutation::Stop(_) | Mutation::Enrol { .. });
        if self.is_stopped() && !goes_on {
            return None;
        }
        let outcome = Outcome::nothing(mutation.clone(), before.clone());
        match mutation {
            Mutation::RevokeToken(subject, expires_at) => {
                let revocation = Revocation {
                    subject,
                    issued_before: Timestamp::default(),
                    expires_at: expires_at
                        .saturating_add(SLACK)
                        .min(now.saturating_add(self.revocation_life())),
                };
                (expires_at > now)
                    .then(|| revoke(outcome, revocation, &before, now))
                    .flatten()
            }
            Mutation::Revoke(subject) => {
                let life = self.life_of(&subject);
                let revocation = Revocation {
                    subject,
                    issued_before: now,
                    expires_at: now.saturating_add(life),
                };
                revoke(outcome, revocation, &before, now)
            }
            Mutation::Prepare => self.prepare(outcome, &before, now),
            Mutation::Activate { key_id, forced } => {
                self.activate(outcome, &before, &key_id, forced, now, at)
            }
            Mutation::Compromise(key_id) => self.compromise(outcome, &before, &key_id, now),
            Mutation::Drop(key_id) => {
                let key = before.find(&key_id)?;
                let gone = KeySet::gone_from(&key.times, self.policy.retention)?;
                (gone <= now).then(|| {
                    let mut outcome = outcome;
                    outcome.books.ring.retain(|key| *key.jwk.key_id() != key_id);
                    outcome.changed(Change::default(), &before, now)
                })
            }
            Mutation::Prune => prune(outcome, &before, now.min(self.wall(at)), now),
            Mutation::Quarantine(spiffe_id, on) => Some(quarantine(outcome, spiffe_id, on)),
            Mutation::PreparePublisher => self.prepare_publisher(outcome, &before, now, at),
            Mutation::ActivatePublisher { forced } => self.activate_publisher(outcome, &before, forced, at),
            Mutation::RetirePublisher => retire_publisher(outcome, &before, now, at),
            Mutation::Stop(shown) => {
                let mut outcome = outcome;
                outcome.books.recovery = Some(shown);
                Some(outcome)
            }
            Mutation::Export { expires_at, lifetime } => {
                Some(export(outcome, &before, expires_at, lifetime, now))
            }
            Mutation::Recover => None,
            Mutation::Enrol { known, gone, expired } => {
                enrol(outcome, known, gone, self.struck(expired, now, at))
            }
        }
    }

    pub(super) fn new_key(&mut self, times: KeyTimes, published_in: u64) -> RingKey {
        self.keys_made += 1;
        RingKey {
            jwk: ToyKey::numbered(self.keys_made),
            times,
            published_in,
        }
    }

    fn prepare(&mut self, mut outcome: Outcome, before: &Books, now: Timestamp) -> Option<Outcome> {
        if before.ring.iter().any(|key| rotation::is_standby(&key.times)) {
            return None;
        }
        let times = KeyTimes {
            prepared_at: now,
            accepted_from: Some(now),
            ..KeyTimes::default()
        };
        let key = self.new_key(times, before.next_epoch());
        outcome.books.ring.push(key);
        Some(outcome.changed(Change::default(), before, now))
    }

    fn activate(
        &self,
        mut outcome: Outcome,
        before: &Books,
        key_id: &KeyId,
        forced: bool,
        now: Timestamp,
        at: Duration,
    ) -> Option<Outcome> {
        let key = before
            .find(key_id)
            .filter(|key| rotation::is_standby(&key.times))?;
        let register = &self.process.as_ref()?.register;
        let gate = register.gate(key.published_in, self.clock.elapsed(at));
        let waits = !forced && before.signing(now).is_some();
        if waits && gate != Gate::Open {
            return None;
        }
        if gate != Gate::Open {
            outcome.ungated.push(key_id.clone());
        }
        activated(&mut outcome.books.ring, key_id, now.saturating_add(LEAD));
        Some(outcome.changed(Change::default(), before, now))
    }

    fn compromise(
        &mut self,
        mut outcome: Outcome,
        before: &Books,
        key_id: &KeyId,
        now: Timestamp,
    ) -> Option<Outcome> {
        if before.find(key_id)?.times.compromised_at.is_some() {
            return None;
        }
        let ring = &mut outcome.books.ring;
        for key in ring.iter_mut().filter(|key| key.jwk.key_id() == key_id) {
            key.times.compromised_at = Some(now);
        }
        let is_last = |key: &&mut RingKey| {
            let times = &key.times;
            times.active_from.is_some() && times.retired_from.is_none() && times.compromised_at.is_none()
        };
        let nothing_signs = before_signing(ring, now).is_none();
        if let Some(last) = ring.iter_mut().find(is_last) {
            if nothing_signs {
                let times = &mut last.times;
                times.active_from = times.active_from.map(|from| from.min(now).max(times.prepared_at));
                outcome.ungated.push(last.jwk.key_id().clone());
            }
            return Some(outcome.changed(Change::default(), before, now));
        }
        let good = ring.iter().filter(|key| key.times.compromised_at.is_none());
        let from = good.filter_map(|key| key.times.retired_from).max();
        let from = from.map_or(now, |retired| retired.max(now));
        let standby = ring.iter().find(|key| rotation::is_standby(&key.times));
        let successor = if let Some(standby) = standby {
            standby.jwk.key_id().clone()
        } else {
            let times = KeyTimes {
                prepared_at: now,
                ..KeyTimes::default()
            };
            let key = self.new_key(times, before.next_epoch());
            let key_id = key.jwk.key_id().clone();
            outcome.books.ring.push(key);
            key_id
        };
        activated(&mut outcome.books.ring, &successor, from);
        outcome.ungated.push(successor);
        Some(outcome.changed(Change::default(), before, now))
    }
}

fn before_signing(ring: &[RingKey], now: Timestamp) -> Option<KeyId> {
    let times: Vec<_> = ring
        .iter()
        .map(|key| (key.jwk.key_id().clone(), key.times))
        .collect();
    rotation::signing_key(&times, now).cloned()
}

/// Lets `key_id` sign from `from`, and every key before it until then.
fn activated(ring: &mut [RingKey], key_id: &KeyId, from: Timestamp) {
    for key in ring {
        let times = &mut key.times;
        if key.jwk.key_id() == key_id {
            times.active_from = Some(from.max(times.prepared_at));
        } else if let (Some(active), None, None) =
            (times.active_from, times.retired_from, times.compromised_at)
        {
            times.retired_from = Some(from.max(active));
        }
    }
}

fn revoke(mut outcome: Outcome, revocation: Revocation, before: &Books, now: Timestamp) -> Option<Outcome> {
    if before.trust.revocations().covers(&revocation) {
        return None;
    }
    outcome.revoked = Some(revocation.clone());
    let change = Change {
        revoked: RevocationList::from([revocation]),
        ..Change::default()
    };
    Some(outcome.changed(change, before, now))
}

fn prune(mut outcome: Outcome, before: &Books, by: Timestamp, now: Timestamp) -> Option<Outcome> {
    let margin = if planted(Bug::PrunedWithoutMargin) {
        Duration::ZERO
    } else {
        PRUNE_MARGIN
    };
    let latest = by.saturating_sub(margin);
    let expired = before.trust.revocations().expiries();
    let last = expired
        .map(|(expires_at, _)| expires_at)
        .filter(|end| *end < latest)
        .max()?;
    let time = Timestamp::from_seconds(last.as_seconds() + 1);
    outcome.pruned = Some(time);
    let change = Change {
        prune_before: Some(time),
        ..Change::default()
    };
    Some(outcome.changed(change, before, now))
}

fn quarantine(mut outcome: Outcome, spiffe_id: SpiffeId, on: bool) -> Outcome {
    if on {
        outcome.books.quarantined.insert(spiffe_id.clone());
    } else {
        outcome.books.quarantined.remove(&spiffe_id);
    }
    outcome.quarantine = Some((spiffe_id, on));
    outcome
}

fn enrol(
    mut outcome: Outcome,
    known: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
    gone: Vec<VerifierKey>,
    struck: Vec<Epoch>,
) -> Option<Outcome> {
    if known.is_empty() && gone.is_empty() && struck.is_empty() {
        return None;
    }
    outcome.books.exports.retain(|epoch, _| !struck.contains(epoch));
    outcome.struck = struck;
    for key in &gone {
        outcome.books.roster.remove(key);
    }
    outcome.books.roster.extend(
        known
            .iter()
            .map(|(key, budgets)| (key.clone(), Arc::clone(budgets))),
    );
    outcome.known = known;
    outcome.gone = gone;
    Some(outcome)
}
