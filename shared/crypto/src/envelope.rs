//! Sealing of what a store keeps: AES-256-GCM under a key-encryption key that the store never sees.
//!
//! ```text
//! version (1) | key id (8) | nonce (12) | ciphertext | tag (16)
//! ```
//!
//! The record's name and the key id are authenticated too, so that two records, or one record of two installations,
//! cannot be swapped. Nonces are random: under one key, 2^32 records may be sealed, far more than key rings are written.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

/// The format written.
const VERSION: u8 = 1;

const KEY_ID_LENGTH: usize = 8;
const NONCE_LENGTH: usize = 12;

/// Why something is not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The key-encryption key is all of one byte: an empty or blank file, not a key.
    #[error("the key-encryption key is no random key")]
    WeakKey,
    /// The library or its random source failed.
    #[error("sealing failed")]
    Failed,
    /// The bytes are no envelope of a known version.
    #[error("the sealed record is malformed")]
    Malformed,
    /// It was sealed under another key-encryption key.
    #[error("the record was sealed under another key-encryption key")]
    OtherKey,
    /// It was changed, or sealed under another name.
    #[error("the sealed record is damaged, or is another record")]
    Damaged,
}

/// Seals and opens records under one key-encryption key.
pub struct Envelope {
    derived: hkdf::Prk,
    key: RandomizedNonceKey,
    key_id: [u8; KEY_ID_LENGTH],
}

impl Envelope {
    /// The envelope of a key-encryption key of 256 random bits. The caller clears its copy.
    ///
    /// # Errors
    /// [`EnvelopeError::WeakKey`], [`EnvelopeError::Failed`].
    pub fn new(key_encryption_key: [u8; 32]) -> Result<Self, EnvelopeError> {
        let key_encryption_key = Zeroizing::new(key_encryption_key);
        let [first, ..] = *key_encryption_key;
        if key_encryption_key.iter().all(|byte| *byte == first) {
            return Err(EnvelopeError::WeakKey);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"countersign/key-encryption-key/v1");
        let derived = salt.extract(key_encryption_key.as_slice());
        let key = expand::<32>(&derived, b"envelope")?;
        Ok(Self {
            key: RandomizedNonceKey::new(&AES_256_GCM, key.as_slice())
                .map_err(|_unspecified| EnvelopeError::Failed)?,
            key_id: *expand::<KEY_ID_LENGTH>(&derived, b"key id")?,
            derived,
        })
    }

    /// Tells one key-encryption key from another. Says nothing about the key.
    #[must_use]
    pub const fn key_id(&self) -> [u8; KEY_ID_LENGTH] {
        self.key_id
    }

    /// Seals `plaintext` as the record `name`.
    ///
    /// # Errors
    /// [`EnvelopeError::Failed`].
    pub fn seal(&self, name: &str, plaintext: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        // Zeroized on failure; on success it holds ciphertext.
        let mut body = Zeroizing::new(plaintext.to_vec());
        let (nonce, tag) = self
            .key
            .seal_in_place_separate_tag(Aad::from(self.associated_data(name)), &mut body)
            .map_err(|_unspecified| EnvelopeError::Failed)?;
        Ok([
            &[VERSION],
            self.key_id.as_slice(),
            nonce.as_ref(),
            &body,
            tag.as_ref(),
        ]
        .concat())
    }

    /// Opens the record `name`.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`], [`EnvelopeError::OtherKey`], [`EnvelopeError::Damaged`].
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        let (version, rest) = sealed.split_first().ok_or(EnvelopeError::Malformed)?;
        let (key_id, rest) = rest
            .split_first_chunk::<KEY_ID_LENGTH>()
            .filter(|_| *version == VERSION)
            .ok_or(EnvelopeError::Malformed)?;
        if *key_id != self.key_id {
            return Err(EnvelopeError::OtherKey);
        }
        let (nonce, body) = rest
            .split_first_chunk::<NONCE_LENGTH>()
            .ok_or(EnvelopeError::Malformed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(self.associated_data(name)),
                &mut body,
            )
            .map_err(|_unspecified| EnvelopeError::Damaged)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// A key for another purpose, derived from the same key-encryption key.
    pub(crate) fn derive(&self, purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, EnvelopeError> {
        expand(&self.derived, purpose)
    }

    fn associated_data(&self, name: &str) -> Vec<u8> {
        [
            b"countersign/envelope\0".as_slice(),
            &[VERSION],
            &self.key_id,
            name.as_bytes(),
        ]
        .concat()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(key: &hkdf::Prk, purpose: &[u8]) -> Result<Zeroizing<[u8; N]>, EnvelopeError> {
    let mut output = Zeroizing::new([0; N]);
    key.expand(&[purpose], Length(N))
        .and_then(|okm| okm.fill(output.as_mut_slice()))
        .map_err(|_unspecified| EnvelopeError::Failed)?;
    Ok(output)
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Envelope(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(seed: u8) -> Envelope {
        let key = std::array::from_fn(|index| seed ^ u8::try_from(index).expect("small"));
        Envelope::new(key).expect("a key")
    }

    #[test]
    fn what_is_sealed_opens_under_its_name_only() {
        let envelope = envelope(1);
        let sealed = envelope.seal("ring/a", b"private").expect("sealed");
        assert_eq!(
            envelope.open("ring/a", &sealed).expect("opens").as_slice(),
            b"private"
        );
        // D13..D17: two records cannot be swapped.
        assert_eq!(envelope.open("ring/b", &sealed), Err(EnvelopeError::Damaged));
        assert!(!sealed.windows(7).any(|window| window == b"private"));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let envelope = envelope(1);
        let sealed = envelope.seal("ring", b"private").expect("sealed");
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(envelope.open("ring", &changed).is_err(), "byte {index}");
            assert!(envelope.open("ring", &sealed[..index]).is_err(), "cut at {index}");
        }
        let longer = [sealed.as_slice(), &[0]].concat();
        assert_eq!(envelope.open("ring", &longer), Err(EnvelopeError::Damaged));
    }

    #[test]
    fn another_key_says_so() {
        let sealed = envelope(1).seal("ring", b"private").expect("sealed");
        assert_ne!(envelope(1).key_id(), envelope(2).key_id());
        assert_eq!(envelope(2).open("ring", &sealed), Err(EnvelopeError::OtherKey));
    }

    #[test]
    fn two_seals_of_the_same_differ() {
        let envelope = envelope(1);
        assert_ne!(envelope.seal("ring", b"x"), envelope.seal("ring", b"x"));
        let empty = envelope.seal("ring", b"").expect("sealed");
        assert!(envelope.open("ring", &empty).expect("opens").is_empty());
    }

    #[test]
    fn a_blank_key_is_no_key() {
        assert_eq!(Envelope::new([0; 32]).err(), Some(EnvelopeError::WeakKey));
        assert_eq!(Envelope::new([b' '; 32]).err(), Some(EnvelopeError::WeakKey));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", envelope(1)), "Envelope(..)");
    }
}
