//! Everything that the authority decides on, as one immutable value; and what a mutation makes of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_core::client::Client;
use countersign_core::drill::Drill;
use countersign_core::key_set::KeySet;
use countersign_core::names::KeyId;
use countersign_core::publishers::Generation;
use countersign_core::revocation::{DigestSum, Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{Change, TrustState, Update, UpdateContent};
use countersign_crypto::AwsLc;

use super::publishing_plans::{publishing_head, publishing_records};
use crate::drills::Drills;
use crate::keyring::{KeyRing, RingKey};
use crate::publishing::PublishingRing;
use crate::registry::Registry;
use crate::roster::{Roster, RosterChange};
use crate::store::keys::{self, KEYS, KeyRecord, SIGNERS};
use crate::store::meta::{Head, Recovery};
use crate::store::record::{RecordError, Vault};
use crate::store::{Commit, clients, revocations};

/// Whose tokens wait while a mutation is being committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Nobody's.
    #[default]
    Nobody,
    /// These.
    Tokens(RevokedSubject),
}

impl Hold {
    /// Whether a token with these claims has to wait.
    #[must_use]
    pub fn holds(&self, claims: &Claims) -> bool {
        matches!(self, Self::Tokens(held) if held.concerns(claims))
    }
}

/// The state of the authority at one moment. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Books {
    /// What verifiers are told.
    pub trust: TrustState,
    /// The keys, with their private halves.
    pub ring: Arc<KeyRing>,
    /// The keys that publish.
    pub publishing: PublishingRing,
    /// The clients.
    pub clients: Registry,
    /// The digests of their records, summed up: of those that could not be read, too.
    pub client_digests: DigestSum,
    /// The verifiers.
    pub roster: Roster,
    /// The drills.
    pub drills: Drills,
    /// When they were committed.
    pub committed_at: Timestamp,
    /// Why nothing is signed or changed, if so.
    pub recovery: Option<Recovery>,
    /// Who waits.
    pub hold: Hold,
}

/// What a mutation changes.
#[derive(Debug)]
pub(super) struct Plan<T> {
    /// What its caller is told.
    pub(super) answer: T,
    /// The keys as they will be.
    pub(super) ring: Option<KeyRing>,
    /// The publishing keys as they will be.
    pub(super) publishing: Option<PublishingRing>,
    /// A client as it will be.
    pub(super) client: Option<Client>,
    /// Revocations to add.
    pub(super) revoked: RevocationList,
    /// Revocations to forget.
    pub(super) prune_before: Option<Timestamp>,
    /// Changes of the roster of verifiers.
    pub(super) roster: Vec<RosterChange>,
    /// A drill as it will be.
    pub(super) drill: Option<Drill>,
    /// Why nothing is to be signed or changed any more.
    pub(super) recovery: Option<Recovery>,
    /// Whether there is an epoch although verifiers have nothing to change: whoever holds it can show a store that was restored from
    /// before that it was.
    pub(super) marks_epoch: bool,
    /// Whether the time is to be committed, if nothing else is.
    pub(super) keeps_time: bool,
}

impl<T> Plan<T> {
    /// Changes nothing.
    pub(super) fn nothing(answer: T) -> Self {
        Self {
            answer,
            ring: None,
            publishing: None,
            client: None,
            revoked: RevocationList::default(),
            prune_before: None,
            roster: Vec::new(),
            drill: None,
            recovery: None,
            marks_epoch: false,
            keeps_time: false,
        }
    }

    /// Changes the keys.
    pub(super) fn ring(ring: KeyRing, answer: T) -> Self {
        Self {
            ring: Some(ring),
            ..Self::nothing(answer)
        }
    }

    /// Changes the publishing keys.
    pub(super) fn publishing(ring: PublishingRing, answer: T) -> Self {
        Self {
            publishing: Some(ring),
            ..Self::nothing(answer)
        }
    }

    /// Changes a client.
    pub(super) fn client(client: Client, answer: T) -> Self {
        Self {
            client: Some(client),
            ..Self::nothing(answer)
        }
    }

