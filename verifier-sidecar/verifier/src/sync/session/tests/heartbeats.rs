//! What confirms, what does not, and what silence means.

use countersign_wire::trust::Heartbeat;

use super::*;

type Spoil = fn(&mut Heartbeat);

/// K21: whatever is wrong with a heartbeat, it is ignored and counted, and the trust goes on growing old.
#[test]
fn a_wrong_heartbeat_confirms_nothing() {
    let spoils: [(&str, Spoil); 8] = [
        ("update_issuer", |it| {
            it.issuer = countersign_core::names::Issuer::parse("https://other.example.com").unwrap();
        }),
        ("heartbeat_sequence", |it| it.sequence = 0),
        ("heartbeat_time", |it| it.authority_time_millis += 600_000),
        ("heartbeat_time", |it| it.authority_time_millis -= 600_000),
        ("heartbeat_time", |it| it.authority_time_millis = 0),
        ("heartbeat_count", |it| it.revocation_count += 1),
        ("epoch_fork", |it| it.state_digest[0] ^= 1),
        ("epoch_regressed", |it| it.epoch = 0),
    ];
    for (reason, spoil) in spoils {
        let mut stage = Stage::in_force();
        let before = stage.age().unwrap();
        let now = stage.clock.now_millis();
        let mut statement = stage.authority.statement(now + 2_000);
        spoil(&mut statement);
        let signed = stage.authority.sign_heartbeat(&statement);
        stage.answer(signed);
        assert_eq!(stage.ignored(reason), 1, "{reason}");
        assert_eq!(stage.age(), Some(before + 2 * SECOND), "{reason}");
    }
}

/// K21: every byte of it is signed, and only for what it is.
#[test]
fn a_damaged_heartbeat_confirms_nothing() {
    let mut stage = Stage::in_force();
    let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
    let mut wrong = 0;
    for index in 0..heartbeat.payload.len() {
        let mut changed = heartbeat.clone();
        changed.payload = flipped(&heartbeat.payload, index);
        stage.answer(changed);
        wrong += 1;
        assert_eq!(stage.ignored("update_signature"), wrong);
    }
    let as_update = stage.authority.sign(Context::Update, heartbeat.payload);
    stage.answer(as_update);
    assert_eq!(stage.ignored("update_signature"), wrong + 1);
    assert!(stage.age().unwrap() > 30 * SECOND);
}

/// An answer counts once, for the ping that it answers, and not after a later one.
#[test]
fn only_a_ping_that_was_sent_is_answered() {
    let mut stage = Stage::in_force();
    let age = stage.age().unwrap();
    let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
    for sequence in [0, 1, 99, u64::MAX] {
        stage.answer_to(sequence, heartbeat.clone());
    }
    assert_eq!(stage.ignored("ping_unknown"), 4);
    assert_eq!(stage.age(), Some(age));
}

/// The authority answers pings of one second with one heartbeat; repeated for longer, it keeps nobody young.
#[test]
fn a_repeated_heartbeat_does_not_renew() {
    let mut stage = Stage::in_force();
    let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
    stage.answer(heartbeat.clone());
    let age = stage.age().unwrap();
    for n in 1..10 {
        stage.answer(heartbeat.clone());
        assert_eq!(stage.age(), Some(age + 2 * SECOND * n));
    }
    assert_eq!(stage.metrics.heartbeats_accepted.get(), 2);
}

/// The same heartbeat may be ahead of the state at first, and then confirm it.
#[test]
fn a_heartbeat_that_was_ahead_confirms_once_its_state_is_in_force() {
    let mut stage = Stage::in_force();
    let delta = stage.authority.revoke("a");
    let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
    stage.answer(heartbeat.clone());
    assert_eq!(stage.ignored("heartbeat_ahead"), 1);
    let sent = stage.update(delta);
    let Some(Request::Ping(ping)) = sent.last() else {
        panic!("no ping after the update: {sent:?}")
    };
    stage.answer_to(ping.sequence, heartbeat);
    assert_eq!(stage.age(), Some(Duration::ZERO));
}

/// F33: when the last delta is lost, the heartbeats tell.
#[test]
fn a_lost_last_delta_is_noticed_by_the_second_heartbeat() {
    let mut stage = Stage::in_force();
    stage.authority.revoke("lost");
    assert_eq!(nacks(&stage.pong()), []);
    assert_eq!(nacks(&stage.pong()), [(2, "update_base", true)]);
    let snapshot = stage.authority.snapshot();
    stage.update(snapshot);
    stage.pong();
    assert!(stage.is_current());
    assert_eq!(stage.age(), Some(Duration::ZERO));
}

