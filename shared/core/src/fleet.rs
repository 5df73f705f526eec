//! The register of verifiers: who is there, which epoch each has in force, and until when each may decide without being asked.
//!
//! The authority grants a verifier a lease with the answer to a ping, and only for the epoch that it has acknowledged. From then
//! on each class of methods decides until lease and budget have ended, however the verifier is cut off. So for a verifier that
//! has not acknowledged an epoch, all that it was ever granted is for earlier ones, and its ends say when it has stopped.
//!
//! INVARIANT (a bound holds): nothing is granted before its end is written down here, and ends never move to earlier times
//! but by [`Register::left`] and [`Register::forget`], when the verifier decides nothing any more.
//! INVARIANT (known before granted): a verifier is granted nothing until the store has it, so that after a crash whoever holds a
//! lease is known, and taken to have been granted one at that moment ([`Register::restore`]).
//!
//! Times are elapsed time of the authority's clock. A verifier counts from when it sent its ping, which is before the grant; for
//! clocks that run apart, half a thousandth is added.

mod files;
mod reach;
mod verifier;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::names::VerifierId;
use crate::planted::{Bug, planted};
use crate::spiffe::SpiffeId;
use crate::staleness::ClassBudget;
use crate::time::Timestamp;
use crate::trust::Epoch;

use files::TrustFiles;
pub use files::trust_file_until;
pub use reach::{Gate, Laggard, Reach};
pub use verifier::Verifier;

/// One stream among all since the start.
pub type StreamId = u64;

/// One verifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifierKey {
    /// Who it is, by its certificate. Replicas of a service are the same.
    pub spiffe_id: SpiffeId,
    /// Which of them.
    pub verifier_id: VerifierId,
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.spiffe_id.as_str(), self.verifier_id)
    }
}

/// The most verifiers of one identity that are known once half of the room is taken, and no more than that half: one that comes under
/// ever new names, of which each is waited for, must not keep the others out.
const KNOWN_PER_IDENTITY: usize = 1000;

/// However little room there is, a service has so many replicas.
const A_FEW: usize = 4;

/// How many verifiers are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetLimits {
    /// Streams that one identity may hold (G46).
    pub streams_per_identity: usize,
    /// Streams in all; twice as many verifiers are known.
    pub streams: usize,
}

/// Why a verifier is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// Its identity holds as many streams as it may.
    Identity,
    /// There are as many as may be.
    Full,
}

/// What a verifier says of itself when its stream opens.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its software version.
    pub version: String,
    /// Which start of it.
    pub instance_id: String,
    /// How long it decides without a lease. What it may have been granted before is judged by these, too.
    pub budgets: Arc<[ClassBudget]>,
    /// Whether it has anything in force. If not, it decides nothing.
    pub decides: bool,
}

/// A verifier that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetIn {
    /// Its stream.
    pub stream: StreamId,
    /// The stream that this one takes the place of.
    pub superseded: Option<StreamId>,
    /// Whether the store has to have it, as it is now, before anything is granted.
    pub to_be_stored: bool,
}

/// The classes that a verifier is taken to have when it does not say: as loose as the built-in ones.
#[must_use]
pub fn assumed_budgets() -> Arc<[ClassBudget]> {
    [
        ClassBudget::strict(),
        ClassBudget::normal(),
        ClassBudget::tolerant(),
    ]
    .into()
}

/// The register.
#[derive(Clone, Debug)]
pub struct Register {
    limits: FleetLimits,
    lease: Duration,
    /// When this life of the authority began.
    began: Duration,
    verifiers: BTreeMap<VerifierKey, Verifier>,
    quarantined: BTreeSet<SpiffeId>,
    next_stream: StreamId,
    files: TrustFiles,
    /// How many streams each identity has open.
    open: BTreeMap<SpiffeId, usize>,
    /// How many verifiers are connected, by the epoch that each acknowledged last: kept up, because with every acknowledgement
    /// everybody who waits for an epoch asks whether somebody lacks it.
    by_epoch: BTreeMap<Epoch, usize>,
}

impl Register {
    /// Nobody yet. Leases last `lease`. The authority begins at `began`: no earlier life of it grants anything from then on.
    #[must_use]
    pub fn new(limits: FleetLimits, lease: Duration, began: Duration) -> Self {
        Self {
            limits,
            lease,
            began,
            verifiers: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            next_stream: 0,
            files: TrustFiles::default(),
            open: BTreeMap::new(),
            by_epoch: BTreeMap::new(),
        }
    }

