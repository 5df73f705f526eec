//! What is revoked beside the state on disk is kept whatever becomes of the rest.

use super::*;

/// A cache with a snapshot beside which a certificate is revoked, and a delta.
async fn filled() -> Desk {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    let snapshot = desk.authority.snapshot();
    let saved = opened
        .cache
        .save_snapshot(&snapshot, &[], desk.reached(), &carried(), &desk.publishers)
        .await;
    assert!(saved.durable);
    assert!(desk.save_revocation(&opened.cache, "fourth").await.durable);
    assert!(opened.cache.close().await);
    desk
}

/// What is in it, of which nothing is used but this.
async fn left(desk: &Desk) -> (Unusable, Vec<Revocation>) {
    let opened = desk.open().await;
    let Found::Unusable(why) = opened.found else {
        panic!("used: {:?}", opened.found)
    };
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert_eq!(trust.current().certificates().len(), opened.carried.len());
    assert!(opened.cache.close().await);
    (why, entries(&opened.carried))
}

fn remove(name: &str) -> Change<'static> {
    Change {
        put: vec![],
        remove: vec![name.to_owned()],
    }
}

/// I-09: a cold start forgets the trust, and not which certificates are revoked, nor does the next one before the authority has
/// answered.
#[tokio::test]
async fn a_cold_start_keeps_what_is_carried() {
    for (harm, reason) in [
        (put(replay::SNAPSHOT, b"torn"), Unusable::Malformed),
        (remove(replay::SNAPSHOT), Unusable::Malformed),
        (remove("delta/0000000000000005"), Unusable::BelowFloor),
        (put("delta/0000000000000009", b"torn"), Unusable::Malformed),
    ] {
        let desk = filled().await;
        desk.tamper(&harm);
        assert_eq!(left(&desk).await, (reason, entries(&carried())), "{harm:?}");
        // There is nothing but that now.
        assert_eq!(
            left(&desk).await,
            (Unusable::Lost, entries(&carried())),
            "{harm:?}"
        );
        let opened = desk.open().await;
        let snapshot = desk.authority.snapshot();
        let reached = desk.reached();
        let saved = opened
            .cache
            .save_snapshot(&snapshot, &[], reached, &opened.carried, &desk.publishers);
        assert!(saved.await.durable);
        assert!(opened.cache.close().await);
        let opened = desk.open().await;
        assert_eq!(trust(&opened).0.epoch(), reached.epoch);
        assert_eq!(entries(&opened.carried), entries(&carried()));
    }
}

/// It is the authority that revoked a certificate: what another verifier of it had here counts, and nothing of another authority.
#[tokio::test]
async fn what_is_carried_is_of_one_authority() {
    let text = str::to_owned;
    let mut desk = filled().await;
    desk.identity.sidecar = text("spiffe://example.com/sidecar/stock");
    desk.identity.audience = text("https://stock.example.com");
    assert_eq!(left(&desk).await, (Unusable::Identity, entries(&carried())));
    let mut desk = filled().await;
    desk.identity.trust_domain = text("example.net");
    assert_eq!(left(&desk).await, (Unusable::Identity, Vec::new()));
    let mut desk = filled().await;
    desk.identity.issuer = text("https://other.example.com");
    assert_eq!(left(&desk).await, (Unusable::Identity, Vec::new()));
}

fn file(desk: &Desk) -> PathBuf {
    desk.path().join("carried")
}

