//! What the disk has to do with it: durability, a full log, and the floor that it remembers.

use countersign_core::publishers::FIRST_GENERATION;

use super::*;

/// Without a disk, an epoch is acknowledged for what it is; once the disk is back, it is acknowledged again.
#[test]
fn what_is_not_on_disk_is_acknowledged_as_such() {
    let mut stage = Stage::in_force();
    stage.disk.durable = false;
    let delta = stage.authority.revoke("a");
    assert_eq!(acks(&stage.update(delta)), [(2, false)]);
    for _ in 0..6 {
        assert_eq!(acks(&stage.pong()), []);
    }
    stage.disk = DURABLE;
    let sent: Vec<_> = (0..6).flat_map(|_| stage.pong()).collect();
    assert_eq!(acks(&sent), [(2, true)]);
}

/// The log on disk is full: the stream ends, and the next one asks for a snapshot of the very same state.
#[test]
fn a_full_log_is_replaced_over_a_new_stream() {
    let mut stage = Stage::in_force();
    stage.disk.wants_snapshot = true;
    let delta = stage.authority.revoke("a");
    stage.update(delta);
    assert_eq!(stage.ended, Some(Ended::LogFull));
    let beginning = Beginning {
        durable: true,
        replaces_log: true,
        may_end_for_log_from: stage.clock.elapsed() + 600 * SECOND,
    };
    let mut stage = Stage::with(stage.clock, stage.trust, stage.authority, beginning);
    stage.disk.wants_snapshot = true;
    let begun = stage.session.begin();
    let sent = stage.perform(begun);
    assert!(matches!(&sent[0], Request::Hello(hello) if hello.epoch == 0));
    let snapshot = stage.authority.snapshot();
    let sent = stage.update(snapshot);
    assert_eq!(acks(&sent), [(2, true)]);
    assert_eq!(stage.saved, [(2, 0)]);
    // Still full, as the authority had nothing shorter: not at once again.
    assert_eq!(stage.ended, None);
    assert!(stage.is_current());
}

/// A snapshot that is signed and not what its digest says does not replace the log, either.
#[test]
fn the_log_is_replaced_only_by_what_has_its_digest() {
    let stage = Stage::in_force();
    let beginning = Beginning {
        replaces_log: true,
        ..Beginning::default()
    };
    let mut stage = Stage::with(stage.clock, stage.trust, stage.authority, beginning);
    let empty = stage.authority.update(UpdateContent::Snapshot {
        key_set: key_set("two"),
        revocations: RevocationList::default(),
        publishers: FIRST_GENERATION,
    });
    let empty = stage.authority.sign_update(&empty);
    assert_eq!(nacks(&stage.update(empty)), [(1, "update_digest", true)]);
    assert_eq!(stage.saved, []);
}

/// D04 on: after a cold start with a floor, an authority whose snapshot is older leads up to it by deltas, and nothing of
/// the way is in force.
#[test]
fn the_way_up_to_the_floor_is_taken_as_a_whole() {
    let mut authority = ScriptedAuthority::new();
    let snapshot = authority.snapshot();
    let deltas: Vec<_> = ["a", "b", "c"].map(|id| authority.revoke(id)).into();
    let clock = TestClock::new();
    let trust = Arc::new(store(&clock));
    trust.raise_floor(StateId {
        epoch: 4,
        digest: *authority.state.digest(),
    });
    let mut stage = Stage::with(clock, trust, authority, Beginning::default());
    assert_eq!(stage.update(snapshot.clone()), []);
    for delta in &deltas[..2] {
        assert_eq!(stage.update(delta.clone()), []);
        assert_eq!(stage.update(delta.clone()), [], "twice");
        assert_eq!(stage.trust.epoch(), 0);
    }
    assert_eq!(acks(&stage.update(deltas[2].clone())), [(4, true)]);
    assert_eq!(stage.saved, [(4, 3)]);
    assert!(stage.is_current());
    assert_eq!(stage.trust.status().alarm, None);
    let delta = stage.authority.revoke("d");
    assert_eq!(acks(&stage.update(delta)), [(5, true)]);
}

/// An authority that is itself below the floor, restored from a backup, never gets in force here.
#[test]
fn an_authority_below_the_floor_is_alarmed() {
    let clock = TestClock::new();
    let trust = Arc::new(store(&clock));
    trust.raise_floor(StateId {
        epoch: 9,
        digest: [9; 32],
    });
    let mut stage = Stage::with(clock, trust, ScriptedAuthority::new(), Beginning::default());
    let snapshot = stage.authority.snapshot();
    stage.update(snapshot);
    let delta = stage.authority.revoke("a");
    stage.update(delta);
    stage.pong();
    assert_eq!(stage.trust.epoch(), 0);
    assert_eq!(stage.trust.status().alarm, Some(TrustAlarm::Regressed));
}
