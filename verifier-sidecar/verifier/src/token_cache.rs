//! Remembers which tokens are authentic, so that a token that comes again needs no second signature check.
//!
//! An entry is a memo of a fact that cannot change: "exactly these bytes are signed by the key of this `kid`, and say
//! this" (a `kid` is the thumbprint of its key). Whether that is good here and now is no part of it and is judged anew
//! for every request, on the trust in force at that moment; so nothing has to be dropped when a token is revoked, expires
//! or loses its key. Refusals are not remembered.
//!
//! It is remembered in two ways. At first by a digest of the token, which takes little room: such a token is read again, which takes a
//! tenth of the time that its signature takes. Of those that have come again, as many as there is room for, the whole token is
//! remembered and what was read out of it: found by a hash that is seeded anew in every process, and compared byte for byte. Either
//! way no crafted token can be taken for another (T90).

mod digests;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use countersign_core::bearer::BearerToken;
use countersign_core::claims::Claims;
use countersign_core::verifying::AuthenticToken;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::identity::Identity;
use crate::key_uses::KeyUse;
pub use digests::Digest;
use digests::Digests;

/// A token that its key signed, with the headers that tell of it.
#[derive(Clone, Debug)]
pub struct KnownToken {
    /// What it says, and which key says so.
    pub authentic: AuthenticToken,
    /// What the service is told of its holder.
    pub identity: Identity,
    /// Counts how often its key was used.
    pub key_use: Arc<KeyUse>,
}

/// A bounded memory of authentic tokens.
pub struct TokenCache {
    whole: Option<Cache<Key, Arc<KnownToken>, Weight>>,
    digests: Digests,
}

impl TokenCache {
    /// A memory of about `bytes`, a quarter of them for digests. With none, nothing is remembered.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let digests = bytes / 4;
        Self::divided(bytes - digests, digests)
    }

    /// A memory of about so many bytes for whole tokens, and so many for digests.
    #[must_use]
    pub fn divided(whole: u64, digests: u64) -> Self {
        let items = usize::try_from(whole / USUAL_WEIGHT).unwrap_or(usize::MAX);
        Self {
            whole: (items > 0).then(|| Cache::with_weighter(items, whole, Weight)),
            digests: Digests::new(usize::try_from(digests).unwrap_or(usize::MAX)),
        }
    }

    /// What is known of exactly these bytes. Allocates nothing.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<Arc<KnownToken>> {
        self.whole.as_ref()?.get(token)
    }

    /// Whether the token of this digest was found authentic before.
    #[must_use]
    pub fn knows(&self, digest: &Digest) -> bool {
        self.digests.contain(digest)
    }

    /// Remembers that the token of this digest is authentic.
    pub fn note(&self, digest: &Digest) {
        self.digests.insert(digest);
    }

    /// Remembers all of `token`, which has come again. Tokens over the cap of [`BearerToken`] are not.
    pub fn remember(&self, token: &[u8], known: Arc<KnownToken>) {
        if let (Some(cache), Ok(token)) = (&self.whole, BearerToken::new(token)) {
            cache.insert(Key(token), known);
        }
    }

    /// How many whole tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole.as_ref().map_or(0, Cache::len)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("tokens", &self.len())
            .finish_non_exhaustive()
    }
}

/// The token's bytes. Not shown by `Debug` and cleared on drop, because `BearerToken` does both.
#[derive(Clone, Debug)]
struct Key(BearerToken);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

// As the bytes alone, so that a borrowed token finds its entry.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for Key {}

/// What a token of usual size (a P-256 signature, two scopes) weighs.
const USUAL_WEIGHT: u64 = 2048;

/// About the memory that an entry takes: the text, what was read out of it (no longer than the text), and what every
/// entry has (the parts of [`Claims`], four header values, their allocations, the table's slot).
#[derive(Clone, Copy, Debug)]
struct Weight;

const FIXED_WEIGHT: usize = size_of::<Claims>() + size_of::<KnownToken>() + 512;

impl Weighter<Key, Arc<KnownToken>> for Weight {
    fn weight(&self, key: &Key, _known: &Arc<KnownToken>) -> u64 {
        let bytes = key
            .0
            .as_bytes()
            .len()
            .saturating_mul(2)
            .saturating_add(FIXED_WEIGHT);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}
