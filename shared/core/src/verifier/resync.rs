//! When to ask for a snapshot. A snapshot is the most expensive thing that an authority sends, so one that does not help is
//! asked for again after a wait that doubles.

use std::time::Duration;

use super::HEARTBEAT_PERIOD;

const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// The requests of one stream.
#[derive(Debug)]
pub(super) struct Resync {
    not_before: Duration,
    wait: Duration,
    pending: bool,
}

impl Resync {
    pub(super) const fn new() -> Self {
        Self {
            not_before: Duration::ZERO,
            wait: HEARTBEAT_PERIOD,
            pending: false,
        }
    }

    /// Whether to ask now. If so, the request is under way.
    pub(super) fn ask(&mut self, now: Duration) -> bool {
        let asks = now >= self.not_before;
        if asks {
            self.not_before = now.saturating_add(self.wait);
            self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
            self.pending = true;
        }
        asks
    }

    /// Whether a request is under way.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Whether a request is under way that is not yet to be repeated.
    pub(super) fn is_under_way(&self, now: Duration) -> bool {
        self.pending && now < self.not_before
    }

    /// An update came that could be taken over.
    pub(super) fn succeeded(&mut self) {
        *self = Self {
            // Two gaps in one instant are still one snapshot.
            not_before: self.not_before,
            ..Self::new()
        };
    }
}
