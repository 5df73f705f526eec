//! What is saved comes back whole, and what does not add up does not come back at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_core::revocation::RevocationList;
use countersign_core::trust::UpdateContent;
use countersign_crypto::AwsLc;
use tempfile::TempDir;

use super::disk::{Change, DiskError, RecordMap, Records, SledRecords};
use super::journal::{Journal, LogBound};
use super::*;
use crate::sync::scripted::{ISSUER, START, ScriptedAuthority, TestClock, rules, store};

mod catching_up;
mod damage;
mod failing;
mod latest;
mod prolonging;
mod publishers;
mod warm_start;

const SECOND: Duration = Duration::from_secs(1);

/// One sidecar's disk, and the authority that feeds it.
struct Desk {
    directory: TempDir,
    clock: Arc<TestClock>,
    authority: ScriptedAuthority,
    /// Of the process that has the cache open.
    publishers: Publishers,
    identity: CacheIdentity,
    warm_start: Option<PathBuf>,
}

impl Desk {
    fn new() -> Self {
        let text = str::to_owned;
        let authority = ScriptedAuthority::new();
        Self {
            publishers: authority.publishers(),
            directory: tempfile::tempdir().unwrap(),
            clock: TestClock::new(),
            authority,
            identity: CacheIdentity {
                issuer: text(ISSUER),
                trust_domain: text("example.com"),
                audience: text("https://orders.example.com"),
                sidecar: text("spiffe://example.com/sidecar/orders"),
            },
            warm_start: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn database(&self) -> PathBuf {
        self.path().join("cache")
    }

    fn now_millis(&self) -> u64 {
        self.clock.now_millis()
    }

    /// Where the clocks stand.
    fn mark(&self) -> ClockMark {
        let clock = self.clock.as_ref();
        let moment = moment(clock);
        ClockMark {
            time_millis: moment.wall_millis,
            moment,
            boot: clock.boot(),
        }
    }

    async fn try_open_at(&self, path: &Path) -> Result<Opened, CacheError> {
        let settings = CacheSettings {
            warm_start: self.warm_start.clone(),
            ..CacheSettings::new(
                path.to_owned(),
                self.identity.clone(),
                VerifierId::parse("one").unwrap(),
            )
        };
        let clock: Arc<TestClock> = Arc::clone(&self.clock);
        TrustCache::open(settings, self.publishers.clone(), rules(), clock).await
    }

    async fn open(&self) -> Opened {
        self.try_open_at(&self.path()).await.unwrap()
    }

    fn reached(&self) -> StateId {
        StateId {
            epoch: self.authority.state.epoch(),
            digest: *self.authority.state.digest(),
        }
    }

    async fn save_snapshot(&self, cache: &TrustCache) -> Saved {
        cache
            .save_snapshot(&self.authority.snapshot(), &[], self.reached(), &self.publishers)
            .await
    }

    async fn save_revocation(&mut self, cache: &TrustCache, token_id: &str) -> Saved {
        let delta = self.authority.revoke(token_id);
        cache.save_delta(&delta, self.reached(), &self.publishers).await
    }

    async fn save_heartbeat(&mut self, cache: &TrustCache) -> Saved {
        let mark = self.mark();
        let heartbeat = self.authority.heartbeat(mark.time_millis);
        cache
            .save_heartbeat(&heartbeat, self.authority.state.epoch(), &mark)
            .await
    }

    /// A cache on disk with 42 revocations, and nobody in it.
    async fn filled() -> Self {
        Self::filled_with(40).await
    }

    /// A cache with a snapshot of so many revocations, two deltas, and the heartbeat between them.
    async fn filled_with(revocations: usize) -> Self {
        let mut desk = Self::new();
        let opened = desk.open().await;
        assert!(matches!(opened.found, Found::Nothing), "{:?}", opened.found);
        desk.authority.revoke_many("first-", revocations);
        assert!(desk.save_snapshot(&opened.cache).await.durable);
        assert!(desk.save_revocation(&opened.cache, "second").await.durable);
        assert!(desk.save_heartbeat(&opened.cache).await.durable);
        assert!(desk.save_revocation(&opened.cache, "third").await.durable);
        assert!(opened.cache.close().await);
        desk
    }

    /// Changes the records behind the cache's back.
    fn tamper(&self, change: &Change<'_>) {
        let mut records = SledRecords::open(&self.database()).unwrap();
        records.read_all().unwrap();
        records.commit(change).unwrap();
    }

    fn records(&self) -> RecordMap {
        SledRecords::open(&self.database()).unwrap().read_all().unwrap()
    }

    async fn unusable(&self) -> Unusable {
        let opened = self.open().await;
        let Found::Unusable(why) = opened.found else {
            panic!("used: {:?}", opened.found)
        };
        assert!(opened.cache.close().await);
        why
    }
}

fn put(name: &str, value: &[u8]) -> Change<'static> {
    Change {
        put: vec![(name.to_owned(), value.to_vec().leak())],
        remove: vec![],
    }
}

fn trust(opened: &Opened) -> (&TrustState, Option<Duration>) {
    match &opened.found {
        Found::Trust { state, ages } => (state, ages.iter().map(|age| age.so_far).min()),
        other @ (Found::Nothing | Found::Unusable(_)) => panic!("not found: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_saved_is_there_after_a_restart() {
    let desk = Desk::filled().await;
    desk.clock.advance(30 * SECOND);
    let opened = desk.open().await;
    let (state, age) = trust(&opened);
    assert_eq!(state.epoch(), 4);
    assert_eq!(state.digest(), desk.authority.state.digest());
    assert_eq!(state.revocations().len(), 42);
    // From the heartbeat between the deltas: the later state is no older than that.
    assert_eq!(age, Some(30 * SECOND));
    assert_eq!(opened.floor, Some(desk.reached()));
    assert_eq!(opened.cache.problem(), None);
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert!(trust.status().decides());
}

#[tokio::test]
async fn the_log_goes_on_after_a_restart() {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    assert!(desk.save_revocation(&opened.cache, "fourth").await.durable);
    assert!(opened.cache.close().await);
    let opened = desk.open().await;
    assert_eq!(trust(&opened).0.revocations().len(), 43);
}

/// A snapshot replaces the log, and the heartbeat that belonged to the log.
#[tokio::test]
async fn a_snapshot_takes_the_place_of_everything_before_it() {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    desk.authority.revoke("missed-on-the-way");
    desk.authority.revoke("fourth");
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);
    assert_eq!(
        desk.records().keys().collect::<Vec<_>>(),
        [replay::CLOCK, replay::IDENTITY, replay::SNAPSHOT]
    );
    let opened = desk.open().await;
    let (state, age) = trust(&opened);
    assert_eq!((state.epoch(), age), (6, None));
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert!(!trust.status().decides(), "its age is not known");
    assert!(desk.save_heartbeat(&opened.cache).await.durable);
    // The snapshot asked for to shorten the log leads to the epoch that is in force.
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);
    assert_eq!(self::trust(&desk.open().await).1, Some(Duration::ZERO));
}

/// F42: the age is counted on by the wall clock; a clock that reads clearly earlier than then says nothing.
#[tokio::test]
async fn the_age_is_what_the_wall_clock_says_unless_it_went_back() {
    let mut desk = Desk::new();
    let opened = desk.open().await;
    desk.save_snapshot(&opened.cache).await;
    desk.save_heartbeat(&opened.cache).await;
    assert!(opened.cache.close().await);
    let then = desk.now_millis();
    for (now, age) in [
        (then + 1_500, Some(Duration::from_millis(1_500))),
        (then + 899_999, Some(Duration::from_millis(899_999))),
        (then - 10_000, Some(Duration::ZERO)),
        (then - 301_000, None),
        (0, None),
    ] {
        desk.clock.set_millis(now);
        let opened = desk.open().await;
        if let Found::Trust { ages, .. } = &opened.found {
            let told = ages.iter().map(|age| age.so_far).min();
            assert_eq!(told, age, "at {now}");
        } else {
            panic!("at {now}: {:?}", opened.found);
        }
        assert!(opened.cache.close().await);
    }
}

/// The clock of the authority was four minutes ahead: the age still counts from when the ping was sent here.
#[tokio::test]
async fn an_authority_with_a_fast_clock_makes_nothing_younger() {
    let mut desk = Desk::new();
    let opened = desk.open().await;
    desk.save_snapshot(&opened.cache).await;
    let mut mark = desk.mark();
    mark.time_millis += 240_000;
    let ahead = desk.authority.heartbeat(mark.time_millis);
    assert!(opened.cache.save_heartbeat(&ahead, 1, &mark).await.durable);
    assert!(opened.cache.close().await);
    desk.clock.advance(600 * SECOND);
    assert_eq!(trust(&desk.open().await).1, Some(600 * SECOND));
}

/// D04: an older copy of the database is below the floor, and nothing that came later is forgotten.
#[tokio::test]
async fn an_older_copy_of_itself_is_not_used() {
    let mut desk = Desk::filled().await;
    let copy = desk.directory.path().join("copy");
    damage::copy(&desk.database(), &copy);
    let opened = desk.open().await;
    desk.save_revocation(&opened.cache, "fourth").await;
    assert!(opened.cache.close().await);
    fs::remove_dir_all(desk.database()).unwrap();
    fs::rename(&copy, desk.database()).unwrap();
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(Unusable::BelowFloor)));
    assert_eq!(opened.floor, Some(desk.reached()));
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert_eq!((trust.epoch(), trust.floor()), (0, desk.reached()));
    assert!(desk.path().join("cache.damaged").exists());
    // Once: the next one takes its place.
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);
    assert_eq!(trust_epoch(&desk.open().await), desk.authority.state.epoch());
}

