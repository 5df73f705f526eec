//! Trust in a file that an operator put here (`countersign trust export`), for a start while the authority is away.
//!
//! It is verified by what verifies the records on disk, against the same floor, and is no younger than the authority's time in
//! its heartbeat. It is used where it leads further than the disk does, and is then kept like any snapshot. Whatever is wrong
//! with it, the start goes on without it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::feed::snapshot;
use countersign_core::trust::{Epoch, Heartbeat, TrustState, UpdateRefused};
use countersign_core::verifier::{ClockMark, Moment, VerifierClock};
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_mtls::FileError;
use countersign_mtls::files::{FileProblem, read_public};
use countersign_proto::trust::v1::{Signed, TrustFile};
use countersign_wire::trust::read_heartbeat;
use countersign_wire::trust_file::{MAX_TRUST_FILE, NoTrustFile, read_trust_file};
use prost::Message as _;

use super::disk::RecordMap;
use super::floor::{self, Floor};
use super::replay::{self, Rejected, Replay, Replayed, delta_name};
use super::{CacheIdentity, Unusable};
use crate::defaults;
use crate::sync::Publishers;

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmStart {
    /// The configuration names none.
    NotNamed,
    /// There is none where the configuration says.
    Missing,
    /// It leads to this epoch, and no further than what was on disk.
    NoFurther(Epoch),
    /// What leads to this epoch is from it.
    Used(Epoch),
    /// It is not used.
    Refused(Unusable),
}

impl WarmStart {
    /// Every outcome there is.
    pub const OUTCOMES: [&str; 5] = ["not_named", "missing", "no_further", "used", "refused"];

    /// The stable name for metrics.
    #[must_use]
    pub const fn outcome(self) -> &'static str {
        let [not_named, missing, no_further, used, refused] = Self::OUTCOMES;
        match self {
            Self::NotNamed => not_named,
            Self::Missing => missing,
            Self::NoFurther(_) => no_further,
            Self::Used(_) => used,
            Self::Refused(_) => refused,
        }
    }

    /// Says it in the log, where an operator can see whether the file is of use.
    pub(super) fn tell(self) {
        match self {
            Self::NotNamed => {}
            Self::Missing => tracing::info!("there is no file for a warm start"),
            Self::NoFurther(epoch) => {
                tracing::info!(
                    epoch,
                    "the file for a warm start leads no further than the trust on disk"
                );
            }
            Self::Used(epoch) => tracing::info!(epoch, "the trust is that in the file for a warm start"),
            Self::Refused(why @ (Unusable::BelowFloor | Unusable::FloorContradicted)) => tracing::error!(
                reason = why.reason(),
                "the file for a warm start is not used: it is from before what was in force here, or contradicts it"
            ),
            Self::Refused(why) => {
                tracing::warn!(reason = why.reason(), "the file for a warm start is not used");
            }
        }
    }
}

/// What a file verified to.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) snapshot: Signed,
    pub(super) deltas: Vec<(Epoch, Signed)>,
    pub(super) heartbeat: Signed,
    pub(super) replayed: Replayed,
}

/// What reads a file, and compares it with what was on disk.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// What it is verified against: as the disk is, with the floor that is known here.
    pub(super) replay: Replay<'a>,
    /// What was on disk.
    pub(super) held: Option<&'a Replayed>,
}

