//! The clocks of one machine: elapsed time that drifts and counts through suspend, and a wall clock that also steps.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::verifier::{BootId, Moment};

/// The wall time at which every run begins, in milliseconds since 1970.
const BEGINNING: i64 = 1_800_000_000_000;

/// The clocks of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// How much too fast it runs, in millionths.
    drift: i64,
    /// True time at which `elapsed` and `wall_millis` were so.
    since: Duration,
    elapsed: Duration,
    wall_millis: i64,
    boots: u32,
}

impl Clock {
    /// Clocks that are `ahead_millis` ahead and `drift` millionths too fast.
    pub(crate) const fn new(drift: i64, ahead_millis: i64) -> Self {
        Self {
            drift,
            since: Duration::ZERO,
            elapsed: Duration::from_secs(100),
            wall_millis: BEGINNING + ahead_millis,
            boots: 0,
        }
    }

    /// How long `true_time` is on this clock.
    fn counted(&self, true_time: Duration) -> Duration {
        scaled(true_time, self.drift)
    }

    pub(crate) fn elapsed(&self, at: Duration) -> Duration {
        self.elapsed + self.counted(at - self.since)
    }

    pub(crate) fn wall_millis(&self, at: Duration) -> u64 {
        let passed = self.counted(at - self.since).as_millis();
        let wall = self.wall_millis + i64::try_from(passed).unwrap_or(i64::MAX);
        u64::try_from(wall).unwrap_or_default()
    }

    pub(crate) fn moment(&self, at: Duration) -> Moment {
        Moment {
            elapsed: self.elapsed(at),
            wall_millis: self.wall_millis(at),
        }
    }

    pub(crate) fn boot(&self) -> BootId {
        Arc::from(format!("boot-{}", self.boots))
    }

    /// When it will be `elapsed`, in true time, if nothing happens to the clock.
    pub(crate) fn true_time(&self, at: Duration, elapsed: Duration) -> Duration {
        at + scaled(elapsed.saturating_sub(self.elapsed(at)), -self.drift)
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step(&mut self, at: Duration, by_millis: i64) {
        self.anchor(at);
        self.wall_millis += by_millis;
    }

    /// The machine starts anew; elapsed time begins anew.
    pub(crate) fn reboot(&mut self, at: Duration) {
        self.anchor(at);
        self.elapsed = Duration::from_secs(5);
        self.boots += 1;
    }

    fn anchor(&mut self, at: Duration) {
        self.wall_millis = i64::try_from(self.wall_millis(at)).unwrap_or(i64::MAX);
        self.elapsed = self.elapsed(at);
        self.since = at;
    }
}

fn scaled(time: Duration, drift: i64) -> Duration {
    let nanos = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    let nanos = nanos + nanos * i128::from(drift) / 1_000_000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
