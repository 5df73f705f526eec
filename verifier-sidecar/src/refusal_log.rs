//! Tells of refused calls, with the precise reason that callers may not hear.
//!
//! Callers decide how many refusals there are, so only so many are told in a second; the rest is counted in the metrics
//! alone. Nothing that a caller wrote is told unless it passed a grammar without control characters.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_core::requirements::MethodPath;
use countersign_core::trust::Epoch;
use tokio::time::Instant;

use countersign_verifier::verifier::Denied;

/// The refusals told in one second.
const TOLD: u64 = 20;

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused<'a> {
    /// Why.
    pub(crate) denied: &'a Denied,
    /// Of what, if that was a method at all.
    pub(crate) method: Option<MethodPath<'a>>,
    /// Whose call, if it has an address.
    pub(crate) remote: Option<SocketAddr>,
    /// On which epoch. Zero: none.
    pub(crate) epoch: Epoch,
}

/// Writes refusals to the log.
#[derive(Debug)]
pub(crate) struct RefusalLog {
    start: Instant,
    // The second, and the refusals in it: one number, so that no lock is needed.
    window: AtomicU64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            window: AtomicU64::new(0),
        }
    }
}

impl RefusalLog {
    /// Tells of `refused`, unless there were too many in this second.
    pub(crate) fn tell(&self, refused: &Refused<'_>) {
        self.write(refused, "call refused");
    }

    /// Tells of what would have been refused, were its method not only observed.
    pub(crate) fn tell_observed(&self, refused: &Refused<'_>) {
        self.write(refused, "call would be refused");
    }

    /// Tells of what would have been ended in its midst, were its method not only observed.
    pub(crate) fn tell_outlived(&self, refused: &Refused<'_>) {
        self.write(refused, "stream would be ended");
    }

    fn write(&self, refused: &Refused<'_>, what: &str) {
        if !self.has_room(self.start.elapsed()) {
            return;
        }
        let stale = refused.denied.stale.as_ref();
        tracing::info!(
            reason = %refused.denied.rejection,
            stale = stale.map(|stale| stale.data.name()),
            class = stale.map(|stale| stale.class.as_str()),
            age = stale.and_then(|stale| stale.age).map(tracing::field::debug),
            method = refused.method.map(MethodPath::as_str),
            remote = refused.remote.map(tracing::field::display),
            epoch = refused.epoch,
            "{what}"
        );
    }

    fn has_room(&self, now: Duration) -> bool {
        // 24 bits for the count, far more than one second has.
        let second = now.as_secs() << 24;
        let count = |window: u64| {
            let so_far = if window >> 24 == second >> 24 {
                window
            } else {
                second
            };
            (so_far & 0xff_ffff < TOLD).then_some(so_far + 1)
        };
        self.window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_refusals_does_not_flood_the_log() {
        let log = RefusalLog::default();
        let told = |millis| {
            (0..100)
                .filter(|_| log.has_room(Duration::from_millis(millis)))
                .count()
        };
        assert_eq!(
            [told(0), told(999), told(1000), told(1500), told(9000)],
            [20, 0, 20, 0, 20]
        );
    }
}
