//! Who publishes trust: the publishing keys that a verifier believes, one set after another.
//!
//! A verifier pins the first set that it believes. Each later set comes as a link, signed by a key of the set before it:
//!
//! ```text
//! pinned {A} --(A)--> 2 {A, B} --(B)--> 3 {B} --(B)--> 4 {B, C} ...
//! ```
//!
//! The trust state names the generation that it is published under, and a state is taken over only where the set of that
//! generation is held: so whoever acknowledges the state holds the keys.
//!
//! INVARIANT (no key outside the set): nothing is believed that a key signed which is not in the set in force.
//! INVARIANT (no way back): the generation never falls, and until the last link that was ever durable here is in force again, nothing
//! is believed but links that may lead there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::jose::Algorithm;
use crate::jwk::{KeySetError, read_set};
use crate::names::{Issuer, KeyId};
use crate::planted::{Bug, planted};
use crate::ports::{KeyReader, PublicKey};

/// The number of a publisher set. Grows by one.
pub type Generation = u64;

/// The generation of an authority's first set, which no link leads to.
pub const FIRST_GENERATION: Generation = 1;

/// Links that an authority keeps. A pin that is older leads nowhere.
pub const MAX_LINKS: usize = 64;

/// Links that a verifier keeps behind what it has pinned: it may run for longer than an authority keeps them.
const MAX_HELD: usize = 1024;

/// The farthest that one link may move the generation. A higher number is taken for an attempt to make every later link look old.
const MAX_STEP: Generation = 1 << 16;

/// The algorithm of publishing keys.
pub const ALGORITHM: Algorithm = Algorithm::EdDsa;

/// The SHA-256 of a link's payload.
pub type LinkDigest = [u8; 32];

/// A link, by where it leads and by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkId {
    /// The generation that it leads to.
    pub generation: Generation,
    /// Its digest.
    pub digest: LinkDigest,
}

/// Publishing keys by name.
pub type Keys<K> = BTreeMap<KeyId, K>;

/// Reads a JWK Set of publishing keys.
///
/// # Errors
/// [`KeySetError`]; a key that is not of [`ALGORITHM`] is [`KeySetError::Algorithm`].
pub fn read_keys(jwks: &[u8], reader: &dyn KeyReader) -> Result<Keys<Arc<dyn PublicKey>>, KeySetError> {
    let keys = read_set(jwks, reader)?.into_iter().map(|jwk| {
        if jwk.algorithm() != ALGORITHM {
            return Err(KeySetError::Algorithm);
        }
        let public_key = reader.public_key(&jwk)?;
        Ok((jwk.key_id().clone(), public_key))
    });
    keys.collect()
}

/// What a link says, its signature verified.
#[derive(Clone, Debug)]
pub struct Link<K> {
    /// Whose set it is.
    pub issuer: Issuer,
    /// The generation that it leads to.
    pub generation: Generation,
    /// The digest of the link before it. Nothing in the first link.
    pub previous: Option<LinkDigest>,
    /// Its own digest.
    pub digest: LinkDigest,
    /// The set.
    pub keys: Keys<K>,
}

/// What became of a link that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Its set is in force now.
    Adopted,
    /// It is one that led here, or to a set before the one in force.
    Repeated,
}

/// Why a link is not taken over. The set in force stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefused {
    /// The key that signed it is not in the set in force.
    #[error("the link is signed by a key outside the set in force")]
    Signer,
    /// The signature is not that key's.
    #[error("the signature of the link is wrong")]
    Signature,
    /// The bytes are no link.
    #[error("the link is malformed")]
    Malformed,
    /// It is about another issuer.
    #[error("the link is about another issuer")]
    Issuer,
    /// Another set was signed for the same generation: two authorities publish in one name.
    #[error("the link contradicts one that was signed before")]
    Fork,
    /// Its generation is impossibly far ahead.
    #[error("the link jumps too far ahead")]
    Jump,
    /// There are more links behind the pinned set than are held: the pin has to be renewed.
    #[error("the pinned publishing keys are too old")]
    TooMany,
}