fn trust_epoch(opened: &Opened) -> u64 {
    trust(opened).0.epoch()
}

/// D04: without its floor a database may be any age, so it is not used; its epoch holds as a floor all the same.
#[tokio::test]
async fn a_database_without_its_floor_is_not_used() {
    let spoils: [fn(&Path); 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "{}\n").unwrap(),
        |path| fs::write(path, [0xff; 40]).unwrap(),
        |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("\"epoch\":4", "\"epoch\":9")).unwrap();
        },
    ];
    for spoil in spoils {
        let desk = Desk::filled().await;
        spoil(&desk.path().join("floor"));
        let opened = desk.open().await;
        assert!(
            matches!(opened.found, Found::Unusable(Unusable::FloorMissing)),
            "{:?}",
            opened.found
        );
        assert_eq!(opened.floor, Some(desk.reached()));
    }
}

/// D05: the directory of another sidecar, audience or trust domain.
#[tokio::test]
async fn the_cache_of_another_verifier_is_not_used() {
    let changes: [fn(&mut CacheIdentity); 4] = [
        |identity| identity.sidecar.push('2'),
        |identity| identity.audience.push('2'),
        |identity| identity.trust_domain.push('2'),
        |identity| identity.issuer.push('2'),
    ];
    for change in changes {
        let mut desk = Desk::filled().await;
        change(&mut desk.identity);
        let opened = desk.open().await;
        assert!(matches!(opened.found, Found::Unusable(Unusable::Identity)));
        assert_eq!(opened.floor, None);
    }
}