    /// Changes the roster of verifiers.
    pub(super) fn roster(roster: Vec<RosterChange>, answer: T) -> Self {
        Self {
            roster,
            ..Self::nothing(answer)
        }
    }

    /// And revokes.
    pub(super) fn and_revoke(mut self, revocation: Revocation) -> Self {
        self.revoked.add(revocation);
        self
    }

    pub(super) fn is_nothing(&self) -> bool {
        let is_silent = self.client.is_none() && self.roster.is_empty() && self.recovery.is_none();
        is_silent
            && !self.keeps_time
            && self.drill.is_none()
            && self.publishing.is_none()
            && !self.changes_records()
    }

    /// Whether verifiers have to hear of it, coming from `before`.
    fn changes_trust(&self, before: &TrustState) -> bool {
        self.marks_epoch || self.changes_records() || self.leads_to(before).is_some()
    }

    /// The generation of publishing keys that verifiers are led to, coming from `before`.
    fn leads_to(&self, before: &TrustState) -> Option<Generation> {
        let generation = self.publishing.as_ref().map(PublishingRing::generation);
        generation.filter(|generation| *generation != before.publishers())
    }

    fn changes_records(&self) -> bool {
        self.ring.is_some() || !self.revoked.is_empty() || self.prune_before.is_some()
    }

    fn change(&self, before: &TrustState) -> Change {
        Change {
            key_set: self.ring.as_ref().map(KeyRing::to_key_set).map(Arc::new),
            revoked: self.revoked.clone(),
            prune_before: self.prune_before,
            publishers: self.leads_to(before),
        }
    }
}

impl Plan<Drill> {
    /// Changes a drill, and with it the keys.
    pub(super) fn drill(ring: KeyRing, drill: Drill) -> Self {
        Self {
            drill: Some(drill.clone()),
            ..Self::ring(ring, drill)
        }
    }
}

/// The books after a mutation, and what to tell the verifiers.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) books: Books,
    pub(super) update: Option<Update>,
}

impl Books {
    /// The books with `plan` made at `now`; nobody is held any more.
    pub(super) fn after<T>(&self, plan: &Plan<T>, now: Timestamp) -> Result<Outcome, RecordError> {
        let mut books = self.clone();
        books.hold = Hold::Nobody;
        books.committed_at = now;
        if let Some(client) = &plan.client {
            if let Some(before) = self.clients.find(client.client_id.as_str()) {
                books.client_digests.subtract(&clients::digest(before, &AwsLc)?);
            }
            books.client_digests.add(&clients::digest(client, &AwsLc)?);
            books.clients = books.clients.with(client.clone());
        }
        if let Some(ring) = &plan.ring {
            books.ring = Arc::new(ring.clone());
        }
        if let Some(publishing) = &plan.publishing {
            books.publishing = publishing.clone();
        }
        if plan.recovery.is_some() {
            books.recovery.clone_from(&plan.recovery);
        }
        for change in &plan.roster {
            books.roster.change(change)?;
        }
        if let Some(drill) = &plan.drill {
            books.drills = self.drills.with(drill.clone())?;
        }
        let update = plan.changes_trust(&self.trust).then(|| {
            let change = plan.change(&self.trust);
            books.trust = self.trust.next(&change, &AwsLc);
            Update {
                issuer: books.trust.issuer().clone(),
                epoch: books.trust.epoch(),
                state_digest: *books.trust.digest(),
                published_at: now,
                content: UpdateContent::Delta {
                    base_epoch: self.trust.epoch(),
                    base_digest: *self.trust.digest(),
                    change,
                },
            }
        });
        Ok(Outcome { books, update })
    }

    /// The head record of these books.
    pub(super) fn head(&self) -> Result<Head, RecordError> {
        Ok(Head {
            epoch: self.trust.epoch(),
            state_digest: *self.trust.digest(),
            clients: self.client_digests,
            roster: self.roster.sum(),
            drills: self.drills.sum(),
            committed_at: self.committed_at,
            recovery: self.recovery.clone(),
            publishing: publishing_head(&self.publishing)?,
        })
    }

