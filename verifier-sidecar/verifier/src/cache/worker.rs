//! The thread that owns the database.
//!
//! sled may panic or hang at any call on a damaged disk, so it lives in a thread of its own: a panic ends that thread and
//! not the sidecar, and a hang is left behind by whoever waits for it. After the first failure nothing more is written in
//! this process (an fsync that failed once may report success the next time without having written).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use countersign_core::verifier::Saved;
use countersign_runtime::ErrorChain;

use super::journal::{Entry, Journal};
use super::replay::{OnDisk, Rejected};
use super::{NotDurable, Unusable};

/// Entries waiting for a slow disk. More, and the disk counts as failed.
const QUEUE: usize = 8;

/// What is asked of the thread.
struct Job {
    entry: Entry,
    reply: SyncSender<Result<Saved, NotDurable>>,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: SyncSender<Job>,
    ended: Mutex<Receiver<()>>,
}

/// What opening a database gives.
pub(super) type Loaded = Result<(Journal, OnDisk), Rejected>;

impl Worker {
    /// Starts the thread, which opens and reads the database with `load`. Waits `patience` for that.
    pub(super) fn start(
        load: impl FnOnce() -> Loaded + Send + 'static,
        patience: Duration,
    ) -> Result<(Self, OnDisk), Rejected> {
        let (jobs, todo) = sync_channel(QUEUE);
        let (tell, told) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let body = move || {
            run(load, &tell, &todo);
            // Nobody waits for it in most cases.
            let _unheard = end.send(());
        };
        thread::Builder::new()
            .name("countersign-cache".to_owned())
            .spawn(body)
            .map_err(|_no_thread| Unusable::Unreadable)?;
        match told.recv_timeout(patience) {
            Ok(Ok(on_disk)) => Ok((
                Self {
                    jobs,
                    ended: Mutex::new(ended),
                },
                on_disk,
            )),
            Ok(Err(rejected)) => Err(rejected),
            Err(RecvTimeoutError::Timeout) => Err(Unusable::Hung.into()),
            Err(RecvTimeoutError::Disconnected) => Err(Unusable::Panicked.into()),
        }
    }

    /// Saves `entry`. When the disk takes longer than `patience`, the entry is still written, in its turn.
    pub(super) fn save(&self, entry: Entry, patience: Duration) -> Result<Saved, NotDurable> {
        let (reply, replied) = sync_channel(1);
        match self.jobs.try_send(Job { entry, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(NotDurable::Slow),
            Err(TrySendError::Disconnected(_)) => return Err(NotDurable::Failed),
        }
        match replied.recv_timeout(patience) {
            Ok(saved) => saved,
            Err(RecvTimeoutError::Timeout) => Err(NotDurable::Slow),
            Err(RecvTimeoutError::Disconnected) => Err(NotDurable::Failed),
        }
    }

    /// Closes the database. True when that was done within `patience`.
    pub(super) fn close(self, patience: Duration) -> bool {
        drop(self.jobs);
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(patience).is_ok()
    }
}

fn run(load: impl FnOnce() -> Loaded, tell: &SyncSender<Result<OnDisk, Rejected>>, todo: &Receiver<Job>) {
    let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(Unusable::Panicked.into()));
    let journal = match loaded {
        Ok((journal, on_disk)) => tell.send(Ok(on_disk)).ok().map(|()| journal),
        Err(rejected) => {
            let _given_up = tell.send(Err(rejected));
            None
        }
    };
    if let Some(journal) = journal {
        // The journal is dropped inside: closing a database may panic as well.
        let worked = catch_unwind(AssertUnwindSafe(|| work(journal, todo)));
        if worked.is_err() {
            tracing::error!("the cache's database panicked; nothing more is kept on disk until a restart");
        }
    }
}

fn work(mut journal: Journal, todo: &Receiver<Job>) {
    while let Ok(Job { entry, reply }) = todo.recv() {
        match journal.save(&entry) {
            Ok(saved) => {
                let _late = reply.send(Ok(saved));
            }
            Err(error) => {
                tracing::error!(
                    error = %ErrorChain(&error),
                    "the cache cannot be written; nothing more is kept on disk until a restart"
                );
                let _late = reply.send(Err(NotDurable::Failed));
                return;
            }
        }
    }
}
