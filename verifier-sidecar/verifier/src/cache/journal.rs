//! What is written, and in which order: the last signed snapshot, the signed deltas since, the last matching heartbeat.
//!
//! ```text
//! save(update):    records in one transaction -> flushed -> floor file -> done
//! save(heartbeat): record, clocks -> flushed -> done, if it states the epoch at the end of the log
//! ```
//!
//! Links to other publisher sets go with the update after them. Those that drop a key go with a snapshot only: that key may have
//! signed what is in the log.
//!
//! Which certificates are revoked though the snapshot does not say so is in a file of its own (`carried`), which has them before the
//! snapshot is on disk.
//!
//! A snapshot replaces the log. The log has a soft bound, from which on a snapshot is asked for, and a hard one, at which
//! nothing more is written: the disk then keeps an older state, whose age its older heartbeat tells.

use std::sync::Arc;

use countersign_core::publishers::LinkId;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::Epoch;
use countersign_core::verifier::{ClockMark, Saved};
use countersign_runtime::ErrorChain;

use super::directory::Directory;
use super::disk::{Change, DiskError, RecordMap, Records};
use super::floor::Floor;
use super::replay::{self, OnDisk, Rejected, Replay, Replayed, delta_name};
use super::{CacheIdentity, Unusable, carried, floor};
use crate::sync::Publishers;
use crate::trust::StateId;

/// Links that are not on disk yet.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The last of them.
    pub(super) last: LinkId,
    /// The record of all of them.
    pub(super) record: Vec<u8>,
    /// Whether a key on disk is not in the set that they lead to.
    pub(super) drops_keys: bool,
}

/// What is to be saved.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A signed snapshot, in place of everything before it.
    Snapshot {
        /// The serialized `trust.v1.Signed`.
        signed: Vec<u8>,
        /// Signed deltas that follow on it, with the epochs that they lead to.
        deltas: Vec<(Epoch, Vec<u8>)>,
        /// The state at the end.
        leads_to: StateId,
        /// Certificates that are revoked beside it.
        carried: RevocationList,
        /// Links to save with it.
        links: Option<Links>,
    },
    /// A signed delta to the last state saved.
    Delta {
        /// The serialized `trust.v1.Signed`.
        signed: Vec<u8>,
        /// The state that it leads to.
        leads_to: StateId,
        /// Links to save with it.
        links: Option<Links>,
    },
    /// A signed heartbeat.
    Heartbeat {
        /// The serialized `trust.v1.Signed`.
        signed: Vec<u8>,
        /// The epoch that it states.
        epoch: Epoch,
        /// Where the clocks stood when the ping was sent that it answers.
        sent: ClockMark,
    },
    /// Nothing new: whether this epoch is on disk.
    Probe(Epoch),
    /// Nothing but that these certificates are revoked, in place of everything before it.
    LetGo(RevocationList),
}

