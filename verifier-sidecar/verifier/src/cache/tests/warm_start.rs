//! K12 to K14, K20, K24, D04, F30: a file with trust is as good as what a stream brought, and never more. Whatever is wrong with
//! it, it is refused with a reason, and what is on disk is as it was.

use std::os::unix::fs::DirBuilderExt as _;

use bytes::Bytes;
use countersign_core::staleness::StalenessBudget;
use countersign_core::trust::Change;
use countersign_proto::trust::v1::TrustFile;
use countersign_wire::trust_file::{MAX_TRUST_FILE, write_trust_file};

use super::*;
use crate::cache::warm_start::{WarmStart, inspect};
use crate::sync::scripted::revocation;

const LIFETIME: Duration = Duration::from_secs(7200);

impl Desk {
    /// What the authority would give out at this moment.
    fn file(&mut self) -> TrustFile {
        let now = self.now_millis();
        TrustFile {
            publishers: Vec::new(),
            snapshot: Some(self.authority.snapshot()),
            deltas: Vec::new(),
            heartbeat: Some(self.authority.exported(now, LIFETIME)),
        }
    }

    /// The configuration names a file with this in it from now on.
    fn put(&mut self, content: &[u8]) {
        let path = self.directory.path().join("trust-file");
        fs::write(&path, content).unwrap();
        self.warm_start = Some(path);
    }

    /// The authority's present state in a file.
    fn put_present(&mut self) {
        let file = self.file();
        self.put(&write_trust_file(&file));
    }

    /// What becomes of a file with this in it; the cache is closed again.
    async fn became(&mut self, content: &[u8]) -> WarmStart {
        self.put(content);
        let opened = self.open().await;
        let became = opened.warm_start;
        assert!(opened.cache.close().await);
        became
    }

    fn forget_the_disk(&self) {
        fs::remove_dir_all(self.path()).unwrap();
    }
}

const fn refused(why: UpdateRefused) -> WarmStart {
    WarmStart::Refused(Unusable::Refused(why))
}

/// F43: a sidecar without anything on disk decides on the file, within the budget; and later starts do not need it.
#[tokio::test]
async fn a_first_start_with_a_file_decides_and_keeps_it() {
    let mut desk = Desk::new();
    desk.authority.revoke_many("first-", 40);
    desk.put_present();
    desk.clock.advance(30 * SECOND);
    let opened = desk.open().await;
    assert_eq!(opened.warm_start, WarmStart::Used(2));
    let (state, age) = trust(&opened);
    assert_eq!((state.revocations().len(), age), (40, Some(30 * SECOND)));
    assert_eq!(opened.cache.durable_epoch(), 2);
    assert!(opened.cache.proof().is_some(), "it can be shown to the authority");
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert!(trust.status().decides());
    assert_eq!(trust.status().lease_left, Duration::ZERO);
    assert!(opened.cache.close().await);

    desk.warm_start = None;
    desk.clock.advance(30 * SECOND);
    let opened = desk.open().await;
    assert_eq!(
        (opened.warm_start, opened.floor),
        (WarmStart::NotNamed, Some(desk.reached()))
    );
    assert_eq!(self::trust(&opened).1, Some(60 * SECOND));
}

/// F42, I-14: the age is that of the authority's statement, by whatever clock there is.
#[tokio::test]
async fn a_file_is_as_old_as_the_authority_said_it() {
    let mut desk = Desk::new();
    desk.put_present();
    let then = desk.now_millis();
    for (now, age) in [
        (then + 899_999, Some(Duration::from_millis(899_999))),
        (then + 3_600_000, Some(Duration::from_secs(3600))),
        (then - 10_000, Some(Duration::ZERO)),
        (then - 301_000, None),
    ] {
        desk.clock.set_millis(now);
        let opened = desk.open().await;
        assert_eq!(
            (opened.warm_start, trust(&opened).1),
            (WarmStart::Used(1), age),
            "at {now}"
        );
        let trust = store(&desk.clock);
        opened.restore(&trust).unwrap();
        let within = age.is_some_and(|age| age < Duration::from_secs(900));
        assert_eq!(trust.status().decides(), within, "at {now}");
        assert!(opened.cache.close().await);
        desk.forget_the_disk();
    }
}

