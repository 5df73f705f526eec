//! A store that fails when told to: before a commit took effect, or after it did and before the caller heard of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{Commit, Page, Range, Revision, Store, StoreError};

/// When a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing was done.
    Before,
    /// It was done, and the answer was lost.
    After,
}

/// Wraps a store.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn Store>,
    next: Mutex<Option<(u32, Fault)>>,
    deaf: AtomicBool,
}

impl FaultyStore {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            next: Mutex::new(None),
            deaf: AtomicBool::new(false),
        }
    }

    /// Lets the commit after `commits` more fail.
    pub(crate) fn fail_commit(&self, commits: u32, fault: Fault) {
        *self.next.lock().expect("not poisoned") = Some((commits, fault));
    }

    /// Lets every read fail, or none.
    pub(crate) fn fail_reads(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    fn due(&self) -> Option<Fault> {
        let mut next = self.next.lock().expect("not poisoned");
        match next.as_mut() {
            Some((0, fault)) => {
                let fault = *fault;
                *next = None;
                Some(fault)
            }
            Some((commits, _)) => {
                *commits -= 1;
                None
            }
            None => None,
        }
    }

    fn hear(&self) -> Result<(), StoreError> {
        if self.deaf.load(Ordering::SeqCst) {
            Err(unavailable())
        } else {
            Ok(())
        }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("as told".into())
}

#[async_trait]
impl Store for FaultyStore {
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.hear()?;
        self.store.range(range).await
    }

    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError> {
        match self.due() {
            None => self.store.commit(commit).await,
            Some(Fault::Before) => Err(unavailable()),
            Some(Fault::After) => {
                self.store.commit(commit).await?;
                Err(unavailable())
            }
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.hear()?;
        self.store.revision().await
    }
}
