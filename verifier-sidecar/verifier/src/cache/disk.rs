//! sled, and nothing of it leaves this module.
//!
//! A record is a name and bytes. sled writes a page of more than an eighth of a megabyte into a file of its own that it
//! never syncs, so records are cut into chunks small enough that no page grows to that. sled 0.34 meets damage with a
//! panic, with silence or with an iterator that repeats one error for ever: reading stops at the first error, and the
//! caller isolates panics and verifies everything that is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Why the records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// sled said so.
    #[error("the database failed")]
    Database(#[source] sled::Error),
    /// A chunk has a key of another form.
    #[error("a record has no valid name")]
    Name,
    /// The records are larger than any that are written.
    #[error("the records are too large")]
    TooLarge,
}

/// Everything stored, by name.
pub(super) type RecordMap = BTreeMap<String, Vec<u8>>;

/// Records to write and to remove, all or none of them.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    /// Written, replacing what has the same name.
    pub(super) put: Vec<(String, &'a [u8])>,
    /// Removed, if there.
    pub(super) remove: Vec<String>,
}

/// What the cache needs of a disk.
pub(super) trait Records: Send {
    /// Every record.
    fn read_all(&mut self) -> Result<RecordMap, DiskError>;

    /// Makes `change` in one transaction. When it returns, the change survives a power cut.
    fn commit(&mut self, change: &Change<'_>) -> Result<(), DiskError>;
}

/// More than the largest snapshot, log and manifest together.
const MAX_TOTAL: usize = 128 * 1024 * 1024;

/// sled splits a page at 16 entries, so a page stays below half of the size from which it goes into its own file.
const CHUNK: usize = 4 * 1024;

/// Separates the name from the number of the chunk, in four bytes.
const SEPARATOR: u8 = 0;

/// Only the records read from disk pass through sled's cache, once.
const SLED_CACHE: u64 = 8 * 1024 * 1024;

/// The state directory's own lock keeps other processes out, so sled's can only be held by a database that this process
/// has just closed, whose last threads let go of it a moment later, or by a process that is ending and lets go of one file
/// after the other.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Records in a sled database.
#[derive(Debug)]
pub(super) struct SledRecords {
    tree: sled::Db,
    chunks: BTreeMap<String, u32>,
}

impl SledRecords {
    /// Opens or creates the database in `directory`. May panic, and may hang, when it is damaged.
    pub(super) fn open(directory: &Path) -> Result<Self, DiskError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(SLED_CACHE)
            .mode(sled::Mode::LowSpace)
            // Every commit is flushed by itself.
            .flush_every_ms(None);
        let mut attempts = 0;
        let tree = loop {
            match config.open() {
                Ok(tree) => break tree,
                Err(error) if is_locked(&error) && attempts < LOCK_ATTEMPTS => attempts += 1,
                Err(error) => return Err(DiskError::Database(error)),
            }
            thread::sleep(LOCK_PAUSE);
        };
        Ok(Self {
            tree,
            chunks: BTreeMap::new(),
        })
    }

    fn put(&self, batch: &mut sled::Batch, name: &str, value: &[u8]) -> Result<u32, DiskError> {
        let mut written = 0_u32;
        for chunk in value.chunks(CHUNK) {
            batch.insert(chunk_key(name, written), chunk);
            written = written.checked_add(1).ok_or(DiskError::TooLarge)?;
        }
        self.clear(batch, name, written);
        Ok(written)
    }

    /// Removes the chunks of `name` from `from` on.
    fn clear(&self, batch: &mut sled::Batch, name: &str, from: u32) {
        let had = self.chunks.get(name).copied().unwrap_or(0);
        for number in from..had {
            batch.remove(chunk_key(name, number));
        }
    }
}

impl Records for SledRecords {
    fn read_all(&mut self) -> Result<RecordMap, DiskError> {
        let mut records = RecordMap::new();
        let mut total = 0_usize;
        self.chunks.clear();
        for entry in self.tree.iter() {
            let (key, chunk) = entry.map_err(DiskError::Database)?;
            let (name, number) = read_key(&key).ok_or(DiskError::Name)?;
            total = total.saturating_add(key.len()).saturating_add(chunk.len());
            if total > MAX_TOTAL {
                return Err(DiskError::TooLarge);
            }
            let expected = self.chunks.entry(name.to_owned()).or_default();
            if number != *expected {
                return Err(DiskError::Name);
            }
            *expected = number.checked_add(1).ok_or(DiskError::TooLarge)?;
            records
                .entry(name.to_owned())
                .or_default()
                .extend_from_slice(&chunk);
        }
        Ok(records)
    }

    fn commit(&mut self, change: &Change<'_>) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        let mut chunks = self.chunks.clone();
        for name in &change.remove {
            self.clear(&mut batch, name, 0);
            chunks.remove(name);
        }
        for (name, value) in &change.put {
            let written = self.put(&mut batch, name, value)?;
            chunks.insert(name.clone(), written);
        }
        // A batch on one tree is a transaction that reads nothing: after a crash all of it is there, or none.
        self.tree.apply_batch(batch).map_err(DiskError::Database)?;
        self.chunks = chunks;
        self.tree.flush().map(drop).map_err(DiskError::Database)
    }
}

/// sled says it in words only.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(cause) if cause.to_string().contains("acquire lock"))
}

fn chunk_key(name: &str, number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 5);
    key.extend_from_slice(name.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn read_key(key: &[u8]) -> Option<(&str, u32)> {
    let (rest, number) = key.split_last_chunk::<4>()?;
    let (separator, name) = rest.split_last()?;
    let name = std::str::from_utf8(name).ok()?;
    (*separator == SEPARATOR).then_some((name, u32::from_be_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(records: &RecordMap) -> Vec<&str> {
        records.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_record_comes_back_whole_and_a_shorter_one_leaves_nothing_of_the_longer() {
        let directory = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        {
            let mut records = SledRecords::open(directory.path()).unwrap();
            for value in [&long[..], &long[..5_000], &long[..70_000]] {
                let change = Change {
                    put: vec![("snapshot".into(), value), ("other".into(), b"x")],
                    remove: vec![],
                };
                records.commit(&change).unwrap();
            }
        }
        let mut records = SledRecords::open(directory.path()).unwrap();
        let read = records.read_all().unwrap();
        assert_eq!(names(&read), ["other", "snapshot"]);
        assert_eq!(read["snapshot"], long[..70_000]);
        let change = Change {
            put: vec![("snapshot".into(), &long[..4096])],
            remove: vec!["other".into(), "never there".into()],
        };
        records.commit(&change).unwrap();
        drop(records);
        let read = SledRecords::open(directory.path()).unwrap().read_all().unwrap();
        assert_eq!(names(&read), ["snapshot"]);
        assert_eq!(read["snapshot"], long[..4096]);
    }

    #[test]
    fn no_page_is_written_into_an_unsynced_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = SledRecords::open(directory.path()).unwrap();
        let large = vec![7_u8; 3_000_000];
        for _ in 0..3 {
            let change = Change {
                put: vec![("snapshot".into(), &large[..]), ("identity".into(), b"x")],
                remove: vec![],
            };
            records.commit(&change).unwrap();
        }
        let own_files = std::fs::read_dir(directory.path().join("blobs")).unwrap();
        assert_eq!(own_files.count(), 0);
    }
}