/// I-08: what came from a file is decided on for the file's lifetime and no longer, also after a restart from disk, whatever the
/// budgets; and what the authority told this sidecar itself goes on beside it.
#[tokio::test]
async fn a_file_is_decided_on_for_its_lifetime_and_no_longer() {
    let mut desk = Desk::new();
    desk.put_present();
    let tolerant = StalenessBudget::both(Duration::from_secs(24 * 3600));
    let clock = Arc::clone(&desk.clock);
    let left = |opened: &Opened| {
        let trust = store(&clock);
        opened.restore(&trust).unwrap();
        trust.status().refuses_within(&tolerant).unwrap()
    };
    let opened = desk.open().await;
    assert_eq!(left(&opened), LIFETIME);
    assert!(opened.cache.close().await);
    desk.clock.advance(LIFETIME - SECOND);
    desk.warm_start = None;
    let opened = desk.open().await;
    assert_eq!(left(&opened), SECOND);
    assert!(opened.cache.close().await);
    desk.clock.advance(SECOND);
    let opened = desk.open().await;
    assert_eq!(left(&opened), Duration::ZERO);
    desk.save_heartbeat(&opened.cache).await;
    assert!(opened.cache.close().await);
    desk.clock.advance(SECOND);
    desk.put_present();
    let opened = desk.open().await;
    assert_eq!(opened.warm_start, WarmStart::Used(1));
    assert_eq!(left(&opened), Duration::from_secs(24 * 3600) - SECOND);
    assert!(opened.cache.close().await);
}

/// X03, I-08: in one start of the machine a file only grows older, however the wall clock is set, and also where the authority was
/// never heard; after another start it is not younger than when it was taken.
#[tokio::test]
async fn a_restart_makes_no_file_younger() {
    let mut desk = Desk::new();
    desk.clock.start_machine("one");
    desk.put_present();
    desk.clock.advance(60 * SECOND);
    assert!(desk.open().await.cache.close().await);
    desk.clock.advance(LIFETIME);
    desk.clock.set_millis(START * 1000);
    for (start, age) in [("one", LIFETIME + 60 * SECOND), ("two", 60 * SECOND)] {
        desk.clock.start_machine(start);
        let opened = desk.open().await;
        assert_eq!(trust(&opened).1, Some(age), "{:?}", opened.warm_start);
        assert!(opened.cache.close().await);
    }
}

/// A job that exports no more shows before an outage does: an expired file is refused by its name.
#[tokio::test]
async fn a_file_that_has_expired_is_refused() {
    let mut desk = Desk::new();
    let file = write_trust_file(&desk.file());
    desk.clock.advance(LIFETIME - SECOND);
    assert_eq!(desk.became(&file).await, WarmStart::Used(1));
    desk.forget_the_disk();
    desk.clock.advance(SECOND);
    assert_eq!(desk.became(&file).await, WarmStart::Refused(Unusable::Expired));
}

/// The heartbeat of a stream is no file's: the authority has not written down that anybody may start from it.
#[tokio::test]
async fn a_file_without_an_end_is_refused() {
    let mut desk = Desk::new();
    let mut file = desk.file();
    file.heartbeat = Some(desk.authority.heartbeat(desk.now_millis()));
    let became = desk.became(&write_trust_file(&file)).await;
    assert_eq!(became, WarmStart::Refused(Unusable::Malformed));
}