/// D05: what another authority signed, under our own identity.
#[tokio::test]
async fn records_of_an_unknown_publisher_are_not_used() {
    let mut desk = Desk::filled().await;
    desk.authority = ScriptedAuthority::new();
    desk.publishers = desk.authority.publishers();
    assert_eq!(
        desk.unusable().await,
        Unusable::Refused(UpdateRefused::PublisherUnknown)
    );
}

type Tamper = fn(&RecordMap) -> Change<'static>;

/// D09: each record holds under its own name only.
#[tokio::test]
async fn a_record_under_another_name_is_not_used() {
    let snapshot_as = |name: &str, records: &RecordMap| put(name, &records[replay::SNAPSHOT]);
    let cases: [(Unusable, Tamper); 6] = [
        (Unusable::Refused(UpdateRefused::Signature), |records| {
            put(replay::SNAPSHOT, &records[replay::HEARTBEAT])
        }),
        (Unusable::Misplaced, |records| {
            put(replay::SNAPSHOT, &records[&replay::delta_name(3)])
        }),
        (Unusable::Misplaced, |records| {
            put(&replay::delta_name(5), &records[&replay::delta_name(4)])
        }),
        (Unusable::Misplaced, |records| {
            put("unknown", &records[replay::SNAPSHOT])
        }),
        (Unusable::Refused(UpdateRefused::Signature), |records| {
            put(replay::HEARTBEAT, &records[replay::SNAPSHOT])
        }),
        (Unusable::Identity, |records| {
            put(replay::IDENTITY, &records[replay::SNAPSHOT])
        }),
    ];
    for (expected, change) in cases {
        let desk = Desk::filled().await;
        let records = desk.records();
        desk.tamper(&change(&records));
        assert_eq!(desk.unusable().await, expected);
    }
    // A newer snapshot, well signed, under the name of a delta.
    let mut desk = Desk::filled().await;
    desk.authority.revoke("fourth");
    let snapshot = RecordMap::from([(
        replay::SNAPSHOT.to_owned(),
        desk.authority.snapshot().encode_to_vec(),
    )]);
    desk.tamper(&snapshot_as(&replay::delta_name(5), &snapshot));
    assert_eq!(desk.unusable().await, Unusable::Misplaced);
}

