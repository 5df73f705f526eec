//! The embedded store: one file, one process, no server.
//!
//! Every commit is durable when it returns, and made in two phases, so that damage to the file can never be mistaken for a
//! commit that was not finished and rolled back. The checksum of every page is verified at start: redb's plain reads do not
//! look at them.
//!
//! After any failure, a panic out of a damaged file among them, it is not known what is on the disk, and redb refuses all
//! further use. The file is then closed, and opened and verified anew by whoever asks next: as a restart would, and without
//! one. Until that succeeds, nothing is read or written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable, StorageError,
    TableDefinition,
};

use super::{BoxError, Commit, Page, Range, Record, Revision, Store, StoreError, Version};

const RECORDS: TableDefinition<'_, &str, (Version, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";
const FORMAT: &str = "format";

/// The layout of the two tables above. Records carry formats of their own.
const FORMAT_VERSION: u64 = 1;

/// What redb may keep of the file in memory. The authority holds its state in its own structures and reads the store at
/// start only.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The file could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process has the store open")]
    InUse,
    /// It cannot be read or written.
    #[error("the store cannot be read or written")]
    Io(#[source] BoxError),
    /// It was damaged: restore a backup.
    #[error("the store is damaged: restore it from a backup")]
    Damaged(#[source] BoxError),
    /// It was written by a newer version.
    #[error("the store has format {found}, this version knows up to {FORMAT_VERSION}")]
    Newer {
        /// The format found.
        found: u64,
    },
}

/// A store in one file.
#[derive(Clone, Debug)]
pub struct RedbStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    open: OpenFile,
    /// None after a failure.
    database: RwLock<Option<Database>>,
}

/// Opens a file that is there.
type OpenFile = fn(&Path) -> Result<Database, OpenError>;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Does `work`, and opens the file anew before it when that failed before. Blocks.
    fn run<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.reopen()?;
        let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = match held.as_ref() {
            // A panic may come after a commit has taken effect.
            Some(database) => catch_unwind(AssertUnwindSafe(|| work(database)))
                .unwrap_or_else(|_panic| Err(StoreError::Unavailable("using it panicked".into()))),
            None => Err(StoreError::Unavailable("it failed at the same time".into())),
        };
        drop(held);
        if matches!(outcome, Err(StoreError::Unavailable(_) | StoreError::Damaged(_))) {
            self.close();
        }
        outcome
    }

    fn close(&self) {
        let mut held = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = held.take();
        // Whatever redb still finds wrong is found again when the file is opened.
        let _closed = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let open = |database: &Option<Database>| database.is_some();
        if open(&self.database.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut held = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if !open(&held) {
            *held = Some(guarded(|| (self.open)(&self.path)).map_err(|error| match error {
                OpenError::Damaged(source) => StoreError::Damaged(source),
                error @ (OpenError::InUse | OpenError::Io(_) | OpenError::Newer { .. }) => {
                    StoreError::Unavailable(error.into())
                }
            })?);
        }
        Ok(())
    }
}

/// What `open` gives. A panic means that the file is damaged.
fn guarded<T>(open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_panic| Err(OpenError::Damaged("the store cannot be read".into())))
}

impl RedbStore {
    /// Opens the file at `path`, or makes it, readable for this user only.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_by(path, open_file).await
    }

    async fn open_by(path: &Path, open: OpenFile) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let database = guarded(|| {
                if !path.try_exists().map_err(io_error)? {
                    make(&path)?;
                }
                open(&path)
            })?;
            Ok(Self(Arc::new(Inner {
                path,
                open,
                database: RwLock::new(Some(database)),
            })))
        });
        opened
            .await
            .unwrap_or_else(|error| Err(OpenError::Io(error.into())))
    }

    /// Runs `work` where it may block.
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || inner.run(work));
        done.await
            .unwrap_or_else(|error| Err(StoreError::Unavailable(error.into())))
    }
}

fn io_error(error: io::Error) -> OpenError {
    OpenError::Io(error.into())
}

/// Opens a file that is there, and verifies it.
fn open_file(path: &Path) -> Result<Database, OpenError> {
    // redb would make a new database of it. Whoever lost everything is to know it.
    if std::fs::metadata(path).map_err(io_error)?.len() == 0 {
        return Err(OpenError::Damaged("the file is empty".into()));
    }
    prepared(builder().create(path))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// The database, once its tables are there and of a format known here.
fn prepared(opened: Result<Database, DatabaseError>) -> Result<Database, OpenError> {
    let database = opened.map_err(refused)?;
    let found = prepare(&database).map_err(|error| match error {
        StoreError::Damaged(source) => OpenError::Damaged(source),
        StoreError::Unavailable(source) => OpenError::Io(source),
        StoreError::Conflict | StoreError::TooLarge => OpenError::Io(error.into()),
    })?;
    if found == FORMAT_VERSION {
        Ok(database)
    } else {
        Err(OpenError::Newer { found })
    }
}

/// Makes an empty store beside its place, and moves it there when it is whole: an empty or half-made file in the place is
/// then always one that was damaged. Readable for this user only, which redb would not see to.
fn make(path: &Path) -> Result<(), OpenError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(io_error)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
        Ok(()) | Err(_) => {}
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(io_error)?;
    drop(prepared(builder().create(&unfinished))?);
    made.sync_all().map_err(io_error)?;
    std::fs::rename(&unfinished, path).map_err(io_error)?;
    folder.sync_all().map_err(io_error)
}

