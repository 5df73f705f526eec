//! Client secrets: 256 random bits, of which only a keyed hash is kept.
//!
//! A slow password hash would add nothing: there is no dictionary of 2^256 entries. The key of the hash lies outside the
//! store, so a copied store cannot even be used to test a secret.

use std::fmt;

use aws_lc_rs::hmac;
use countersign_core::client::MAX_SECRETS;
use countersign_core::jose::encode_segment;
use countersign_core::ports::{Entropy as _, EntropyFailed};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::digest::AwsLc;
use crate::envelope::{Envelope, EnvelopeError};

/// What secrets begin with, so that scanners for leaked credentials find them.
const PREFIX: &str = "csk_";

/// A client secret in the clear. Shown once, to the operator who asked for it; `Debug` does not show it, and memory is
/// cleared on drop.
#[derive(Clone)]
pub struct ClientSecret(Zeroizing<String>);

impl ClientSecret {
    /// The secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(..)")
    }
}

/// Makes, hashes and compares client secrets.
#[derive(Clone)]
pub struct SecretHasher(hmac::Key);

impl SecretHasher {
    /// The hasher whose key is derived from that of `envelope`.
    ///
    /// # Errors
    /// [`EnvelopeError::Failed`].
    pub fn new(envelope: &Envelope) -> Result<Self, EnvelopeError> {
        let key = envelope.derive(b"client secrets")?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }

    /// A new secret.
    ///
    /// # Errors
    /// [`EntropyFailed`].
    pub fn generate(&self) -> Result<ClientSecret, EntropyFailed> {
        let mut random = Zeroizing::new([0_u8; 32]);
        AwsLc.fill(random.as_mut_slice())?;
        let encoded = Zeroizing::new(encode_segment(random.as_slice()));
        let mut secret = Zeroizing::new(String::with_capacity(PREFIX.len() + encoded.len()));
        secret.push_str(PREFIX);
        secret.push_str(&encoded);
        Ok(ClientSecret(secret))
    }

    /// The keyed hash (HMAC-SHA-256) of `secret`.
    #[must_use]
    pub fn hash(&self, secret: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.0, secret);
        let mut hash = [0; 32];
        for (byte, computed) in hash.iter_mut().zip(tag.as_ref()) {
            *byte = *computed;
        }
        hash
    }

    /// Whether `secret` is one of those hashed. The work is the same whether there are none (an unknown client), one or
    /// [`MAX_SECRETS`], and whichever matches. More than [`MAX_SECRETS`] are not looked at.
    #[must_use]
    pub fn matches(&self, secret: &[u8], hashes: &[[u8; 32]]) -> bool {
        let presented = self.hash(secret);
        let absent = [0_u8; 32];
        let mut found = Choice::from(0);
        for slot in 0..MAX_SECRETS {
            let (stored, present) = hashes.get(slot).map_or((&absent, 0), |hash| (hash, 1));
            found |= presented.ct_eq(stored) & Choice::from(present);
        }
        found.into()
    }
}

impl fmt::Debug for SecretHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHasher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(seed: u8) -> SecretHasher {
        let mut key = [seed; 32];
        key[0] = !seed;
        SecretHasher::new(&Envelope::new(key).expect("a key")).expect("derived")
    }

    #[test]
    fn a_secret_has_256_bits_and_a_prefix_and_is_never_printed() {
        let secret = hasher(1).generate().expect("random source");
        assert_eq!(secret.expose().len(), PREFIX.len() + 43);
        assert!(secret.expose().starts_with(PREFIX));
        assert_eq!(
            format!("{secret:?} {:?}", hasher(1)),
            "ClientSecret(..) SecretHasher(..)"
        );
        assert_ne!(
            secret.expose(),
            hasher(1).generate().expect("random source").expose()
        );
    }

    #[test]
    fn either_of_two_secrets_matches_and_nothing_else() {
        let hasher = hasher(1);
        let (one, two) = (hasher.hash(b"one"), hasher.hash(b"two"));
        assert!(hasher.matches(b"one", &[one]));
        assert!(hasher.matches(b"one", &[one, two]));
        assert!(hasher.matches(b"two", &[one, two]));
        assert!(!hasher.matches(b"three", &[one, two]));
        assert!(!hasher.matches(b"one", &[]));
        assert!(!hasher.matches(b"", &[one]));
    }

    #[test]
    fn the_hash_needs_the_key() {
        assert_ne!(hasher(1).hash(b"one"), hasher(2).hash(b"one"));
        assert_eq!(hasher(1).hash(b"one"), hasher(1).hash(b"one"));
    }
}
