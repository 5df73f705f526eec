//! The keys that publish: the set in force, which of them signs, and the links that lead there.
//!
//! ```text
//! {A} --prepare--> {A, B}, A signs --activate--> {A, B}, B signs --retire--> {B}
//! ```
//!
//! Where a set is in its life is read off who signs: a key that did not sign the link to the set in force has been activated since.

use std::sync::Arc;

use countersign_core::jwk::{Jwk, write_set};
use countersign_core::key_set::KeyState;
use countersign_core::names::{Issuer, KeyId};
use countersign_core::ports::{PublicKey, Sha256 as _, SigningFailed};
use countersign_core::publishers::{FIRST_GENERATION, Generation, Keys, LinkRefused, MAX_LINKS, read_keys};
use countersign_core::trust::Epoch;
use countersign_crypto::publishing::{Context, PinnedKeys};
use countersign_crypto::{AwsLc, SigningKey};
use countersign_proto::trust::v1::Signed;
use countersign_wire::publishers::{read_publisher_jwks, read_publishers, write_publishers};

use crate::feed::Publisher;

/// A link that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLink {
    /// The generation that it leads to.
    pub generation: Generation,
    /// The epoch that first named it.
    pub epoch: Epoch,
    /// As it was signed.
    pub signed: Signed,
}

/// A key of the set in force.
#[derive(Clone, Debug)]
pub struct PublishingKey {
    /// The public half.
    pub jwk: Jwk,
    /// The private half. Missing when its record could not be opened.
    pub signer: Option<Arc<SigningKey>>,
}

impl PublishingKey {
    /// A key of our own making.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        Self {
            jwk: key.jwk().clone(),
            signer: Some(Arc::new(key)),
        }
    }

    /// Its `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.jwk.key_id()
    }
}

/// The publishing keys. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct PublishingRing {
    /// The set in force, oldest first.
    keys: Vec<PublishingKey>,
    publisher: Arc<Publisher>,
    links: Arc<[KeptLink]>,
    known: PinnedKeys,
}

impl PublishingRing {
    /// The ring in which `signing` signs, after `links`, oldest first; `signers` are the private halves that there are. Nothing
    /// when `signing` is not among them.
    ///
    /// # Errors
    /// [`LinkRefused`]: a link that cannot be read.
    pub fn new(
        signing: &KeyId,
        links: Vec<KeptLink>,
        signers: &[Arc<SigningKey>],
    ) -> Result<Option<Self>, LinkRefused> {
        let signer = |key_id: &KeyId| signers.iter().find(|key| key.key_id() == key_id).cloned();
        let jwks = match links.last() {
            Some(link) => read_publisher_jwks(&link.signed.payload, &AwsLc)?,
            None => signers.iter().map(|key| key.jwk().clone()).collect(),
        };
        let keys: Vec<PublishingKey> = jwks
            .into_iter()
            .map(|jwk| PublishingKey {
                signer: signer(jwk.key_id()),
                jwk,
            })
            .collect();
        let Some(key) = signer(signing).filter(|_| keys.iter().any(|key| key.key_id() == signing)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            known: PinnedKeys::new(known_keys(&keys, &links)?),
            keys,
            publisher: Arc::new(Publisher::new(key)),
            links: links.into(),
        }))
    }

    /// The set in force, oldest first.
    #[must_use]
    pub fn keys(&self) -> &[PublishingKey] {
        &self.keys
    }

    /// The set in force as verifiers pin it.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        write_set(self.keys.iter().map(|key| &key.jwk))
    }

    /// Who signs.
    #[must_use]
    pub const fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// The links that are kept, oldest first.
    #[must_use]
    pub fn links(&self) -> &[KeptLink] {
        &self.links
    }

    /// Every publishing key that is known to have been one of ours.
    #[must_use]
    pub const fn known(&self) -> &PinnedKeys {
        &self.known
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.links.last().map_or(FIRST_GENERATION, |link| link.generation)
    }

    /// The epoch that first named it.
    #[must_use]
    pub fn published_in(&self) -> Epoch {
        self.links.last().map_or(1, |link| link.epoch)
    }

    /// Where `key` of the set in force is in its life.
    #[must_use]
    pub fn state(&self, key: &PublishingKey) -> KeyState {
        if key.key_id() == self.publisher.key_id() {
            KeyState::Active
        } else if self.was_activated() {
            KeyState::Retired
        } else {
            KeyState::Prepared
        }
    }

    /// The key that is prepared and not yet told to sign. It has its private half.
    #[must_use]
    pub fn prepared(&self) -> Option<&PublishingKey> {
        self.keys
            .iter()
            .find(|key| key.signer.is_some() && self.state(key) == KeyState::Prepared)
    }

    /// The ring in which the key `key_id` of the set signs. Nothing when it cannot.
    #[must_use]
    pub fn activated(&self, key_id: &KeyId) -> Option<Self> {
        let key = self.keys.iter().find(|key| key.key_id() == key_id)?;
        Some(Self {
            publisher: Arc::new(Publisher::new(key.signer.clone()?)),
            ..self.clone()
        })
    }

    /// The ring with the set `keys` as the next generation, which `epoch` names.
    ///
    /// # Errors
    /// [`SigningFailed`].
    pub fn linked(
        &self,
        issuer: &Issuer,
        keys: Vec<PublishingKey>,
        epoch: Epoch,
    ) -> Result<Self, SigningFailed> {
        let generation = self.generation().saturating_add(1);
        let previous = self.links.last();
        let previous = previous.map(|link| AwsLc.sha256(&[&link.signed.payload]));
        let jwks = keys.iter().map(|key| key.jwk.clone());
        let payload = write_publishers(issuer, generation, jwks, previous.as_ref());
        let link = KeptLink {
            generation,
            epoch,
            signed: self.publisher.sign(Context::Publishers, payload)?,
        };
        let dropped = (self.links.len() + 1).saturating_sub(MAX_LINKS);
        let links: Vec<KeptLink> = self.links.iter().skip(dropped).cloned().chain([link]).collect();
        Ok(Self {
            known: PinnedKeys::new(known_keys(&keys, &links).map_err(|_unreadable| SigningFailed)?),
            keys,
            publisher: Arc::clone(&self.publisher),
            links: links.into(),
        })
    }

    /// Whether the key that signs is another one than that which led to the set in force.
    fn was_activated(&self) -> bool {
        let led_by = self.links.last().map(|link| link.signed.key_id.as_str());
        led_by.is_some_and(|led_by| led_by != self.publisher.key_id().as_str())
    }
}

fn known_keys(keys: &[PublishingKey], links: &[KeptLink]) -> Result<Keys<Arc<dyn PublicKey>>, LinkRefused> {
    let jwks = write_set(keys.iter().map(|key| &key.jwk));
    let mut known = read_keys(jwks.as_bytes(), &AwsLc).map_err(|_refused| LinkRefused::Malformed)?;
    for link in links {
        known.extend(read_publishers(&link.signed.payload, &AwsLc)?.keys);
    }
    Ok(known)
}
