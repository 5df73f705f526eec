//! The trust state: what the authority publishes and every verifier holds, one epoch after another.
//!
//! Authority and verifier compute the next state with the same functions; the digest over the result is how both know
//! that they hold the same.

mod ahead;
mod heartbeat;

use std::sync::Arc;
use std::time::Duration;

use crate::jwk::KeySetError;
use crate::key_set::KeySet;
use crate::names::Issuer;
use crate::planted::{Bug, planted};
use crate::ports::Sha256;
use crate::revocation::RevocationList;
use crate::time::Timestamp;

pub use ahead::Ahead;
pub use heartbeat::Heartbeat;

/// The number of a trust state. Only grows. Zero is before the first.
pub type Epoch = u64;

/// The digest of a trust state.
pub type StateDigest = [u8; 32];

/// The farthest that one update may move the epoch ahead of the highest that was ever in force. A higher number is taken for
/// an attempt to make every later update look old.
pub const MAX_EPOCH_STEP: u64 = 1 << 32;

/// Why an update is not taken over. The state in force stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefused {
    /// The publishing key is not one that is pinned here.
    #[error("the publishing key is not pinned here")]
    PublisherUnknown,
    /// The signature is not the publishing key's.
    #[error("the signature of the update is wrong")]
    Signature,
    /// The bytes are no update.
    #[error("the update is malformed")]
    Malformed,
    /// It is about another issuer.
    #[error("the update is about another issuer")]
    Issuer,
    /// Its epoch is before the one in force, or before the high-water mark.
    #[error("the update would step back")]
    Regressed,
    /// Its epoch is the one in force, its content is not.
    #[error("the update contradicts the state in force at the same epoch")]
    Fork,
    /// Its epoch is impossibly far ahead.
    #[error("the update jumps too far ahead")]
    Jump,
    /// It is a delta to another state than the one in force.
    #[error("the update is a change of another state")]
    Base,
    /// Its digest is not that of the state it gives.
    #[error("the state does not have the digest stated")]
    Digest,
    /// A revocation in it is not of its form, or lives impossibly long.
    #[error("a revocation is malformed")]
    Revocation,
    /// It drops revocations that can still matter.
    #[error("the update would un-revoke")]
    Unrevoke,
    /// It has more entries than are held here.
    #[error("the update is too large")]
    TooLarge,
    /// Its key set is refused.
    #[error("the key set is refused: {0}")]
    KeySet(KeySetError),
}

impl UpdateRefused {
    /// Every reason; those of key sets are [`KeySetError::ALL`].
    pub const ALL: [Self; 12] = [
        Self::PublisherUnknown,
        Self::Signature,
        Self::Malformed,
        Self::Issuer,
        Self::Regressed,
        Self::Fork,
        Self::Jump,
        Self::Base,
        Self::Digest,
        Self::Revocation,
        Self::Unrevoke,
        Self::TooLarge,
    ];

    /// The stable name for logs, metrics and `Nack.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::PublisherUnknown => "publisher_unknown",
            Self::Signature => "update_signature",
            Self::Malformed => "update_malformed",
            Self::Issuer => "update_issuer",
            Self::Regressed => "epoch_regressed",
            Self::Fork => "epoch_fork",
            Self::Jump => "epoch_jump",
            Self::Base => "update_base",
            Self::Digest => "update_digest",
            Self::Revocation => "revocation_malformed",
            Self::Unrevoke => "revocation_unrevoked",
            Self::TooLarge => "update_too_large",
            Self::KeySet(error) => error.reason(),
        }
    }

    /// Whether a snapshot can mend it. Anything else is the authority, or somebody in its name, contradicting itself.
    #[must_use]
    pub const fn wants_snapshot(self) -> bool {
        matches!(self, Self::Base | Self::Digest | Self::Revocation)
    }
}

/// A change from one epoch to the next.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The new key set, when it changed.
    pub key_set: Option<Arc<KeySet>>,
    /// Revocations added.
    pub revoked: RevocationList,
    /// Entries that expired before this are dropped.
    pub prune_before: Option<Timestamp>,
}

/// What an update does.
#[derive(Clone, Debug)]
pub enum UpdateContent {
    /// Replace everything.
    Snapshot {
        /// The keys.
        key_set: Arc<KeySet>,
        /// The revocations.
        revocations: RevocationList,
    },
    /// Change the state at `base_epoch`.
    Delta {
        /// The epoch changed.
        base_epoch: Epoch,
        /// Its digest.
        base_digest: StateDigest,
        /// The change.
        change: Change,
    },
}

/// An update, parsed, its signature verified.
#[derive(Clone, Debug)]
pub struct Update {
    /// The issuer that it is about.
    pub issuer: Issuer,
    /// The epoch that it leads to.
    pub epoch: Epoch,
    /// The digest of the state at that epoch.
    pub state_digest: StateDigest,
    /// When it was published.
    pub published_at: Timestamp,
    /// What it does.
    pub content: UpdateContent,
}

