//! How the ledger begins: from what the store holds, or from nothing.
//!
//! What verifiers were told is computed anew from the records and compared with the head record, which is sealed. If it
//! differs in anything, the authority does not start: it would publish a state that contradicts the one before. A client's
//! record that cannot be read is left alone and alarmed, and the others work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_core::Timestamp;
use countersign_core::feed::Feed as FeedMachine;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::{KeyTimes, PublishedKey};
use countersign_core::names::{Issuer, KeyId};
use countersign_core::ports::{Clock, Entropy as _, EntropyFailed, KeyReader as _};
use countersign_core::revocation::{DigestSum, RevocationList};
use countersign_core::spiffe::TrustDomain;
use countersign_core::trust::{Epoch, TrustState};
use countersign_crypto::publishing;
use countersign_crypto::{AwsLc, Envelope, EnvelopeError, KeyError, SecretHasher, SigningKey};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::accepting::accept_clock;
use super::drill_plans::{interrupt_drill, read_drills, shadow_of};
use super::key_plans::{generate, ring_key};
use super::publishing_plans::read_publishing;
use super::{Books, Hold, Inner, Ledger, LedgerPolicy, MAX_WAITING, Writer};
use crate::alarm::Alarm;
use crate::feed::Feed;
use crate::fleet::Fleet;
use crate::keyring::{KeyRing, RingKey};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::roster::Roster;
use crate::store::keys::{self, KEYS, KeyRecord, PUBLISHERS, SIGNERS};
use crate::store::meta::{HEAD, Head, IDENTITY, Identity, Publishing, SHARD, Shard};
use crate::store::record::{RecordError, Vault};
use crate::store::{Commit, Store, StoreError, Version, clients, find, read_all, revocations, verifiers};
use crate::timeline::Timeline;

/// Why the authority does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// A record that it cannot do without cannot be read.
    #[error("a record cannot be used")]
    Record(#[from] RecordError),
    /// The key-encryption key is not the one of this store (C16). Nothing was changed.
    #[error(
        "the store was sealed under the key-encryption key `{expected}`, the configured one is `{found}`: nothing was changed"
    )]
    OtherKeyEncryptionKey {
        /// The identifier of the right key.
        expected: String,
        /// The identifier of the one configured.
        found: String,
    },
    /// The store is another issuer's, or of another trust domain.
    #[error("the store belongs to `{expected}`, the configuration says `{found}`: nothing was changed")]
    OtherOwner {
        /// What the store says.
        expected: String,
        /// What the configuration says.
        found: String,
    },
    /// There are records, and none that says whose they are.
    #[error("the store holds records without an identity: it is damaged, or not ours")]
    Unidentified,
    /// The records do not add up to the state that was published (D10, D15).
    #[error(
        "the records do not add up to the state published at epoch {epoch}: restore the store from a backup"
    )]
    StateMismatch {
        /// The epoch.
        epoch: Epoch,
    },
    /// The clients' records are not those that were written last: one of them is an earlier one, or was deleted.
    #[error("the records of clients are not those of the last change: restore the store from a backup")]
    ClientsMismatch,
    /// The records about verifiers are not those that were written last.
    #[error("the records of verifiers are not those of the last change: restore the store from a backup")]
    RosterMismatch,
    /// The links to publishing keys are not those that were written last.
    #[error("the links to publishing keys are not those of the last change: restore the store from a backup")]
    PublishersMismatch,
    /// The records about drills are not those that were written last.
    #[error("the records of drills are not those of the last change: restore the store from a backup")]
    DrillsMismatch,
    /// No publishing key can be read.
    #[error("the store holds no usable publishing key")]
    NoPublisher,
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[from] KeyError),
    /// The random source failed.
    #[error("the random source failed")]
    Entropy(#[from] EntropyFailed),
    /// Sealing does not work.
    #[error("sealing does not work")]
    Envelope(#[from] EnvelopeError),
    /// The first state could not be made.
    #[error("the first state could not be made")]
    First,
}

/// What the ledger is opened with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the records are.
    pub store: Arc<dyn Store>,
    /// Seals them.
    pub envelope: Arc<Envelope>,
    /// The issuer.
    pub issuer: Issuer,
    /// The algorithm of the first key.
    pub algorithm: Algorithm,
    /// The rules.
    pub policy: LedgerPolicy,
    /// How far the clock may be behind what was signed.
    pub leeway: Duration,
    /// The time in the store that is wrong, if an operator said so: the clock is then believed instead.
    pub accepted_time: Option<Timestamp>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The verifiers.
    pub fleet: Fleet,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The ledger, open.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// What verifiers are told.
    pub feed: Feed,
    /// What identifiers of tokens begin with, and those of no other opening: its number, and 32 random bits, because a store
    /// that was restored from a backup counts the same openings again.
    pub shard: u64,
    /// The publishing keys, as verifiers pin them.
    pub publishing_keys: String,
}

