//! A store in memory: for tests, and the reference that the other backends are compared with. It keeps every promise
//! except durability beyond the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Commit, Page, Range, Record, Revision, Store, StoreError, Version};

/// Clones share the records.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    revision: Revision,
    records: BTreeMap<String, (Version, Vec<u8>)>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Records> {
        // A panic elsewhere cannot leave half a commit: the writes below do not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let held = self.lock();
        let (start, inclusive) = range.start();
        let mut found = held
            .records
            .range(start.to_owned()..)
            .filter(|(name, _)| inclusive || name.as_str() != start)
            .take_while(|(name, _)| name.starts_with(&range.prefix));
        let records = found
            .by_ref()
            .take(range.limit)
            .map(|(name, (version, value))| Record {
                name: name.clone(),
                version: *version,
                value: value.clone(),
            })
            .collect();
        Ok(Page {
            records,
            more: found.next().is_some(),
        })
    }

    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError> {
        commit.check()?;
        let mut held = self.lock();
        let version = |name: &String| held.records.get(name).map_or(0, |(version, _)| *version);
        if commit
            .expected
            .iter()
            .any(|(name, expected)| version(name) != *expected)
        {
            return Err(StoreError::Conflict);
        }
        let revision = held.revision.saturating_add(1);
        held.revision = revision;
        for name in &commit.deletes {
            held.records.remove(name);
        }
        for (name, value) in commit.puts {
            held.records.insert(name, (revision, value));
        }
        Ok(revision)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.lock().revision)
    }
}
