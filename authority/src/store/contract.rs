//! What every store must do, as a suite: one call per backend.

mod histories;

use std::sync::Arc;

use super::faulty::{Fault, FaultyStore};
use super::memory::MemoryStore;
use super::redb::RedbStore;
use super::*;

/// Something that can be opened, left and opened again.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    async fn open(&self) -> Arc<dyn Store>;
}

struct InMemory(MemoryStore);

#[async_trait]
impl Place for InMemory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }
}

struct OnDisk(tempfile::TempDir);

#[async_trait]
impl Place for OnDisk {
    async fn open(&self) -> Arc<dyn Store> {
        let path = self.0.path().join("store.redb");
        Arc::new(RedbStore::open(&path).await.expect("opens"))
    }
}

/// A backend behind the wrapper that can fail, which here does not.
struct Wrapped(InMemory);

#[async_trait]
impl Place for Wrapped {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(self.0.open().await))
    }
}

fn put(name: &str, value: &str) -> Commit {
    Commit {
        puts: vec![(name.to_owned(), value.as_bytes().to_vec())],
        ..Commit::default()
    }
}

async fn value(store: &dyn Store, name: &str) -> Option<String> {
    let record = find(store, name).await.expect("reads")?;
    Some(String::from_utf8(record.value).expect("text"))
}

async fn a_commit_is_seen_by_every_later_read(store: &dyn Store) {
    let revision = store.commit(put("a/1", "one")).await.expect("commits");
    let record = find(store, "a/1").await.expect("reads").expect("is there");
    assert_eq!((record.version, record.value.as_slice()), (revision, &b"one"[..]));
    assert_eq!(store.revision().await.expect("reads"), revision);
}

async fn revisions_grow_by_every_commit(store: &dyn Store) {
    let mut last = store.revision().await.expect("reads");
    for _ in 0..5 {
        let next = store.commit(put("b/1", "x")).await.expect("commits");
        assert!(next > last);
        last = next;
    }
    let refused = Commit {
        expected: vec![("b/1".to_owned(), 0)],
        ..put("b/1", "y")
    };
    assert!(matches!(store.commit(refused).await, Err(StoreError::Conflict)));
    assert!(store.commit(put("b/1", "z")).await.expect("commits") > last);
}

async fn a_commit_is_whole_or_not_at_all(store: &dyn Store) {
    let mut before = put("c/kept", "old");
    before.delete("c/added".to_owned());
    store.commit(before).await.expect("commits");
    let mut commit = put("c/kept", "new");
    commit.put("c/added".to_owned(), b"new".to_vec());
    commit.expect("c/absent", 7);
    assert!(matches!(store.commit(commit).await, Err(StoreError::Conflict)));
    assert_eq!(value(store, "c/kept").await.as_deref(), Some("old"));
    assert_eq!(value(store, "c/added").await, None);

    let mut commit = put("c/added", "new");
    commit.expect("c/absent", 0);
    commit.delete("c/kept".to_owned());
    store.commit(commit).await.expect("commits");
    assert_eq!(value(store, "c/kept").await, None);
    assert_eq!(value(store, "c/added").await.as_deref(), Some("new"));
}

async fn of_two_commits_against_one_version_one_succeeds(store: &Arc<dyn Store>) {
    let version = store.commit(put("d/1", "0")).await.expect("commits");
    let racers = (0..8).map(|racer| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut commit = put("d/1", &racer.to_string());
            commit.expect("d/1", version);
            store.commit(commit).await
        })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.expect("runs") {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, StoreError::Conflict), "{error:?}"),
        }
    }
    assert_eq!(won, 1);
}

async fn a_deleted_record_has_version_zero_again(store: &dyn Store) {
    store.commit(put("e/1", "x")).await.expect("commits");
    let mut delete = Commit::default();
    delete.delete("e/1".to_owned());
    store.commit(delete).await.expect("commits");
    let mut again = put("e/1", "y");
    again.expect("e/1", 0);
    store.commit(again).await.expect("commits");
    assert_eq!(value(store, "e/1").await.as_deref(), Some("y"));
}