/// X03: in a start of the machine in which the authority was heard, setting the wall clock back makes no file younger.
#[tokio::test]
async fn a_wall_clock_that_is_set_back_makes_no_file_younger() {
    let mut desk = Desk::new();
    desk.clock.start_machine("one");
    let opened = desk.open().await;
    desk.save_snapshot(&opened.cache).await;
    desk.save_heartbeat(&opened.cache).await;
    assert!(opened.cache.close().await);
    desk.authority.revoke("second");
    desk.put_present();
    desk.clock.advance(600 * SECOND);
    desk.clock.set_millis(START * 1000 + 1000);
    for _ in 0..2 {
        let opened = desk.open().await;
        assert_eq!(trust(&opened).1, Some(600 * SECOND), "{:?}", opened.warm_start);
        assert!(opened.cache.close().await);
    }
}

/// Also in pieces: a snapshot and what follows on it.
#[tokio::test]
async fn a_file_may_have_deltas() {
    let mut desk = Desk::new();
    let mut file = desk.file();
    file.deltas = vec![desk.authority.revoke("second"), desk.authority.revoke("third")];
    let at_the_start = write_trust_file(&file);
    assert_eq!(
        desk.became(&at_the_start).await,
        WarmStart::Refused(Unusable::Manifest)
    );
    file.heartbeat = desk.file().heartbeat;
    let whole = write_trust_file(&file);
    assert_eq!(desk.became(&whole).await, WarmStart::Used(3));
    file.deltas.push(file.deltas[0].clone());
    desk.forget_the_disk();
    assert_eq!(
        desk.became(&write_trust_file(&file)).await,
        WarmStart::Refused(Unusable::Misplaced)
    );
    file.deltas.truncate(1);
    assert_eq!(
        desk.became(&write_trust_file(&file)).await,
        WarmStart::Refused(Unusable::Manifest)
    );
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Nothing), "{:?}", opened.found);
}

/// K20: whatever single bit is turned over and wherever it ends, a file is refused, and the disk is as it was.
#[tokio::test]
async fn a_damaged_file_is_refused_and_costs_nothing() {
    let mut desk = Desk::filled_with(2).await;
    let before = desk.reached();
    desk.authority.revoke("fourth");
    let good = write_trust_file(&desk.file());
    let pinned = desk.authority.pinned();
    let now = moment(desk.clock.as_ref());
    assert!(inspect(&Bytes::from(good.clone()), &pinned, now).is_ok());
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[index] ^= 1 << bit;
            let read = inspect(&damaged.into(), &pinned, now);
            assert!(read.is_err(), "byte {index}, bit {bit}: {read:?}");
        }
        let read = inspect(&Bytes::copy_from_slice(&good[..index]), &pinned, now);
        assert!(read.is_err(), "{index} bytes: {read:?}");
    }
    // The start goes on with what is on disk.
    for index in [0, 30, good.len() / 2, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[index] ^= 1;
        desk.put(&damaged);
        let opened = desk.open().await;
        assert!(
            matches!(opened.warm_start, WarmStart::Refused(_)),
            "{:?}",
            opened.warm_start
        );
        assert_eq!(
            (trust(&opened).0.revocations().len(), opened.floor),
            (4, Some(before))
        );
        assert!(opened.cache.close().await);
    }
    assert_eq!(desk.became(&good).await, WarmStart::Used(5));
}

/// `file` after `change`, as bytes.
fn changed(file: &TrustFile, change: impl FnOnce(&mut TrustFile)) -> Vec<u8> {
    let mut file = file.clone();
    change(&mut file);
    write_trust_file(&file)
}

/// Each is refused for its reason, and nothing is left of it.
async fn are_refused(desk: &mut Desk, cases: Vec<(&str, Vec<u8>, &str)>) {
    for (what, content, reason) in cases {
        let WarmStart::Refused(why) = desk.became(&content).await else {
            panic!("{what} is used")
        };
        assert_eq!(why.reason(), reason, "{what}");
    }
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Nothing), "{:?}", opened.found);
    assert_eq!(opened.floor, None);
}

