//! What is saved comes back whole, and what does not add up does not come back at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_core::Timestamp;
use countersign_core::names::CertificateThumbprint;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::trust::UpdateContent;
use countersign_crypto::AwsLc;
use tempfile::TempDir;

use super::disk::{Change, DiskError, RecordMap, Records, SledRecords};
use super::journal::{Journal, LogBound};
use super::*;
use crate::sync::scripted::{ISSUER, START, ScriptedAuthority, TestClock, rules, store};

mod ages;
mod carried;
mod catching_up;
mod damage;
mod failing;
mod foreign;
mod latest;
mod owner;
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
            heard: true,
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
            .save_snapshot(
                &self.authority.snapshot(),
                &[],
                self.reached(),
                &RevocationList::default(),
                &self.publishers,
            )
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

/// A certificate that is revoked by nothing that is signed here.
fn carried() -> RevocationList {
    let thumbprint = CertificateThumbprint::new([7; 32]);
    RevocationList::from([Revocation {
        subject: RevokedSubject::Certificate(thumbprint),
        issued_before: Timestamp::from_seconds(1_000),
        expires_at: Timestamp::from_seconds(4_000_000_000),
    }])
}

fn entries(revocations: &RevocationList) -> Vec<Revocation> {
    revocations.iter().collect()
}

/// I-09: what was revoked beside a snapshot is found with it, until there is another snapshot.
#[tokio::test]
async fn certificates_that_are_carried_along_are_there_after_a_restart() {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    assert!(opened.carried.is_empty());
    let snapshot = desk.authority.snapshot();
    let saved = opened
        .cache
        .save_snapshot(&snapshot, &[], desk.reached(), &carried(), &desk.publishers)
        .await;
    assert!(saved.durable);
    assert!(desk.save_revocation(&opened.cache, "fourth").await.durable);
    assert!(opened.cache.close().await);
    let opened = desk.open().await;
    assert_eq!(trust(&opened).0.revocations().len(), 43);
    assert_eq!(entries(&opened.carried), entries(&carried()));
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert_eq!(trust.current().certificates().len(), 1);
    let at = desk.clock.elapsed();
    let current = trust.current();
    let thumbprint = CertificateThumbprint::new([7; 32]);
    let view = current.view(at).unwrap();
    assert!(view.state.revocations().holds_certificate(&thumbprint));
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);
    assert!(desk.open().await.carried.is_empty());
}

/// And when all else is let go of.
#[tokio::test]
async fn certificates_that_are_revoked_are_not_let_go_of() {
    let desk = Desk::filled().await;
    let opened = desk.open().await;
    assert!(opened.cache.let_go(&carried()).await);
    assert!(opened.cache.close().await);
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Nothing), "{:?}", opened.found);
    assert_eq!(entries(&opened.carried), entries(&carried()));
}

/// What says of certificates that they are revoked, and cannot be read, is not passed over.
#[tokio::test]
async fn a_record_of_certificates_that_cannot_be_read_is_a_cold_start() {
    for record in [
        "[",
        "{}",
        r#"[{"thumbprint":"AA","issued_before":1,"expires_at":2}]"#,
    ] {
        let desk = Desk::filled().await;
        desk.tamper(&put(replay::CARRIED, record.as_bytes()));
        assert_eq!(desk.unusable().await, Unusable::Malformed, "{record:?}");
    }
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

fn trust_epoch(opened: &Opened) -> u64 {
    trust(opened).0.epoch()
}

type Tamper = fn(&RecordMap) -> Change<'static>;

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
