//! The signatures on what an authority publishes to its verifiers.
//!
//! Publishing keys are Ed25519 keys of their own: a token key never signs an update, and a publishing key never signs a
//! token. Verifiers pin them, and are led from one set of them to the next. What is signed begins with its [`Context`], so that
//! a heartbeat cannot be passed off for an update.

use std::sync::Arc;

use countersign_core::jwk::KeySetError;
use countersign_core::names::KeyId;
use countersign_core::ports::{KeyReader, PublicKey, Signer, SigningFailed};
use countersign_core::publishers::{Keys, read_keys};
use countersign_core::trust::UpdateRefused;

pub use countersign_core::publishers::ALGORITHM;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// An update of the trust state.
    Update,
    /// A heartbeat.
    Heartbeat,
    /// A link to the next publisher set.
    Publishers,
}

impl Context {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Update => b"countersign/update/v1",
            Self::Heartbeat => b"countersign/heartbeat/v1",
            Self::Publishers => b"countersign/publishers/v1",
        }
    }
}

fn signing_input(context: Context, payload: &[u8]) -> Vec<u8> {
    [context.label(), &[0], payload].concat()
}

/// The signature of `key` over `payload` in `context`.
///
/// # Errors
/// [`SigningFailed`], also for a key that is not of [`ALGORITHM`].
pub fn sign(key: &dyn Signer, context: Context, payload: &[u8]) -> Result<Vec<u8>, SigningFailed> {
    if key.algorithm() != ALGORITHM {
        return Err(SigningFailed);
    }
    key.sign(&signing_input(context, payload))
}

/// Whether `signature` is that of `key` over `payload` in `context`.
#[must_use]
pub fn verifies(key: &dyn PublicKey, context: Context, payload: &[u8], signature: &[u8]) -> bool {
    key.algorithm() == ALGORITHM && key.verifies(&signing_input(context, payload), signature)
}

/// The publishing keys that a verifier pins.
#[derive(Clone, Debug)]
pub struct PinnedKeys(Keys<Arc<dyn PublicKey>>);

impl PinnedKeys {
    /// Reads a JWK Set of publishing keys.
    ///
    /// # Errors
    /// [`KeySetError`]; a key that is not of [`ALGORITHM`] is [`KeySetError::Algorithm`].
    pub fn read(jwks: &[u8], reader: &dyn KeyReader) -> Result<Self, KeySetError> {
        read_keys(jwks, reader).map(Self)
    }

    /// These keys.
    #[must_use]
    pub const fn new(keys: Keys<Arc<dyn PublicKey>>) -> Self {
        Self(keys)
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &Keys<Arc<dyn PublicKey>> {
        &self.0
    }

    /// The `kid` of every key.
    pub fn key_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.keys()
    }

    /// Checks that `signature` is that of the pinned key `key_id` over `payload` in `context`.
    ///
    /// # Errors
    /// [`UpdateRefused::PublisherUnknown`], [`UpdateRefused::Signature`].
    pub fn verify(
        &self,
        key_id: &str,
        context: Context,
        payload: &[u8],
        signature: &[u8],
    ) -> Result<(), UpdateRefused> {
        let (_, key) = self
            .0
            .iter()
            .find(|(known, _)| known.as_str() == key_id)
            .ok_or(UpdateRefused::PublisherUnknown)?;
        if verifies(key.as_ref(), context, payload, signature) {
            Ok(())
        } else {
            Err(UpdateRefused::Signature)
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::jose::Algorithm;
    use countersign_core::jwk::write_set;

    use super::*;
    use crate::{AwsLc, SigningKey};

    fn pinned(keys: &[&SigningKey]) -> Result<PinnedKeys, KeySetError> {
        let jwks = write_set(keys.iter().map(|key| key.jwk()));
        PinnedKeys::read(jwks.as_bytes(), &AwsLc)
    }

    /// K21: a signature holds for its key, its context and its bytes only.
    #[test]
    fn a_signature_holds_for_its_context_only() {
        let key = SigningKey::generate(ALGORITHM).expect("generated");
        let kid = key.key_id().as_str();
        let pinned = pinned(&[&key]).expect("pinned");
        let signature = sign(&key, Context::Update, b"epoch 7").expect("signed");
        let verify = |context, payload: &[u8]| pinned.verify(kid, context, payload, &signature);
        assert_eq!(verify(Context::Update, b"epoch 7"), Ok(()));
        assert_eq!(
            verify(Context::Heartbeat, b"epoch 7"),
            Err(UpdateRefused::Signature)
        );
        assert_eq!(
            verify(Context::Publishers, b"epoch 7"),
            Err(UpdateRefused::Signature)
        );
        assert_eq!(verify(Context::Update, b"epoch 8"), Err(UpdateRefused::Signature));
        assert_eq!(
            pinned.verify("another", Context::Update, b"epoch 7", &signature),
            Err(UpdateRefused::PublisherUnknown)
        );
    }

    /// A key that signs tokens is not taken for one that publishes.
    #[test]
    fn only_ed25519_keys_publish() {
        let key = SigningKey::generate(Algorithm::Es256).expect("generated");
        assert_eq!(sign(&key, Context::Update, b""), Err(SigningFailed));
        assert_eq!(pinned(&[&key]).err(), Some(KeySetError::Algorithm));
        assert_eq!(pinned(&[]).err(), Some(KeySetError::Empty));
    }
}
