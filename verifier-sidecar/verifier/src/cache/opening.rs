//! How a cache is opened: once as it is, and once empty when what is there cannot be used.

use std::io;
use std::sync::Arc;

use countersign_core::names::VerifierId;
use countersign_core::ports::Clock;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, UpdateRules};
use countersign_core::verifier::{BootId, MAX_LOGGED_BYTES, MAX_LOGGED_DELTAS, Moment};
use countersign_runtime::ErrorChain;
use countersign_runtime::backoff::Jitter;

use super::carried;
use super::directory::{Directory, Unavailable};
use super::disk::{Records, SledRecords};
use super::floor::{self, Floor};
use super::journal::{Journal, LogBound};
use super::replay::{OnDisk, Rejected, Replay, Replayed};
use super::warm_start::{Import, Reader, WarmStart};
use super::worker::{Loaded, Worker};
use super::{CacheError, CacheSettings, NotDurable, TrustCache, Unusable};
use crate::sync::Publishers;
use crate::trust::{StateId, moment};

/// Everything that opening needs.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    settings: CacheSettings,
    publishers: Publishers,
    rules: UpdateRules,
    boot: Option<BootId>,
    now: Moment,
}

type Attempt = Result<(Worker, OnDisk), Rejected>;

/// What opening gives.
pub(super) struct Outcome {
    pub(super) cache: TrustCache,
    pub(super) found: Result<Option<Replayed>, Unusable>,
    pub(super) floor: Option<StateId>,
    pub(super) carried: RevocationList,
    pub(super) verifier_id: VerifierId,
    /// What became of the file for a warm start, and what is to be used of it in place of `found`.
    pub(super) warm_start: (WarmStart, Option<Import>),
}

impl Opening {
    pub(super) fn new(
        settings: CacheSettings,
        publishers: Publishers,
        rules: UpdateRules,
        clock: &dyn Clock,
    ) -> Self {
        Self {
            settings,
            publishers,
            rules,
            boot: clock.boot(),
            now: moment(clock),
        }
    }

    /// Opens. Blocks.
    pub(super) fn run(&self) -> Result<Outcome, CacheError> {
        let claimed = Directory::claim(&self.settings.directory);
        // After the claim, so that no predecessor writes them any more.
        let (floor, beside) = (self.floor(), self.carried());
        self.require(floor);
        let mut outcome = self.read_disk(claimed, floor, beside)?;
        outcome.warm_start = self.warm_start(floor, &outcome);
        Ok(outcome)
    }

    fn read_disk(
        &self,
        claimed: Result<Directory, Unavailable>,
        floor: floor::Found,
        beside: Result<RevocationList, Unusable>,
    ) -> Result<Outcome, CacheError> {
        let unreadable = beside.as_ref().err().copied();
        let mut carried = beside.unwrap_or_default();
        let directory = match claimed {
            Ok(directory) => Arc::new(directory),
            Err(Unavailable::InUse) => return Err(CacheError::InUse),
            Err(Unavailable::Exposed(exposed)) => return Err(CacheError::Exposed(exposed)),
            Err(Unavailable::Unwritable(error)) => {
                tracing::warn!(%error, "the state directory cannot be written; trust is kept in memory only");
                return Ok(Outcome {
                    cache: TrustCache::in_memory(NotDurable::Unwritable),
                    found: unreadable.map_or(Ok(None), Err),
                    floor: known(floor),
                    carried,
                    verifier_id: self.settings.fresh_id.clone(),
                    warm_start: (WarmStart::NotNamed, None),
                });
            }
        };
        let verifier_id = self.verifier_id(&directory);
        let mut highest = known(floor);
        let (cache, found) = match self.existing(&directory, floor, unreadable) {
            Ok(Some((worker, on_disk))) => {
                let replayed = on_disk.replayed;
                carried.merge(&on_disk.carried);
                let state = replayed.as_ref().map(|replayed| StateId::of(&replayed.state));
                highest = higher(highest, state);
                let epoch = state.map_or(0, |state| state.epoch);
                self.publishers.saved(self.publishers.generation());
                (self.cache(worker, directory, epoch), Ok(replayed))
            }
            Ok(None) => (self.fresh(directory), Ok(None)),
            Err(rejected) => {
                highest = higher(highest, rejected.highest);
                carried.merge(&rejected.carried);
                let cache = self.instead(directory, rejected.reason, &carried);
                (cache, Err(rejected.reason))
            }
        };
        Ok(Outcome {
            cache,
            found,
            floor: highest,
            carried,
            verifier_id,
            warm_start: (WarmStart::NotNamed, None),
        })
    }