/// The publishing keys of the store, which is made if it is empty.
///
/// # Errors
/// [`StartError`].
pub async fn open_publishers(opening: &Opening) -> Result<String, StartError> {
    let vault = own(opening).await?;
    let record = find(opening.store.as_ref(), HEAD)
        .await?
        .ok_or_else(|| RecordError::malformed(HEAD))?;
    let head = Head::read(&record.value, &vault)?;
    Ok(read_publishing(opening, &vault, &head).await?.to_jwks())
}

/// Opens the ledger.
///
/// # Errors
/// [`StartError`].
pub async fn open(opening: Opening) -> Result<Opened, StartError> {
    let vault = own(&opening).await?;
    let found = accept_clock(&opening, &vault, find_books(&opening, &vault).await?).await?;
    let found = interrupt_drill(&opening, &vault, found).await?;
    let (number, version) = raise_shard(&opening, &vault, &found).await?;
    let mut random = [0; 4];
    AwsLc.fill(&mut random)?;
    let shard = number << 32 | u64::from(u32::from_be_bytes(random));
    let books = found.books;
    opening.fleet.restore(&books.roster);
    if let Some(recovery) = &books.recovery {
        opening.fleet.suspend();
        Alarm::RecoveryRequired.raise(&opening.metrics, recovery);
    }

    let timeline = Timeline::new(Arc::clone(&opening.clock), books.committed_at, opening.leeway);
    // Sequences of one opening have room for a heartbeat every millisecond for a hundred years. They grow within a stream,
    // and no stream outlives an opening.
    let feed = Feed::new(
        books.publishing.clone(),
        FeedMachine::new(books.trust.clone(), number << 42),
        Arc::clone(&opening.clock),
        opening.fleet.clone(),
        Arc::clone(&opening.metrics),
    );
    opening.metrics.observe_books(&books);
    let publishing_keys = books.publishing.to_jwks();
    let ledger = Ledger(Arc::new(Inner {
        hasher: SecretHasher::new(&opening.envelope)?,
        store: opening.store,
        vault,
        policy: opening.policy,
        timeline: Arc::new(timeline),
        feed: feed.clone(),
        fleet: opening.fleet,
        metrics: opening.metrics,
        books: ArcSwap::from_pointee(books),
        changed: watch::Sender::new(0),
        writer: Mutex::new(Writer {
            head: version,
            doubt: None,
        }),
        queue: Arc::new(Semaphore::new(MAX_WAITING)),
        tasks: TaskTracker::new(),
    }));
    Ok(Opened {
        ledger,
        feed,
        shard,
        publishing_keys,
    })
}

