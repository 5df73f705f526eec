//! Threads that have a runtime each. What begins on one stays there, and never waits for a lock of another's queue of tasks.

use std::fmt;
use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Threads with a runtime each. They end when this is dropped.
pub struct Workers {
    threads: Vec<(Handle, JoinHandle<()>)>,
    stop: DropGuard,
}

/// A worker's thread ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has panicked")]
pub struct WorkerPanicked;

impl Workers {
    /// Starts `count` of them, or one where that is none, as threads of this name.
    ///
    /// # Errors
    /// When the system gives no threads or no event queues.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let mut workers = Self {
            threads: Vec::new(),
            stop: CancellationToken::new().drop_guard(),
        };
        for _ in 0..count.max(1) {
            workers.start_one(name)?;
        }
        Ok(workers)
    }

    fn start_one(&mut self, name: &str) -> io::Result<()> {
        let runtime = super::build(1)?;
        let handle = runtime.handle().clone();
        let stop = self.stop.token().clone();
        // A runtime of one thread works only while somebody waits on it.
        let work = move || runtime.block_on(stop.cancelled_owned());
        let thread = Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push((handle, thread));
        Ok(())
    }

    /// Their runtimes.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Handle> {
        self.threads.iter().map(|(handle, _)| handle.clone()).collect()
    }

    /// Ends them, with what still runs there, and waits until they have.
    ///
    /// # Errors
    /// [`WorkerPanicked`]. A task that panics is no matter of its worker's.
    pub fn stop(self) -> Result<(), WorkerPanicked> {
        drop(self.stop);
        let ended: Vec<_> = self
            .threads
            .into_iter()
            .map(|(_, thread)| thread.join())
            .collect();
        ended
            .into_iter()
            .try_for_each(|ended| ended.map_err(|_panic| WorkerPanicked))
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.threads.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// Where each of `workers` runs a task.
    async fn places(workers: &Workers) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        for runtime in workers.runtimes() {
            let place = runtime.spawn(async { format!("{:?}", thread::current().id()) });
            places.insert(place.await.expect("no panic"));
        }
        places
    }

    #[tokio::test]
    async fn each_has_a_thread_that_a_panicking_task_does_not_end() {
        let workers = Workers::start("worker", 3).expect("started");
        let before = places(&workers).await;
        assert_eq!(before.len(), 3);
        for runtime in workers.runtimes() {
            let panicked = runtime.spawn(async { panic!("on purpose") }).await;
            assert!(panicked.expect_err("a panic").is_panic());
        }
        assert_eq!(places(&workers).await, before);
        assert_eq!(workers.stop(), Ok(()));
    }

    #[tokio::test]
    async fn what_still_runs_is_dropped_with_them() {
        let workers = Workers::start("worker", 0).expect("started");
        let held = Arc::new(());
        for runtime in workers.runtimes() {
            let held = Arc::clone(&held);
            runtime.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        assert_eq!(Arc::strong_count(&held), 2);
        assert_eq!(workers.stop(), Ok(()));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
