//! What becomes of publishing keys, and how they are found at start.

use std::sync::Arc;

use countersign_core::fleet::Gate;
use countersign_core::names::KeyId;
use countersign_core::publishers::MAX_LINKS;
use countersign_core::revocation::DigestSum;
use countersign_crypto::publishing::ALGORITHM;
use countersign_crypto::{AwsLc, SigningKey};
use countersign_wire::status::Failure;

use super::key_plans::generate;
use super::opening::{Opening, StartError, refuse_record};
use super::{Books, Done, Hold, Ledger, LedgerError, Plan};
use crate::alarm::Alarm;
use crate::publishing::{PublishingKey, PublishingRing};
use crate::store::keys::{self, PUBLISHERS};
use crate::store::meta::{Head, Publishing};
use crate::store::record::{RecordError, Vault};
use crate::store::{Commit, publishers, read_all};

impl Ledger {
    /// Makes a publishing key, and leads verifiers to the set with it.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyAlreadyPrepared`, or the store's.
    pub async fn prepare_publishing_key(&self) -> Result<Done<KeyId>, LedgerError> {
        self.changeable()?;
        let key = PublishingKey::new(generate(ALGORITHM).await?);
        self.write(Hold::Nobody, move |books, _now| {
            let ring = &books.publishing;
            if ring.keys().len() > 1 {
                return Err(LedgerError::Refused(Failure::KeyAlreadyPrepared));
            }
            let key_id = key.key_id().clone();
            let keys = ring.keys().iter().cloned().chain([key]).collect();
            Ok(Plan::publishing(linked(books, keys)?, key_id))
        })
        .await
    }

    /// Lets the prepared publishing key sign, or that with this `kid`. Unless it is `forced`, every verifier that may decide
    /// has to hold it.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyUnknown`, `KeyNotPrepared`, `VerifiersBehind`, or the store's.
    pub async fn activate_publishing_key(
        &self,
        key_id: Option<KeyId>,
        forced: bool,
    ) -> Result<Done<KeyId>, LedgerError> {
        let fleet = self.0.fleet.clone();
        self.write(Hold::Nobody, move |books, _now| {
            let ring = &books.publishing;
            if let Some(key_id) = &key_id
                && !ring.keys().iter().any(|key| key.key_id() == key_id)
            {
                return Err(LedgerError::Refused(Failure::KeyUnknown));
            }
            let prepared = ring.prepared().map(PublishingKey::key_id);
            let prepared = prepared.filter(|prepared| key_id.as_ref().is_none_or(|named| named == *prepared));
            let prepared = prepared
                .cloned()
                .ok_or(LedgerError::Refused(Failure::KeyNotPrepared))?;
            // INVARIANT (held before signing): looked at by the only writer, right before the commit.
            if !forced && fleet.gate(ring.published_in()) != Gate::Open {
                return Err(LedgerError::Refused(Failure::VerifiersBehind));
            }
            let activated = ring
                .activated(&prepared)
                .ok_or(LedgerError::Refused(Failure::KeyNotPrepared))?;
            Ok(Plan::publishing(activated, prepared))
        })
        .await
    }

    /// Leads verifiers to the set with only the key that signs, and forgets the other.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyNotRetirable`, or the store's.
    pub async fn retire_publishing_key(&self) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let ring = &books.publishing;
            let signs = |key: &&PublishingKey| key.key_id() == ring.publisher().key_id();
            let kept: Vec<PublishingKey> = ring.keys().iter().filter(signs).cloned().collect();
            if kept.len() == ring.keys().len() {
                return Err(LedgerError::Refused(Failure::KeyNotRetirable));
            }
            Ok(Plan::publishing(linked(books, kept)?, ()))
        })
        .await
    }
}

fn linked(books: &Books, keys: Vec<PublishingKey>) -> Result<PublishingRing, LedgerError> {
    let issuer = books.trust.issuer();
    let linked = books.publishing.linked(issuer, keys, books.next_epoch());
    linked.map_err(|_failed| LedgerError::Generation)
}

/// What the head says about the publishing keys.
pub(super) fn publishing_head(ring: &PublishingRing) -> Result<Publishing, RecordError> {
    let mut links = DigestSum::default();
    for link in ring.links() {
        links.add(&publishers::digest(
            &publishers::name(link.generation),
            &publishers::write(link)?,
            &AwsLc,
        ));
    }
    Ok(Publishing {
        signing: ring.publisher().key_id().clone(),
        links,
    })
}

/// The records that lead from `before` to `after`.
pub(super) fn publishing_records(
    before: &PublishingRing,
    after: &PublishingRing,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), RecordError> {
    let holds = |ring: &PublishingRing, key_id: &KeyId| ring.keys().iter().any(|key| key.key_id() == key_id);
    for gone in before.keys().iter().filter(|key| !holds(after, key.key_id())) {
        commit.delete(keys::name(PUBLISHERS, gone.key_id()));
    }
    for new in after.keys().iter().filter(|key| !holds(before, key.key_id())) {
        if let Some(signer) = &new.signer {
            let name = keys::name(PUBLISHERS, new.key_id());
            commit.expect(&name, 0);
            commit.put(name, keys::write_signer(PUBLISHERS, signer, vault)?);
        }
    }
    for gone in before.links().iter().filter(|link| !after.links().contains(link)) {
        commit.delete(publishers::name(gone.generation));
    }
    for new in after.links().iter().filter(|link| !before.links().contains(link)) {
        let name = publishers::name(new.generation);
        commit.expect(&name, 0);
        commit.put(name, publishers::write(new)?);
    }
    Ok(())
}

/// The publishing keys as the store has them.
pub(super) async fn read_publishing(
    opening: &Opening,
    vault: &Vault,
    head: &Head,
) -> Result<PublishingRing, StartError> {
    let mut signers: Vec<Arc<SigningKey>> = Vec::new();
    for record in read_all(opening.store.as_ref(), PUBLISHERS).await? {
        match keys::read_signer(PUBLISHERS, &record.name, &record.value, vault) {
            Ok(key) if key.jwk().algorithm() == ALGORITHM => signers.push(Arc::new(key)),
            Ok(_) => Alarm::RecordRefused.raise(&opening.metrics, &record.name),
            Err(error) => refuse_record(opening, error)?,
        }
    }
    let mut links = Vec::new();
    let mut sum = DigestSum::default();
    for record in read_all(opening.store.as_ref(), publishers::LINKS).await? {
        sum.add(&publishers::digest(&record.name, &record.value, &AwsLc));
        links.push(publishers::read(&record.name, &record.value)?);
    }
    if sum != head.publishing.links || links.len() > MAX_LINKS {
        return Err(StartError::PublishersMismatch);
    }
    let ring = PublishingRing::new(&head.publishing.signing, links, &signers);
    ring.map_err(|_unreadable| StartError::PublishersMismatch)?
        .ok_or(StartError::NoPublisher)
}
