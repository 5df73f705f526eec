//! D06, F52, F54, F56, F57: a disk that fails. Trust goes on in memory, and says so.

use std::os::unix::fs::DirBuilderExt as _;

use super::replay::OnDisk;
use super::worker::{Loaded, Worker};
use super::*;

/// What the disk does at the next commit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    None,
    Fails,
    Panics,
    Stalls,
}

/// Records of which the second commit goes wrong.
struct FaultyRecords {
    fault: Fault,
    commits: u32,
    stalled: std::sync::mpsc::Receiver<()>,
}

impl Records for FaultyRecords {
    fn read_all(&mut self) -> Result<RecordMap, DiskError> {
        Ok(RecordMap::new())
    }

    fn commit(&mut self, _change: &Change<'_>) -> Result<(), DiskError> {
        self.commits += 1;
        match self.fault {
            _ if self.commits != 2 => Ok(()),
            Fault::None => Ok(()),
            Fault::Fails => Err(DiskError::Database(sled::Error::Io(std::io::Error::from(
                std::io::ErrorKind::StorageFull,
            )))),
            Fault::Panics => panic!("as sled does"),
            Fault::Stalls => {
                self.stalled.recv().unwrap();
                Ok(())
            }
        }
    }
}

/// A cache on such records, and what ends a stall.
pub(super) fn faulty(desk: &Desk, fault: Fault) -> (TrustCache, std::sync::mpsc::Sender<()>) {
    let (resume, stalled) = std::sync::mpsc::channel();
    let directory = Arc::new(Directory::claim(&desk.path()).unwrap());
    let publishers = desk.authority.publishers();
    let (identity, owned) = (desk.identity.clone(), Arc::clone(&directory));
    let load = move || -> Loaded {
        let records = FaultyRecords {
            fault,
            commits: 0,
            stalled,
        };
        let bound = LogBound {
            deltas: 4,
            bytes: 1_000_000,
        };
        let journal = Journal::new(Box::new(records), owned, identity, publishers, bound);
        Ok((journal, OnDisk::default()))
    };
    let (worker, _) = Worker::start(load, SECOND).unwrap();
    let patience = match fault {
        Fault::Stalls => Duration::from_millis(300),
        // A panic that shows where it came from takes its time.
        Fault::None | Fault::Fails | Fault::Panics => 30 * SECOND,
    };
    let cache = TrustCache::on_disk(worker, directory, patience, 0);
    (cache, resume)
}

/// D06: a directory that cannot be made, because a file is in its way.
#[tokio::test]
async fn without_a_directory_trust_is_kept_in_memory() {
    let desk = Desk::new();
    fs::write(desk.path(), "in the way").unwrap();
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Nothing));
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert!(!desk.save_snapshot(&opened.cache).await.durable);
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert!(opened.cache.close().await);
}

/// D06: the directory is there, and a database cannot be made in it.
#[tokio::test]
async fn without_a_database_trust_is_kept_in_memory() {
    let desk = Desk::new();
    fs::DirBuilder::new().mode(0o700).create(desk.path()).unwrap();
    fs::write(desk.database(), "in the way").unwrap();
    // In the way of setting that aside, too.
    fs::write(desk.path().join("cache.damaged"), "in the way").unwrap();
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(_)));
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
}

/// D06, F55: a floor on a disk that has become read-only still holds.
#[tokio::test]
async fn the_floor_holds_without_a_working_directory() {
    let desk = Desk::filled().await;
    fs::remove_file(desk.path().join("lock")).unwrap();
    fs::create_dir(desk.path().join("lock")).unwrap();
    let opened = desk.open().await;
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert_eq!(opened.floor, Some(desk.reached()));
}