impl Update {
    /// The revocations that it adds, or all of them in a snapshot.
    #[must_use]
    pub const fn revocations(&self) -> &RevocationList {
        match &self.content {
            UpdateContent::Snapshot { revocations, .. } => revocations,
            UpdateContent::Delta { change, .. } => &change.revoked,
        }
    }

    /// The keys that it brings, if any.
    #[must_use]
    pub const fn key_set(&self) -> Option<&Arc<KeySet>> {
        match &self.content {
            UpdateContent::Snapshot { key_set, .. } => Some(key_set),
            UpdateContent::Delta { change, .. } => change.key_set.as_ref(),
        }
    }
}

/// What became of an update.
#[derive(Clone, Debug)]
pub enum Applied {
    /// The state to put in force.
    Advanced(TrustState),
    /// The update is for the state in force, and says the same.
    Confirmed,
}

/// Everything a verifier decides on, at one epoch. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct TrustState {
    issuer: Issuer,
    epoch: Epoch,
    keys: Arc<KeySet>,
    revocations: RevocationList,
    digest: StateDigest,
}

impl TrustState {
    /// The state of these parts.
    #[must_use]
    pub fn new(
        issuer: Issuer,
        epoch: Epoch,
        keys: Arc<KeySet>,
        revocations: RevocationList,
        sha256: &dyn Sha256,
    ) -> Self {
        let digest = digest(&issuer, epoch, &keys, &revocations, sha256);
        Self {
            issuer,
            epoch,
            keys,
            revocations,
            digest,
        }
    }

    /// The issuer whose tokens it is about.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Its number.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The keys in force.
    #[must_use]
    pub const fn keys(&self) -> &Arc<KeySet> {
        &self.keys
    }

    /// The revocations in force.
    #[must_use]
    pub const fn revocations(&self) -> &RevocationList {
        &self.revocations
    }

    /// The digest of all of it.
    #[must_use]
    pub const fn digest(&self) -> &StateDigest {
        &self.digest
    }

    /// The state one epoch on, with `change` made.
    #[must_use]
    pub fn next(&self, change: &Change, sha256: &dyn Sha256) -> Self {
        let mut revocations = self.revocations.clone();
        revocations.merge(&change.revoked);
        if let Some(time) = change.prune_before {
            revocations = revocations.pruned(time);
        }
        let keys = change.key_set.as_ref().unwrap_or(&self.keys);
        let merged = planted(Bug::KeySetsMerged).then(|| Arc::new(keys.merged_with(&self.keys)));
        let keys = merged.as_ref().unwrap_or(keys);
        Self::new(
            self.issuer.clone(),
            self.epoch.saturating_add(1),
            Arc::clone(keys),
            revocations,
            sha256,
        )
    }
}

fn digest(
    issuer: &Issuer,
    epoch: Epoch,
    keys: &KeySet,
    revocations: &RevocationList,
    sha256: &dyn Sha256,
) -> StateDigest {
    let count = u64::try_from(revocations.len()).unwrap_or(u64::MAX);
    sha256.sha256(&[
        b"countersign/state/v2\0",
        issuer.as_str().as_bytes(),
        b"\0",
        &epoch.to_be_bytes(),
        &keys.digest(sha256),
        &revocations.digest(),
        &count.to_be_bytes(),
    ])
}

/// The rules by which a verifier takes over updates.
#[derive(Clone, Debug)]
pub struct UpdateRules {
    /// The issuer trusted.
    pub issuer: Issuer,
    /// The most revocations held.
    pub max_revocations: usize,
    /// The longest that a revocation may claim to matter: no token lives longer.
    pub max_revocation_life: Duration,
    /// How far this clock and the authority's may be apart.
    pub leeway: Duration,
}

