//! Trust files that were exported: whoever starts from one decides without being known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::verifier::drift;
use crate::time::Timestamp;
use crate::trust::Epoch;
use crate::verifier::MAX_CLOCK_DIFFERENCE;

/// From when on nobody decides on a trust file that expires at `expires_at`, `lifetime` after it was made. Whoever starts from it has
/// only its own clock to go by, which may be behind by as much as is believed, and run slow.
#[must_use]
pub fn trust_file_until(expires_at: Timestamp, lifetime: Duration) -> Timestamp {
    let margin = MAX_CLOCK_DIFFERENCE.saturating_add(drift(lifetime));
    // What is left of the second counts whole.
    expires_at.saturating_add(Duration::from_secs(margin.as_secs().saturating_add(1)))
}

/// The trust files that may still be decided on, by epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct TrustFiles(BTreeMap<Epoch, Duration>);

impl TrustFiles {
    /// One of `epoch` or later, which nobody decides on from `end` on.
    pub(super) fn add(&mut self, epoch: Epoch, end: Duration) {
        let latest = self.0.entry(epoch).or_default();
        *latest = end.max(*latest);
    }

    /// Those of earlier epochs than `epoch` that may be decided on at `elapsed`: how many, and when the last of them has ended.
    pub(super) fn before(&self, epoch: Epoch, elapsed: Duration) -> (usize, Option<Duration>) {
        let earlier = self.0.range(..epoch).map(|(_, end)| *end);
        let open = earlier.filter(|end| *end > elapsed);
        open.fold((0, None), |(count, last), end| (count + 1, last.max(Some(end))))
    }

    /// The epochs of those that nobody decides on any more: at most `most`.
    pub(super) fn ended(&self, elapsed: Duration, most: usize) -> Vec<Epoch> {
        let ended = self.0.iter().filter(|(_, end)| **end <= elapsed);
        ended.take(most).map(|(epoch, _)| *epoch).collect()
    }

    /// Strikes the one of `epoch`, if it has ended at `elapsed`. One that was exported meanwhile stays.
    pub(super) fn strike(&mut self, epoch: Epoch, elapsed: Duration) {
        if self.0.get(&epoch).is_some_and(|end| *end <= elapsed) {
            self.0.remove(&epoch);
        }
    }
}
