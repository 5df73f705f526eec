//! How old the trust on disk is, by whatever clock there is.

use super::*;

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