    /// What the file for a warm start adds to what was on disk.
    fn warm_start(&self, floor: floor::Found, outcome: &Outcome) -> (WarmStart, Option<Import>) {
        let Some(path) = &self.settings.warm_start else {
            return (WarmStart::NotNamed, None);
        };
        let nothing_was_here = matches!(outcome.found, Ok(None));
        let floor = match (floor, outcome.floor) {
            (floor::Found::Floor(floor), Some(state)) => floor::Found::Floor(Floor { state, ..floor }),
            // Where nothing is missing, everything is new.
            (floor::Found::Nothing, _) if nothing_was_here => {
                floor::Found::Floor(Floor::none(*self.publishers.pin()))
            }
            (floor, _) => floor,
        };
        let reader = Reader {
            replay: self.replay(floor),
            held: outcome.found.as_ref().ok().and_then(Option::as_ref),
        };
        reader.look(path)
    }

    fn replay(&self, floor: floor::Found) -> Replay<'_> {
        Replay {
            identity: &self.settings.identity,
            publishers: &self.publishers,
            rules: &self.rules,
            floor,
            boot: self.boot.clone(),
            now: self.now,
        }
    }

    fn verifier_id(&self, directory: &Directory) -> VerifierId {
        let fresh = &self.settings.fresh_id;
        directory.verifier_id(fresh).unwrap_or_else(|error| {
            tracing::warn!(%error, "the verifier's identifier cannot be kept; a restart will be taken for another verifier");
            fresh.clone()
        })
    }

    /// Also read when nothing can be written: it still says what must not be taken over again.
    fn floor(&self) -> floor::Found {
        let CacheSettings {
            directory, identity, ..
        } = &self.settings;
        floor::read(directory, identity, self.publishers.reader().as_ref())
    }

    /// Also read when nothing else can be.
    fn carried(&self) -> Result<RevocationList, Unusable> {
        let CacheSettings {
            directory, identity, ..
        } = &self.settings;
        carried::read(directory, identity, self.publishers.reader().as_ref())
    }

    /// With the same pinned keys there is no way back behind the links that were here.
    fn require(&self, floor: floor::Found) {
        if let floor::Found::Floor(floor) = floor
            && floor.pin == *self.publishers.pin()
            && let Some(link) = floor.link
        {
            self.publishers.require(link);
        }
    }

    /// The database that is there. Nothing when there is none, and none is missing. It is not used without what is carried beside it
    /// where that is `unreadable`.
    fn existing(
        &self,
        directory: &Arc<Directory>,
        floor: floor::Found,
        unreadable: Option<Unusable>,
    ) -> Result<Option<(Worker, OnDisk)>, Rejected> {
        if !directory.has_database() {
            return match (floor, unreadable) {
                (floor::Found::Nothing, None) => Ok(None),
                (floor::Found::Nothing, Some(why)) => Err(why.into()),
                (floor::Found::Unreadable | floor::Found::Floor(_), _) => Err(Unusable::Lost.into()),
            };
        }
        match directory.begin_opening() {
            Ok(true) => {}
            Ok(false) => return Err(Unusable::Deadly.into()),
            Err(error) => tracing::warn!(%error, "the start of opening the cache cannot be noted"),
        }
        let opening = self.clone();
        let owned = Arc::clone(directory);
        let attempt = self.attempt(move || opening.load(owned, floor, unreadable));
        if let Err(error) = directory.end_opening() {
            tracing::warn!(%error, "the end of opening the cache cannot be noted");
        }
        attempt.map(Some)
    }

    /// An empty database in place of one that cannot be used, which goes out of the way only once what is carried in it lies beside it.
    fn instead(&self, directory: Arc<Directory>, why: Unusable, carried: &RevocationList) -> TrustCache {
        tracing::warn!(
            reason = why.reason(),
            "the trust on disk is not used; nothing is decided until the authority answers"
        );
        if directory.has_database()
            && let Err(error) = self.keep(carried).and_then(|()| directory.set_aside(why))
        {
            tracing::warn!(%error, "the cache cannot be set aside; trust is kept in memory only");
            return TrustCache::in_memory(NotDurable::Unwritable);
        }
        self.fresh(directory)
    }

    fn keep(&self, carried: &RevocationList) -> io::Result<()> {
        let CacheSettings {
            directory, identity, ..
        } = &self.settings;
        carried::add(directory, identity, carried, self.publishers.reader().as_ref())
    }

    fn fresh(&self, directory: Arc<Directory>) -> TrustCache {
        if let Err(error) = directory.make_database() {
            tracing::warn!(%error, "the cache cannot be created; trust is kept in memory only");
            return TrustCache::in_memory(NotDurable::Unwritable);
        }
        let opening = self.clone();
        let owned = Arc::clone(&directory);
        match self.attempt(move || Ok((opening.journal(owned)?, OnDisk::default()))) {
            Ok((worker, _nothing)) => self.cache(worker, directory, 0),
            Err(rejected) => {
                tracing::warn!(
                    reason = rejected.reason.reason(),
                    "the cache cannot be created; trust is kept in memory only"
                );
                TrustCache::in_memory(NotDurable::NoDatabase)
            }
        }
    }

    fn attempt(&self, load: impl FnOnce() -> Loaded + Send + 'static) -> Attempt {
        Worker::start(load, self.settings.open_patience)
    }

    /// In the worker's thread.
    fn load(&self, directory: Arc<Directory>, floor: floor::Found, unreadable: Option<Unusable>) -> Loaded {
        let mut journal = self.journal(directory)?;
        let on_disk = journal.load(&self.replay(floor))?;
        match unreadable {
            None => Ok((journal, on_disk)),
            Some(reason) => Err(Rejected {
                reason,
                highest: on_disk.replayed.map(|replayed| StateId::of(&replayed.state)),
                carried: Box::new(on_disk.carried),
            }),
        }
    }

    fn journal(&self, directory: Arc<Directory>) -> Result<Journal, Rejected> {
        let records = SledRecords::open(&directory.database()).map_err(|error| {
            tracing::warn!(error = %ErrorChain(&error), "the cache's database does not open");
            Unusable::Unreadable
        })?;
        let records: Box<dyn Records> = Box::new(records);
        Ok(Journal::new(
            records,
            directory,
            self.settings.identity.clone(),
            self.publishers.clone(),
            drawn_bound(),
        ))
    }

    fn cache(&self, worker: Worker, directory: Arc<Directory>, durable_epoch: Epoch) -> TrustCache {
        TrustCache::on_disk(worker, directory, self.settings.save_patience, durable_epoch)
    }
}

const fn known(floor: floor::Found) -> Option<StateId> {
    match floor {
        floor::Found::Floor(floor) => Some(floor.state),
        floor::Found::Nothing | floor::Found::Unreadable => None,
    }
}

fn higher(one: Option<StateId>, other: Option<StateId>) -> Option<StateId> {
    one.into_iter().chain(other).max_by_key(|floor| floor.epoch)
}

/// Between half of the bound and all of it, different from one start to the next.
fn drawn_bound() -> LogBound {
    let draw = Jitter::unpredictable().next().to_le_bytes()[0];
    let drawn = |bound: usize| bound / 2 + (bound / 2) * usize::from(draw) / usize::from(u8::MAX);
    LogBound {
        deltas: drawn(MAX_LOGGED_DELTAS),
        bytes: drawn(MAX_LOGGED_BYTES),
    }
}