/// K20, K21: not signed by whom it should be, or not in the place for which it was signed.
#[tokio::test]
async fn a_file_of_somebody_else_is_refused() {
    let mut desk = Desk::new();
    let good = desk.file();
    let foreign = Desk::new().file();
    let delta = desk.authority.revoke("second");
    let cases = vec![
        ("nothing", Vec::new(), "format"),
        ("text", b"{\"keys\":[]}".to_vec(), "format"),
        (
            "no snapshot",
            changed(&good, |file| file.snapshot = None),
            "malformed",
        ),
        (
            "no heartbeat",
            changed(&good, |file| file.heartbeat = None),
            "malformed",
        ),
        (
            "another authority's",
            write_trust_file(&foreign),
            "publisher_unknown",
        ),
        (
            "another authority's snapshot",
            changed(&good, |file| file.snapshot = foreign.snapshot.clone()),
            "publisher_unknown",
        ),
        (
            "a snapshot as a heartbeat",
            changed(&good, |file| file.heartbeat = file.snapshot.clone()),
            "update_signature",
        ),
        (
            "a heartbeat as a snapshot",
            changed(&good, |file| file.snapshot = file.heartbeat.clone()),
            "update_signature",
        ),
        (
            "a delta as a snapshot",
            changed(&good, |file| file.snapshot = Some(delta)),
            "misplaced",
        ),
    ];
    are_refused(&mut desk, cases).await;
}

/// K12, K13, K24: well signed, and not what it says to be, or not for here.
#[tokio::test]
async fn a_file_that_does_not_add_up_is_refused() {
    let mut desk = Desk::new();
    desk.authority.revoke("first");
    let good = desk.file();
    let mut statement = desk.authority.statement(desk.now_millis());
    statement.expires_at_millis = Some(u64::MAX / 2);
    statement.revocation_count += 1;
    let miscounted = desk.authority.sign_heartbeat(&statement);
    statement.issuer = countersign_core::names::Issuer::parse("https://other.example.com").unwrap();
    let about_another = desk.authority.sign_heartbeat(&statement);
    let mut update = desk.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(desk.authority.state.keys()),
        revocations: RevocationList::default(),
        publishers: desk.authority.state.publishers(),
    });
    let forgetful = desk.authority.sign_update(&update);
    update.issuer = statement.issuer.clone();
    let of_another = desk.authority.sign_update(&update);
    let cases = vec![
        (
            "another count",
            changed(&good, |file| file.heartbeat = Some(miscounted)),
            "manifest",
        ),
        (
            "another content",
            changed(&good, |file| file.snapshot = Some(forgetful)),
            "update_digest",
        ),
        (
            "another issuer's snapshot",
            changed(&good, |file| file.snapshot = Some(of_another)),
            "update_issuer",
        ),
        (
            "another issuer's heartbeat",
            changed(&good, |file| file.heartbeat = Some(about_another)),
            "identity",
        ),
    ];
    are_refused(&mut desk, cases).await;
}

/// K12, K13, F30: nothing below the floor, also when nothing else is left; and nothing at all when the floor is not known.
#[tokio::test]
async fn nothing_below_the_floor_is_used() {
    let mut desk = Desk::new();
    let older = write_trust_file(&desk.file());
    let opened = desk.open().await;
    desk.authority.revoke("second");
    let twin = {
        let revocations = RevocationList::default();
        let key_set = Arc::clone(desk.authority.state.keys());
        let state = TrustState::new(
            desk.authority.state.issuer().clone(),
            2,
            key_set,
            revocations,
            &AwsLc,
        );
        let ours = std::mem::replace(&mut desk.authority.state, state);
        let twin = write_trust_file(&desk.file());
        desk.authority.state = ours;
        twin
    };
    desk.save_snapshot(&opened.cache).await;
    assert!(opened.cache.close().await);
    assert_eq!(desk.became(&older).await, WarmStart::NoFurther(1));
    assert_eq!(
        desk.became(&twin).await,
        WarmStart::Refused(Unusable::FloorContradicted)
    );

    fs::remove_dir_all(desk.database()).unwrap();
    assert_eq!(
        desk.became(&older).await,
        WarmStart::Refused(Unusable::BelowFloor)
    );
    assert_eq!(
        desk.became(&twin).await,
        WarmStart::Refused(Unusable::FloorContradicted)
    );
    let same = write_trust_file(&desk.file());
    fs::write(desk.path().join("floor"), "{}\n").unwrap();
    assert_eq!(
        desk.became(&same).await,
        WarmStart::Refused(Unusable::FloorMissing)
    );
}

