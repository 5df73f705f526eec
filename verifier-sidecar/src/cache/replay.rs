//! From records to trust: every signature, every step and the result are verified, or nothing is taken over.
//!
//! The signed heartbeat is the manifest. Where it stands in the chain of epochs, the state must have its digest and its
//! number of revocations; what follows in the chain is signed with its own digests; and the end of the chain must not be
//! below the floor. So a record that is missing, repeated, swapped or of another verifier always shows.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::trust::{Applied, Epoch, TrustState, Update, UpdateContent, UpdateRules};
use countersign_proto::trust::v1::Signed;
use countersign_wire::trust::Heartbeat;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::disk::RecordMap;
use super::{CacheIdentity, Unusable, floor};
use crate::sync::{MAX_CLOCK_DIFFERENCE, Publishers};
use crate::trust::Floor;

/// The version of the records. Raised when an older program could misread them.
const FORMAT: u32 = 1;

pub(super) const IDENTITY: &str = "identity";
pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const HEARTBEAT: &str = "heartbeat";
const DELTA: &str = "delta/";

/// The name of the delta that leads to `epoch`. Names sort as epochs do.
pub(super) fn delta_name(epoch: Epoch) -> String {
    format!("{DELTA}{epoch:016x}")
}

fn delta_epoch(name: &str) -> Option<Epoch> {
    let epoch = Epoch::from_str_radix(name.strip_prefix(DELTA)?, 16).ok()?;
    (delta_name(epoch) == name).then_some(epoch)
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityRecord {
    format: u32,
    identity: CacheIdentity,
}

/// The identity record of `identity`.
pub(super) fn write_identity(identity: &CacheIdentity) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&IdentityRecord {
        format: FORMAT,
        identity: identity.clone(),
    })
}

/// The heartbeat record: when this verifier's clock sent the ping, in milliseconds since 1970, then what was signed.
pub(super) fn write_heartbeat(sent_at_millis: u64, signed: &[u8]) -> Vec<u8> {
    [&sent_at_millis.to_be_bytes(), signed].concat()
}

/// A delta in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoggedDelta {
    pub(super) epoch: Epoch,
    pub(super) length: usize,
}

/// What the records give.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) state: TrustState,
    pub(super) manifest: Option<Manifest>,
    pub(super) deltas: Vec<LoggedDelta>,
}

/// Why the records give nothing, and the highest state that they prove was signed once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejected {
    pub(super) reason: Unusable,
    pub(super) highest: Option<Floor>,
}

impl From<Unusable> for Rejected {
    fn from(reason: Unusable) -> Self {
        Self {
            reason,
            highest: None,
        }
    }
}

/// Everything that records are verified against.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    pub(super) identity: &'a CacheIdentity,
    pub(super) publishers: &'a Publishers,
    pub(super) rules: &'a UpdateRules,
    pub(super) floor: floor::Found,
    pub(super) now: Timestamp,
}

/// The last heartbeat that was kept.
#[derive(Debug)]
pub(super) struct Manifest {
    heartbeat: Heartbeat,
    sent_at_millis: u64,
}

impl Manifest {
    /// Whether `state` is what the heartbeat states; nothing when it states another epoch.
    fn matches(&self, state: &TrustState) -> Option<bool> {
        let count = u64::try_from(state.revocations().len()).unwrap_or(u64::MAX);
        let heartbeat = &self.heartbeat;
        (heartbeat.epoch == state.epoch())
            .then(|| heartbeat.state_digest == *state.digest() && heartbeat.revocation_count == count)
    }

    /// The epoch that it states.
    pub(super) const fn epoch(&self) -> Epoch {
        self.heartbeat.epoch
    }

    /// How long before `now_millis` the authority stated it: the longer of what the authority's clock and this one said
    /// then. Unknown when this clock reads clearly earlier than then: it was set back, or lost.
    pub(super) fn age(&self, now_millis: u64) -> Option<Duration> {
        let stated_at = self.heartbeat.authority_time_millis;
        let latest = Duration::from_millis(stated_at.max(self.sent_at_millis));
        let earliest = stated_at.min(self.sent_at_millis);
        let clock_went_back = Duration::from_millis(now_millis).saturating_add(MAX_CLOCK_DIFFERENCE) < latest;
        (!clock_went_back).then(|| Duration::from_millis(now_millis.saturating_sub(earliest)))
    }
}

