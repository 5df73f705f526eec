//! X01 to X05, X10, X11, I-17: clocks that are wrong, that are set, that drift, and an authority that is far away.

use super::*;

const HOUR: i64 = 3600 * 1000;
const MINUTE: i64 = 60 * 1000;

/// A verifier's machine in a world where the authority's time is the right one. Everything in milliseconds.
struct World {
    /// The right time.
    right: u64,
    elapsed: Duration,
    /// How much the wall clock is ahead.
    wall_ahead: i64,
}

impl World {
    fn new(wall_ahead: i64) -> Self {
        Self {
            right: NOW.as_seconds() * 1000,
            elapsed: 50 * SECOND,
            wall_ahead,
        }
    }

    fn pass(&mut self, millis: u64) {
        self.pass_with_drift(millis, 0);
    }

    /// Time passes, and the machine counts so many microseconds more of each second.
    fn pass_with_drift(&mut self, millis: u64, ppm: i64) {
        self.right += millis;
        let drifted =
            i64::try_from(millis * 1000).expect("short") + i64::try_from(millis).expect("short") * ppm / 1000;
        self.elapsed += Duration::from_micros(u64::try_from(drifted).expect("forward"));
    }

    fn now(&self) -> Moment {
        Moment {
            elapsed: self.elapsed,
            wall_millis: self.right.saturating_add_signed(self.wall_ahead),
        }
    }

    /// A ping and its answer, on a way of so many milliseconds there and back.
    fn hear(&mut self, clock: &mut VerifierClock, there: u64, back: u64) -> Result<(), TooFar> {
        self.hear_ahead(clock, there, back, 0)
    }

    /// The same from an authority whose clock is ahead.
    fn hear_ahead(
        &mut self,
        clock: &mut VerifierClock,
        there: u64,
        back: u64,
        ahead: i64,
    ) -> Result<(), TooFar> {
        let sent_at = self.elapsed;
        self.pass(there);
        let authority_millis = self.right.saturating_add_signed(ahead);
        self.pass(back);
        let stated = TimeStated {
            authority_millis,
            sent_at,
        };
        clock.hear(stated, self.now())
    }

    /// How much the verifier's time is ahead.
    fn error(&self, clock: &VerifierClock) -> i64 {
        difference(clock.millis(self.elapsed), self.right)
    }
}

fn difference(one: u64, other: u64) -> i64 {
    i64::try_from(one).expect("a time") - i64::try_from(other).expect("a time")
}

fn boot(name: &str) -> Option<BootId> {
    Some(name.into())
}

/// X01: at a first start the authority's time is taken, whatever the wall clock says; that is told.
#[test]
fn the_first_heartbeat_says_what_time_it_is() {
    for wall_ahead in [HOUR, -HOUR, 20 * 365 * 24 * HOUR, 4 * MINUTE, 0] {
        let mut world = World::new(wall_ahead);
        let mut clock = VerifierClock::start(None, world.now());
        assert_eq!(world.hear(&mut clock, 5, 5), Ok(()));
        let stands_still = if wall_ahead == 4 * MINUTE {
            wall_ahead
        } else {
            1010
        };
        let error = world.error(&clock);
        assert!((-10..=stands_still).contains(&error), "{wall_ahead}: {error}");
        let told = clock.wall_ahead_millis(world.now());
        assert!((told - wall_ahead).abs() <= 1010, "{wall_ahead}: {told}");
        // Once the authority was heard, a clock farther away than allowed is not.
        world.pass(2000);
        world.wall_ahead = 0;
        assert_eq!(world.hear_ahead(&mut clock, 5, 5, 10 * MINUTE), Err(TooFar));
    }
}

/// X01 with a disk, after a reboot: a wall clock that reads earlier than what was seen is not believed, and nothing is decided
/// until the authority is heard. One that reads later is, and makes everything older.
#[test]
fn a_wall_clock_before_what_was_seen_is_not_believed() {
    for (wall_ahead, doubted) in [
        (-HOUR, true),
        (-10 * MINUTE, true),
        (-MINUTE, false),
        (HOUR, false),
    ] {
        let mut world = World::new(0);
        let mut earlier = VerifierClock::start(boot("one"), world.now());
        world.hear(&mut earlier, 5, 5).expect("near");
        let mark = earlier.mark(world.now(), world.now());
        world.pass(30_000);
        world.wall_ahead = wall_ahead;
        world.elapsed = SECOND;
        let mut clock = VerifierClock::start(boot("two"), world.now());
        clock.resume(&mark, world.now());
        assert_eq!(clock.now(world.elapsed).is_err(), doubted, "{wall_ahead}");
        assert!(clock.millis(world.elapsed) >= mark.time_millis, "{wall_ahead}");
        assert_eq!(world.hear(&mut clock, 5, 5), Ok(()));
        assert!(clock.now(world.elapsed).is_ok());
        let error = world.error(&clock);
        assert!((-10..=1010).contains(&error), "{wall_ahead}: {error}");
    }
}