/// D04: the floor that is lost is not taken for one that never was.
#[tokio::test]
async fn a_cache_without_its_floor_is_not_helped_by_a_file() {
    let mut desk = Desk::filled().await;
    fs::remove_file(desk.path().join("floor")).unwrap();
    let present = write_trust_file(&desk.file());
    assert_eq!(
        desk.became(&present).await,
        WarmStart::Refused(Unusable::FloorMissing)
    );
}

/// A file that is used after the cache was lost: it leads back to where the floor is.
#[tokio::test]
async fn a_lost_cache_is_made_good_by_a_file() {
    let mut desk = Desk::filled().await;
    desk.put_present();
    fs::remove_dir_all(desk.database()).unwrap();
    let opened = desk.open().await;
    assert_eq!((opened.warm_start, trust_epoch(&opened)), (WarmStart::Used(4), 4));
    assert!(
        desk.save_revocation(&opened.cache, "fourth").await.durable,
        "the log goes on"
    );
}

/// The same state, confirmed later, makes what is on disk younger; confirmed earlier, nothing.
#[tokio::test]
async fn a_later_confirmation_of_the_same_state_is_of_use() {
    let mut desk = Desk::new();
    let earlier = write_trust_file(&desk.file());
    desk.clock.advance(60 * SECOND);
    let opened = desk.open().await;
    desk.save_snapshot(&opened.cache).await;
    desk.save_heartbeat(&opened.cache).await;
    assert!(opened.cache.close().await);
    assert_eq!(desk.became(&earlier).await, WarmStart::NoFurther(1));
    desk.clock.advance(60 * SECOND);
    let later = write_trust_file(&desk.file());
    desk.clock.advance(60 * SECOND);
    desk.put(&later);
    let opened = desk.open().await;
    assert_eq!(
        (opened.warm_start, trust(&opened).1),
        (WarmStart::Used(1), Some(60 * SECOND))
    );
    assert!(opened.cache.close().await);
    desk.warm_start = None;
    let opened = desk.open().await;
    assert_eq!(
        trust(&opened).1,
        Some(120 * SECOND),
        "the disk keeps what this sidecar was told"
    );
}

/// K24: a later epoch that forgets a revocation is refused over the state that has it.
#[tokio::test]
async fn a_file_un_revokes_nothing() {
    let mut desk = Desk::filled().await;
    let key_set = Arc::clone(desk.authority.state.keys());
    let issuer = desk.authority.state.issuer().clone();
    desk.authority.state = TrustState::new(issuer, 9, key_set, RevocationList::default(), &AwsLc);
    let forgetful = write_trust_file(&desk.file());
    assert_eq!(desk.became(&forgetful).await, refused(UpdateRefused::Unrevoke));
    desk.warm_start = None;
    assert_eq!(trust(&desk.open().await).0.revocations().len(), 42);
}

/// K11: a file brings the links to the keys that signed it, and without them it is of nobody who is believed.
#[tokio::test]
async fn a_file_brings_the_links_to_its_publishing_key() {
    let mut desk = Desk::new();
    let (link, _) = desk.authority.prepare_publisher();
    desk.authority.activate_publisher();
    let mut file = desk.file();
    let bare = write_trust_file(&file);
    assert_eq!(desk.became(&bare).await, refused(UpdateRefused::PublisherUnknown));
    file.publishers = vec![link];
    let whole = write_trust_file(&file);
    assert_eq!(desk.became(&whole).await, WarmStart::Used(desk.reached().epoch));
    desk.warm_start = None;
    assert_eq!(
        trust_epoch(&desk.open().await),
        desk.reached().epoch,
        "the links are on disk, too"
    );
    file.publishers[0].signature = crate::sync::scripted::flipped(&file.publishers[0].signature, 0);
    let damaged = write_trust_file(&file);
    let mut another = Desk::new();
    another.authority = desk.authority;
    another.publishers = another.authority.publishers();
    assert_eq!(
        another.became(&damaged).await,
        WarmStart::Refused(Unusable::Publishers)
    );
}