/// The same as it was written when what is carried was a record in the database.
async fn filled_before_the_file() -> Desk {
    let desk = filled().await;
    fs::remove_file(file(&desk)).unwrap();
    let thumbprint = CertificateThumbprint::new([7; 32]);
    let record = format!(r#"[{{"thumbprint":"{thumbprint}","issued_before":1000,"expires_at":4000000000}}]"#);
    desk.tamper(&put(replay::CARRIED, record.as_bytes()));
    desk
}

type Harm = fn(&Desk);

/// I-09: whatever becomes of the database, and whenever a start is broken off that sets it aside.
#[tokio::test]
async fn what_is_carried_outlives_the_database() {
    let harms: [(Unusable, Harm); 6] = [
        (Unusable::Lost, |desk| {
            fs::remove_dir_all(desk.database()).unwrap();
        }),
        // A crash once it is set aside.
        (Unusable::Lost, |desk| {
            fs::rename(desk.database(), desk.path().join("cache.damaged")).unwrap();
        }),
        // A crash once there is a place for the next one.
        (Unusable::Lost, |desk| {
            fs::rename(desk.database(), desk.path().join("cache.damaged")).unwrap();
            fs::create_dir(desk.database()).unwrap();
        }),
        // And once that is there.
        (Unusable::Lost, |desk| {
            fs::rename(desk.database(), desk.path().join("cache.damaged")).unwrap();
            drop(SledRecords::open(&desk.database()).unwrap());
        }),
        (Unusable::Unreadable, |desk| {
            fs::remove_dir_all(desk.database()).unwrap();
            fs::write(desk.database(), "in the way").unwrap();
        }),
        (Unusable::Deadly, |desk| {
            fs::write(desk.path().join("opening"), "..").unwrap();
        }),
    ];
    for (case, (reason, harm)) in harms.into_iter().enumerate() {
        let desk = filled().await;
        harm(&desk);
        assert_eq!(left(&desk).await, (reason, entries(&carried())), "{case}");
        // Nothing has come from the authority in between.
        assert_eq!(left(&desk).await, (Unusable::Lost, entries(&carried())), "{case}");
    }
}

/// A start in which no database can be made forgets nothing that the next one needs.
#[tokio::test]
async fn what_is_carried_needs_no_new_database() {
    let desk = filled().await;
    fs::remove_dir_all(desk.database()).unwrap();
    std::os::unix::fs::symlink("nowhere/at/all", desk.database()).unwrap();
    let opened = desk.open().await;
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert_eq!(entries(&opened.carried), entries(&carried()));
    assert!(opened.cache.close().await);
    fs::remove_file(desk.database()).unwrap();
    assert_eq!(left(&desk).await, (Unusable::Lost, entries(&carried())));
}

/// D06, F55: as the floor does.
#[tokio::test]
async fn what_is_carried_is_read_where_nothing_can_be_written() {
    let desk = filled().await;
    fs::remove_file(desk.path().join("lock")).unwrap();
    fs::create_dir(desk.path().join("lock")).unwrap();
    let opened = desk.open().await;
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert_eq!(entries(&opened.carried), entries(&carried()));
    fs::write(file(&desk), "torn").unwrap();
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(Unusable::Malformed)));
}

/// A record in the database is the only one until it is in the file. Before that, the database stays where it is.
#[tokio::test]
async fn a_record_in_the_database_is_moved_before_the_database_is() {
    let desk = filled_before_the_file().await;
    let opened = desk.open().await;
    assert_eq!(trust(&opened).0.epoch(), 5);
    assert_eq!(entries(&opened.carried), entries(&carried()));
    assert!(opened.cache.close().await);
    desk.tamper(&put(replay::SNAPSHOT, b"torn"));
    let in_the_way = desk.path().join("carried.new");
    fs::create_dir(&in_the_way).unwrap();
    let opened = desk.open().await;
    assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
    assert_eq!(entries(&opened.carried), entries(&carried()));
    assert!(opened.cache.close().await);
    assert!(!desk.path().join("cache.damaged").exists());
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(left(&desk).await, (Unusable::Malformed, entries(&carried())));
    assert!(desk.path().join("cache.damaged").exists());
    assert_eq!(left(&desk).await, (Unusable::Lost, entries(&carried())));
}

fn another() -> RevocationList {
    RevocationList::from([Revocation {
        subject: RevokedSubject::Certificate(CertificateThumbprint::new([8; 32])),
        issued_before: Timestamp::from_seconds(1_000),
        expires_at: Timestamp::from_seconds(4_000_000_000),
    }])
}