/// F15: TCP is up and nothing comes: three periods, and the stream is given up; closed at the end of the budget.
#[test]
fn a_silent_stream_ends_after_three_periods() {
    let mut stage = Stage::in_force();
    for _ in 0..2 {
        stage.tick();
        assert_eq!(stage.ended, None);
    }
    stage.tick();
    assert_eq!(stage.ended, Some(Ended::NoAnswer));
    stage.clock.advance(LEASE + REFUSE_AFTER);
    assert!(!stage.trust.status().decides());
}

/// Answers queue behind a large snapshot, so the first one is waited for longer.
#[test]
fn the_first_message_is_waited_for_longer() {
    let mut stage = Stage::new();
    let begun = stage.session.begin();
    stage.perform(begun);
    let ticks = (1..)
        .find(|_| {
            stage.tick();
            stage.ended.is_some()
        })
        .unwrap();
    assert_eq!((ticks, stage.ended), (15, Some(Ended::NoAnswer)));
}

/// F60: eight hours of sleep are silence, whatever the timers think.
#[test]
fn a_machine_that_slept_begins_a_new_stream() {
    let mut stage = Stage::in_force();
    stage.clock.advance(8 * 3600 * SECOND);
    assert!(!stage.trust.status().decides());
    stage.tick();
    assert_eq!(stage.ended, Some(Ended::NoAnswer));
}

#[test]
fn a_stream_is_renewed_before_its_certificates_are_old() {
    let mut stage = Stage::in_force();
    while stage.ended.is_none() {
        let sent = stage.tick();
        if let [Request::Ping(ping)] = &sent[..] {
            let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
            stage.answer_to(ping.sequence, heartbeat);
        }
    }
    assert_eq!(stage.ended, Some(Ended::Renewed));
    assert_eq!(stage.session.age(), 3600 * SECOND);
}

/// An idle stream touches the disk every ten seconds.
#[test]
fn heartbeats_are_kept_every_ten_seconds() {
    let mut stage = Stage::in_force();
    for _ in 0..60 {
        stage.pong();
    }
    assert_eq!(stage.kept.len(), 1 + 120 / 10);
}

/// What an authority that does not know yet what is in force here answers, and what one does that has this verifier in
/// quarantine: both confirm nothing, and neither is an error.
#[test]
fn an_answer_that_grants_nothing_confirms_nothing() {
    for (reason, quarantined) in [("lease_not_granted", false), ("quarantined", true)] {
        let mut stage = Stage::in_force();
        let before = stage.age().unwrap();
        let sent = stage.tick();
        let [Request::Ping(ping)] = &sent[..] else {
            panic!("no ping: {sent:?}")
        };
        let heartbeat = stage.authority.heartbeat(stage.clock.now_millis());
        let effects = stage.session.receive(SyncResponse {
            message: Some(Response::Pong(Pong {
                ping_sequence: ping.sequence,
                heartbeat: (!quarantined).then_some(heartbeat),
                lease_ms: 0,
                quarantined,
            })),
        });
        assert_eq!(stage.perform(effects), []);
        assert_eq!(stage.ignored(reason), 1);
        assert_eq!(stage.age(), Some(before + 2 * SECOND));
        assert_eq!(stage.trust.status().alarm, None);
    }
}

/// X02, X03: a wall clock that is set is counted, and changes no verdict.
#[test]
fn a_wall_clock_that_is_set_is_counted() {
    for (n, step) in [600_i64, -600, 3600].into_iter().enumerate() {
        let mut stage = Stage::in_force();
        stage.pong();
        let before = stage.trust.now().unwrap();
        let millis = stage.clock.now_millis();
        stage.clock.set_millis(millis.saturating_add_signed(1000 * step));
        assert_eq!(stage.trust.now(), Ok(before), "{n}");
        let heartbeat = stage.authority.heartbeat(millis + 2000);
        stage.answer(heartbeat);
        assert_eq!(stage.trust.now().unwrap().since(before), 2 * SECOND);
        assert_eq!(
            (stage.age(), stage.metrics.clock_steps.get()),
            (Some(Duration::ZERO), 1)
        );
    }
}
