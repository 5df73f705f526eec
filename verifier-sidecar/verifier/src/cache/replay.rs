//! From records to trust: what lies under which name, and whether it is signed. What it amounts to is decided by
//! [`verifier::Replay`].

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::publishers::LinkRefused;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, TrustState, Update, UpdateRefused, UpdateRules};
use countersign_core::verifier::{self, BootId, ClockMark, Manifest, Moment, StateId, VerifierClock};
use countersign_proto::trust::v1::Signed;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::disk::RecordMap;
use super::latest::Latest;
use super::{CacheIdentity, Unusable, carried, floor};
use crate::sync::Publishers;

/// The version of the records. Raised when an older program could misread them.
const FORMAT: u32 = 4;

pub(super) const IDENTITY: &str = "identity";
pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const HEARTBEAT: &str = "heartbeat";
pub(super) const CLOCK: &str = "clock";
pub(super) const PUBLISHERS: &str = "publishers";
/// Which certificates are revoked by more than the state here, in a database that was written before that had a file of its own.
pub(super) const CARRIED: &str = "carried";
/// There when an earlier process has let go of everything that it held.
pub(super) const LET_GO: &str = "let-go";
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

/// Where the clocks stood when the ping was sent that the heartbeat answers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRecord {
    elapsed_ms: u64,
    wall_ms: u64,
    time_ms: u64,
    boot: Option<String>,
    heard: bool,
}

/// The clock record of `mark`.
pub(super) fn write_clock(mark: &ClockMark) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&ClockRecord {
        elapsed_ms: u64::try_from(mark.moment.elapsed.as_millis()).unwrap_or(u64::MAX),
        wall_ms: mark.moment.wall_millis,
        time_ms: mark.time_millis,
        boot: mark.boot.as_deref().map(str::to_owned),
        heard: mark.heard,
    })
}

fn read_clock(record: &[u8]) -> Option<ClockMark> {
    let record: ClockRecord = serde_json::from_slice(record).ok()?;
    Some(ClockMark {
        moment: Moment {
            elapsed: Duration::from_millis(record.elapsed_ms),
            wall_millis: record.wall_ms,
        },
        time_millis: record.time_ms,
        boot: record.boot.map(Into::into),
        heard: record.heard,
    })
}

/// The record of `links`.
pub(super) fn write_links(links: &[Signed]) -> Vec<u8> {
    links
        .iter()
        .flat_map(Signed::encode_length_delimited_to_vec)
        .collect()
}

fn read_links(mut record: &[u8]) -> Result<Vec<Signed>, Unusable> {
    let mut links = Vec::new();
    while !record.is_empty() {
        links.push(Signed::decode_length_delimited(&mut record).map_err(|_malformed| Unusable::Malformed)?);
    }
    Ok(links)
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
    pub(super) mark: Option<ClockMark>,
    pub(super) deltas: Vec<LoggedDelta>,
    pub(super) latest: Latest,
}

/// Everything that is on disk.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// The trust, if there is any.
    pub(super) replayed: Option<Replayed>,
    /// Certificates that are revoked by more than that.
    pub(super) carried: RevocationList,
}

/// Why the records give nothing, the highest state that they prove was signed once, and what holds whatever else is damaged.
#[derive(Clone, Debug)]
pub(super) struct Rejected {
    pub(super) reason: Unusable,
    pub(super) highest: Option<StateId>,
    /// Certificates that are revoked by more than the state that was there.
    pub(super) carried: Box<RevocationList>,
}

impl From<Unusable> for Rejected {
    fn from(reason: Unusable) -> Self {
        Self {
            reason,
            highest: None,
            carried: Box::default(),
        }
    }
}

