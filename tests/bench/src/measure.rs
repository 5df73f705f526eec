//! Clocks, percentiles, and how long to measure.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// A fiftieth of everything.
    pub(crate) quick: bool,
}

impl Scale {
    /// `count`, or a fiftieth of it, at least one.
    pub(crate) fn of(self, count: u32) -> u32 {
        if self.quick { (count / 50).max(1) } else { count }
    }

    /// The same for larger numbers.
    pub(crate) fn of_many(self, count: u64) -> u64 {
        if self.quick { (count / 50).max(1) } else { count }
    }

    /// `duration`, or a tenth of it.
    pub(crate) fn lasting(self, duration: Duration) -> Duration {
        if self.quick { duration / 10 } else { duration }
    }
}

/// How long `work` takes.
pub(crate) fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// How much CPU time of this thread `work` takes: what other processes do at the same time counts for little.
pub(crate) fn cpu_time(work: impl FnOnce()) -> Duration {
    let used = || {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(used.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or_default())
    };
    let start = used();
    work();
    used().saturating_sub(start)
}

/// A count, which below 2^53 is not rounded.
pub(crate) fn float(count: impl TryInto<u64>) -> f64 {
    let count = count.try_into().unwrap_or_default();
    let [high, low] =
        [count >> 32, count & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or_default());
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

/// How many a second, when `count` took `duration`.
pub(crate) fn rate(count: u32, duration: Duration) -> f64 {
    f64::from(count) / duration.as_secs_f64()
}

/// Single durations, for percentiles.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The sample that `per_mille` of a thousand are at or below.
    pub(crate) fn percentile(&mut self, per_mille: usize) -> Duration {
        self.0.sort_unstable();
        let index = self.0.len().saturating_mul(per_mille) / 1000;
        let last = self.0.len().saturating_sub(1);
        self.0.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// In nanoseconds.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// In microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
