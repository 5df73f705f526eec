//! What becomes of keys. Times are only ever set and never cleared, and a `kid` is never used twice. One time may move: an
//! activation that was announced is brought forward when a compromise leaves nobody else to sign ([`brought_forward`]).

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::Gate;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::KeyId;
use countersign_core::ports::KeyReader as _;
use countersign_core::rotation;
use countersign_crypto::{AwsLc, KeyError, SigningKey};
use countersign_wire::status::Failure;

use super::{Books, Done, Hold, Ledger, LedgerError, Plan};
use crate::keyring::{KeyRing, RingKey};

/// The most keys in the ring. A key set may have 64; some are left for a compromise.
const MAX_KEYS: usize = 48;

/// How a key comes to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// How far ahead it is announced.
    pub lead: Duration,
    /// Whether verifiers that do not hold the key are not waited for.
    pub forced: bool,
}

/// What a compromise came to.
#[derive(Clone, Debug)]
pub struct Compromised {
    /// The key that signs now.
    pub signing: Option<KeyId>,
}

impl Ledger {
    /// Makes a key and publishes it.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyAlreadyPrepared`, `LimitReached`, or the store's.
    pub async fn prepare_key(&self, algorithm: Algorithm) -> Result<Done<KeyId>, LedgerError> {
        self.changeable()?;
        if self.books().ring.standby().is_some() {
            return Err(LedgerError::Refused(Failure::KeyAlreadyPrepared));
        }
        let key = generate(algorithm).await?;
        self.write(Hold::Nobody, move |books, now| {
            if books.ring.standby().is_some() {
                return Err(LedgerError::Refused(Failure::KeyAlreadyPrepared));
            }
            if !has_room(books) {
                return Err(LedgerError::Refused(Failure::LimitReached));
            }
            let key_id = key.key_id().clone();
            let times = KeyTimes {
                prepared_at: now,
                // Who holds the key accepts its tokens, whether he hears that it signs or not.
                accepted_from: Some(now),
                ..KeyTimes::default()
            };
            let ring = books.ring.with(ring_key(key, times, books.next_epoch())?);
            Ok(Plan::ring(ring, key_id))
        })
        .await
    }

    /// Lets a prepared key (the only one, when none is named) sign from a moment ahead. The one before signs until then. When
    /// nothing signs, nothing is waited for.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyUnknown`, `KeyNotPrepared`, `VerifiersBehind`, or the store's.
    pub async fn activate_key(
        &self,
        key_id: Option<KeyId>,
        activation: Activation,
    ) -> Result<Done<KeyId>, LedgerError> {
        let fleet = self.0.fleet.clone();
        self.write(Hold::Nobody, move |books, now| {
            let key = standby(books, key_id)?;
            // INVARIANT (held before signing): looked at by the only writer, right before the commit.
            let waits = !activation.forced && books.ring.signing(now).is_some();
            if waits && fleet.gate(key.published_in) != Gate::Open {
                return Err(LedgerError::Refused(Failure::VerifiersBehind));
            }
            let key_id = key.key_id().clone();
            let ring = activated(&books.ring, &key_id, now.saturating_add(activation.lead));
            Ok(Plan::ring(ring, key_id))
        })
        .await
    }

    /// Withdraws a prepared key. No token can be under it.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyUnknown`, `KeyNotRetirable`, or the store's.
    pub async fn retire_key(&self, key_id: KeyId) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let key = find(books, &key_id)?;
            if !rotation::is_standby(key.times()) {
                return Err(LedgerError::Refused(Failure::KeyNotRetirable));
            }
            Ok(Plan::ring(books.ring.without(&key_id), ()))
        })
        .await
    }

    /// Withdraws a key with every token under it. If nothing would sign then, the prepared key signs at once, or one that
    /// is made.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyUnknown`, `KeyCompromised`, or the store's.
    pub async fn compromise_key(
        &self,
        key_id: KeyId,
        algorithm: Algorithm,
    ) -> Result<Done<Compromised>, LedgerError> {
        self.changeable()?;
        find(&self.books(), &key_id)?;
        // Made before it is known whether it is needed: the lock is not held while a key is generated.
        let spare = generate(algorithm).await?;
        self.write(Hold::Nobody, move |books, now| {
            if find(books, &key_id)?.times().compromised_at.is_some() {
                return Err(LedgerError::Refused(Failure::KeyCompromised));
            }
            let ring = compromised(books, &key_id, spare, now)?;
            let signing = ring.signing(now).map(|key| key.key_id().clone());
            Ok(Plan::ring(ring, Compromised { signing }))
        })
        .await
    }

    /// Stops publishing a key whose last token has ended.
    ///
    /// # Errors
    /// [`LedgerError`]: `KeyUnknown`, `KeyNotRetirable`, or the store's.
    pub async fn drop_key(&self, key_id: KeyId, retention: Duration) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, now| {
            let key = find(books, &key_id)?;
            // INVARIANT (outlives its tokens).
            if KeySet::gone_from(key.times(), retention).is_none_or(|gone| gone > now) {
                return Err(LedgerError::Refused(Failure::KeyNotRetirable));
            }
            Ok(Plan::ring(books.ring.without(&key_id), ()))
        })
        .await
    }
}