/// D10: the manifest and the records disagree.
#[tokio::test]
async fn fewer_records_than_stated_are_not_used() {
    // The tail of the log is gone.
    let desk = Desk::filled().await;
    desk.tamper(&Change {
        put: vec![],
        remove: vec![replay::delta_name(4)],
    });
    assert_eq!(desk.unusable().await, Unusable::BelowFloor);
    // A link in the middle is gone.
    let desk = Desk::filled().await;
    desk.tamper(&Change {
        put: vec![],
        remove: vec![replay::delta_name(3)],
    });
    assert_eq!(desk.unusable().await, Unusable::Refused(UpdateRefused::Base));
    // The manifest states another count, digest or epoch than the chain has.
    let changes: [fn(&mut countersign_wire::trust::Heartbeat); 4] = [
        |heartbeat| heartbeat.revocation_count += 1,
        |heartbeat| heartbeat.state_digest = [1; 32],
        |heartbeat| heartbeat.epoch += 1,
        |heartbeat| heartbeat.epoch = 1,
    ];
    for change in changes {
        let mut desk = Desk::filled().await;
        let now = desk.now_millis();
        let mut statement = desk.authority.statement(now);
        change(&mut statement);
        let signed = desk.authority.sign_heartbeat(&statement).encode_to_vec();
        desk.tamper(&put(replay::HEARTBEAT, &signed));
        assert_eq!(desk.unusable().await, Unusable::Manifest);
    }
    // Nothing is left at all: not "nothing is revoked".
    let desk = Desk::filled().await;
    let names = desk.records().into_keys().collect();
    desk.tamper(&Change {
        put: vec![],
        remove: names,
    });
    assert_eq!(desk.unusable().await, Unusable::Lost);
    let desk = Desk::filled().await;
    fs::remove_dir_all(desk.database()).unwrap();
    assert_eq!(desk.unusable().await, Unusable::Lost);
}

/// D10: a snapshot signed with a digest that it does not have.
#[tokio::test]
async fn a_state_without_its_digest_is_not_used() {
    let mut desk = Desk::filled().await;
    let mut update = desk.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(desk.authority.state.keys()),
        revocations: RevocationList::default(),
        publishers: desk.authority.state.publishers(),
    });
    update.epoch = 2;
    let signed = desk.authority.sign_update(&update).encode_to_vec();
    desk.authority.sequence += 1;
    desk.tamper(&put(replay::SNAPSHOT, &signed));
    assert_eq!(desk.unusable().await, Unusable::Refused(UpdateRefused::Digest));
}

/// D11: a newer format is kept aside, once, and not taken for damage.
#[tokio::test]
async fn a_newer_format_is_kept_aside() {
    let desk = Desk::filled().await;
    let newer = br#"{"format":4,"identity":{"who":"knows"},"more":1}"#;
    desk.tamper(&put(replay::IDENTITY, newer));
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(Unusable::Format)));
    // The floor still holds.
    assert_eq!(opened.floor, Some(desk.reached()));
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);
    assert!(desk.path().join("cache.newer").exists());
    assert!(!desk.path().join("cache.damaged").exists());
    assert_eq!(trust_epoch(&desk.open().await), 4);
}

/// D07: the second process is told, and harms nothing.
#[tokio::test]
async fn a_second_process_on_the_directory_is_refused() {
    let mut desk = Desk::filled().await;
    let first = desk.open().await;
    assert_eq!(
        desk.try_open_at(&desk.path()).await.err(),
        Some(CacheError::InUse)
    );
    assert!(desk.save_revocation(&first.cache, "fourth").await.durable);
    assert!(first.cache.close().await);
    assert_eq!(trust_epoch(&desk.open().await), 5);
}