/// Within one start of the machine a new process knows the time to the millisecond, whatever the wall clock says.
#[test]
fn a_restart_on_the_running_machine_counts_on() {
    for wall_ahead in [0, HOUR, -HOUR, -20 * 365 * 24 * HOUR] {
        let mut world = World::new(0);
        let mut earlier = VerifierClock::start(boot("one"), world.now());
        world.hear(&mut earlier, 5, 5).expect("near");
        let sent = world.now();
        world.pass(20);
        let mark = earlier.mark(sent, world.now());
        let error = world.error(&earlier);
        world.pass(1_000_000);
        world.wall_ahead = wall_ahead;
        let mut clock = VerifierClock::start(boot("one"), world.now());
        clock.resume(&mark, world.now());
        assert_eq!(world.error(&clock), error, "{wall_ahead}");
        assert!(clock.now(world.elapsed).is_ok());
        // What it knows is the authority's, so a first heartbeat from far away is as suspicious as a later one.
        world.wall_ahead = 0;
        assert_eq!(world.hear_ahead(&mut clock, 5, 5, -HOUR), Err(TooFar));
        assert_eq!(world.hear(&mut clock, 5, 5), Ok(()));
    }
}

/// D17, X08: an authority that goes back behind what it said itself is not believed after a restart either, unless the wall clock
/// agrees with it: then what was seen before was wrong.
#[test]
fn an_authority_that_goes_back_is_not_believed_alone() {
    let mut world = World::new(0);
    let mut earlier = VerifierClock::start(None, world.now());
    world.hear(&mut earlier, 5, 5).expect("near");
    let mark = earlier.mark(world.now(), world.now());
    let mut clock = VerifierClock::start(None, world.now());
    clock.resume(&mark, world.now());
    assert_eq!(world.hear_ahead(&mut clock, 5, 5, -HOUR), Err(TooFar));
    assert_eq!(world.hear_ahead(&mut clock, 5, 5, -MINUTE), Ok(()));
    assert!(world.error(&clock) >= -10, "it does not go back");

    let far_ahead = ClockMark {
        time_millis: mark.time_millis + 365 * 24 * 3_600_000,
        ..mark
    };
    let mut clock = VerifierClock::start(None, world.now());
    clock.resume(&far_ahead, world.now());
    assert_eq!(clock.now(world.elapsed), Err(ClockInDoubt));
    assert_eq!(world.hear(&mut clock, 5, 5), Ok(()));
    assert!((-10..=1010).contains(&world.error(&clock)));
}

/// X02, X03: whoever sets the wall clock changes nothing here, and it is told.
#[test]
fn setting_the_wall_clock_changes_no_time() {
    for step in [10 * MINUTE, -10 * MINUTE, HOUR, -24 * HOUR, 2000, -2000] {
        let mut world = World::new(0);
        let mut clock = VerifierClock::start(None, world.now());
        world.hear(&mut clock, 5, 5).expect("near");
        let before = world.error(&clock);
        assert_eq!(clock.look(world.now()), None);
        world.wall_ahead = step;
        assert_eq!(world.error(&clock), before);
        world.pass(2000);
        assert_eq!(clock.look(world.now()), Some(step));
        assert_eq!(clock.look(world.now()), None, "it is told once");
        assert_eq!(
            world.hear(&mut clock, 5, 5),
            Ok(()),
            "the authority is still near"
        );
        assert!((-10..=1010).contains(&world.error(&clock)), "{step}");
        assert!((clock.wall_ahead_millis(world.now()) - step).abs() <= 1010);
    }
}

