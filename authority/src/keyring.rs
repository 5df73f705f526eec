//! The keys that sign tokens: which there are, and which of them signs now.
//!
//! A key ring is a value: rotation makes a new one, and the ledger swaps it for the old one together with everything else.

use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::KeyId;
use countersign_core::rotation;
use countersign_core::trust::Epoch;
use countersign_crypto::SigningKey;

/// A key with everything known about it.
#[derive(Clone, Debug)]
pub struct RingKey {
    /// The public half and its times.
    pub published: PublishedKey,
    /// The epoch that first published it.
    pub published_in: Epoch,
    /// The private half. Missing when its record could not be opened: the key then verifies and does not sign.
    pub signer: Option<Arc<SigningKey>>,
    /// Whether it is a drill's: then it never had a private half here, and rotation does not know of it.
    pub shadow: bool,
}

impl RingKey {
    /// Its `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.published.jwk.key_id()
    }

    /// Its times.
    #[must_use]
    pub const fn times(&self) -> &KeyTimes {
        &self.published.times
    }

    /// Whether rotation may choose it.
    const fn can_sign(&self) -> bool {
        self.signer.is_some() && !self.shadow
    }
}

/// Every key that is published.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<RingKey>,
    /// As rotation asks for them.
    times: Vec<(KeyId, KeyTimes)>,
    /// The same, of those keys only that can sign.
    signers: Vec<(KeyId, KeyTimes)>,
}

impl KeyRing {
    /// The ring of these keys.
    #[must_use]
    pub fn new(keys: Vec<RingKey>) -> Self {
        let named = |key: &RingKey| (key.key_id().clone(), *key.times());
        Self {
            times: keys.iter().filter(|key| !key.shadow).map(named).collect(),
            signers: keys.iter().filter(|key| key.can_sign()).map(named).collect(),
            keys,
        }
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// The times of every key but shadows.
    #[must_use]
    pub fn times(&self) -> &[(KeyId, KeyTimes)] {
        &self.times
    }

    /// The times of every key that can sign: of all that rotation can choose from.
    #[must_use]
    pub fn signers(&self) -> &[(KeyId, KeyTimes)] {
        &self.signers
    }

    /// The key with this `kid`.
    #[must_use]
    pub fn find(&self, key_id: &KeyId) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.key_id() == key_id)
    }

    /// The key that signs at `now`. It has its private half.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> Option<&RingKey> {
        self.find(rotation::signing_key(&self.signers, now)?)
    }

    /// The key that is prepared and not yet told to sign. It has its private half.
    #[must_use]
    pub fn standby(&self) -> Option<&RingKey> {
        self.keys
            .iter()
            .find(|key| key.can_sign() && rotation::is_standby(key.times()))
    }

    /// The keys as they are published.
    #[must_use]
    pub fn to_key_set(&self) -> KeySet {
        KeySet::new(self.keys.iter().map(|key| key.published.clone()).collect())
    }

    /// The ring with `key` in it.
    #[must_use]
    pub fn with(&self, key: RingKey) -> Self {
        let keys = self.keys.iter().cloned().chain([key]);
        Self::new(keys.collect())
    }

    /// The ring without the key `key_id`.
    #[must_use]
    pub fn without(&self, key_id: &KeyId) -> Self {
        let keys = self.keys.iter().filter(|key| key.key_id() != key_id);
        Self::new(keys.cloned().collect())
    }

    /// The ring with other times for some keys.
    #[must_use]
    pub fn retimed(&self, retime: impl Fn(&RingKey) -> KeyTimes) -> Self {
        let keys = self.keys.iter().map(|key| {
            let mut changed = key.clone();
            changed.published.times = retime(key);
            changed
        });
        Self::new(keys.collect())
    }
}
