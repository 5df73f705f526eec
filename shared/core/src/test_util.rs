//! Stand-ins for cryptography in core's own tests: a toy hash, and keys whose "signature" is a hash. The real ones are
//! asked the same questions in `tests/vectors`.

use std::sync::Arc;

use crate::Timestamp;
use crate::jose::Algorithm;
use crate::jwk::{Jwk, KeySetError, PublicNumbers};
use crate::key_set::{KeySet, KeyTimes, PublishedKey};
use crate::names::KeyId;
use crate::ports::{KeyReader, PublicKey, Sha256, Signer, SigningFailed};

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// `seconds` from [`NOW`]; into the past when negative.
pub(crate) fn after(seconds: i64) -> Timestamp {
    let time = i64::try_from(NOW.as_seconds()).expect("a time") + seconds;
    Timestamp::from_wire(time).expect("a time")
}

/// A hash of 256 bits that is good enough to tell test values apart: FNV-1a with four bases.
#[derive(Debug)]
pub(crate) struct ToyHash;

impl Sha256 for ToyHash {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut sum = [0; 32];
        for (lane, chunk) in (0_u64..).zip(sum.chunks_exact_mut(8)) {
            let start = 0xcbf2_9ce4_8422_2325_u64.wrapping_add(lane.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let hash = parts
                .iter()
                .flat_map(|part| part.iter())
                .fold(start, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                });
            chunk.copy_from_slice(&hash.to_be_bytes());
        }
        sum
    }
}

impl KeyReader for ToyHash {
    fn public_key(&self, jwk: &Jwk) -> Result<Arc<dyn PublicKey>, KeySetError> {
        Ok(Arc::new(ToyKey::of(jwk)))
    }
}

/// A key that signs with the hash of its name and the message, and verifies by doing the same.
#[derive(Clone, Debug)]
pub(crate) struct ToyKey {
    key_id: KeyId,
    algorithm: Algorithm,
}

impl ToyKey {
    pub(crate) fn of(jwk: &Jwk) -> Self {
        Self {
            key_id: jwk.key_id().clone(),
            algorithm: jwk.algorithm(),
        }
    }
}

impl Signer for ToyKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        Ok(ToyHash
            .sha256(&[self.key_id.as_str().as_bytes(), message])
            .to_vec())
    }
}

impl PublicKey for ToyKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.sign(message).is_ok_and(|right| right == signature)
    }
}

/// The JWK of a P-256 key that nobody has, named by one byte.
pub(crate) fn jwk(name: u8) -> Jwk {
    let numbers = PublicNumbers::P256 {
        x: [name; 32],
        y: [0; 32],
    };
    Jwk::new(numbers, &ToyHash)
}

/// A set of one key.
pub(crate) fn key_set(jwk: &Jwk, times: KeyTimes) -> KeySet {
    KeySet::new(vec![PublishedKey {
        jwk: jwk.clone(),
        public_key: Arc::new(ToyKey::of(jwk)),
        times,
    }])
}