    /// The epoch that the next change of trust will have.
    #[must_use]
    pub const fn next_epoch(&self) -> u64 {
        self.trust.epoch().saturating_add(1)
    }

    /// The key set that is published.
    #[must_use]
    pub const fn key_set(&self) -> &Arc<KeySet> {
        self.trust.keys()
    }
}

/// The records that lead from `before` to `after`: everything but the head.
pub(super) fn records<T>(
    before: &Books,
    after: &Books,
    plan: &Plan<T>,
    vault: &Vault,
) -> Result<Commit, RecordError> {
    let mut commit = Commit::default();
    if let Some(client) = &plan.client {
        let name = clients::name(&client.client_id);
        if before.clients.find(client.client_id.as_str()).is_none() {
            // Also when a record is there that could not be read at start.
            commit.expect(&name, 0);
        }
        commit.put(name, clients::write(client, vault)?);
    }
    if plan.ring.is_some() {
        key_records(&before.ring, &after.ring, vault, &mut commit)?;
    }
    if plan.publishing.is_some() {
        publishing_records(&before.publishing, &after.publishing, vault, &mut commit)?;
    }
    revocation_records(before, after, plan, vault, &mut commit)?;
    for change in &plan.roster {
        after.roster.record(change, &mut commit);
    }
    if let Some(drill) = &plan.drill {
        after.drills.record(&before.drills, drill.id, &mut commit);
    }
    Ok(commit)
}

fn key_records(
    before: &KeyRing,
    after: &KeyRing,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), RecordError> {
    let kept: BTreeSet<&KeyId> = after.keys().iter().map(RingKey::key_id).collect();
    for gone in before.keys().iter().filter(|key| !kept.contains(key.key_id())) {
        commit.delete(keys::name(KEYS, gone.key_id()));
        commit.delete(keys::name(SIGNERS, gone.key_id()));
    }
    for key in after.keys() {
        let earlier = before.find(key.key_id());
        if earlier.is_some_and(|earlier| earlier.times() == key.times()) {
            continue;
        }
        let record = KeyRecord {
            jwk: key.published.jwk.clone(),
            times: *key.times(),
            published_in: key.published_in,
        };
        let name = keys::name(KEYS, key.key_id());
        if let (None, Some(signer)) = (earlier, &key.signer) {
            commit.expect(&name, 0);
            let sealed = keys::write_signer(SIGNERS, signer, vault)?;
            commit.put(keys::name(SIGNERS, key.key_id()), sealed);
        }
        commit.put(name, record.write()?);
    }
    Ok(())
}

fn revocation_records<T>(
    before: &Books,
    after: &Books,
    plan: &Plan<T>,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), RecordError> {
    let (before, after) = (before.trust.revocations(), after.trust.revocations());
    chunk_records(before, after, vault, commit)?;
    let revoked = plan.revoked.others();
    for in_force in revoked.filter_map(|revocation| after.find(&revocation.subject)) {
        commit.put(
            revocations::name(&in_force.subject),
            revocations::write(&in_force, vault)?,
        );
    }
    if let Some(time) = plan.prune_before {
        for entry in before.others().filter(|entry| entry.expires_at < time) {
            commit.delete(revocations::name(&entry.subject));
        }
    }
    Ok(())
}

fn chunk_records(
    before: &RevocationList,
    after: &RevocationList,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), RecordError> {
    for (chunk, sequences) in after.chunks_changed_since(before) {
        if sequences.is_empty() {
            commit.delete(revocations::chunk_name(&chunk));
        } else {
            let record = revocations::write_chunk(&chunk, &sequences, vault)?;
            commit.put(revocations::chunk_name(&chunk), record);
        }
    }
    Ok(())
}

/// The records that lead from `before` to `after`, a list of the same subjects.
pub(super) fn shortened_records(
    before: &RevocationList,
    after: &RevocationList,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), RecordError> {
    chunk_records(before, after, vault, commit)?;
    for entry in after.others() {
        if before.find(&entry.subject).is_none_or(|held| held != entry) {
            commit.put(
                revocations::name(&entry.subject),
                revocations::write(&entry, vault)?,
            );
        }
    }
    Ok(())
}
