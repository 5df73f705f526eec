//! Records that are older, of somebody else, or in another place are not used.

use super::*;

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
    let newer = br#"{"format":5,"identity":{"who":"knows"},"more":1}"#;
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