/// Generates a key where it may take long: RSA does.
pub(super) async fn generate(algorithm: Algorithm) -> Result<SigningKey, KeyError> {
    tokio::task::spawn_blocking(move || SigningKey::generate(algorithm))
        .await
        .unwrap_or(Err(KeyError::Generation))
}

/// A key of our own making, as the ring has it.
pub(super) fn ring_key(key: SigningKey, times: KeyTimes, published_in: u64) -> Result<RingKey, LedgerError> {
    let jwk = key.jwk().clone();
    let public_key = AwsLc.public_key(&jwk).map_err(|_weak| LedgerError::Generation)?;
    Ok(RingKey {
        published: PublishedKey {
            jwk,
            public_key,
            times,
        },
        published_in,
        signer: Some(Arc::new(key)),
        shadow: false,
    })
}

/// Whether one more key may be published. A shadow takes no place.
pub(super) fn has_room(books: &Books) -> bool {
    books.ring.times().len() < MAX_KEYS
}

/// A key that operators move. A shadow is moved by its drill.
fn find<'a>(books: &'a Books, key_id: &KeyId) -> Result<&'a RingKey, LedgerError> {
    match books.ring.find(key_id) {
        None => Err(LedgerError::Refused(Failure::KeyUnknown)),
        Some(key) if key.shadow => Err(LedgerError::Refused(Failure::ShadowKey)),
        Some(key) => Ok(key),
    }
}

fn standby(books: &Books, key_id: Option<KeyId>) -> Result<&RingKey, LedgerError> {
    let key = match &key_id {
        Some(key_id) => Some(find(books, key_id)?).filter(|key| rotation::is_standby(key.times())),
        None => books.ring.standby(),
    };
    let key = key.ok_or(LedgerError::Refused(Failure::KeyNotPrepared))?;
    // A key without its private half would leave nobody to sign.
    if key.signer.is_none() {
        return Err(LedgerError::Refused(Failure::KeyNotPrepared));
    }
    Ok(key)
}

/// The ring in which the key that was told to sign soon does so at once, if nothing signs at `now`. The only time that is
/// ever moved; verifiers that have not heard of it refuse the first tokens for as long as that takes.
fn brought_forward(ring: &KeyRing, is_last: impl Fn(&KeyTimes) -> bool, now: Timestamp) -> KeyRing {
    if ring.signing(now).is_some() {
        return ring.clone();
    }
    ring.retimed(|key| {
        let mut times = *key.times();
        if is_last(&times) {
            times.active_from = times.active_from.map(|from| from.min(now).max(times.prepared_at));
        }
        times
    })
}

/// The ring with `key_id` signing from `from`, and every key before it until then.
fn activated(ring: &KeyRing, key_id: &KeyId, from: Timestamp) -> KeyRing {
    ring.retimed(|key| {
        let mut times = *key.times();
        if key.key_id() == key_id {
            times.active_from = Some(from.max(times.prepared_at));
        } else if let (Some(active), None, None) =
            (times.active_from, times.retired_from, times.compromised_at)
        {
            times.retired_from = Some(from.max(active));
        }
        times
    })
}

/// The ring with `key_id` compromised.
pub(super) fn withdrawn(ring: &KeyRing, key_id: &KeyId, now: Timestamp) -> KeyRing {
    ring.retimed(|key| {
        let mut times = *key.times();
        if key.key_id() == key_id {
            times.compromised_at = Some(now);
        }
        times
    })
}

fn compromised(
    books: &Books,
    key_id: &KeyId,
    spare: SigningKey,
    now: Timestamp,
) -> Result<KeyRing, LedgerError> {
    let ring = withdrawn(&books.ring, key_id, now);
    // The last in the line of signers is the one that no successor retires.
    let is_last = |times: &KeyTimes| {
        times.active_from.is_some() && times.retired_from.is_none() && times.compromised_at.is_none()
    };
    if ring.signers().iter().any(|(_, times)| is_last(times)) {
        return Ok(brought_forward(&ring, is_last, now));
    }
    // A key that was announced for later and is compromised before leaves its predecessor signing until that moment.
    let from = ring
        .keys()
        .iter()
        .filter(|key| key.times().compromised_at.is_none())
        .filter_map(|key| key.times().retired_from)
        .max()
        .map_or(now, |retired| retired.max(now));
    let (ring, successor) = match ring.standby() {
        Some(standby) => (ring.clone(), standby.key_id().clone()),
        None => {
            let times = KeyTimes {
                prepared_at: now,
                ..KeyTimes::default()
            };
            let successor = spare.key_id().clone();
            (ring.with(ring_key(spare, times, books.next_epoch())?), successor)
        }
    };
    Ok(activated(&ring, &successor, from))
}