/// K11, K12: where the database is lost, a key that was dropped signs no file, whatever links it signs to go with it: the floor
/// knows the link by which it was dropped.
#[tokio::test]
async fn a_dropped_key_signs_no_file_where_only_the_floor_is_left() {
    let (mut desk, opened) = Desk::retired().await;
    assert!(opened.cache.close().await);
    fs::remove_dir_all(desk.database()).unwrap();
    let mut file = desk.file();
    file.publishers = desk.publishers.links();
    let honest = write_trust_file(&file);

    // A link past the last one that was here, to a set in which the first key is again.
    file.publishers = vec![desk.authority.link(0, 0)];
    desk.authority.let_sign(0);
    let by_dropped = desk.file();
    (file.snapshot, file.heartbeat) = (by_dropped.snapshot, by_dropped.heartbeat);
    desk.publishers = desk.authority.publishers();
    assert_eq!(
        desk.became(&write_trust_file(&file)).await,
        WarmStart::Refused(Unusable::Publishers)
    );

    assert_eq!(desk.became(&honest).await, WarmStart::Used(desk.reached().epoch));
}

/// K14: an epoch that is impossibly far ahead poisons no floor.
#[tokio::test]
async fn a_file_does_not_jump() {
    let mut desk = Desk::new();
    let state = desk.authority.state.next(&Change::default(), &AwsLc);
    let (key_set, list) = (
        Arc::clone(state.keys()),
        RevocationList::from_iter([revocation("t")]),
    );
    desk.authority.state = TrustState::new(state.issuer().clone(), 1 << 63, key_set, list, &AwsLc);
    let far = write_trust_file(&desk.file());
    assert_eq!(desk.became(&far).await, refused(UpdateRefused::Jump));
    assert_eq!(desk.open().await.floor, None);
}

/// C09: what is no file of a sensible size is not read; one that is not there yet is no fault.
#[tokio::test]
async fn what_is_no_file_is_refused_and_what_is_missing_is_not() {
    let mut desk = Desk::new();
    let folder = desk.directory.path().to_owned();
    let pipe = folder.join("pipe");
    let (all, none) = (rustix::fs::Mode::RWXU, 0);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, all, none).unwrap();
    let huge = folder.join("huge");
    let length = u64::try_from(MAX_TRUST_FILE).unwrap() + 1;
    fs::File::create(&huge).unwrap().set_len(length).unwrap();
    for (path, became) in [
        (folder.join("later"), WarmStart::Missing),
        (folder.clone(), WarmStart::Refused(Unusable::Unreadable)),
        (pipe, WarmStart::Refused(Unusable::Unreadable)),
        (huge, WarmStart::Refused(Unusable::TooLarge)),
    ] {
        desk.warm_start = Some(path.clone());
        let opened = desk.open().await;
        assert_eq!(opened.warm_start, became, "{}", path.display());
        assert!(opened.cache.close().await);
    }
}

/// F52: where nothing can be written, the file is used in memory.
#[tokio::test]
async fn a_file_is_used_also_without_a_disk() {
    let mut desk = Desk::new();
    desk.put_present();
    fs::DirBuilder::new().mode(0o700).create(desk.path()).unwrap();
    // In the way of the lock.
    fs::create_dir(desk.path().join("lock")).unwrap();
    let opened = desk.open().await;
    assert_eq!((opened.warm_start, trust_epoch(&opened)), (WarmStart::Used(1), 1));
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert_eq!(opened.cache.durable_epoch(), 0);
}
