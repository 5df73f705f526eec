//! The deterministic backend for tests: ES256 on `p256` with the nonce of RFC 6979, so that whole tokens can be compared.
//!
//! Not for production: it is fifteen times slower than aws-lc, and its keys may come from a seed.

use countersign_core::jose::Algorithm;
use countersign_core::jwk::Jwk;
use countersign_core::names::KeyId;
use countersign_core::ports::{Sha256 as _, Signer, SigningFailed};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use crate::digest::AwsLc;
use crate::keys::{KeyError, p256_numbers};

/// An ES256 key that signs the same message the same way every time.
#[derive(Clone, Debug)]
pub struct DeterministicSigner {
    key: SigningKey,
    jwk: Jwk,
}

impl DeterministicSigner {
    /// The key with this private scalar, big-endian.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when it is zero or not below the order of the curve.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_slice(scalar).map_err(|_out_of_range| KeyError::Malformed)?;
        let numbers = p256_numbers(&key.verifying_key().to_sec1_bytes())?;
        Ok(Self {
            key,
            jwk: Jwk::new(numbers, &AwsLc),
        })
    }

    /// The key that belongs to `seed`: the same in every run.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for one seed in 2^32.
    pub fn from_seed(seed: &str) -> Result<Self, KeyError> {
        Self::from_scalar(&AwsLc.sha256(&[b"countersign/test-key\0", seed.as_bytes()]))
    }

    /// The public half.
    #[must_use]
    pub const fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.jwk.key_id()
    }
}

impl Signer for DeterministicSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        let signature: Signature = self.key.try_sign(message).map_err(|_failed| SigningFailed)?;
        Ok(signature.to_bytes().to_vec())
    }
}
