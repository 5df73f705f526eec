//! What stands for cryptography: a hash that is quick, keys that sign with it, and signed values that nobody forges.
//!
//! What signatures are for is tested elsewhere. Here whatever says that it was signed was signed, and the time at which that
//! was done goes along, for the model to know.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::jwk::{Jwk, KeySetError, PublicNumbers};
use countersign_core::names::KeyId;
use countersign_core::ports::{KeyReader, PublicKey, Sha256, Signer, SigningFailed};
use countersign_core::publishers::Link;
use countersign_core::trust::{Epoch, Heartbeat, StateDigest, Update};

/// A statement of an authority.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) body: Body,
    /// When it was signed, in true time.
    pub(crate) at: Duration,
    /// The publishing key that signed it.
    pub(crate) by: KeyId,
}

/// What it says.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Update(Arc<Update>),
    Heartbeat(Heartbeat),
    /// The way to the next publisher set.
    Link(Arc<Link<()>>),
}

/// What it says of the authority that signed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(crate) epoch: Epoch,
    pub(crate) digest: StateDigest,
    pub(crate) signed_at: Timestamp,
}

impl Signed {
    /// The state that it names: none for a link.
    pub(crate) fn stated(&self) -> Stated {
        match &self.body {
            Body::Update(update) => Stated {
                epoch: update.epoch,
                digest: update.state_digest,
                signed_at: update.published_at,
            },
            Body::Heartbeat(heartbeat) => Stated {
                epoch: heartbeat.epoch,
                digest: heartbeat.state_digest,
                signed_at: Timestamp::from_seconds(heartbeat.authority_time_millis / 1000),
            },
            Body::Link(_) => Stated::default(),
        }
    }

    /// `update`, signed by `by` at that time.
    pub(crate) const fn update(update: Arc<Update>, at: Duration, by: KeyId) -> Self {
        Self {
            body: Body::Update(update),
            at,
            by,
        }
    }

    /// The update, if it is one.
    pub(crate) const fn as_update(&self) -> Option<&Arc<Update>> {
        match &self.body {
            Body::Update(update) => Some(update),
            Body::Heartbeat(_) | Body::Link(_) => None,
        }
    }

    /// The heartbeat, if it is one.
    pub(crate) const fn as_heartbeat(&self) -> Option<&Heartbeat> {
        match &self.body {
            Body::Heartbeat(heartbeat) => Some(heartbeat),
            Body::Update(_) | Body::Link(_) => None,
        }
    }

    /// The link, if it is one.
    pub(crate) const fn as_link(&self) -> Option<&Arc<Link<()>>> {
        match &self.body {
            Body::Link(link) => Some(link),
            Body::Update(_) | Body::Heartbeat(_) => None,
        }
    }
}

/// A hash of 256 bits that is good enough to tell values apart: words mixed into two states.
#[derive(Debug)]
pub(crate) struct ToyHash;

const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

impl Sha256 for ToyHash {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let (mut a, mut b) = (PRIME, !PRIME);
        for part in parts {
            for chunk in part.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                a = (a ^ u64::from_le_bytes(word)).wrapping_mul(PRIME).rotate_left(29);
                b = b.rotate_left(17).wrapping_add(a ^ (a >> 31));
            }
            a = a.wrapping_add(u64::try_from(part.len()).unwrap_or_default());
        }
        let mut sum = [0; 32];
        for (lane, chunk) in (1_u64..).zip(sum.chunks_exact_mut(8)) {
            let mixed = (a.wrapping_mul(lane.wrapping_mul(PRIME) | 1) ^ b).wrapping_mul(PRIME);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 29)).to_be_bytes());
        }
        sum
    }
}

impl KeyReader for ToyHash {
    fn public_key(&self, jwk: &Jwk) -> Result<Arc<dyn PublicKey>, KeySetError> {
        Ok(Arc::new(ToyKey::of(jwk)))
    }
}

thread_local! {
    /// Whether nothing can be verified.
    static FAILS: Cell<bool> = const { Cell::new(false) };
}

/// What `work` comes to while every verification fails, as a library does that is out of memory.
pub(crate) fn while_failing<T>(work: impl FnOnce() -> T) -> T {
    FAILS.set(true);
    let result = work();
    FAILS.set(false);
    result
}

/// A key that signs with the hash of its name and the message, and verifies by doing the same.
#[derive(Clone, Debug)]
pub(crate) struct ToyKey(KeyId);

impl ToyKey {
    pub(crate) fn of(jwk: &Jwk) -> Self {
        Self(jwk.key_id().clone())
    }

    /// The public half of the key with this number.
    pub(crate) fn numbered(number: u64) -> Jwk {
        let mut x = [0; 32];
        x[..8].copy_from_slice(&number.to_be_bytes());
        Jwk::new(PublicNumbers::Ed25519 { x }, &ToyHash)
    }
}

impl Signer for ToyKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        Ok(ToyHash.sha256(&[self.0.as_str().as_bytes(), message]).to_vec())
    }
}

impl PublicKey for ToyKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        !FAILS.get() && self.sign(message).is_ok_and(|right| right == signature)
    }
}