fn key_encryption_key(envelope: &Envelope) -> String {
    let bytes = envelope.key_id();
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// The vault of the store, once it is sure that the store is ours; it is made ours if it is empty.
pub(super) async fn own(opening: &Opening) -> Result<Vault, StartError> {
    let store = opening.store.as_ref();
    let identity = match find(store, IDENTITY).await? {
        Some(record) => Identity::read(&record.value)?,
        None if store.revision().await? == 0 => return begin(opening).await,
        None => return Err(StartError::Unidentified),
    };
    let found = key_encryption_key(&opening.envelope);
    if identity.key_encryption_key != found {
        return Err(StartError::OtherKeyEncryptionKey {
            expected: identity.key_encryption_key,
            found,
        });
    }
    let owner = |issuer: &Issuer, domain: &TrustDomain| format!("{issuer} ({domain})");
    if identity.issuer != opening.issuer || identity.trust_domain != opening.policy.trust_domain {
        return Err(StartError::OtherOwner {
            expected: owner(&identity.issuer, &identity.trust_domain),
            found: owner(&opening.issuer, &opening.policy.trust_domain),
        });
    }
    Ok(Vault::new(Arc::clone(&opening.envelope), identity.installation))
}

/// Fills an empty store: a publishing key, a token key that signs at once, epoch 1.
async fn begin(opening: &Opening) -> Result<Vault, StartError> {
    let mut random = [0; 16];
    AwsLc.fill(&mut random)?;
    let identity = Identity {
        installation: format!("{:032x}", u128::from_be_bytes(random)),
        issuer: opening.issuer.clone(),
        trust_domain: opening.policy.trust_domain.clone(),
        key_encryption_key: key_encryption_key(&opening.envelope),
    };
    let vault = Vault::new(Arc::clone(&opening.envelope), identity.installation.clone());
    let publisher = SigningKey::generate(publishing::ALGORITHM)?;
    let key = generate(opening.algorithm).await?;

    let mut commit = Commit::default();
    commit.expect(IDENTITY, 0);
    commit.put(IDENTITY.to_owned(), identity.write()?);
    commit.put(
        keys::name(PUBLISHERS, publisher.key_id()),
        keys::write_signer(PUBLISHERS, &publisher, &vault)?,
    );
    first_key(opening, key, publisher.key_id(), &vault, &mut commit)?;
    opening.store.commit(commit).await?;
    tracing::info!(issuer = %opening.issuer, "made a new store");
    Ok(vault)
}

fn first_key(
    opening: &Opening,
    key: SigningKey,
    publisher: &KeyId,
    vault: &Vault,
    commit: &mut Commit,
) -> Result<(), StartError> {
    let now = opening.clock.now();
    let times = KeyTimes {
        prepared_at: now,
        active_from: Some(now),
        ..KeyTimes::default()
    };
    let signer = keys::write_signer(SIGNERS, &key, vault)?;
    let key = ring_key(key, times, 1).map_err(|_failed| StartError::First)?;
    let record = KeyRecord {
        jwk: key.published.jwk.clone(),
        times,
        published_in: 1,
    };
    commit.put(keys::name(SIGNERS, key.key_id()), signer);
    commit.put(keys::name(KEYS, key.key_id()), record.write()?);
    let trust = state(opening, 1, &KeyRing::new(vec![key]), RevocationList::default());
    let head = Head {
        epoch: 1,
        state_digest: *trust.digest(),
        clients: DigestSum::default(),
        roster: DigestSum::default(),
        drills: DigestSum::default(),
        committed_at: now,
        recovery: None,
        publishing: Publishing {
            signing: publisher.clone(),
            links: DigestSum::default(),
        },
    };
    commit.put(HEAD.to_owned(), head.write(vault)?);
    Ok(())
}

fn state(opening: &Opening, epoch: Epoch, ring: &KeyRing, revocations: RevocationList) -> TrustState {
    let keys = Arc::new(ring.to_key_set());
    TrustState::new(opening.issuer.clone(), epoch, keys, revocations, &AwsLc)
}

/// Leaves a record alone that cannot be used (D13), unless a newer version wrote it (C18).
pub(super) fn refuse_record(opening: &Opening, error: RecordError) -> Result<(), StartError> {
    match error {
        error @ RecordError::Newer { .. } => Err(StartError::Record(error)),
        error @ (RecordError::Malformed { .. }
        | RecordError::Sealed { .. }
        | RecordError::Unwritable { .. }) => {
            Alarm::RecordRefused.raise(&opening.metrics, &error);
            Ok(())
        }
    }
}

/// The books as the store has them.
pub(super) struct Found {
    /// The books.
    pub(super) books: Books,
    /// Of the head record.
    pub(super) version: Version,
}

pub(super) async fn find_books(opening: &Opening, vault: &Vault) -> Result<Found, StartError> {
    let record = find(opening.store.as_ref(), HEAD)
        .await?
        .ok_or_else(|| RecordError::malformed(HEAD))?;
    let head = Head::read(&record.value, vault)?;
    Ok(Found {
        books: read_books(opening, vault, &head).await?,
        version: record.version,
    })
}

async fn read_books(opening: &Opening, vault: &Vault, head: &Head) -> Result<Books, StartError> {
    let drills = read_drills(opening, &head.drills).await?;
    let ring = read_ring(opening, vault, shadow_of(&drills)).await?;
    let revocations = read_revocations(opening, vault).await?;
    let publishing = read_publishing(opening, vault, head).await?;
    let trust = state(opening, head.epoch, &ring, revocations);
    let trust = trust.published_under(publishing.generation(), &AwsLc);
    if *trust.digest() != head.state_digest {
        return Err(StartError::StateMismatch { epoch: head.epoch });
    }
    Ok(Books {
        trust,
        ring: Arc::new(ring),
        publishing,
        clients: read_clients(opening, vault, &head.clients).await?,
        client_digests: head.clients,
        roster: read_roster(opening, &head.roster).await?,
        drills,
        committed_at: head.committed_at,
        recovery: head.recovery.clone(),
        hold: Hold::Nobody,
    })
}

async fn read_clients(opening: &Opening, vault: &Vault, sum: &DigestSum) -> Result<Registry, StartError> {
    let mut registry = Registry::default();
    let mut found = DigestSum::default();
    let mut refused = false;
    for record in read_all(opening.store.as_ref(), clients::PREFIX).await? {
        match clients::read(&record.name, &record.value, vault) {
            Ok(client) => {
                found.add(&clients::digest(&client, &AwsLc)?);
                registry = registry.with(client);
            }
            Err(error) => {
                refuse_record(opening, error)?;
                refused = true;
            }
        }
    }
    // Without the digest of a record that cannot be read there is nothing to compare with; that one is alarmed.
    if found != *sum && !refused {
        return Err(StartError::ClientsMismatch);
    }
    Ok(registry)
}

async fn read_roster(opening: &Opening, sum: &DigestSum) -> Result<Roster, StartError> {
    let store = opening.store.as_ref();
    let mut roster = Roster::default();
    for record in read_all(store, verifiers::KNOWN).await? {
        let known = verifiers::read_known(&record.name, &record.value)?;
        roster.found_known(record.name, record.value, known);
    }
    for record in read_all(store, verifiers::QUARANTINED).await? {
        let quarantine = verifiers::read_quarantine(&record.name, &record.value)?;
        roster.found_quarantine(record.name, record.value, quarantine);
    }
    for record in read_all(store, verifiers::EXPORTED).await? {
        let export = verifiers::read_export(&record.name, &record.value)?;
        roster.found_export(record.name, record.value, export);
    }
    // Whoever is missing may hold a lease that nobody would wait for.
    if roster.sum() == *sum {
        Ok(roster)
    } else {
        Err(StartError::RosterMismatch)
    }
}

async fn read_ring(opening: &Opening, vault: &Vault, shadow: Option<&KeyId>) -> Result<KeyRing, StartError> {
    let mut signers: BTreeMap<KeyId, Arc<SigningKey>> = BTreeMap::new();
    for record in read_all(opening.store.as_ref(), SIGNERS).await? {
        match keys::read_signer(SIGNERS, &record.name, &record.value, vault) {
            Ok(key) => {
                signers.insert(key.key_id().clone(), Arc::new(key));
            }
            Err(error) => refuse_record(opening, error)?,
        }
    }
    let mut ring = Vec::new();
    for record in read_all(opening.store.as_ref(), KEYS).await? {
        let key = KeyRecord::read(&record.name, &record.value)?;
        let public_key = AwsLc
            .public_key(&key.jwk)
            .map_err(|_weak| RecordError::malformed(&record.name))?;
        ring.push(RingKey {
            shadow: shadow == Some(key.jwk.key_id()),
            signer: signers.remove(key.jwk.key_id()),
            published: PublishedKey {
                jwk: key.jwk,
                public_key,
                times: key.times,
            },
            published_in: key.published_in,
        });
    }
    Ok(KeyRing::new(ring))
}

async fn read_revocations(opening: &Opening, vault: &Vault) -> Result<RevocationList, StartError> {
    let mut list = RevocationList::default();
    for record in read_all(opening.store.as_ref(), revocations::PREFIX).await? {
        revocations::read(&mut list, &record.name, &record.value, vault)?;
    }
    Ok(list)
}

/// Counts this opening, durably, before anything is signed in it. The head is written anew, so that whoever opened the store
/// before writes no more; its time stays, because an opening by a clock that is ahead has signed nothing yet.
async fn raise_shard(opening: &Opening, vault: &Vault, found: &Found) -> Result<(u64, Version), StartError> {
    let record = find(opening.store.as_ref(), SHARD).await?;
    let (last, shard_version) = match &record {
        Some(record) => (Shard::read(&record.value, vault)?.shard, record.version),
        None => (0, 0),
    };
    let shard = last.saturating_add(1);
    let head = found.books.head()?;
    let mut commit = Commit::default();
    commit.expect(SHARD, shard_version);
    commit.expect(HEAD, found.version);
    commit.put(SHARD.to_owned(), Shard { shard }.write(vault)?);
    commit.put(HEAD.to_owned(), head.write(vault)?);
    let version = opening.store.commit(commit).await?;
    Ok((shard, version))
}
