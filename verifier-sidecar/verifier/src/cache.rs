//! The trust on disk, so that a sidecar that starts while the authority is away decides at once.
//!
//! The disk is never trusted and never waited for. It holds what the authority signed, byte for byte, and is verified from
//! the first signature to the number of revocations before anything of it is used; whatever does not add up is set aside
//! and the sidecar starts as if there were nothing (a *cold start*: alive, not ready, until the authority answers). An
//! empty list is never taken for the truth. Without a disk that works, trust is kept in memory only, the authority is told
//! so, and decisions are the same.
//!
//! What is written when is in `journal`, what is verified on load in `replay`, what lies where in `directory`.
//!
//! Bounded: the log of deltas by [`MAX_LOGGED_DELTAS`](countersign_core::verifier::MAX_LOGGED_DELTAS) and
//! [`MAX_LOGGED_BYTES`](countersign_core::verifier::MAX_LOGGED_BYTES), of which each sidecar draws its own between half and
//! all, so that a fleet does not ask at once. A cache that is over one of them says so with [`Saved::wants_snapshot`]; the stream is then opened anew with `Hello.epoch` 0, to which the authority answers
//! with a snapshot, which replaces the log.

mod carried;
mod directory;
mod disk;
mod floor;
mod journal;
mod latest;
mod opening;
mod replay;
mod unusable;
mod warm_start;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_core::names::VerifierId;
use countersign_core::ports::Clock;
use countersign_core::publishers::Unsaved;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, TrustState, UpdateRefused, UpdateRules};
use countersign_core::verifier::{Age, ClockMark, Saved};
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::trust::v1::Signed;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::sync::Publishers;
use crate::trust::{StateId, TrustStore, moment};
use directory::Directory;
pub use directory::Exposed;
pub(crate) use directory::check_access;
use journal::{Entry, Links};
use latest::Latest;
use opening::Opening;
pub use unusable::{NotDurable, Unusable};
use warm_start::Import;
pub use warm_start::{TrustFileContent, WarmStart, inspect};
use worker::Worker;

/// Whose cache it is. A cache of another verifier is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheIdentity {
    /// The issuer trusted.
    pub issuer: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The audience that the sidecar stands for.
    pub audience: String,
    /// The sidecar's name: its SPIFFE ID.
    pub sidecar: String,
}

/// Where the cache is and how long it is waited for.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The state directory. Made if missing; one process at a time.
    pub directory: PathBuf,
    /// Whose cache it is.
    pub identity: CacheIdentity,
    /// Which verifier of its identity this one is, unless the directory says it already.
    pub fresh_id: VerifierId,
    /// A file with trust for a start while the authority is away.
    pub warm_start: Option<PathBuf>,
    /// How long opening may take before the database counts as damaged.
    pub open_patience: Duration,
    /// How long one save may take before the sidecar goes on without it.
    pub save_patience: Duration,
}

impl CacheSettings {
    /// The settings for `directory`, with the usual patience.
    #[must_use]
    pub const fn new(directory: PathBuf, identity: CacheIdentity, fresh_id: VerifierId) -> Self {
        Self {
            directory,
            identity,
            fresh_id,
            warm_start: None,
            // Ten times what the largest cache takes on a slow disk.
            open_patience: Duration::from_secs(30),
            // A revocation is in force only after it is saved or given up on, so a stalled disk delays it by this much.
            save_patience: Duration::from_secs(2),
        }
    }
}

/// The cache could not be had at all. Anything else than this is a cold start or memory-only mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Another process uses the state directory.
    #[error("another process uses the state directory")]
    InUse,
    /// Others can change what is in the state directory.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The runtime is shutting down.
    #[error("the sidecar is shutting down")]
    ShuttingDown,
}

/// What was on disk.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing, and nothing is missing.
    Nothing,
    /// A state that verified.
    Trust {
        /// The state.
        state: Box<TrustState>,
        /// How old the authority's confirmations of it are, as far as that is known: on disk, and in the file for a warm start.
        ages: Vec<Age>,
    },
    /// Something that is not used: a cold start.
    Unusable(Unusable),
}

/// A cache and what was in it.
#[derive(Debug)]
pub struct Opened {
    /// The cache, ready to save.
    pub cache: TrustCache,
    /// What was in it.
    pub found: Found,
    /// Which verifier of its identity this one is.
    pub verifier_id: VerifierId,
    /// Where the clocks stood when the authority was last heard.
    pub mark: Option<ClockMark>,
    /// The highest state that was ever in force here, as far as the disk says. Holds in a cold start, too.
    pub floor: Option<StateId>,
    /// Certificates that are revoked by more than the state that was found. Holds in a cold start, too.
    pub carried: RevocationList,
    /// What became of the file for a warm start.
    pub warm_start: WarmStart,
}