/// F52, F54, F56: after one failure or panic nothing more is written by this process.
#[tokio::test]
async fn one_failed_save_is_the_last() {
    for fault in [Fault::Fails, Fault::Panics] {
        let mut desk = Desk::new();
        let (cache, _resume) = faulty(&desk, fault);
        assert!(desk.save_snapshot(&cache).await.durable);
        assert!(!desk.save_revocation(&cache, "a").await.durable, "{fault:?}");
        assert_eq!(cache.problem(), Some(NotDurable::Failed));
        let later = desk.save_snapshot(&cache).await;
        assert_eq!((later.durable, later.wants_snapshot), (false, false));
        assert!(cache.close().await);
    }
}

/// F57: a stalled disk is waited for only so long, and what it was given it writes in its turn.
#[tokio::test]
async fn a_stalled_disk_is_not_waited_for() {
    let mut desk = Desk::new();
    let (cache, resume) = faulty(&desk, Fault::Stalls);
    assert!(desk.save_snapshot(&cache).await.durable);
    assert!(!desk.save_revocation(&cache, "a").await.durable);
    assert_eq!(cache.problem(), Some(NotDurable::Slow));
    resume.send(()).unwrap();
    let deadline = Duration::from_secs(10);
    let durable = tokio::time::timeout(deadline, async {
        while !desk.save_revocation(&cache, "more").await.durable {}
    });
    durable.await.unwrap();
    assert_eq!(cache.problem(), None);
    assert!(cache.close().await);
}

/// The queue to a stalled disk has an end.
#[tokio::test]
async fn a_disk_that_stays_stalled_holds_no_more_than_a_few_entries() {
    let mut desk = Desk::new();
    let (cache, _resume) = faulty(&desk, Fault::Stalls);
    assert!(desk.save_snapshot(&cache).await.durable);
    for n in 0..20 {
        let saved = desk.save_revocation(&cache, &format!("t{n}")).await;
        assert!(!saved.durable);
    }
    assert_eq!(cache.problem(), Some(NotDurable::Slow));
}

/// The log has a soft bound, where it asks, and a hard one, where it stops; a snapshot ends both.
#[tokio::test]
async fn a_full_log_asks_for_a_snapshot() {
    let mut desk = Desk::new();
    let (cache, _) = faulty(&desk, Fault::None);
    assert!(!desk.save_snapshot(&cache).await.wants_snapshot);
    for n in 1..=8 {
        let saved = desk.save_revocation(&cache, &format!("t{n}")).await;
        assert_eq!((saved.durable, saved.wants_snapshot), (true, n >= 4), "{n}");
    }
    let full = desk.save_revocation(&cache, "too-many").await;
    assert_eq!((full.durable, full.wants_snapshot), (false, true));
    assert_eq!(cache.problem(), Some(NotDurable::Gap));
    // What is in force and not in the log is not attested on disk, either.
    assert!(!desk.save_heartbeat(&cache).await.durable);
    let snapshot = desk.save_snapshot(&cache).await;
    assert_eq!((snapshot.durable, snapshot.wants_snapshot), (true, false));
    assert_eq!(cache.problem(), None);
    assert!(desk.save_heartbeat(&cache).await.durable);
}

/// What is signed on disk is byte for byte what was signed by the authority.
#[test]
fn a_signed_message_is_kept_byte_for_byte() {
    let authority = ScriptedAuthority::new();
    let signed = authority.snapshot();
    let kept = Signed::decode(signed.encode_to_vec().as_slice()).unwrap();
    assert_eq!(kept.payload, signed.payload);
}

/// F56: a database that panics or hangs while it opens is left behind.
#[test]
fn opening_that_panics_or_hangs_is_left_behind() {
    let (_resume, stalled) = std::sync::mpsc::channel::<()>();
    let hangs = move || -> Loaded {
        stalled.recv().unwrap();
        Err(Unusable::Unreadable.into())
    };
    let loads: [(Unusable, Box<dyn FnOnce() -> Loaded + Send>); 2] = [
        (Unusable::Panicked, Box::new(|| panic!("as sled does"))),
        (Unusable::Hung, Box::new(hangs)),
    ];
    for (expected, load) in loads {
        let started = Worker::start(load, Duration::from_millis(100));
        assert_eq!(started.err().map(|rejected| rejected.reason), Some(expected));
    }
}