async fn a_range_is_paged_in_order_and_stays_in_its_prefix(store: &dyn Store) {
    let mut commit = Commit::default();
    for name in ["f", "f/", "f/a", "f/a/1", "f/b", "f/c", "f0", "g"] {
        commit.put(name.to_owned(), name.as_bytes().to_vec());
    }
    store.commit(commit).await.expect("commits");
    let mut range = Range::first("f/", 2);
    let mut names = Vec::new();
    loop {
        let page = store.range(range.clone()).await.expect("reads");
        assert!(page.records.len() <= 2);
        names.extend(page.records.iter().map(|record| record.name.clone()));
        range.after = names.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(names, ["f/", "f/a", "f/a/1", "f/b", "f/c"]);
    let all = read_all(store, "f/").await.expect("reads");
    assert_eq!(all.len(), 5);
    let outside = Range {
        after: Some("a".to_owned()),
        ..Range::first("f/", 1)
    };
    let page = store.range(outside).await.expect("reads");
    assert_eq!((page.records[0].name.as_str(), page.more), ("f/", true));
}

async fn limits_are_refused_before_anything_is_written(store: &dyn Store) {
    let revision = store.revision().await.expect("reads");
    let many = Commit {
        deletes: vec!["h".to_owned(); MAX_WRITES + 1],
        ..Commit::default()
    };
    let large = Commit {
        puts: vec![("h".to_owned(), vec![0; MAX_VALUE_LENGTH + 1])],
        ..Commit::default()
    };
    for commit in [
        put("", "x"),
        put(&"h".repeat(MAX_NAME_LENGTH + 1), "x"),
        many,
        large,
    ] {
        assert!(matches!(store.commit(commit).await, Err(StoreError::TooLarge)));
    }
    assert_eq!(store.revision().await.expect("reads"), revision);
    let largest = Commit {
        puts: vec![("h".to_owned(), vec![1; MAX_VALUE_LENGTH])],
        ..Commit::default()
    };
    store.commit(largest).await.expect("commits");
    let read = find(store, "h").await.expect("reads").expect("is there");
    assert_eq!(read.value.len(), MAX_VALUE_LENGTH);
}

/// Every promise but the first.
async fn check_use(store: &Arc<dyn Store>) {
    a_commit_is_seen_by_every_later_read(store.as_ref()).await;
    revisions_grow_by_every_commit(store.as_ref()).await;
    a_commit_is_whole_or_not_at_all(store.as_ref()).await;
    of_two_commits_against_one_version_one_succeeds(store).await;
    a_deleted_record_has_version_zero_again(store.as_ref()).await;
    a_range_is_paged_in_order_and_stays_in_its_prefix(store.as_ref()).await;
    limits_are_refused_before_anything_is_written(store.as_ref()).await;
    histories::the_last_drills_are_kept_and_read_in_their_order(store.as_ref()).await;
    histories::the_last_links_are_kept_and_read_in_their_order(store.as_ref()).await;
}

/// The suite.
pub(crate) async fn check(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(store.revision().await.expect("reads"), 0);
    check_use(&store).await;
    let before = read_all(store.as_ref(), "").await.expect("reads");
    let revision = store.revision().await.expect("reads");
    drop(store);

    // Promise 1, as far as one process can show it; the crash test in `tests/` kills another.
    let store = place.open().await;
    assert_eq!(read_all(store.as_ref(), "").await.expect("reads"), before);
    assert_eq!(store.revision().await.expect("reads"), revision);
    check_use(&store).await;
}

#[tokio::test]
async fn the_memory_store_keeps_the_promises() {
    check(&InMemory(MemoryStore::default())).await;
    histories::the_next_process_finds_both_histories(&InMemory(MemoryStore::default())).await;
}

#[tokio::test]
async fn the_redb_store_keeps_the_promises_also_when_opened_again() {
    check(&OnDisk(tempfile::tempdir().expect("a folder"))).await;
    histories::the_next_process_finds_both_histories(&OnDisk(tempfile::tempdir().expect("a folder"))).await;
}

#[tokio::test]
async fn the_fault_injecting_wrapper_keeps_the_promises_while_nothing_fails() {
    check(&Wrapped(InMemory(MemoryStore::default()))).await;
}

/// F27: an unavailable store leaves a commit whole, done or not done, and the caller can find out which.
#[tokio::test]
async fn a_commit_in_doubt_is_whole_either_way() {
    for (fault, done) in [(Fault::Before, false), (Fault::After, true)] {
        let store = FaultyStore::new(Arc::new(MemoryStore::default()));
        store.fail_commit(0, fault);
        let mut commit = put("a", "1");
        commit.put("b".to_owned(), b"2".to_vec());
        assert!(matches!(
            store.commit(commit).await,
            Err(StoreError::Unavailable(_))
        ));
        for name in ["a", "b"] {
            assert_eq!(value(&store, name).await.is_some(), done, "{name} {fault:?}");
        }
    }
}