impl LinkRefused {
    /// Every reason there is.
    pub const ALL: [Self; 7] = [
        Self::Signer,
        Self::Signature,
        Self::Malformed,
        Self::Issuer,
        Self::Fork,
        Self::Jump,
        Self::TooMany,
    ];

    /// The stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Signer => "link_signer",
            Self::Signature => "link_signature",
            Self::Malformed => "link_malformed",
            Self::Issuer => "link_issuer",
            Self::Fork => "link_fork",
            Self::Jump => "link_jump",
            Self::TooMany => "link_limit",
        }
    }
}

/// What is to go to disk with the next state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaved<S> {
    /// The link that leads to the set in force.
    pub last: LinkId,
    /// Every link that leads there from the pinned set.
    pub links: Vec<S>,
    /// Whether the set in force lacks keys of the one on disk. What is on disk may be signed by those, so that the links go
    /// there together with a snapshot only, in place of it.
    pub drops_keys: bool,
}

/// A set that a link led to.
#[derive(Debug)]
struct Held<K, S> {
    id: LinkId,
    keys: Keys<K>,
    signed: S,
}

/// The publishing keys that a verifier believes. A key is a `K`, and a link as it was signed an `S`.
#[derive(Debug)]
pub struct Publishers<K, S> {
    issuer: Issuer,
    pinned: Keys<K>,
    links: Vec<Held<K, S>>,
    required: Option<LinkId>,
    durable: Generation,
}

impl<K, S: Clone> Publishers<K, S> {
    /// The publishers of `issuer` whose keys are `pinned`.
    #[must_use]
    pub const fn new(issuer: Issuer, pinned: Keys<K>) -> Self {
        Self {
            issuer,
            pinned,
            links: Vec::new(),
            required: None,
            durable: 0,
        }
    }

    /// The pinned keys.
    #[must_use]
    pub const fn pinned(&self) -> &Keys<K> {
        &self.pinned
    }