impl Reader<'_> {
    /// Looks at the file at `path`. What is to be used of it, if anything is.
    pub(super) fn look(&self, path: &Path) -> (WarmStart, Option<Import>) {
        let verified = read(path).and_then(|file| file.map(|file| self.verify(file)).transpose());
        let import = match verified {
            Ok(Some(import)) => import,
            Ok(None) => return (WarmStart::Missing, None),
            Err(Rejected {
                reason: Unusable::BelowFloor,
                highest: Some(highest),
                ..
            }) if self.held.is_some() => return (WarmStart::NoFurther(highest.epoch), None),
            Err(Rejected { reason, .. }) => return (WarmStart::Refused(reason), None),
        };
        let epoch = import.replayed.state.epoch();
        if self.has_expired(&import.replayed) {
            return (WarmStart::Refused(Unusable::Expired), None);
        }
        if !self.leads_further(&import.replayed) {
            return (WarmStart::NoFurther(epoch), None);
        }
        match self.check_follows(&import.replayed.state) {
            Ok(()) => (WarmStart::Used(epoch), Some(import)),
            Err(refused) => (WarmStart::Refused(Unusable::Refused(refused)), None),
        }
    }

    /// Puts what is in the file in the places that it would have on disk, and replays it from there.
    fn verify(&self, file: TrustFile) -> Result<Import, Rejected> {
        let (Some(snapshot), Some(heartbeat)) = (file.snapshot, file.heartbeat) else {
            return Err(Unusable::Malformed.into());
        };
        let mut records = RecordMap::new();
        if !file.publishers.is_empty() {
            records.insert(
                replay::PUBLISHERS.to_owned(),
                replay::write_links(&file.publishers),
            );
        }
        self.replay.follow_links(&records)?;
        let publishers = self.replay.publishers;
        let stated = publishers.heartbeat(&heartbeat).map_err(Unusable::Refused)?;
        // The authority counts on nobody's deciding on it for longer, and knows of no other file.
        if stated.lifetime().is_none() {
            return Err(Unusable::Malformed.into());
        }
        let unwritten = |_never| Unusable::Malformed;
        let identity = replay::write_identity(self.replay.identity).map_err(unwritten)?;
        let clock = replay::write_clock(&self.clock().taken(
            stated.authority_time_millis,
            self.mark(),
            self.replay.now,
        ))
        .map_err(unwritten)?;
        records.extend([
            (replay::IDENTITY.to_owned(), identity),
            (replay::SNAPSHOT.to_owned(), snapshot.encode_to_vec()),
            (replay::HEARTBEAT.to_owned(), heartbeat.encode_to_vec()),
            (replay::CLOCK.to_owned(), clock),
        ]);
        let mut deltas = Vec::with_capacity(file.deltas.len());
        for delta in file.deltas {
            let epoch = publishers.update(&delta).map_err(Unusable::Refused)?.epoch;
            let before = records.insert(delta_name(epoch), delta.encode_to_vec());
            if before.is_some() {
                return Err(Unusable::Misplaced.into());
            }
            deltas.push((epoch, delta));
        }
        let replayed = self.replay.run(&records)?.ok_or(Unusable::Malformed)?;
        if stated.epoch != replayed.state.epoch() {
            return Err(Unusable::Manifest.into());
        }
        Ok(Import {
            snapshot,
            deltas,
            heartbeat,
            replayed,
        })
    }

    fn mark(&self) -> Option<&ClockMark> {
        self.held.and_then(|held| held.mark.as_ref())
    }

    fn clock(&self) -> VerifierClock {
        let mut clock = VerifierClock::start(self.replay.boot.clone(), self.replay.now);
        if let Some(mark) = self.mark() {
            clock.resume(mark, self.replay.now);
        }
        clock
    }

    /// Whether nothing is to be decided on it any more, so that it is of no use to anybody.
    fn has_expired(&self, file: &Replayed) -> bool {
        let manifest = file.manifest.as_ref();
        let age = manifest.and_then(|manifest| manifest.age(self.replay.boot.as_ref(), self.replay.now));
        age.is_some_and(|age| age.lifetime.is_some_and(|lifetime| age.so_far >= lifetime))
    }

    /// How old `replayed` is; as old as can be when that is not known.
    fn age(&self, replayed: &Replayed) -> Duration {
        let manifest = replayed.manifest.as_ref();
        let age = manifest.and_then(|manifest| manifest.age(self.replay.boot.as_ref(), self.replay.now));
        age.map_or(Duration::MAX, |age| age.so_far)
    }

    /// Whether the file has a later state than the disk, or a later confirmation of the same.
    fn leads_further(&self, file: &Replayed) -> bool {
        self.held.is_none_or(|held| {
            let (there, here) = (file.state.epoch(), held.state.epoch());
            there > here || (there == here && self.age(file) < self.age(held))
        })
    }

    /// A later state has what the one on disk takes back (K24).
    fn check_follows(&self, state: &TrustState) -> Result<(), UpdateRefused> {
        let Some(held) = self.held else { return Ok(()) };
        let time = self.clock().best(self.replay.now.elapsed);
        let sha256 = self.replay.publishers.reader().as_ref();
        let (rules, update) = (self.replay.rules, snapshot(state, time));
        rules
            .apply(Some(&held.state), held.state.epoch(), &update, time, sha256)
            .map(drop)
    }
}

