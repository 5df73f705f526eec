//! The authority's wall time, which never goes back.
//!
//! Everything that is ordered by time (`iat`, watermarks, the states of keys) is timed here, so that it stays ordered when
//! the machine's clock is set back: the same second is given until the clock has caught up. Over more than the leeway,
//! nothing is signed, because the tokens would come from the future. The time of the last signature is stored with the books
//! ([`crate::ledger::Ledger::keep_time`]), so that this holds after a restart, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, UNIX_EPOCH};

use countersign_core::Timestamp;
use countersign_core::ports::Clock;

/// The time as people are told it: RFC 3339 in UTC.
#[must_use]
pub fn written(time: Timestamp) -> String {
    let since = Duration::from_secs(time.as_seconds());
    UNIX_EPOCH.checked_add(since).map_or_else(
        || time.to_string(),
        |at| humantime::format_rfc3339_seconds(at).to_string(),
    )
}

/// The clock is behind a time that was already signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock is {} seconds behind", .0.as_secs())]
pub struct ClockBehind(pub Duration);

/// A clock with memory.
#[derive(Debug)]
pub struct Timeline {
    clock: Arc<dyn Clock>,
    latest: AtomicU64,
    signed: AtomicU64,
    leeway: Duration,
}

impl Timeline {
    /// Time by `clock`, but never before `floor`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, floor: Timestamp, leeway: Duration) -> Self {
        Self {
            clock,
            latest: AtomicU64::new(floor.as_seconds()),
            signed: AtomicU64::new(floor.as_seconds()),
            leeway,
        }
    }

    /// The time now: never before a time that was given earlier.
    pub fn now(&self) -> Timestamp {
        // INVARIANT (no token slips through): the ledger holds a client and then reads a watermark here; an issuer reads an
        // `iat` here and then looks for a hold. The fences see to it that the issuer finds the hold, or else that its
        // `iat` is not after the watermark.
        let now = self.clock.now().as_seconds();
        fence(Ordering::SeqCst);
        let before = self.latest.fetch_max(now, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Timestamp::from_seconds(before.max(now))
    }

    /// The time now, for a signature, which is remembered.
    ///
    /// # Errors
    /// [`ClockBehind`], as [`Timeline::can_sign`].
    pub fn for_signing(&self) -> Result<Timestamp, ClockBehind> {
        let now = self.can_sign()?;
        self.signed.fetch_max(now.as_seconds(), Ordering::Relaxed);
        Ok(now)
    }

    /// The last time that was given for a signature, or the floor.
    #[must_use]
    pub fn signed(&self) -> Timestamp {
        Timestamp::from_seconds(self.signed.load(Ordering::Relaxed))
    }

    /// The time that a signature made now would be of.
    ///
    /// # Errors
    /// [`ClockBehind`] when the clock is behind by more than the leeway (X08).
    pub fn can_sign(&self) -> Result<Timestamp, ClockBehind> {
        let now = self.now();
        let behind = now.since(self.clock.now());
        if behind > self.leeway {
            Err(ClockBehind(behind))
        } else {
            Ok(now)
        }
    }

    /// The clock itself.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// How far the wall clock may be off after [`COMPARED_OVER`]: more than any clock drifts by itself. One that is set right slowly, by
/// more than that, is not steady either.
const MOST_DRIFT: Duration = Duration::from_secs(5);

/// For how long one and the same reading is compared with, however often it is asked.
const COMPARED_OVER: Duration = Duration::from_secs(60);

/// For how long the clock has to have gone steadily before anything is forgotten by it. One that was wrong at start, or was stepped
/// ahead, is set right or found by verifiers in this time; what was forgotten by it would be un-revoked, or not be waited for.
pub const STEADY: Duration = Duration::from_secs(15 * 60);

/// For how long the wall clock has gone as fast as time itself. After a step ahead, everything looks older than it is.
#[derive(Debug)]
pub struct Steadiness {
    clock: Arc<dyn Clock>,
    /// Both clocks, as they are compared with.
    wall: Duration,
    elapsed: Duration,
    since: Duration,
}

impl Steadiness {
    /// Watches `clock` from now on.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let elapsed = clock.elapsed();
        Self {
            wall: Duration::from_millis(clock.now_millis()),
            clock,
            elapsed,
            since: elapsed,
        }
    }

    /// How long it is since the beginning, or since the clock was last found to have been stepped or to go wrong. To be asked every
    /// minute or more often.
    pub fn observe(&mut self) -> Duration {
        let wall = Duration::from_millis(self.clock.now_millis());
        let elapsed = self.clock.elapsed();
        let passed = elapsed.saturating_sub(self.elapsed);
        let is_off = wall.abs_diff(self.wall.saturating_add(passed)) > MOST_DRIFT;
        if is_off {
            self.since = elapsed;
        }
        if is_off || passed >= COMPARED_OVER {
            (self.wall, self.elapsed) = (wall, elapsed);
        }
        elapsed.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::ManualClock;

    /// X08: `iat` never decreases, and nothing is signed from far ahead of the clock.
    #[test]
    fn time_stands_still_while_the_clock_is_behind() {
        let clock = Arc::new(ManualClock::at(1000));
        let timeline = Timeline::new(
            Arc::<ManualClock>::clone(&clock),
            Timestamp::from_seconds(900),
            Duration::from_secs(5),
        );
        assert_eq!(timeline.now().as_seconds(), 1000);
        clock.set(995);
        assert_eq!(timeline.for_signing().map(Timestamp::as_seconds), Ok(1000));
        clock.set(994);
        assert_eq!(timeline.for_signing(), Err(ClockBehind(Duration::from_secs(6))));
        assert_eq!(timeline.now().as_seconds(), 1000);
        clock.set(1001);
        assert_eq!(timeline.for_signing().map(Timestamp::as_seconds), Ok(1001));
    }

    #[test]
    fn a_clock_is_steady_from_its_last_step() {
        let clock = Arc::new(ManualClock::at(1000));
        let mut steadiness = Steadiness::new(Arc::<ManualClock>::clone(&clock));
        let mut after = |seconds| {
            clock.advance(Duration::from_secs(seconds));
            steadiness.observe().as_secs()
        };
        assert_eq!([after(0), after(60), after(60)], [0, 60, 120]);
        clock.set(1124);
        assert_eq!(after(60), 180, "4 s are drift");
        clock.set(1000 + 190);
        assert_eq!(after(60), 0, "a step ahead");
        assert_eq!(after(60), 60);
        clock.set(1000);
        assert_eq!(after(60), 0, "a step back");
    }

    /// A clock that goes a tenth too fast, and is looked at every second, is a second off at no time.
    #[test]
    fn a_clock_that_is_set_right_slowly_is_not_steady_however_often_it_is_looked_at() {
        let clock = Arc::new(ManualClock::at(1000));
        let mut steadiness = Steadiness::new(Arc::<ManualClock>::clone(&clock));
        let mut after_a_second = |ahead_millis| {
            clock.advance(Duration::from_secs(1));
            clock.step_millis(ahead_millis);
            steadiness.observe().as_secs()
        };
        let longest = (0..600).map(|_| after_a_second(100)).max();
        assert!(longest.is_some_and(|longest| longest < 60), "{longest:?}");
        let longest = (0..600).map(|_| after_a_second(0)).max();
        assert!(longest.is_some_and(|longest| longest >= 540), "{longest:?}");
    }

    /// X08: also over a restart, by what was committed before.
    #[test]
    fn the_floor_of_an_earlier_life_holds() {
        let clock = Arc::new(ManualClock::at(100));
        let timeline = Timeline::new(clock, Timestamp::from_seconds(200), Duration::from_secs(5));
        assert_eq!(timeline.now().as_seconds(), 200);
        assert!(timeline.for_signing().is_err());
    }
}
