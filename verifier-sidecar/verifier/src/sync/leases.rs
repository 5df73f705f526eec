//! Whether the leases that are granted suit this verifier: one that a single lost answer ends is too short.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The length of the last lease, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Leases(AtomicU64);

impl Leases {
    /// Takes note of a lease, and warns of one that is less than twice `period`, once for each length. Whether it warned.
    pub(super) fn granted(&self, lease: Duration, period: Duration) -> bool {
        let millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 || self.0.swap(millis, Ordering::Relaxed) == millis {
            return false;
        }
        let is_short = lease < period.saturating_mul(2);
        if is_short {
            tracing::warn!(
                ?lease,
                heartbeat = ?period,
                "the lease that the authority grants is less than two heartbeats: one lost answer ends it"
            );
        }
        is_short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C03: the authority's lease and this verifier's heartbeat are in two files.
    #[test]
    fn a_short_lease_is_told_once_for_each_length() {
        let leases = Leases::default();
        let told = |millis| leases.granted(Duration::from_millis(millis), Duration::from_secs(2));
        let lengths = [10_000, 4_000, 3_999, 3_999, 0, 3_999, 1_000, 4_000, 3_999];
        let expected = [false, false, true, false, false, false, true, false, true];
        assert_eq!(lengths.map(told), expected);
    }
}
