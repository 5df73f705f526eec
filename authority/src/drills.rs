//! The history of drills, and the one that runs. A value, like the registry of clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_core::drill::{Drill, DrillId, DrillOutcome};
use countersign_core::revocation::DigestSum;
use countersign_crypto::AwsLc;

use crate::store::Commit;
use crate::store::drills::{digest, name, write};
use crate::store::record::RecordError;

/// The most drills that are kept: one a week for two years.
pub const MAX_DRILLS: usize = 100;

/// A record as the store has it.
#[derive(Clone, Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    drill: Arc<Drill>,
}

/// Every drill that is kept. At most one runs: the last.
#[derive(Clone, Debug, Default)]
pub struct Drills {
    entries: Arc<BTreeMap<DrillId, Entry>>,
    sum: DigestSum,
}

impl Drills {
    /// All of them, the last first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Drill>> {
        self.entries.values().rev().map(|entry| &entry.drill)
    }

    /// One of them.
    #[must_use]
    pub fn find(&self, id: DrillId) -> Option<&Arc<Drill>> {
        self.entries.get(&id).map(|entry| &entry.drill)
    }

    /// The one that runs.
    #[must_use]
    pub fn running(&self) -> Option<&Arc<Drill>> {
        self.all().next().filter(|drill| drill.is_running())
    }

    /// The last one that came to its end, with everybody safe.
    #[must_use]
    pub fn last_complete(&self) -> Option<&Arc<Drill>> {
        let complete = |drill: &&Arc<Drill>| {
            let end = drill.end.as_ref();
            end.is_some_and(|end| end.outcome == DrillOutcome::Complete)
        };
        self.all().find(complete)
    }

    /// The number of the next one.
    #[must_use]
    pub fn next_id(&self) -> DrillId {
        self.entries
            .last_key_value()
            .map_or(1, |(last, _)| last.saturating_add(1))
    }

    /// The digests of all records, summed up.
    #[must_use]
    pub const fn sum(&self) -> DigestSum {
        self.sum
    }

    /// The history with `drill` in it, as it is now. The first ones are forgotten when there are too many.
    ///
    /// # Errors
    /// [`RecordError::Unwritable`].
    pub fn with(&self, drill: Drill) -> Result<Self, RecordError> {
        let mut changed = self.clone();
        let bytes = write(&drill)?;
        changed.found(drill, bytes);
        while changed.entries.len() > MAX_DRILLS
            && let Some((first, _)) = changed.entries.first_key_value()
        {
            changed.strike(*first);
        }
        Ok(changed)
    }

    /// Takes in a record that the store has.
    pub fn found(&mut self, drill: Drill, bytes: Vec<u8>) {
        self.strike(drill.id);
        self.sum.add(&digest(&name(drill.id), &bytes, &AwsLc));
        let entry = Entry {
            bytes: bytes.into(),
            drill: Arc::new(drill),
        };
        Arc::make_mut(&mut self.entries).insert(entry.drill.id, entry);
    }

    /// The records that lead to this history from `before`, which differs in `changed` and what was forgotten for it.
    pub fn record(&self, before: &Self, changed: DrillId, commit: &mut Commit) {
        for gone in before.entries.keys().filter(|id| !self.entries.contains_key(id)) {
            commit.delete(name(*gone));
        }
        if let Some(entry) = self.entries.get(&changed) {
            commit.put(name(changed), entry.bytes.to_vec());
        }
    }

    fn strike(&mut self, id: DrillId) {
        if let Some(entry) = Arc::make_mut(&mut self.entries).remove(&id) {
            self.sum.subtract(&digest(&name(id), &entry.bytes, &AwsLc));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::drills::tests::drill;

    #[test]
    fn the_last_hundred_drills_are_kept_and_the_sum_is_of_those() {
        let mut drills = Drills::default();
        assert_eq!((drills.next_id(), drills.all().count()), (1, 0));
        let mut commit = Commit::default();
        for id in 1..=103 {
            let next = drills.with(drill(id)).unwrap();
            commit = Commit::default();
            next.record(&drills, id, &mut commit);
            drills = next;
        }
        assert_eq!((drills.all().count(), drills.next_id()), (MAX_DRILLS, 104));
        assert!(drills.find(3).is_none() && drills.find(4).is_some());
        assert_eq!((commit.deletes, commit.puts.len()), (vec![name(3)], 1));
        let mut read = Drills::default();
        for kept in drills.all() {
            read.found(kept.as_ref().clone(), write(kept).unwrap());
        }
        assert_eq!(read.sum(), drills.sum());
    }

    #[test]
    fn one_that_runs_is_changed_in_its_place() {
        let running = Drill {
            end: None,
            ..drill(1)
        };
        let drills = Drills::default().with(running).unwrap();
        assert_eq!(drills.running().map(|drill| drill.id), Some(1));
        assert!(drills.last_complete().is_none());
        let mut complete = drill(1);
        complete.end.as_mut().unwrap().outcome = DrillOutcome::Complete;
        let ended = drills.with(complete).unwrap();
        assert!(ended.running().is_none());
        assert_eq!(ended.last_complete().map(|drill| drill.id), Some(1));
        assert_eq!(ended.all().count(), 1);
        assert_ne!(ended.sum(), drills.sum());
    }
}