impl Entry {
    /// The epoch that it leads to or states.
    pub(super) const fn epoch(&self) -> Epoch {
        match self {
            Self::Snapshot { leads_to, .. } | Self::Delta { leads_to, .. } => leads_to.epoch,
            Self::Heartbeat { epoch, .. } | Self::Probe(epoch) => *epoch,
            Self::LetGo(_) => 0,
        }
    }
}

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    /// The database failed.
    #[error("the cache could not be written")]
    Disk(#[from] DiskError),
    /// The floor file could not be written.
    #[error("the floor file could not be written")]
    Floor(#[source] std::io::Error),
    /// The file of what is carried could not be written.
    #[error("the file of revoked certificates could not be written")]
    Carried(#[source] std::io::Error),
    /// A record could not be serialized.
    #[error("a record could not be serialized")]
    Record(#[from] serde_json::Error),
}

/// How long the log may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogBound {
    /// In deltas.
    pub(super) deltas: usize,
    /// In bytes.
    pub(super) bytes: usize,
}

/// How much longer than asked for the log may be while the snapshot is on its way.
const HARD: usize = 2;

/// The records and where they stand.
pub(super) struct Journal {
    records: Box<dyn Records>,
    directory: Arc<Directory>,
    identity: CacheIdentity,
    publishers: Publishers,
    bound: LogBound,
    tip: Epoch,
    heartbeat_epoch: Option<Epoch>,
    deltas: Vec<Epoch>,
    bytes: usize,
    /// The link on disk that leads to the publisher set there. Nothing: there is none but the pinned one.
    link: Option<LinkId>,
    /// Whether what is in the log was signed by keys that publish no longer.
    outdated: bool,
}

impl Journal {
    pub(super) fn new(
        records: Box<dyn Records>,
        directory: Arc<Directory>,
        identity: CacheIdentity,
        publishers: Publishers,
        bound: LogBound,
    ) -> Self {
        Self {
            records,
            directory,
            identity,
            publishers,
            bound,
            tip: 0,
            heartbeat_epoch: None,
            deltas: Vec::new(),
            bytes: 0,
            link: None,
            outdated: false,
        }
    }

    /// Reads and verifies everything.
    pub(super) fn load(&mut self, replay: &Replay<'_>) -> Result<OnDisk, Rejected> {
        let records: RecordMap = self.records.read_all().map_err(|error| {
            tracing::warn!(error = %ErrorChain(&error), "the cache cannot be read");
            Unusable::Unreadable
        })?;
        let on_disk = replay.load(&records)?;
        if let Some(replayed) = &on_disk.replayed {
            self.tip = replayed.state.epoch();
            self.link = self.publishers.last_link();
            self.heartbeat_epoch = replayed
                .manifest
                .as_ref()
                .map(|manifest| manifest.heartbeat.epoch);
            self.deltas = replayed.deltas.iter().map(|delta| delta.epoch).collect();
            self.bytes = replayed.deltas.iter().map(|delta| delta.length).sum();
            self.catch_up(replay, replayed);
        }
        Ok(on_disk)
    }

    /// Saves `entry`.
    pub(super) fn save(&mut self, entry: &Entry) -> Result<Saved, JournalError> {
        let durable = match entry {
            Entry::Snapshot {
                signed,
                deltas,
                leads_to,
                carried,
                links,
            } => {
                let links = self.new_links(links.as_ref());
                self.snapshot(signed, deltas, *leads_to, carried, links)?
            }
            Entry::Delta {
                signed,
                leads_to,
                links,
            } => self.delta(signed, *leads_to, self.new_links(links.as_ref()))?,
            Entry::Heartbeat { signed, epoch, sent } => self.heartbeat(signed, *epoch, sent)?,
            Entry::Probe(epoch) => *epoch == self.tip,
            Entry::LetGo(carried) => self.let_go(carried)?,
        };
        Ok(Saved {
            durable,
            wants_snapshot: !durable || self.is_over(1),
            log_outdated: self.outdated,
        })
    }

    /// `links`, unless they were saved with something that nobody waited for.
    fn new_links<'a>(&self, links: Option<&'a Links>) -> Option<&'a Links> {
        links.filter(|links| links.last.generation > self.link.map_or(0, |link| link.generation))
    }

    fn snapshot(
        &mut self,
        signed: &[u8],
        deltas: &[(Epoch, Vec<u8>)],
        leads_to: StateId,
        carried: &RevocationList,
        links: Option<&Links>,
    ) -> Result<bool, JournalError> {
        self.carry_also(carried)?;
        let identity = replay::write_identity(&self.identity)?;
        let epochs: Vec<Epoch> = deltas.iter().map(|(epoch, _)| *epoch).collect();
        let gone = self.deltas.iter().filter(|epoch| !epochs.contains(epoch));
        let mut remove: Vec<String> = gone.copied().map(delta_name).collect();
        remove.extend([replay::LET_GO, replay::CARRIED].map(str::to_owned));
        // A heartbeat for an epoch before the snapshot can no longer be checked against the chain, nor one that a key signed
        // which publishes no longer.
        let keeps_heartbeat = self.heartbeat_epoch == Some(leads_to.epoch) && links.is_none();
        if !keeps_heartbeat {
            remove.push(replay::HEARTBEAT.to_owned());
            self.heartbeat_epoch = None;
        }
        let mut put = vec![
            (replay::IDENTITY.to_owned(), identity.as_slice()),
            (replay::SNAPSHOT.to_owned(), signed),
        ];
        put.extend(
            deltas
                .iter()
                .map(|(epoch, signed)| (delta_name(*epoch), signed.as_slice())),
        );
        put.extend(links.map(record));
        self.records.commit(&Change { put, remove })?;
        self.outdated = false;
        self.deltas = epochs;
        self.bytes = deltas.iter().map(|(_, signed)| signed.len()).sum();
        self.led_to(links);
        self.reached(leads_to)?;
        self.carry_only(carried)?;
        Ok(true)
    }

    fn delta(
        &mut self,
        signed: &[u8],
        leads_to: StateId,
        links: Option<&Links>,
    ) -> Result<bool, JournalError> {
        self.outdated |= links.is_some_and(|links| links.drops_keys);
        let follows = self.tip != 0 && self.tip.checked_add(1) == Some(leads_to.epoch);
        if !follows || self.outdated || self.is_over(HARD) {
            return Ok(false);
        }
        let delta = (delta_name(leads_to.epoch), signed);
        self.records.commit(&Change {
            put: [delta].into_iter().chain(links.map(record)).collect(),
            remove: Vec::new(),
        })?;
        self.deltas.push(leads_to.epoch);
        self.bytes = self.bytes.saturating_add(signed.len());
        self.led_to(links);
        self.reached(leads_to)?;
        Ok(true)
    }

    fn heartbeat(&mut self, signed: &[u8], epoch: Epoch, sent: &ClockMark) -> Result<bool, JournalError> {
        if epoch != self.tip {
            return Ok(false);
        }
        let clock = replay::write_clock(sent)?;
        self.records.commit(&Change {
            put: vec![
                (replay::HEARTBEAT.to_owned(), signed),
                (replay::CLOCK.to_owned(), clock.as_slice()),
            ],
            remove: Vec::new(),
        })?;
        self.heartbeat_epoch = Some(epoch);
        Ok(true)
    }

    /// The floor stays: what was in force is not taken over again unless something else leads there.
    fn let_go(&mut self, carried: &RevocationList) -> Result<bool, JournalError> {
        self.carry_also(carried)?;
        let identity = replay::write_identity(&self.identity)?;
        let fixed = [
            replay::SNAPSHOT,
            replay::HEARTBEAT,
            replay::CLOCK,
            replay::PUBLISHERS,
            replay::CARRIED,
        ]
        .map(str::to_owned);
        let deltas = self.deltas.iter().copied().map(delta_name);
        self.records.commit(&Change {
            put: vec![
                (replay::IDENTITY.to_owned(), identity.as_slice()),
                (replay::LET_GO.to_owned(), b"all"),
            ],
            remove: fixed.into_iter().chain(deltas).collect(),
        })?;
        (self.tip, self.heartbeat_epoch, self.bytes) = (0, None, 0);
        (self.link, self.outdated) = (None, false);
        self.deltas.clear();
        self.carry_only(carried)?;
        Ok(true)
    }

    /// Before what `carried` lies beside is on disk: until then, what is there needs what lies beside it.
    fn carry_also(&self, carried: &RevocationList) -> Result<(), JournalError> {
        let sha256 = self.publishers.reader().as_ref();
        carried::add(self.directory.path(), &self.identity, carried, sha256).map_err(JournalError::Carried)
    }

    /// Once that is on disk.
    fn carry_only(&self, carried: &RevocationList) -> Result<(), JournalError> {
        let sha256 = self.publishers.reader().as_ref();
        carried::write(self.directory.path(), &self.identity, carried, sha256).map_err(JournalError::Carried)
    }

    /// A crash between the records and the floor leaves the floor behind what is put in force now.
    fn catch_up(&mut self, replay: &Replay<'_>, replayed: &Replayed) {
        let state = StateId::of(&replayed.state);
        let reached = self.floor(state);
        if replay.floor != floor::Found::Floor(reached)
            && let Err(error) = self.reached(state)
        {
            tracing::warn!(error = %ErrorChain(&error), "the floor stays behind the trust on disk");
        }
    }

    /// Only after the records are on disk: a floor above them would make the next start a cold one.
    fn reached(&mut self, state: StateId) -> Result<(), JournalError> {
        self.tip = state.epoch;
        let floor = self.floor(state);
        let sha256 = self.publishers.reader().as_ref();
        floor::write(self.directory.path(), &self.identity, floor, sha256).map_err(JournalError::Floor)
    }

    fn floor(&self, state: StateId) -> Floor {
        Floor {
            state,
            link: self.link,
            pin: *self.publishers.pin(),
        }
    }

    const fn led_to(&mut self, links: Option<&Links>) {
        if let Some(links) = links {
            self.link = Some(links.last);
        }
    }

    fn is_over(&self, times: usize) -> bool {
        self.deltas.len() >= self.bound.deltas.saturating_mul(times)
            || self.bytes >= self.bound.bytes.saturating_mul(times)
    }
}

fn record(links: &Links) -> (String, &[u8]) {
    (replay::PUBLISHERS.to_owned(), links.record.as_slice())
}