/// What the snapshot on disk lacks is not dropped before another is there, and what the other lacks is there before it is.
#[tokio::test]
async fn a_snapshot_is_never_without_what_is_carried_beside_it() {
    let desk = Desk::new();
    let (cache, _resume) = failing::faulty(&desk, failing::Fault::Fails);
    let later = another();
    let snapshot = desk.authority.snapshot();
    for (beside, durable) in [(carried(), true), (later.clone(), false)] {
        let saved = cache.save_snapshot(&snapshot, &[], desk.reached(), &beside, &desk.publishers);
        assert_eq!(saved.await.durable, durable);
    }
    assert!(cache.close().await);
    let mut both = carried();
    both.merge(&later);
    let opened = desk.open().await;
    assert_eq!(entries(&opened.carried), entries(&both));
    let saved = opened
        .cache
        .save_snapshot(&snapshot, &[], desk.reached(), &later, &desk.publishers);
    assert!(saved.await.durable);
    assert!(opened.cache.close().await);
    let opened = desk.open().await;
    assert_eq!(entries(&opened.carried), entries(&later));
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(!file(&desk).exists());
}

/// Without what is carried beside it, a snapshot does not go to disk.
#[tokio::test]
async fn what_cannot_be_carried_leaves_the_disk_as_it_is() {
    let desk = filled().await;
    let opened = desk.open().await;
    let mut more = carried();
    more.merge(&another());
    fs::create_dir(desk.path().join("carried.new")).unwrap();
    let snapshot = desk.authority.snapshot();
    let saved = opened
        .cache
        .save_snapshot(&snapshot, &[], desk.reached(), &more, &desk.publishers)
        .await;
    assert!(!saved.durable);
    assert_eq!(opened.cache.problem(), Some(NotDurable::Failed));
    assert!(opened.cache.close().await);
    let left = desk.records();
    assert!(left.contains_key("delta/0000000000000005"), "{:?}", left.keys());
    assert_eq!(entries(&desk.open().await.carried), entries(&carried()));
}

/// Where it cannot be read itself, nothing can be kept of it, and nothing is decided either, until the authority answers.
#[tokio::test]
async fn what_is_carried_and_cannot_be_read_is_lost() {
    let spoils: [fn(&str) -> String; 5] = [
        |_| "torn".to_owned(),
        |_| String::new(),
        |text| text.replace("4000000000", "1000000000"),
        |text| with_sum(&line(text).replace("\"format\":1", "\"format\":2")),
        |text| with_sum(&line(text).replace("\"thumbprint\":\"", "\"thumbprint\":\"A")),
    ];
    for (case, spoil) in spoils.into_iter().enumerate() {
        let desk = filled().await;
        let text = fs::read_to_string(file(&desk)).unwrap();
        assert_eq!(with_sum(&line(&text)), text);
        fs::write(file(&desk), spoil(&text)).unwrap();
        assert_eq!(left(&desk).await, (Unusable::Malformed, Vec::new()), "{case}");
        assert_eq!(left(&desk).await, (Unusable::Lost, Vec::new()), "{case}");
        fs::remove_file(desk.path().join("floor")).unwrap();
        fs::remove_dir_all(desk.database()).unwrap();
        assert_eq!(left(&desk).await, (Unusable::Malformed, Vec::new()), "{case}");
        let opened = desk.open().await;
        assert!(desk.save_snapshot(&opened.cache).await.durable, "{case}");
        assert!(opened.cache.close().await);
        assert!(trust(&desk.open().await).0.epoch() > 0, "{case}");
    }
}

fn line(text: &str) -> String {
    text.lines().next().unwrap().to_owned()
}

fn with_sum(content: &str) -> String {
    floor::with_sum(content, &AwsLc)
}

/// A record that cannot be read is not passed over either, and takes nothing from the file.
#[tokio::test]
async fn what_is_carried_in_the_file_needs_no_record() {
    let desk = filled().await;
    desk.tamper(&put(replay::CARRIED, b"torn"));
    assert_eq!(left(&desk).await, (Unusable::Malformed, entries(&carried())));
}