impl Opened {
    /// Puts what was found in force.
    ///
    /// # Errors
    /// [`UpdateRefused`] when `trust` already holds something newer.
    pub fn restore(&self, trust: &TrustStore) -> Result<(), UpdateRefused> {
        if let Some(floor) = self.floor {
            trust.raise_floor(floor);
        }
        if let Some(mark) = &self.mark {
            trust.resume_clock(mark);
        }
        trust.carry(&self.carried);
        match &self.found {
            Found::Trust { state, ages } => trust
                .install_cached((**state).clone(), ages.iter().copied())
                .map(drop),
            Found::Nothing | Found::Unusable(_) => Ok(()),
        }
    }
}

/// Keeps trust on disk, as well as the disk allows. One of these per state directory.
#[derive(Debug)]
pub struct TrustCache {
    worker: Option<Arc<Worker>>,
    save_patience: Duration,
    problem: Mutex<Option<NotDurable>>,
    durable_epoch: AtomicU64,
    wants_snapshot: AtomicBool,
    latest: Mutex<Latest>,
    /// Keeps the lock, also when the thread that has the database is gone.
    _directory: Option<Arc<Directory>>,
}

impl TrustCache {
    /// A cache that keeps nothing on disk.
    #[must_use]
    pub const fn in_memory(why: NotDurable) -> Self {
        Self {
            worker: None,
            save_patience: Duration::ZERO,
            problem: Mutex::new(Some(why)),
            durable_epoch: AtomicU64::new(0),
            wants_snapshot: AtomicBool::new(false),
            latest: Mutex::new(Latest::new()),
            _directory: None,
        }
    }

    fn on_disk(
        worker: Worker,
        directory: Arc<Directory>,
        save_patience: Duration,
        durable_epoch: Epoch,
    ) -> Self {
        Self {
            worker: Some(Arc::new(worker)),
            save_patience,
            problem: Mutex::new(None),
            durable_epoch: AtomicU64::new(durable_epoch),
            wants_snapshot: AtomicBool::new(false),
            latest: Mutex::new(Latest::new()),
            _directory: Some(directory),
        }
    }

