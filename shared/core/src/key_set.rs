//! The keys that verify access tokens, and where each is in its life.
//!
//! ```text
//! Prepared --(activate)--> Active --(successor active)--> Retired --(max lifetime + leeway)--> gone
//! published, not signing   published, signing             published, not signing
//!         any state --(compromise)--> Compromised: its tokens are refused
//! ```
//!
//! A state is not stored but read off its times, so that it cannot contradict them, and so that an activation announced for a
//! moment ahead takes effect everywhere at that moment. Tokens are accepted a little earlier than a key signs: from a time that
//! is published with it.

use std::sync::Arc;
use std::time::Duration;

use crate::jwk::{Jwk, KeySetError, read_set, write_set};
use crate::names::KeyId;
use crate::planted::{Bug, planted};
use crate::ports::{KeyReader, PublicKey, Sha256};
use crate::time::Timestamp;

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Published, not signing yet.
    Prepared,
    /// Published and signing.
    Active,
    /// Published, no longer signing.
    Retired,
    /// Withdrawn: its tokens are refused.
    Compromised,
}

impl KeyState {
    /// The state's name for people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Compromised => "compromised",
        }
    }
}

/// The times of a key's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyTimes {
    /// When it was first published.
    pub prepared_at: Timestamp,
    /// From when tokens under it are accepted, said when it is published: a verifier that holds the key and does not hear that
    /// it signs now must not refuse its tokens. Not set: only once it is known to sign.
    pub accepted_from: Option<Timestamp>,
    /// From when it signs.
    pub active_from: Option<Timestamp>,
    /// From when it no longer signs. Never before `active_from`.
    pub retired_from: Option<Timestamp>,
    /// When it was declared compromised.
    pub compromised_at: Option<Timestamp>,
}

impl KeyTimes {
    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        let reached = |time: Option<Timestamp>| time.is_some_and(|time| time <= now);
        if self.compromised_at.is_some() {
            KeyState::Compromised
        } else if reached(self.retired_from) {
            KeyState::Retired
        } else if reached(self.active_from) {
            KeyState::Active
        } else {
            KeyState::Prepared
        }
    }

    /// From when its tokens are accepted, as far as is known.
    #[must_use]
    pub fn good_from(&self) -> Option<Timestamp> {
        self.active_from.or(self.accepted_from)
    }

    /// Whether the times follow each other.
    fn are_ordered(&self) -> bool {
        let accepted_after_prepared = self
            .accepted_from
            .is_none_or(|accepted| accepted >= self.prepared_at);
        let active_after_prepared = self.active_from.is_none_or(|active| active >= self.prepared_at);
        let retired_after_active = self
            .retired_from
            .is_none_or(|retired| self.active_from.is_some_and(|active| retired >= active));
        accepted_after_prepared && active_after_prepared && retired_after_active
    }
}

/// A published key.
#[derive(Clone, Debug)]
pub struct PublishedKey {
    /// The key.
    pub jwk: Jwk,
    /// The same, ready to verify with.
    pub public_key: Arc<dyn PublicKey>,
    /// Its life.
    pub times: KeyTimes,
}

/// The published keys of one issuer. Replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<PublishedKey>,
}

impl KeySet {
    /// The set of `jwks` with the times given for each `kid`, one to one.
    ///
    /// # Errors
    /// [`KeySetError`]: a JWK is not acceptable ([`read_set`]), or times and keys do not match.
    pub fn read(
        jwks: &[u8],
        times: &[(KeyId, KeyTimes)],
        reader: &dyn KeyReader,
    ) -> Result<Self, KeySetError> {
        let jwks = read_set(jwks, reader)?;
        if jwks.len() != times.len() {
            return Err(KeySetError::Status);
        }
        let keys = jwks.into_iter().map(|jwk| {
            let mut matching = times.iter().filter(|(kid, _)| kid == jwk.key_id());
            match (matching.next(), matching.next()) {
                (Some((_, times)), None) if times.are_ordered() => Ok(PublishedKey {
                    public_key: reader.public_key(&jwk)?,
                    jwk,
                    times: *times,
                }),
                _ => Err(KeySetError::Status),
            }
        });
        keys.collect::<Result<_, _>>().map(|keys| Self { keys })
    }

    /// The set of these keys. For the authority, which made them.
    #[must_use]
    pub const fn new(keys: Vec<PublishedKey>) -> Self {
        Self { keys }
    }

    /// This set and the keys of `earlier` that are not in it: for a bug.
    pub(crate) fn merged_with(&self, earlier: &Self) -> Self {
        let gone = earlier
            .keys
            .iter()
            .filter(|key| self.find(key.jwk.key_id()).is_none());
        Self::new(self.keys.iter().chain(gone).cloned().collect())
    }

    /// The key with this `kid`.
    #[must_use]
    pub fn find(&self, key_id: &KeyId) -> Option<&PublishedKey> {
        self.keys.iter().find(|key| key.jwk.key_id() == key_id)
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[PublishedKey] {
        &self.keys
    }

    /// The keys as a JWK Set.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        write_set(self.keys.iter().map(|key| &key.jwk))
    }

    /// When tokens under `key` are no longer accepted because the last of them has expired, `retention` after it stopped
    /// signing.
    #[must_use]
    pub fn gone_from(key: &KeyTimes, retention: Duration) -> Option<Timestamp> {
        let ends = [key.retired_from, key.compromised_at];
        ends.into_iter().flatten().min().map(|ended| {
            ended.saturating_add(if planted(Bug::RetiredKeyGoneEarly) {
                retention / 4
            } else {
                retention
            })
        })
    }

    /// The digest of the set: every key with its times, in the order of `kid`.
    #[must_use]
    pub fn digest(&self, sha256: &dyn Sha256) -> [u8; 32] {
        let mut lines: Vec<String> = self.keys.iter().map(digest_line).collect();
        lines.sort_unstable();
        sha256.sha256(&[b"countersign/key-set/v2\0", lines.concat().as_bytes()])
    }
}

fn digest_line(key: &PublishedKey) -> String {
    let time = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_seconds);
    format!(
        "{} {} {} {} {} {} {}\n",
        key.jwk.key_id(),
        key.jwk.algorithm().name(),
        key.times.prepared_at,
        time(key.times.accepted_from),
        time(key.times.active_from),
        time(key.times.retired_from),
        time(key.times.compromised_at),
    )
}

#[cfg(test)]
mod tests;