impl Replay<'_> {
    /// The trust that `records` hold. Nothing when there are none and none are missing.
    pub(super) fn run(&self, records: &RecordMap) -> Result<Option<Replayed>, Rejected> {
        let floor = match (self.floor, records.is_empty()) {
            (floor::Found::Nothing, true) => return Ok(None),
            (_, true) => return Err(Unusable::Lost.into()),
            (floor::Found::Nothing | floor::Found::Unreadable, false) => None,
            (floor::Found::Floor(floor), false) => Some(floor),
        };
        self.check_identity(records)?;
        let manifest = self.manifest(records)?;
        let mut walk = Walk::begin(self, records, manifest.as_ref())?;
        walk.deltas(records)?;
        let highest = walk.highest();
        let failed = |reason| Rejected {
            reason,
            highest: Some(highest),
        };
        // Without the floor nobody can tell whether the end of the chain is there.
        let floor = floor.ok_or_else(|| failed(Unusable::FloorMissing))?;
        if highest.epoch < floor.epoch {
            return Err(failed(Unusable::BelowFloor));
        }
        if highest.epoch == floor.epoch && highest.digest != floor.digest {
            return Err(failed(Unusable::FloorContradicted));
        }
        if manifest.is_some() && !walk.attested {
            return Err(failed(Unusable::Manifest));
        }
        Ok(Some(Replayed {
            state: walk.state,
            deltas: walk.logged,
            manifest,
        }))
    }

    fn check_identity(&self, records: &RecordMap) -> Result<(), Unusable> {
        let record = records.get(IDENTITY).ok_or(Unusable::Identity)?;
        let Version { format } = serde_json::from_slice(record).map_err(|_malformed| Unusable::Identity)?;
        if format != FORMAT {
            return Err(Unusable::Format);
        }
        let record: IdentityRecord =
            serde_json::from_slice(record).map_err(|_malformed| Unusable::Identity)?;
        if record.identity == *self.identity {
            Ok(())
        } else {
            Err(Unusable::Identity)
        }
    }

    fn manifest(&self, records: &RecordMap) -> Result<Option<Manifest>, Unusable> {
        let Some(record) = records.get(HEARTBEAT) else {
            return Ok(None);
        };
        let (sent_at, signed) = record.split_first_chunk::<8>().ok_or(Unusable::Malformed)?;
        let signed = Signed::decode(signed).map_err(|_malformed| Unusable::Malformed)?;
        let heartbeat = self.publishers.heartbeat(&signed).map_err(Unusable::Refused)?;
        if heartbeat.issuer != self.rules.issuer {
            return Err(Unusable::Identity);
        }
        Ok(Some(Manifest {
            heartbeat,
            sent_at_millis: u64::from_be_bytes(*sent_at),
        }))
    }

    fn update(&self, record: &[u8]) -> Result<Update, Unusable> {
        let signed = Signed::decode(record).map_err(|_malformed| Unusable::Malformed)?;
        self.publishers.update(&signed).map_err(Unusable::Refused)
    }

    fn step(&self, from: Option<&TrustState>, update: &Update) -> Result<TrustState, Unusable> {
        let sha256 = self.publishers.reader();
        // The floor is for the end of the chain; on the way there, every epoch is below it.
        match self.rules.apply(from, 0, update, self.now, sha256) {
            Ok(Applied::Advanced(state)) => Ok(state),
            Ok(Applied::Confirmed) => Err(Unusable::Misplaced),
            Err(refused) => Err(Unusable::Refused(refused)),
        }
    }
}

/// The chain of epochs, as far as it is walked.
struct Walk<'a> {
    replay: &'a Replay<'a>,
    manifest: Option<&'a Manifest>,
    state: TrustState,
    attested: bool,
    logged: Vec<LoggedDelta>,
}

impl<'a> Walk<'a> {
    fn begin(
        replay: &'a Replay<'a>,
        records: &RecordMap,
        manifest: Option<&'a Manifest>,
    ) -> Result<Self, Rejected> {
        let record = records.get(SNAPSHOT).ok_or(Unusable::Malformed)?;
        let update = replay.update(record)?;
        let UpdateContent::Snapshot { .. } = &update.content else {
            return Err(Unusable::Misplaced.into());
        };
        let mut walk = Self {
            state: replay.step(None, &update)?,
            replay,
            manifest,
            attested: false,
            logged: Vec::new(),
        };
        walk.attest()?;
        Ok(walk)
    }

    fn deltas(&mut self, records: &RecordMap) -> Result<(), Rejected> {
        let others = [IDENTITY, SNAPSHOT, HEARTBEAT];
        for (name, record) in records
            .iter()
            .filter(|(name, _)| !others.contains(&name.as_str()))
        {
            self.delta(name, record).map_err(|reason| self.failed(reason))?;
            self.attest()?;
        }
        Ok(())
    }

    fn delta(&mut self, name: &str, record: &[u8]) -> Result<(), Unusable> {
        let epoch = delta_epoch(name).ok_or(Unusable::Misplaced)?;
        let update = self.replay.update(record)?;
        // A snapshot under a delta's name, or a delta under another epoch's, is well signed and still in the wrong place.
        let UpdateContent::Delta { .. } = &update.content else {
            return Err(Unusable::Misplaced);
        };
        if update.epoch != epoch {
            return Err(Unusable::Misplaced);
        }
        self.state = self.replay.step(Some(&self.state), &update)?;
        self.logged.push(LoggedDelta {
            epoch,
            length: record.len(),
        });
        Ok(())
    }

    fn attest(&mut self) -> Result<(), Rejected> {
        match self.manifest.and_then(|manifest| manifest.matches(&self.state)) {
            Some(false) => Err(self.failed(Unusable::Manifest)),
            Some(true) => {
                self.attested = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    const fn failed(&self, reason: Unusable) -> Rejected {
        Rejected {
            reason,
            highest: Some(self.highest()),
        }
    }

    const fn highest(&self) -> Floor {
        Floor {
            epoch: self.state.epoch(),
            digest: *self.state.digest(),
        }
    }
}