/// X04: a clock that drifts is off by no more than the way to the authority and a second; alone, by what it drifts.
#[test]
fn drift_is_bounded_by_the_authority() {
    for ppm in [200, -200] {
        let mut world = World::new(0);
        let mut clock = VerifierClock::start(None, world.now());
        world.hear(&mut clock, 10, 10).expect("near");
        for _ in 0..24 * 3600 / 2 {
            world.pass_with_drift(2000, ppm);
            world.hear(&mut clock, 10, 10).expect("near");
            let error = world.error(&clock);
            assert!((-20..=1020).contains(&error), "{ppm}: {error}");
        }
        let before = world.error(&clock);
        for _ in 0..24 {
            world.pass_with_drift(3_600_000, ppm);
        }
        let alone = world.error(&clock) - before;
        assert!((alone - ppm * 86_400 / 1000).abs() <= 1, "{ppm}: {alone}");
    }
}

/// X05: eight hours of sleep are eight hours.
#[test]
fn time_goes_on_in_sleep() {
    let mut world = World::new(0);
    let mut clock = VerifierClock::start(None, world.now());
    world.hear(&mut clock, 5, 5).expect("near");
    let before = world.error(&clock);
    world.pass(8 * 3_600_000);
    assert_eq!(world.error(&clock), before);
    assert_eq!(clock.look(world.now()), None);
}

/// X11: a long way tells less: time is moved by no more than it took, wherever it took it.
#[test]
fn a_long_way_moves_time_by_no_more_than_itself() {
    for (there, back) in [(4000, 5), (5, 4000), (2000, 2000)] {
        for wall_ahead in [0_i64, -200, 200, -8000, 8000] {
            let mut world = World::new(0);
            let mut clock = VerifierClock::start(None, world.now());
            world.hear(&mut clock, 5, 5).expect("near");
            let settled = world.error(&clock);
            let drift = u64::try_from(wall_ahead.abs()).expect("positive");
            if wall_ahead < 0 {
                world.right += drift;
            } else {
                world.elapsed += Duration::from_millis(drift);
            }
            let before = world.error(&clock);
            assert_eq!(before, settled + wall_ahead);
            world.hear(&mut clock, there, back).expect("near");
            let after = world.error(&clock);
            // Ahead, it stands still while the answer is on its way, and no longer than that.
            let way = i64::try_from(there + back).expect("short");
            assert!(after.abs() <= before.abs().max(way + 1000), "{before} {after}");
            if (0..=1000).contains(&before) {
                assert_eq!(after, before, "nothing says that it is wrong");
            }
            world.pass(10_000);
            let error = world.error(&clock);
            assert!((-way..=way + 1000).contains(&error), "{error}");
        }
    }
}

/// X11: one heartbeat is given to everybody who asks within a second, so that it may be from a second ago.
#[test]
fn a_heartbeat_of_a_second_ago_holds_up_nobody() {
    let mut world = World::new(0);
    let mut clock = VerifierClock::start(None, world.now());
    for late in [0, 500, 990] {
        world.hear_ahead(&mut clock, 5, 5, -late).expect("near");
        world.pass(2000);
        assert_eq!(world.error(&clock), 0, "{late}");
    }
}

/// I-17: whatever the authority says, no time is told that is earlier than one that was.
#[test]
fn time_does_not_go_back() {
    let mut seed = 1_u64;
    let mut random = |bound: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        i64::try_from(seed >> 33).expect("31 bits") % bound
    };
    for _ in 0..50 {
        let mut world = World::new(0);
        let mut clock = VerifierClock::start(None, world.now());
        world.hear(&mut clock, 5, 5).expect("near");
        let mut told = 0;
        for _ in 0..200 {
            world.pass(random(5000).unsigned_abs());
            world.wall_ahead = random(2 * HOUR) - HOUR;
            let ahead = random(10 * MINUTE) - 5 * MINUTE;
            let _far = world.hear_ahead(&mut clock, random(3000).unsigned_abs(), 5, ahead);
            let now = clock.millis(world.elapsed);
            assert!(now >= told, "{now} after {told}");
            told = now;
        }
    }
}

/// Time stands still only until the right time has caught up.
#[test]
fn a_clock_that_was_ahead_is_caught_up_with() {
    let mut world = World::new(4 * MINUTE);
    let mut clock = VerifierClock::start(None, world.now());
    world.hear(&mut clock, 5, 5).expect("near");
    let stands = clock.millis(world.elapsed);
    world.pass(200_000);
    assert_eq!(clock.millis(world.elapsed), stands);
    world.pass(200_000);
    assert!((-10..=1010).contains(&world.error(&clock)));
}