fn read(path: &Path) -> Result<Option<TrustFile>, Rejected> {
    let limit = u64::try_from(MAX_TRUST_FILE).unwrap_or(u64::MAX);
    let bytes = match read_public(path, limit) {
        Ok(bytes) => Bytes::from(bytes),
        Err(FileError {
            problem: FileProblem::Unreadable(ErrorKind::NotFound),
            ..
        }) => return Ok(None),
        Err(FileError {
            problem: FileProblem::TooLarge { .. },
            ..
        }) => return Err(Unusable::TooLarge.into()),
        Err(error) => {
            tracing::warn!(%error, "the file for a warm start cannot be read");
            return Err(Unusable::Unreadable.into());
        }
    };
    Ok(Some(read_trust_file(&bytes).map_err(Unusable::from)?))
}

impl From<NoTrustFile> for Unusable {
    fn from(why: NoTrustFile) -> Self {
        match why {
            NoTrustFile::Format => Self::Format,
            NoTrustFile::TooLarge => Self::TooLarge,
            NoTrustFile::Malformed => Self::Malformed,
        }
    }
}

/// What is in a trust file, every signature and digest verified.
#[derive(Debug)]
pub struct TrustFileContent {
    /// The state.
    pub state: TrustState,
    /// What the authority stated about it.
    pub heartbeat: Heartbeat,
    /// The publishing key that signed that.
    pub key_id: String,
    /// Deltas behind the snapshot.
    pub deltas: usize,
}

/// Reads and verifies the bytes of a trust file as a sidecar that pins `pinned` does, for whoever wants to know what is in it. It may
/// be of any issuer.
///
/// # Errors
/// [`Unusable`].
pub fn inspect(bytes: &Bytes, pinned: &PinnedKeys, now: Moment) -> Result<TrustFileContent, Unusable> {
    let file = read_trust_file(bytes)?;
    let signed = file.heartbeat.as_ref().ok_or(Unusable::Malformed)?;
    // Not believed before everything in the file is verified to be about this issuer.
    let heartbeat = read_heartbeat(&signed.payload).map_err(Unusable::Refused)?;
    let key_id = signed.key_id.clone();
    let publishers = Publishers::new(heartbeat.issuer.clone(), pinned, Arc::new(AwsLc));
    let reader = Reader {
        replay: Replay {
            identity: &CacheIdentity {
                issuer: heartbeat.issuer.as_str().to_owned(),
                trust_domain: String::new(),
                audience: String::new(),
                sidecar: String::new(),
            },
            publishers: &publishers,
            rules: &defaults::rules(heartbeat.issuer.clone()),
            floor: floor::Found::Floor(Floor::none(*publishers.pin())),
            boot: None,
            now,
        },
        held: None,
    };
    let import = reader.verify(file).map_err(|rejected| rejected.reason)?;
    Ok(TrustFileContent {
        state: import.replayed.state,
        heartbeat,
        key_id,
        deltas: import.deltas.len(),
    })
}