/// Threat 36: what others can exchange is not used, and a start says so. Volumes that Kubernetes shares with a pod's group
/// are.
#[tokio::test]
async fn a_directory_that_others_can_change_is_refused() {
    for (mode, allowed) in [
        (0o700, true),
        (0o755, true),
        (0o2770, true),
        (0o2775, true),
        (0o770, false),
        (0o775, false),
        (0o702, false),
        (0o777, false),
        (0o1777, false),
        (0o2777, false),
    ] {
        let desk = Desk::filled().await;
        fs::set_permissions(desk.path(), fs::Permissions::from_mode(mode)).unwrap();
        let refused = desk.try_open_at(&desk.path()).await.err();
        let exposed = CacheError::Exposed(Exposed::WritableByOthers { mode });
        assert_eq!(refused, (!allowed).then_some(exposed), "{mode:o}");
    }
}

/// Threat 36: what root lets happen to its directories is root's decision; anybody else's are not ours.
#[test]
fn the_directory_of_another_user_is_refused() {
    assert_eq!(directory::access(1000, 0o700, 1000), Ok(()));
    assert_eq!(directory::access(0, 0o2775, 1000), Ok(()));
    for user in [0, 1001] {
        let refused = directory::access(1000, 0o700, user);
        assert_eq!(refused, Err(Exposed::ForeignOwner { owner: 1000 }));
    }
}

#[tokio::test]
async fn nobody_else_may_look_into_the_directory() {
    let desk = Desk::filled().await;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(desk.path()), 0o700);
    assert_eq!(mode(desk.database()), 0o700);
    assert_eq!(mode(desk.path().join("floor")), 0o600);
}

/// X01, F42: on the running machine the age and the time are exact after a restart, whatever the wall clock says; after a
/// reboot, a wall clock that reads earlier than what was seen is not believed.
#[tokio::test]
async fn a_restart_knows_what_time_it_is() {
    let hour = 3600;
    for (boot, wall_ahead, age, known) in [
        ("one", 0, Some(30), true),
        ("one", hour, Some(30), true),
        ("one", -hour, Some(30), true),
        ("two", 0, Some(30), true),
        ("two", hour, Some(30 + 3600), true),
        ("two", -hour, None, false),
    ] {
        let mut desk = Desk::new();
        desk.clock.start_machine("one");
        let opened = desk.open().await;
        desk.save_snapshot(&opened.cache).await;
        assert!(desk.save_heartbeat(&opened.cache).await.durable);
        assert!(opened.cache.close().await);
        let then = desk.clock.now();
        desk.clock.advance(30 * SECOND);
        desk.clock.start_machine(boot);
        desk.clock
            .set_millis((START + 30).saturating_add_signed(wall_ahead) * 1000);
        let opened = desk.open().await;
        let what = format!("boot {boot}, wall {wall_ahead}");
        assert_eq!(trust(&opened).1, age.map(Duration::from_secs), "{what}");
        let store = store(&desk.clock);
        opened.restore(&store).unwrap();
        assert_eq!(store.now().is_ok(), known, "{what}");
        if boot == "one" {
            assert_eq!(store.now().unwrap().since(then), 30 * SECOND, "{what}");
        }
        assert!(opened.cache.close().await);
    }
}

/// A clock record that does not parse is damage; a heartbeat without one has no age that could be told.
#[tokio::test]
async fn a_heartbeat_without_its_clocks_is_not_used() {
    let spoils = [
        put(replay::CLOCK, b"{}"),
        put(replay::CLOCK, &[0xff; 9]),
        Change {
            put: vec![],
            remove: vec![replay::CLOCK.to_owned()],
        },
    ];
    for spoil in spoils {
        let desk = Desk::filled().await;
        desk.tamper(&spoil);
        assert_eq!(desk.unusable().await, Unusable::Malformed);
    }
}

/// One verifier has one name, also after a restart, and when its cache is not used.
#[tokio::test]
async fn a_verifier_keeps_its_name() {
    let desk = Desk::filled().await;
    let file = desk.path().join("verifier-id");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\n");
    fs::write(&file, "two\n").unwrap();
    fs::remove_dir_all(desk.database()).unwrap();
    let opened = desk.open().await;
    assert_eq!(opened.verifier_id.as_str(), "two");
    assert!(opened.cache.close().await);
    for damaged in ["", "a b", &"x".repeat(200)] {
        fs::write(&file, damaged).unwrap();
        let opened = desk.open().await;
        assert_eq!(opened.verifier_id.as_str(), "one");
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\n");
        assert!(opened.cache.close().await);
    }
}