    /// How long a lease lasts.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// Everybody who is known, behind `after`.
    pub fn after(&self, after: Option<&VerifierKey>) -> impl Iterator<Item = (&VerifierKey, &Verifier)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.verifiers.range((start, Unbounded))
    }

    /// One verifier.
    #[must_use]
    pub fn find(&self, key: &VerifierKey) -> Option<&Verifier> {
        self.verifiers.get(key)
    }

    fn of(&self, spiffe_id: &SpiffeId) -> impl Iterator<Item = &VerifierKey> {
        let names = self.verifiers.keys();
        names.filter(move |key| key.spiffe_id == *spiffe_id)
    }

    /// How many verifiers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verifiers.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// How many streams are open.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.by_epoch.values().sum()
    }

    /// Takes in a verifier that the store has. What it was granted before the authority stopped, it was at the latest at
    /// `elapsed`.
    pub fn restore(&mut self, key: VerifierKey, budgets: Arc<[ClassBudget]>, elapsed: Duration) {
        let mut verifier = Verifier::new(budgets);
        verifier.stored = true;
        if !planted(Bug::GrantsForgotten) {
            verifier.extend(elapsed, self.lease);
        }
        verifier.kept = verifier.ends.clone();
        self.verifiers.insert(key, verifier);
    }

    /// Opens a stream. One that the verifier has already ends: nobody comes twice.
    ///
    /// # Errors
    /// [`NotLetIn`].
    pub fn join(
        &mut self,
        key: &VerifierKey,
        introduction: Introduction,
        elapsed: Duration,
        now: Timestamp,
    ) -> Result<LetIn, NotLetIn> {
        let known = self.verifiers.get(key);
        // Whatever was granted to a verifier that is known is written down. One that comes again and again and hears no answer
        // must not be waited for without end (F17).
        let is_known = known.is_some();
        let is_news = known.is_none_or(|known| known.budgets != introduction.budgets);
        let superseded = known.and_then(|verifier| verifier.stream);
        match superseded {
            Some(stream) => self.closed(key, stream),
            None => self.check_limits(key)?,
        }
        let stream = self.next_stream;
        self.next_stream += 1;
        let budgets = introduction.budgets;
        let verifier = self
            .verifiers
            .entry(key.clone())
            .or_insert_with(|| Verifier::new(Arc::clone(&budgets)));
        if verifier.budgets != budgets {
            verifier.budgets = budgets;
            verifier.stored = false;
        }
        verifier.stream = Some(stream);
        verifier.version = introduction.version;
        verifier.instance_id = introduction.instance_id;
        verifier.connected_at = now;
        verifier.last_seen_at = now;
        // What it held before counts for nothing until it says so again: its disk may have been restored from a backup.
        verifier.acknowledged = 0;
        verifier.durable = 0;
        if introduction.decides && is_news {
            if is_known {
                // With longer budgets, what it was granted until now lasts longer, and what is on its disk, too.
                verifier.extend(elapsed, self.lease);
                verifier.kept.clone_from(&verifier.ends);
            } else {
                // Whoever is granted anything in this life is known until that has ended. So what is on its disk was granted before,
                // by an authority that the store has forgotten: it was restored from a backup. A trust file, from which those start
                // that have no disk, has an end of its own. They must not be waited for without end (I-01).
                verifier.extend(self.began, self.lease);
                verifier.kept.clone_from(&verifier.ends);
                // It decides on something now.
                verifier.extend(elapsed, self.lease);
            }
        }
        let to_be_stored = !verifier.stored;
        *self.by_epoch.entry(0).or_default() += 1;
        *self.open.entry(key.spiffe_id.clone()).or_default() += 1;
        Ok(LetIn {
            stream,
            superseded,
            to_be_stored,
        })
    }

    fn check_limits(&self, key: &VerifierKey) -> Result<(), NotLetIn> {
        let open = self.open.get(&key.spiffe_id).copied().unwrap_or_default();
        if open >= self.limits.streams_per_identity {
            return Err(NotLetIn::Identity);
        }
        let known = self.verifiers.contains_key(key);
        let is_crowded = !known && self.verifiers.len() >= self.limits.streams;
        let half_the_room = self.limits.streams;
        if is_crowded && self.of(&key.spiffe_id).count() >= half_the_room.clamp(A_FEW, KNOWN_PER_IDENTITY) {
            return Err(NotLetIn::Identity);
        }
        let full = self.connected() >= self.limits.streams
            || (!known && self.verifiers.len() >= self.limits.streams.saturating_mul(2));
        if full { Err(NotLetIn::Full) } else { Ok(()) }
    }

    /// The store has the verifier with these budgets.
    pub fn stored(&mut self, key: &VerifierKey, budgets: &Arc<[ClassBudget]>) {
        if let Some(verifier) = self.verifiers.get_mut(key) {
            verifier.stored = verifier.budgets == *budgets;
        }
    }

    /// The store is about to strike the verifier: should it come back, it has to be stored anew before anything is granted.
    pub fn unstored(&mut self, key: &VerifierKey) {
        if let Some(verifier) = self.verifiers.get_mut(key) {
            verifier.stored = false;
        }
    }

    /// The verifier has `epoch` in force, and on disk if `durable`. Whether it was sent that epoch is for the feed to say.
    pub fn acknowledged(
        &mut self,
        key: &VerifierKey,
        stream: StreamId,
        epoch: Epoch,
        durable: bool,
        now: Timestamp,
    ) {
        let Some(verifier) = open(&mut self.verifiers, key, stream) else {
            return;
        };
        verifier.last_seen_at = now;
        let before = verifier.acknowledged;
        verifier.acknowledged = epoch.max(before);
        if durable {
            verifier.durable = epoch.max(verifier.durable);
            // What was granted before it said so may be on disk, too.
            verifier.kept.clone_from(&verifier.ends);
        }
        let after = verifier.acknowledged;
        if before != after {
            subtract(&mut self.by_epoch, &before);
            *self.by_epoch.entry(after).or_default() += 1;
        }
    }

    /// Grants a lease, if one may be granted while `current` is the authority's epoch: the verifier has acknowledged it, the
    /// store has the verifier, and nobody has put it in quarantine.
    pub fn grant(
        &mut self,
        key: &VerifierKey,
        stream: StreamId,
        current: Epoch,
        elapsed: Duration,
    ) -> Option<Duration> {
        let quarantined = self.is_quarantined(&key.spiffe_id);
        let lease = self.lease;
        let verifier = open(&mut self.verifiers, key, stream)?;
        let granted = !quarantined && verifier.stored && verifier.acknowledged == current;
        granted.then(|| {
            if planted(Bug::GrantNotWritten) {
                return lease;
            }
            verifier.extend(elapsed, lease);
            if verifier.durable == current {
                verifier.kept.clone_from(&verifier.ends);
            }
            lease
        })
    }

    /// Something came from the verifier; it refused an update for `nack`, if that is not empty.
    pub fn seen(&mut self, key: &VerifierKey, stream: StreamId, nack: &'static str, now: Timestamp) {
        if let Some(verifier) = open(&mut self.verifiers, key, stream) {
            verifier.last_seen_at = now;
            if !nack.is_empty() {
                verifier.last_nack = nack;
            }
        }
    }

    /// The stream is closed. The verifier may go on deciding.
    pub fn closed(&mut self, key: &VerifierKey, stream: StreamId) {
        if let Some(verifier) = open(&mut self.verifiers, key, stream) {
            verifier.stream = None;
            let acknowledged = verifier.acknowledged;
            subtract(&mut self.by_epoch, &acknowledged);
            subtract(&mut self.open, &key.spiffe_id);
        }
    }

    /// The verifier has taken leave: it decides nothing any more. What it held on disk it may come back with, and then it says so.
    pub fn left(&mut self, key: &VerifierKey, stream: StreamId) {
        if let Some(verifier) = open(&mut self.verifiers, key, stream) {
            verifier.ends.clear();
            verifier.kept.clear();
        }
        self.closed(key, stream);
    }

    /// Takes a verifier that is not connected for gone. False when there is none such.
    pub fn forget(&mut self, key: &VerifierKey) -> bool {
        let away = self
            .verifiers
            .get(key)
            .is_some_and(|verifier| verifier.stream.is_none());
        away && self.verifiers.remove(key).is_some()
    }

    /// Those that are neither connected nor decide on anything at `elapsed`: at most `most`. They are live no more, and may be
    /// forgotten here and in the store.
    #[must_use]
    pub fn ended(&self, elapsed: Duration, most: usize) -> Vec<VerifierKey> {
        let ended = |(_, verifier): &(&VerifierKey, &Verifier)| {
            verifier.stream.is_none() && verifier.end() <= elapsed
        };
        let ended = self.verifiers.iter().filter(ended);
        ended.take(most).map(|(key, _)| key.clone()).collect()
    }

    /// A trust file of `epoch` or later is about to be given out, which nobody decides on from `end` on. Who starts from it is not
    /// known, so it counts like a verifier that is away.
    pub fn exported(&mut self, epoch: Epoch, end: Duration) {
        if !planted(Bug::ExportNotWritten) {
            self.files.add(epoch, end);
        }
    }

    /// The epochs of trust files that nobody decides on any more: at most `most`.
    #[must_use]
    pub fn expired_files(&self, elapsed: Duration, most: usize) -> Vec<Epoch> {
        self.files.ended(elapsed, most)
    }

    /// The store has struck the trust files of `epoch`, which had expired at `elapsed`.
    pub fn strike_files(&mut self, epoch: Epoch, elapsed: Duration) {
        self.files.strike(epoch, elapsed);
    }

    /// Puts an identity in quarantine, or ends that.
    pub fn quarantine(&mut self, spiffe_id: SpiffeId, on: bool) {
        if on {
            self.quarantined.insert(spiffe_id);
        } else {
            self.quarantined.remove(&spiffe_id);
        }
    }

    /// Whether an identity is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, spiffe_id: &SpiffeId) -> bool {
        self.quarantined.contains(spiffe_id) && !planted(Bug::QuarantineGrants)
    }
}

fn subtract<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The verifier, if this is its open stream: what an earlier one says late counts for nothing.
fn open<'a>(
    verifiers: &'a mut BTreeMap<VerifierKey, Verifier>,
    key: &VerifierKey,
    stream: StreamId,
) -> Option<&'a mut Verifier> {
    verifiers
        .get_mut(key)
        .filter(|verifier| verifier.stream == Some(stream) || planted(Bug::LateStreamCounts))
}

#[cfg(test)]
mod tests;
