//! The system's clocks, and one for tests that moves with tokio's timers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_core::Timestamp;
use countersign_core::ports::Clock;
use rustix::time::{ClockId, clock_gettime};

/// Counts on while the machine is suspended, so that trust ages in a laptop's sleep as in its waking.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ELAPSED: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock is the best there is; on macOS it counts through sleep.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ELAPSED: ClockId = ClockId::Monotonic;

/// Linux draws it at every start. Elsewhere there is none, and no other number that is as sure.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn since_1970() -> Duration {
        // A clock before 1970 is as good as none: every token is then not yet valid.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(Self::since_1970().as_secs())
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(Self::since_1970().as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        let now = clock_gettime(ELAPSED);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
    }

    fn boot(&self) -> Option<Arc<str>> {
        let boot = std::fs::read_to_string(BOOT_ID).ok()?;
        let boot = boot.trim();
        (!boot.is_empty()).then(|| boot.into())
    }
}

#[cfg(any(test, feature = "test-util"))]
pub use timer::TimerClock;

#[cfg(any(test, feature = "test-util"))]
mod timer {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use countersign_core::Timestamp;
    use countersign_core::ports::Clock;
    use tokio::time::Instant;

    /// A clock that moves with tokio's timers, so that one `advance` of paused time moves both. Clones are one clock.
    #[derive(Clone, Debug)]
    pub struct TimerClock {
        started: Instant,
        /// Wall time at the start, as stepped since.
        wall_at_start: Arc<Mutex<Duration>>,
    }

    impl TimerClock {
        /// A clock whose wall time is `now`.
        #[must_use]
        pub fn starting_at(now: Timestamp) -> Self {
            let wall = Duration::from_secs(now.as_seconds());
            Self {
                started: Instant::now(),
                wall_at_start: Arc::new(Mutex::new(wall)),
            }
        }

        /// Steps the wall time forth, as an operator or NTP would. Elapsed time does not move.
        pub fn step_forward(&self, by: Duration) {
            let mut wall = self.wall_at_start.lock().unwrap_or_else(PoisonError::into_inner);
            *wall = wall.saturating_add(by);
        }

        /// Steps the wall time back.
        pub fn step_back(&self, by: Duration) {
            let mut wall = self.wall_at_start.lock().unwrap_or_else(PoisonError::into_inner);
            *wall = wall.saturating_sub(by);
        }

        fn wall(&self) -> Duration {
            let wall = *self.wall_at_start.lock().unwrap_or_else(PoisonError::into_inner);
            wall.saturating_add(self.started.elapsed())
        }
    }

    impl Clock for TimerClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(self.wall().as_secs())
        }

        fn now_millis(&self) -> u64 {
            u64::try_from(self.wall().as_millis()).unwrap_or(u64::MAX)
        }

        fn elapsed(&self) -> Duration {
            self.started.elapsed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_tells_this_century_and_never_goes_back() {
        let clock = SystemClock;
        assert!(clock.now().as_seconds() > 1_700_000_000);
        assert!(clock.now_millis() / 1_000 >= 1_700_000_000);
        let first = clock.elapsed();
        assert!(first > Duration::ZERO);
        assert!(clock.elapsed() >= first);
    }

    /// X05: the clock for ages is the one that counts through suspend.
    #[cfg(target_os = "linux")]
    #[test]
    fn elapsed_time_is_the_time_since_boot() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("linux");
        let seconds: f64 = uptime.split(' ').next().expect("uptime").parse().expect("number");
        assert!((SystemClock.elapsed().as_secs_f64() - seconds).abs() < 5.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_start_of_the_machine_has_a_name() {
        let boot = SystemClock.boot().expect("linux");
        assert_eq!(boot.len(), 36, "a UUID: {boot}");
        assert_eq!(SystemClock.boot(), Some(boot));
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_clock_moves_with_paused_time_and_steps_only_its_wall() {
        let clock = TimerClock::starting_at(Timestamp::from_seconds(1_000));
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(clock.now(), Timestamp::from_seconds(87_400));
        assert_eq!(clock.now_millis(), 87_400_000);
        clock.step_back(Duration::from_secs(400));
        clock.clone().step_forward(Duration::from_secs(100));
        assert_eq!(clock.now(), Timestamp::from_seconds(87_100));
        assert_eq!(clock.elapsed(), Duration::from_secs(86_400));
    }
}
