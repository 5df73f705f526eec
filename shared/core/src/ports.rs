//! What core needs from the world, as traits. `countersign-crypto` and `countersign-runtime` implement them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::jose::Algorithm;
use crate::jwk::{Jwk, KeySetError};
use crate::time::Timestamp;

/// Tells the time.
pub trait Clock: Debug + Send + Sync {
    /// Wall time. May step in both directions.
    fn now(&self) -> Timestamp;

    /// Wall time in milliseconds since 1970, for statements about time itself (heartbeats).
    fn now_millis(&self) -> u64;

    /// Time since an arbitrary start. Never steps, and goes on while the machine is suspended.
    fn elapsed(&self) -> Duration;

    /// Names this start of the machine: elapsed time is comparable between processes within it. Nothing where that is not
    /// known.
    fn boot(&self) -> Option<Arc<str>> {
        None
    }
}

/// The source of randomness failed; nothing may be issued or generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the random source failed")]
pub struct EntropyFailed;

/// A cryptographically secure random source.
pub trait Entropy: Debug + Send + Sync {
    /// Fills all of `buffer`.
    ///
    /// # Errors
    /// [`EntropyFailed`]; the buffer is then not to be used.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyFailed>;
}

/// Computes SHA-256 (FIPS 180-4).
pub trait Sha256: Debug + Send + Sync {
    /// The digest of `parts`, one after the other.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
}

/// A signature could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key could not sign")]
pub struct SigningFailed;

/// Signs with one private key.
pub trait Signer: Debug + Send + Sync {
    /// The JOSE algorithm of the key.
    fn algorithm(&self) -> Algorithm;

    /// The signature over `message`, in JOSE form (RFC 7518, section 3: `r || s` for ES256).
    ///
    /// # Errors
    /// [`SigningFailed`] when the key or its device failed.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed>;
}

/// A public key that is parsed, checked and ready to verify with.
pub trait PublicKey: Debug + Send + Sync {
    /// The only algorithm that this key verifies (RFC 8725, section 3.1: the key decides, not the header).
    fn algorithm(&self) -> Algorithm;

    /// Whether `signature`, in JOSE form, is this key's over `message`.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool;
}

/// Makes public keys ready for use.
pub trait KeyReader: Sha256 {
    /// Checks the numbers of `jwk` and parses them.
    ///
    /// # Errors
    /// [`KeySetError::Weak`] when they are no safe key.
    fn public_key(&self, jwk: &Jwk) -> Result<Arc<dyn PublicKey>, KeySetError>;
}