impl UpdateRules {
    /// What `update` makes of `current`. `floor` is the highest epoch that was ever in force here, also before a restart.
    ///
    /// # Errors
    /// [`UpdateRefused`]; `current` then stays in force.
    pub fn apply(
        &self,
        current: Option<&TrustState>,
        floor: Epoch,
        update: &Update,
        now: Timestamp,
        sha256: &dyn Sha256,
    ) -> Result<Applied, UpdateRefused> {
        if update.issuer != self.issuer {
            return Err(UpdateRefused::Issuer);
        }
        let highest = current.map_or(0, TrustState::epoch).max(floor);
        let steps_back = update.epoch < highest && !planted(Bug::StepsBack);
        if steps_back || update.epoch == 0 {
            return Err(UpdateRefused::Regressed);
        }
        if update.epoch.saturating_sub(highest) > MAX_EPOCH_STEP {
            return Err(UpdateRefused::Jump);
        }
        if let Some(current) = current.filter(|current| current.epoch == update.epoch) {
            let same = current.digest == update.state_digest;
            if same {
                return Ok(Applied::Confirmed);
            } else if !planted(Bug::ForkTaken) {
                return Err(UpdateRefused::Fork);
            }
        }
        let next = match &update.content {
            UpdateContent::Snapshot { key_set, revocations } => {
                let next = self.snapshot(update.epoch, key_set, revocations, now, sha256)?;
                self.check_kept(current, &next, now)?;
                next
            }
            UpdateContent::Delta {
                base_epoch,
                base_digest,
                change,
            } => {
                let base = current
                    .filter(|state| state.epoch == *base_epoch && state.digest == *base_digest)
                    .ok_or(UpdateRefused::Base)?;
                self.check_change(base, change, now)?;
                base.next(change, sha256)
            }
        };
        if next.epoch != update.epoch || next.digest != update.state_digest {
            return Err(UpdateRefused::Digest);
        }
        Ok(Applied::Advanced(next))
    }

    fn snapshot(
        &self,
        epoch: Epoch,
        key_set: &Arc<KeySet>,
        revocations: &RevocationList,
        now: Timestamp,
        sha256: &dyn Sha256,
    ) -> Result<TrustState, UpdateRefused> {
        self.check_revocations(0, revocations, now)?;
        Ok(TrustState::new(
            self.issuer.clone(),
            epoch,
            Arc::clone(key_set),
            revocations.clone(),
            sha256,
        ))
    }

    /// A snapshot replaces everything, but un-revokes nothing: a restored authority whose records end before a revocation
    /// is refused until no token that the entry affects is still valid, or can be accepted any more because its key was
    /// given up.
    fn check_kept(
        &self,
        current: Option<&TrustState>,
        next: &TrustState,
        now: Timestamp,
    ) -> Result<(), UpdateRefused> {
        let Some(current) = current else { return Ok(()) };
        // What expires before this may be dropped.
        let matters = current.revocations.pruned(now.saturating_add(self.leeway));
        let keeps = matters.beyond(&next.revocations).is_empty() && !brings_back(&current.keys, &next.keys);
        if keeps || gives_up_every_key(&current.keys, &next.keys) {
            Ok(())
        } else {
            Err(UpdateRefused::Unrevoke)
        }
    }

    fn check_change(&self, base: &TrustState, change: &Change, now: Timestamp) -> Result<(), UpdateRefused> {
        self.check_revocations(base.revocations.len(), &change.revoked, now)?;
        // Dropping an entry is safe only when, by this clock too, no token that it affects is still valid.
        if change
            .prune_before
            .is_some_and(|time| time > now.saturating_add(self.leeway) && !planted(Bug::PruneUnchecked))
        {
            return Err(UpdateRefused::Unrevoke);
        }
        Ok(())
    }

    fn check_revocations(
        &self,
        held: usize,
        added: &RevocationList,
        now: Timestamp,
    ) -> Result<(), UpdateRefused> {
        if held.saturating_add(added.len()) > self.max_revocations {
            return Err(UpdateRefused::TooLarge);
        }
        if self.overlong(added, now) == 0 {
            Ok(())
        } else {
            Err(UpdateRefused::Revocation)
        }
    }

    /// How many of `revocations` claim to matter for longer than any token lives.
    #[must_use]
    pub fn overlong(&self, revocations: &RevocationList, now: Timestamp) -> usize {
        revocations.outlasting(self.latest_expiry(now))
    }

    const fn latest_expiry(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.max_revocation_life)
            .saturating_add(self.leeway)
    }
}

/// Whether a key that is withdrawn in `current` is good again in `next`.
fn brings_back(current: &KeySet, next: &KeySet) -> bool {
    let withdrawn = current
        .keys()
        .iter()
        .filter(|key| key.times.compromised_at.is_some());
    withdrawn
        .filter_map(|key| next.find(key.jwk.key_id()))
        .any(|key| key.times.compromised_at.is_none())
}

/// Whether no token under a key of `current` can be accepted under `next`: each is compromised there or no longer there, and
/// whatever can sign is younger than all of them. By its age, because an authority that was restored may bring back a key
/// that was given up and forgotten since.
fn gives_up_every_key(current: &KeySet, next: &KeySet) -> bool {
    let prepared = current.keys().iter().map(|key| key.times.prepared_at);
    let youngest = prepared.max().unwrap_or_default();
    next.keys().iter().all(|key| {
        let is_new = current.find(key.jwk.key_id()).is_none() && key.times.prepared_at > youngest;
        key.times.compromised_at.is_some() || is_new
    })
}

#[cfg(test)]
mod tests;