impl From<verifier::Rejected> for Rejected {
    fn from(rejected: verifier::Rejected) -> Self {
        Self {
            reason: rejected.reason.into(),
            highest: rejected.highest,
            carried: Box::default(),
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
    pub(super) boot: Option<BootId>,
    pub(super) now: Moment,
}

impl Replay<'_> {
    /// Everything in `records`. What is carried holds also where the rest is not used: it is by itself, and makes decisions stricter
    /// and nothing else.
    pub(super) fn load(&self, records: &RecordMap) -> Result<OnDisk, Rejected> {
        let carried = self.carried(records);
        match (self.run(records), carried) {
            (Ok(replayed), Ok(carried)) => Ok(OnDisk { replayed, carried }),
            (Ok(replayed), Err(why)) => Err(Rejected {
                highest: replayed.map(|replayed| StateId::of(&replayed.state)),
                ..why.into()
            }),
            (Err(rejected), carried) => Err(Rejected {
                carried: carried.map(Box::new).unwrap_or_default(),
                ..rejected
            }),
        }
    }

    /// The certificates that are revoked by more than the state in `records`, if those are of the same authority: whose audience and
    /// which sidecar it was is no matter.
    fn carried(&self, records: &RecordMap) -> Result<RevocationList, Unusable> {
        let Some(record) = records.get(CARRIED).filter(|_| self.is_of_authority(records)) else {
            return Ok(RevocationList::default());
        };
        carried::read_record(record).ok_or(Unusable::Malformed)
    }

    fn is_of_authority(&self, records: &RecordMap) -> bool {
        let record = records.get(IDENTITY);
        let record = record.and_then(|record| serde_json::from_slice::<IdentityRecord>(record).ok());
        record.is_some_and(|IdentityRecord { identity, .. }| {
            let ours = (&self.identity.issuer, &self.identity.trust_domain);
            (&identity.issuer, &identity.trust_domain) == ours
        })
    }

    /// The trust that `records` hold. Nothing when there are none and none are missing, or when it was let go of.
    pub(super) fn run(&self, records: &RecordMap) -> Result<Option<Replayed>, Rejected> {
        let floor = match (self.floor, holds_nothing(records)) {
            (floor::Found::Nothing, true) => return Ok(None),
            (_, true) => return Err(Unusable::Lost.into()),
            (floor::Found::Nothing | floor::Found::Unreadable, false) => None,
            (floor::Found::Floor(floor), false) => Some(floor.state),
        };
        self.check_identity(records)?;
        if records.contains_key(LET_GO) {
            return Ok(None);
        }
        self.follow_links(records)?;
        let mark = records
            .get(CLOCK)
            .map(|record| read_clock(record).ok_or(Unusable::Malformed));
        let mark = mark.transpose()?;
        let manifest = self.manifest(records, mark.as_ref())?;
        let snapshot = self.update(records.get(SNAPSHOT).ok_or(Unusable::Malformed)?)?;
        let sha256 = self.publishers.reader().as_ref();
        let time = self.time(mark.as_ref());
        let mut replay = verifier::Replay::begin(self.rules, sha256, time, manifest, &snapshot)?;
        let deltas = self.follow(&mut replay, records)?;
        let restored = replay.finish(floor)?;
        if restored.state.publishers() > self.publishers.highest() {
            return Err(Unusable::Refused(UpdateRefused::PublishersMissing).into());
        }
        Ok(Some(Replayed {
            latest: latest(records, restored.manifest.as_ref(), &deltas),
            state: restored.state,
            manifest: restored.manifest,
            mark,
            deltas,
        }))
    }

    fn follow(
        &self,
        replay: &mut verifier::Replay<'_>,
        records: &RecordMap,
    ) -> Result<Vec<LoggedDelta>, Rejected> {
        let others = [IDENTITY, SNAPSHOT, HEARTBEAT, CLOCK, PUBLISHERS, CARRIED];
        let mut logged = Vec::new();
        for (name, record) in records
            .iter()
            .filter(|(name, _)| !others.contains(&name.as_str()))
        {
            let (epoch, delta) = self.delta(name, record).map_err(|reason| Rejected {
                highest: Some(replay.highest()),
                ..reason.into()
            })?;
            replay.follow(epoch, &delta)?;
            logged.push(LoggedDelta {
                epoch,
                length: record.len(),
            });
        }
        Ok(logged)
    }

    fn delta(&self, name: &str, record: &[u8]) -> Result<(Epoch, Update), Unusable> {
        let epoch = delta_epoch(name).ok_or(Unusable::Misplaced)?;
        Ok((epoch, self.update(record)?))
    }

    /// Goes from the pinned set to the one that was in force. A link that does not lead on from the pinned set leads to nothing.
    pub(super) fn follow_links(&self, records: &RecordMap) -> Result<(), Unusable> {
        let followed = self.offer_links(records);
        if self.publishers.forget_astray() {
            followed.and(Err(Unusable::PublishersBehind))
        } else {
            followed
        }
    }

    fn offer_links(&self, records: &RecordMap) -> Result<(), Unusable> {
        for link in records
            .get(PUBLISHERS)
            .map_or(Ok(Vec::new()), |record| read_links(record))?
        {
            match self.publishers.offer(&link) {
                Ok(_) | Err(LinkRefused::Signer) => {}
                Err(refused) => {
                    tracing::warn!(reason = refused.reason(), "a link on disk is refused");
                    return Err(Unusable::Publishers);
                }
            }
        }
        Ok(())
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

    /// What time it is, as far as the wall clock and `mark` say.
    fn time(&self, mark: Option<&ClockMark>) -> Timestamp {
        let mut clock = VerifierClock::start(self.boot.clone(), self.now);
        if let Some(mark) = mark {
            clock.resume(mark, self.now);
        }
        clock.best(self.now.elapsed)
    }

    fn manifest(&self, records: &RecordMap, mark: Option<&ClockMark>) -> Result<Option<Manifest>, Unusable> {
        let Some(record) = records.get(HEARTBEAT) else {
            return Ok(None);
        };
        let sent = mark.ok_or(Unusable::Malformed)?.clone();
        let signed = Signed::decode(record.as_slice()).map_err(|_malformed| Unusable::Malformed)?;
        let heartbeat = self.publishers.heartbeat(&signed).map_err(Unusable::Refused)?;
        if heartbeat.issuer != self.rules.issuer {
            return Err(Unusable::Identity);
        }
        Ok(Some(Manifest { heartbeat, sent }))
    }

    fn update(&self, record: &[u8]) -> Result<Update, Unusable> {
        let signed = Signed::decode(record).map_err(|_malformed| Unusable::Malformed)?;
        self.publishers.update(&signed).map_err(Unusable::Refused)
    }
}

/// Whether nothing was ever saved, but for what was carried over from records that could not be used.
fn holds_nothing(records: &RecordMap) -> bool {
    let is_new = records.len() == 2 && [IDENTITY, CARRIED].iter().all(|name| records.contains_key(*name));
    records.is_empty() || is_new
}

/// The latest of what the records, which have verified, name an epoch with.
fn latest(records: &RecordMap, manifest: Option<&Manifest>, deltas: &[LoggedDelta]) -> Latest {
    let signed = |name: &str| Signed::decode(records.get(name)?.as_slice()).ok();
    let mut latest = Latest::new();
    if let (Some(manifest), Some(signed)) = (manifest, signed(HEARTBEAT)) {
        latest.heartbeat(manifest.heartbeat.epoch, &signed);
    }
    if let Some(last) = deltas.last()
        && let Some(signed) = signed(&delta_name(last.epoch))
    {
        latest.update(last.epoch, &signed);
    }
    latest
}
