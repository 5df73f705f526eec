//! Files that were damaged, cut, replaced, or are in use.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_core::ports::Entropy as _;
use countersign_crypto::AwsLc;
use redb::StorageBackend;
use redb::backends::FileBackend;
use tempfile::TempDir;

use super::*;
use crate::store::{find, read_all};

/// A store with some hundred records of different sizes, closed.
async fn furnished() -> (TempDir, PathBuf, Vec<Record>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).await.expect("opens");
    for n in 0..200_usize {
        let mut commit = Commit::default();
        commit.put(
            format!("records/{n}"),
            vec![u8::try_from(n).expect("small"); n * 7],
        );
        if n % 50 == 0 {
            commit.delete(format!("records/{}", n / 2));
        }
        store.commit(commit).await.expect("commits");
    }
    let records = read_all(&store, "").await.expect("reads");
    drop(store);
    (folder, path, records)
}

fn random() -> usize {
    let mut bytes = [0; 8];
    AwsLc.fill(&mut bytes).expect("randomness");
    usize::from_le_bytes(bytes)
}

/// What became of a damaged file: refused, or read as it was. Anything else fails the test.
async fn judge(path: &Path, expected: &[Record], what: &str) -> bool {
    let store = match RedbStore::open(path).await {
        Ok(store) => store,
        Err(OpenError::Damaged(_) | OpenError::Io(_)) => return false,
        Err(error) => panic!("{what}: {error:?}"),
    };
    match read_all(&store, "").await {
        Ok(records) => {
            assert!(records == expected, "{what}: other records were read");
            true
        }
        Err(StoreError::Damaged(_) | StoreError::Unavailable(_)) => false,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

/// D01, D02: a flipped bit, a page of zeros. Never another content, never a panic.
#[tokio::test]
async fn damage_is_refused_or_harmless() {
    let (_folder, path, records) = furnished().await;
    let whole = std::fs::read(&path).expect("reads");
    let mut refused = 0;
    for trial in 0..150 {
        let mut damaged = whole.clone();
        if trial % 3 == 0 {
            let page = random() % (damaged.len() / 4096) * 4096;
            damaged[page..page + 4096].fill(0);
        } else {
            let byte = random() % damaged.len();
            damaged[byte] ^= 1 << (random() % 8);
        }
        std::fs::write(&path, &damaged).expect("writes");
        let intact = judge(&path, &records, &format!("trial {trial}")).await;
        refused += usize::from(!intact);
    }
    assert!(refused > 0, "the trials hit something");
}

/// D03: a file that was cut anywhere, to nothing too, is no new store.
#[tokio::test]
async fn a_cut_file_is_refused() {
    let (_folder, path, records) = furnished().await;
    let whole = std::fs::read(&path).expect("reads");
    for length in [
        0,
        1,
        100,
        4096,
        8192,
        whole.len() / 2,
        whole.len() - 4096,
        whole.len() - 1,
    ] {
        std::fs::write(&path, &whole[..length]).expect("writes");
        let intact = judge(&path, &records, &format!("cut to {length}")).await;
        assert!(!intact || length > whole.len() / 2, "cut to {length}");
    }
    std::fs::write(&path, "this is no store\n".repeat(1000)).expect("writes");
    assert!(!judge(&path, &records, "text").await);
}

/// D07: one process at a time.
#[tokio::test]
async fn a_store_in_use_is_not_opened_twice() {
    let (_folder, path, records) = furnished().await;
    let first = RedbStore::open(&path).await.expect("opens");
    assert!(matches!(RedbStore::open(&path).await, Err(OpenError::InUse)));
    assert_eq!(read_all(&first, "").await.expect("reads"), records);
    drop(first);
    RedbStore::open(&path).await.expect("opens again");
}

/// C18: a later layout is refused by its number.
#[tokio::test]
async fn a_newer_layout_is_refused() {
    let (_folder, path, _) = furnished().await;
    let database = Database::create(&path).expect("opens");
    let transaction = database.begin_write().expect("begins");
    {
        let mut counters = transaction.open_table(COUNTERS).expect("opens");
        counters.insert(FORMAT, 2).expect("writes");
    }
    transaction.commit().expect("commits");
    drop(database);
    let error = RedbStore::open(&path).await.expect_err("is refused");
    assert_eq!(
        error.to_string(),
        "the store has format 2, this version knows up to 1"
    );
}

/// C09: what is made is for this user only, and a store that was not finished is made anew.
#[tokio::test]
async fn a_new_store_is_private_and_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    std::fs::write(folder.path().join("store.redb.unfinished"), "half").expect("writes");
    let store = RedbStore::open(&path).await.expect("opens");
    assert_eq!(store.revision().await.expect("reads"), 0);
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let files = std::fs::read_dir(folder.path()).expect("reads").count();
    assert_eq!(files, 1);
    let nowhere = folder.path().join("nowhere/store.redb");
    assert!(matches!(RedbStore::open(&nowhere).await, Err(OpenError::Io(_))));
}

/// A disk that is full while [`FULL`] says so.
#[derive(Debug)]
struct Filling(FileBackend);

static FULL: AtomicBool = AtomicBool::new(false);

fn room() -> io::Result<()> {
    if FULL.load(Ordering::SeqCst) {
        Err(io::ErrorKind::StorageFull.into())
    } else {
        Ok(())
    }
}

impl StorageBackend for Filling {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        room().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        room().and_then(|()| self.0.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

fn open_filling(path: &Path) -> Result<Database, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let backend = FileBackend::new(file.map_err(io_error)?).map_err(refused)?;
    prepared(builder().create_with_backend(Filling(backend)))
}

fn put(name: &str) -> Commit {
    let mut commit = Commit::default();
    commit.put(name.to_owned(), vec![7; 100_000]);
    commit
}

/// F27, D06: a disk that was full for a while ends nothing: what was committed is there, what failed is whole either way.
#[tokio::test]
async fn a_store_that_failed_is_used_again_as_soon_as_it_can_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let store = RedbStore::open_by(&path, open_filling).await.expect("opens");
    let revision = store.commit(put("before")).await.expect("commits");
    FULL.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = store.commit(put("full")).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    FULL.store(false, Ordering::SeqCst);
    assert!(find(&store, "before").await.expect("reads").is_some());
    let made = find(&store, "full").await.expect("reads").is_some();
    let reached = store.revision().await.expect("reads");
    assert_eq!(reached, revision + u64::from(made));
    assert_eq!(store.commit(put("after")).await.expect("commits"), reached + 1);
}

/// F27: a panic says nothing about whether the commit was made.
#[tokio::test]
async fn a_panic_leaves_a_commit_in_doubt_and_the_store_usable() {
    let (_folder, path, records) = furnished().await;
    let store = RedbStore::open(&path).await.expect("opens");
    let panicked: Result<(), StoreError> = store.run(|_| panic!("as told")).await;
    assert!(
        matches!(panicked, Err(StoreError::Unavailable(_))),
        "{panicked:?}"
    );
    assert_eq!(read_all(&store, "").await.expect("reads"), records);
}