    /// Opens the cache that `settings` name, verifies what is in it, and sets it aside if it cannot be used.
    ///
    /// # Errors
    /// [`CacheError`]; damage and disk failures are none.
    pub async fn open(
        settings: CacheSettings,
        publishers: Publishers,
        rules: UpdateRules,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, CacheError> {
        let opening = Opening::new(settings, publishers.clone(), rules, clock.as_ref());
        let mut outcome = tokio::task::spawn_blocking(move || opening.run())
            .await
            .unwrap_or(Err(CacheError::ShuttingDown))?;
        let (warm_start, import) = outcome.warm_start;
        let mut confirmed_too = None;
        if let Some(import) = import {
            let held = outcome.found.as_ref().ok().and_then(Option::as_ref);
            let is_held = held.is_some_and(|held| held.state.epoch() == import.replayed.state.epoch());
            if is_held {
                confirmed_too = import.replayed.manifest;
            } else {
                confirmed_too = held.and_then(|held| held.manifest.clone());
                if let Some(held) = held {
                    let revocations = held.state.revocations();
                    outcome.carried.merge(&revocations.about_certificates());
                }
                outcome.cache.keep(&import, &outcome.carried, &publishers).await;
                outcome.found = Ok(Some(import.replayed));
            }
        }
        warm_start.tell();
        let mut mark = None;
        let found = match outcome.found {
            Ok(None) => Found::Nothing,
            Ok(Some(replayed)) => {
                *outcome.cache.latest() = replayed.latest;
                mark = replayed.mark;
                // Opening took time, too.
                let (boot, now) = (clock.boot(), moment(clock.as_ref()));
                let manifests = replayed.manifest.iter().chain(&confirmed_too);
                Found::Trust {
                    ages: manifests
                        .filter_map(|manifest| manifest.age(boot.as_ref(), now))
                        .collect(),
                    state: Box::new(replayed.state),
                }
            }
            Err(why) => Found::Unusable(why),
        };
        Ok(Opened {
            cache: outcome.cache,
            found,
            verifier_id: outcome.verifier_id,
            mark,
            floor: outcome.floor,
            carried: outcome.carried,
            warm_start,
        })
    }

    /// Keeps what a file led to, like what comes from the authority.
    async fn keep(&self, import: &Import, carried: &RevocationList, publishers: &Publishers) {
        let leads_to = StateId::of(&import.replayed.state);
        self.save_snapshot(&import.snapshot, &import.deltas, leads_to, carried, publishers)
            .await;
        if let Some(stated_at) = &import.replayed.mark {
            self.save_heartbeat(&import.heartbeat, leads_to.epoch, stated_at)
                .await;
        }
    }

    /// Why the trust is in memory only. Nothing while the disk works.
    #[must_use]
    pub fn problem(&self) -> Option<NotDurable> {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest epoch that is on disk. Zero: none.
    #[must_use]
    pub fn durable_epoch(&self) -> Epoch {
        self.durable_epoch.load(Ordering::Relaxed)
    }

    /// Whether the log is full or has a gap, so that the next stream should be opened for a snapshot.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot.load(Ordering::Relaxed)
    }

    /// What shows the authority how far it had come. Nothing when nothing was kept yet.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        self.latest().proof()
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves a signed snapshot and the signed deltas that follow on it, in place of everything before; `leads_to` is the
    /// state at the end, beside which the certificates in `carried` are revoked. With it go the links of `publishers` that are not
    /// on disk.
    pub async fn save_snapshot(
        &self,
        signed: &Signed,
        deltas: &[(Epoch, Signed)],
        leads_to: StateId,
        carried: &RevocationList,
        publishers: &Publishers,
    ) -> Saved {
        if let Some((epoch, delta)) = deltas.last() {
            self.latest().update(*epoch, delta);
        }
        let deltas = deltas
            .iter()
            .map(|(epoch, signed)| (*epoch, signed.encode_to_vec()));
        let (signed, deltas) = (signed.encode_to_vec(), deltas.collect());
        self.save_with_links(publishers, |links| Entry::Snapshot {
            signed,
            deltas,
            leads_to,
            carried: carried.clone(),
            links,
        })
        .await
    }

    /// Saves the signed delta that leads from the last state saved to `leads_to`. With it go the links of `publishers` that are
    /// not on disk; when they drop a key, they wait for a snapshot, and so does the delta.
    pub async fn save_delta(&self, signed: &Signed, leads_to: StateId, publishers: &Publishers) -> Saved {
        self.latest().update(leads_to.epoch, signed);
        let signed = signed.encode_to_vec();
        self.save_with_links(publishers, |links| Entry::Delta {
            signed,
            leads_to,
            links,
        })
        .await
    }

    async fn save_with_links(
        &self,
        publishers: &Publishers,
        entry: impl FnOnce(Option<Links>) -> Entry,
    ) -> Saved {
        let unsaved = publishers.unsaved();
        let saved = self.save(entry(unsaved.as_ref().map(links))).await;
        if let Some(unsaved) = unsaved.filter(|_| saved.durable) {
            publishers.saved(unsaved.last.generation);
        }
        saved
    }

    /// Saves the signed heartbeat for `epoch` that answers a ping which was sent when the clocks stood at `sent`.
    pub async fn save_heartbeat(&self, signed: &Signed, epoch: Epoch, sent: &ClockMark) -> Saved {
        self.latest().heartbeat(epoch, signed);
        self.save(Entry::Heartbeat {
            signed: signed.encode_to_vec(),
            epoch,
            sent: sent.clone(),
        })
        .await
    }

    /// Whether `epoch` is on disk, behind everything that is still being written. The signed heartbeat for it is not saved: it
    /// is shown to an authority that does not know how far it had come.
    pub async fn probe(&self, signed: &Signed, epoch: Epoch) -> Saved {
        self.latest().heartbeat(epoch, signed);
        self.save(Entry::Probe(epoch)).await
    }

    /// Lets go of everything that is on disk but the floor and which certificates are revoked (`carried`), so that the next start
    /// decides nothing until the authority is there. True when that survives a power cut; otherwise it is not known what the next
    /// start finds.
    pub async fn let_go(&self, carried: &RevocationList) -> bool {
        let let_go = self.save(Entry::LetGo(carried.clone())).await.durable;
        if let_go {
            self.durable_epoch.store(0, Ordering::Relaxed);
        }
        let_go
    }

    /// Closes the database, so that another process may open it at once. True when that took no longer than a save may.
    pub async fn close(self) -> bool {
        let patience = self.save_patience;
        let Some(worker) = self.worker else { return true };
        // Shared only while a save is still waited for, which its caller gave up.
        let Some(worker) = Arc::into_inner(worker) else {
            return false;
        };
        tokio::task::spawn_blocking(move || worker.close(patience))
            .await
            .unwrap_or(false)
    }

    async fn save(&self, entry: Entry) -> Saved {
        const MEMORY_ONLY: Saved = Saved {
            durable: false,
            wants_snapshot: false,
            log_outdated: false,
        };
        let Some(worker) = self.worker.clone() else {
            return MEMORY_ONLY;
        };
        let patience = self.save_patience;
        let epoch = entry.epoch();
        let saving = tokio::task::spawn_blocking(move || worker.save(entry, patience));
        match saving.await.unwrap_or(Err(NotDurable::Failed)) {
            Ok(saved) => {
                self.note((!saved.durable).then_some(NotDurable::Gap));
                self.wants_snapshot.store(saved.wants_snapshot, Ordering::Relaxed);
                if saved.durable {
                    self.durable_epoch.fetch_max(epoch, Ordering::Relaxed);
                }
                saved
            }
            Err(problem) => {
                self.note(Some(problem));
                MEMORY_ONLY
            }
        }
    }

    fn note(&self, problem: Option<NotDurable>) {
        let mut noted = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *noted != problem {
            match problem {
                Some(problem) => tracing::warn!(
                    reason = problem.reason(),
                    "trust is kept in memory only; a restart would start from an older state or none"
                ),
                None => tracing::info!("trust is kept on disk again"),
            }
            *noted = problem;
        }
    }
}

fn links(unsaved: &Unsaved<Signed>) -> Links {
    Links {
        last: unsaved.last,
        record: replay::write_links(&unsaved.links),
        drops_keys: unsaved.drops_keys,
    }
}

#[cfg(test)]
mod tests;