    /// The generation in force. Zero: the pinned set, whichever it is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.last_link().map_or(0, |last| last.generation)
    }

    /// The link that leads to the set in force. Nothing: that set is pinned.
    #[must_use]
    pub fn last_link(&self) -> Option<LinkId> {
        self.links.last().map(|held| held.id)
    }

    /// The generation that is on disk.
    #[must_use]
    pub const fn durable(&self) -> Generation {
        self.durable
    }

    /// Whether a state that names `generation` may be taken over.
    #[must_use]
    pub fn holds(&self, generation: Generation) -> bool {
        generation <= self.generation().max(FIRST_GENERATION)
    }

    /// Every link that led here from the pinned set.
    pub fn links(&self) -> impl Iterator<Item = &S> {
        self.links.iter().map(|held| &held.signed)
    }

    /// Takes note that `link` was durable here behind the same pinned set. Until it led here again, nothing is believed but
    /// links, and none that leads past it: a key that was dropped since may have signed that one.
    pub fn require(&mut self, link: LinkId) {
        if !planted(Bug::GenerationStepsBack) {
            self.required = Some(link);
        }
    }

    /// Whether links are missing that were here before.
    #[must_use]
    pub fn lacks_links(&self) -> bool {
        self.missing().is_some()
    }

    /// Forgets the links that led here, if not one of them was the one that had to: they led astray, and would keep out those of
    /// the authority. Whether there is such a one missing.
    pub fn forget_astray(&mut self) -> bool {
        let astray = self.lacks_links();
        if astray {
            self.links.clear();
        }
        astray
    }

    /// The key `key_id`, if what it signed is believed.
    #[must_use]
    pub fn key(&self, key_id: &str) -> Option<&K> {
        let key = if planted(Bug::DroppedPublisherBelieved) {
            self.dropped_key(key_id)
        } else {
            self.link_key(key_id)
        };
        key.filter(|_| !self.lacks_links())
    }

    /// The key `key_id`, if a link that it signed is taken over.
    #[must_use]
    pub fn link_key(&self, key_id: &str) -> Option<&K> {
        let keys = self.in_force();
        keys.iter()
            .find(|(known, _)| known.as_str() == key_id)
            .map(|(_, key)| key)
    }

    /// Whether the link with this digest led here.
    #[must_use]
    pub fn has_link(&self, digest: &LinkDigest) -> bool {
        self.links.iter().any(|held| held.id.digest == *digest)
    }

    /// Puts the set of `link` in force, which `signer` signed as `signed`.
    ///
    /// # Errors
    /// [`LinkRefused`].
    pub fn offer(&mut self, link: Link<K>, signer: &str, signed: S) -> Result<Offered, LinkRefused> {
        if self.has_link(&link.digest) {
            return Ok(Offered::Repeated);
        }
        if self.link_key(signer).is_none() && !planted(Bug::LinkSignerUnchecked) {
            return Err(LinkRefused::Signer);
        }
        if link.issuer != self.issuer {
            return Err(LinkRefused::Issuer);
        }
        if link.generation <= FIRST_GENERATION || link.keys.is_empty() {
            return Err(LinkRefused::Malformed);
        }
        self.check_follows(&link)?;
        if link.generation <= self.generation() {
            return Ok(Offered::Repeated);
        }
        if link.generation.saturating_sub(self.generation()) > MAX_STEP {
            return Err(LinkRefused::Jump);
        }
        if self.links.len() >= MAX_HELD {
            return Err(LinkRefused::TooMany);
        }
        if planted(Bug::LinkAcknowledgedBeforeSaving) {
            self.durable = link.generation;
        }
        self.links.push(Held {
            id: LinkId {
                generation: link.generation,
                digest: link.digest,
            },
            keys: link.keys,
            signed,
        });
        Ok(Offered::Adopted)
    }

    /// What is not on disk yet. Nothing when everything is.
    #[must_use]
    pub fn unsaved(&self) -> Option<Unsaved<S>> {
        let unsaved = self.last_link().filter(|last| last.generation > self.durable);
        unsaved.map(|last| Unsaved {
            last,
            links: self.links().cloned().collect(),
            drops_keys: self.drops_keys(),
        })
    }

    /// The links up to `generation` are on disk.
    pub fn saved(&mut self, generation: Generation) {
        self.durable = self.durable.max(generation.min(self.generation()));
    }

    /// Whether the set in force lacks keys of the one on disk.
    #[must_use]
    pub fn drops_keys(&self) -> bool {
        let on_disk = self.links.iter().rfind(|held| held.id.generation <= self.durable);
        let on_disk = on_disk.map_or(&self.pinned, |held| &held.keys);
        let in_force = self.in_force();
        on_disk.keys().any(|key_id| !in_force.contains_key(key_id))
    }

    /// What a bug believes: the key of any set that there was.
    fn dropped_key(&self, key_id: &str) -> Option<&K> {
        let sets = [&self.pinned]
            .into_iter()
            .chain(self.links.iter().map(|held| &held.keys));
        let mut keys = sets.flatten();
        keys.find(|(known, _)| known.as_str() == key_id)
            .map(|(_, key)| key)
    }

    fn in_force(&self) -> &Keys<K> {
        self.links.last().map_or(&self.pinned, |held| &held.keys)
    }

    /// The link that has to lead here before anything is believed.
    fn missing(&self) -> Option<&LinkId> {
        self.required.as_ref().filter(|link| !self.has_link(&link.digest))
    }

    /// Whoever signs two links for one generation, or one that follows on another link than the one before it here, or than one
    /// that was here before, has a twin.
    fn check_follows(&self, link: &Link<K>) -> Result<(), LinkRefused> {
        let find = |generation| self.links.iter().find(|held| held.id.generation == generation);
        let before = link.generation.checked_sub(1).and_then(find);
        let forks = find(link.generation).is_some()
            || before.is_some_and(|before| link.previous != Some(before.id.digest))
            || self.missing().is_some_and(|missing| {
                link.generation >= missing.generation && link.digest != missing.digest
            });
        if forks { Err(LinkRefused::Fork) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
