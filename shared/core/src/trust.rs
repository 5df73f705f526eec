//! The trust state: what the authority publishes and every verifier holds, one epoch after another.
//!
//! Authority and verifier compute the next state with the same functions; the digest over the result is how both know
//! that they hold the same.

mod ahead;
mod heartbeat;
mod refused;

use std::sync::Arc;
use std::time::Duration;

use crate::key_set::KeySet;
use crate::names::Issuer;
use crate::planted::{Bug, planted};
use crate::ports::Sha256;
use crate::publishers::{FIRST_GENERATION, Generation};
use crate::revocation::RevocationList;
use crate::time::Timestamp;

pub use ahead::{Ahead, Descent, LINGERS};
pub use heartbeat::Heartbeat;
pub use refused::UpdateRefused;

/// The number of a trust state. Only grows. Zero is before the first.
pub type Epoch = u64;

/// The digest of a trust state.
pub type StateDigest = [u8; 32];

/// The farthest that one update may move the epoch ahead of the highest that was ever in force. A higher number is taken for
/// an attempt to make every later update look old.
pub const MAX_EPOCH_STEP: u64 = 1 << 32;

/// A change from one epoch to the next.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The new key set, when it changed.
    pub key_set: Option<Arc<KeySet>>,
    /// Revocations added.
    pub revoked: RevocationList,
    /// Entries that expired before this are dropped.
    pub prune_before: Option<Timestamp>,
    /// The generation of the publisher set, when it changed.
    pub publishers: Option<Generation>,
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
        /// The generation of the publisher set.
        publishers: Generation,
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

    /// The generation of the publisher set that it names, if any.
    #[must_use]
    pub const fn publishers(&self) -> Option<Generation> {
        match &self.content {
            UpdateContent::Snapshot { publishers, .. } => Some(*publishers),
            UpdateContent::Delta { change, .. } => change.publishers,
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
    publishers: Generation,
    keys: Arc<KeySet>,
    revocations: RevocationList,
    digest: StateDigest,
}

impl TrustState {
    /// The state of these parts, under an authority's first publisher set.
    #[must_use]
    pub fn new(
        issuer: Issuer,
        epoch: Epoch,
        keys: Arc<KeySet>,
        revocations: RevocationList,
        sha256: &dyn Sha256,
    ) -> Self {
        Self {
            issuer,
            epoch,
            publishers: FIRST_GENERATION,
            keys,
            revocations,
            digest: StateDigest::default(),
        }
        .digested(sha256)
    }

    /// The same, under the publisher set of `generation`.
    #[must_use]
    pub fn published_under(self, generation: Generation, sha256: &dyn Sha256) -> Self {
        Self {
            publishers: generation,
            ..self
        }
        .digested(sha256)
    }

    fn digested(mut self, sha256: &dyn Sha256) -> Self {
        let count = u64::try_from(self.revocations.len()).unwrap_or(u64::MAX);
        self.digest = sha256.sha256(&[
            b"countersign/state/v3\0",
            self.issuer.as_str().as_bytes(),
            b"\0",
            &self.epoch.to_be_bytes(),
            &self.publishers.to_be_bytes(),
            &self.keys.digest(sha256),
            &self.revocations.digest(),
            &count.to_be_bytes(),
        ]);
        self
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

    /// The generation of the publisher set that it is published under.
    #[must_use]
    pub const fn publishers(&self) -> Generation {
        self.publishers
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
        Self {
            issuer: self.issuer.clone(),
            epoch: self.epoch.saturating_add(1),
            publishers: change.publishers.unwrap_or(self.publishers),
            keys: Arc::clone(keys),
            revocations,
            digest: StateDigest::default(),
        }
        .digested(sha256)
    }
}

/// The rules by which a verifier takes over updates.
#[derive(Clone, Debug)]
pub struct UpdateRules {
    /// The issuer trusted.
    pub issuer: Issuer,
    /// The most revocations held.
    pub max_revocations: usize,
    /// The longest that a revocation may claim to matter: no token lives longer, and no revoked certificate is remembered for longer.
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
        let in_force = current.map_or(0, TrustState::publishers);
        if update.publishers().is_some_and(|named| named < in_force) {
            return Err(UpdateRefused::Regressed);
        }
        let next = match &update.content {
            UpdateContent::Snapshot {
                key_set,
                revocations,
                publishers,
            } => {
                let next = self.snapshot(update.epoch, key_set, revocations, now, sha256)?;
                let next = next.published_under(*publishers, sha256);
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

    /// How many of `revocations` claim to matter for longer than any may.
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