/// Makes the tables of a new file; the format of the file either way.
fn prepare(database: &Database) -> Result<u64, StoreError> {
    let transaction = begin(database)?;
    let found = {
        let mut counters = transaction.open_table(COUNTERS).map_err(failure)?;
        let found = counters
            .get(FORMAT)
            .map_err(failure)?
            .map(|format| format.value());
        if found.is_none() {
            counters.insert(FORMAT, FORMAT_VERSION).map_err(failure)?;
            counters.insert(REVISION, 0).map_err(failure)?;
            transaction.open_table(RECORDS).map_err(failure)?;
        }
        found
    };
    if found.is_none() {
        transaction.commit().map_err(failure)?;
    }
    Ok(found.unwrap_or(FORMAT_VERSION))
}

/// Starts a transaction whose commit is durable when it returns.
fn begin(database: &Database) -> Result<redb::WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(failure)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(failure)?;
    // After a one-phase commit, redb would take a damaged page for an unfinished commit and fall back to the one before.
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn revision(database: &Database) -> Result<Revision, StoreError> {
    let transaction = database.begin_read().map_err(failure)?;
    let counters = transaction.open_table(COUNTERS).map_err(failure)?;
    let revision = counters.get(REVISION).map_err(failure)?;
    Ok(revision.map_or(0, |revision| revision.value()))
}

fn range(database: &Database, range: &Range) -> Result<Page, StoreError> {
    let transaction = database.begin_read().map_err(failure)?;
    let table = transaction.open_table(RECORDS).map_err(failure)?;
    let (start, inclusive) = range.start();
    let mut records = Vec::new();
    let mut more = false;
    for entry in table.range(start..).map_err(failure)? {
        let (name, content) = entry.map_err(failure)?;
        let name = name.value();
        if !inclusive && name == start {
            continue;
        }
        more = name.starts_with(&range.prefix);
        if !more || records.len() == range.limit {
            break;
        }
        more = false;
        let (version, value) = content.value();
        records.push(Record {
            name: name.to_owned(),
            version,
            value: value.to_owned(),
        });
    }
    Ok(Page { records, more })
}

fn commit(database: &Database, commit: &Commit) -> Result<Revision, StoreError> {
    let transaction = begin(database)?;
    let revision = {
        let mut records = transaction.open_table(RECORDS).map_err(failure)?;
        for (name, expected) in &commit.expected {
            if version(&records, name)? != *expected {
                // Dropping the transaction undoes it.
                return Err(StoreError::Conflict);
            }
        }
        let mut counters = transaction.open_table(COUNTERS).map_err(failure)?;
        let last = counters.get(REVISION).map_err(failure)?;
        let revision = last.map_or(0, |last| last.value()).saturating_add(1);
        counters.insert(REVISION, revision).map_err(failure)?;
        for name in &commit.deletes {
            records.remove(name.as_str()).map_err(failure)?;
        }
        for (name, value) in &commit.puts {
            records
                .insert(name.as_str(), (revision, value.as_slice()))
                .map_err(failure)?;
        }
        revision
    };
    // Whatever fails from here on, it may be done.
    let committed = transaction.commit();
    committed.map_err(|error| StoreError::Unavailable(error.into()))?;
    Ok(revision)
}

fn version(
    records: &impl ReadableTable<&'static str, (Version, &'static [u8])>,
    name: &str,
) -> Result<Version, StoreError> {
    let record = records.get(name).map_err(failure)?;
    Ok(record.map_or(0, |record| record.value().0))
}

#[async_trait]
impl Store for RedbStore {
    async fn range(&self, wanted: Range) -> Result<Page, StoreError> {
        self.run(move |database| range(database, &wanted)).await
    }

    async fn commit(&self, wanted: Commit) -> Result<Revision, StoreError> {
        wanted.check()?;
        self.run(move |database| commit(database, &wanted)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.run(revision).await
    }
}

fn refused(error: DatabaseError) -> OpenError {
    // redb says `InvalidData` of a file that is no redb file.
    let alien = matches!(&error, DatabaseError::Storage(StorageError::Io(cause))
        if cause.kind() == io::ErrorKind::InvalidData);
    if matches!(
        error,
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
    ) {
        OpenError::InUse
    } else if alien || is_damage(&error) {
        OpenError::Damaged(error.into())
    } else {
        OpenError::Io(error.into())
    }
}

fn is_damage(error: &DatabaseError) -> bool {
    matches!(
        error,
        DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::RepairAborted
    )
}

/// What redb's errors mean to the caller. A table that is missing or of another type was not left so by us.
fn failure(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let damaged = matches!(
        error,
        redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_)
    );
    if damaged {
        StoreError::Damaged(error.into())
    } else {
        StoreError::Unavailable(error.into())
    }
}

#[cfg(test)]
mod tests;
