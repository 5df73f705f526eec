//! What the trust stream counts. `metrics.rs` of the sidecar registers these under their names.

use countersign_core::publishers::Generation;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// A stable snake_case reason as a label. Every value is a constant of the program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The reason.
    pub reason: &'static str,
}

/// Counters by reason.
pub type ByReason = Family<Reason, Counter>;

/// The counters and gauges of the stream and the cache. Cloning gives the same ones.
#[derive(Clone, Debug, Default)]
pub struct SyncMetrics {
    /// Updates put in force: snapshots and deltas.
    pub updates_installed: Counter,
    /// Updates that lead to the state in force or an earlier one: repetitions.
    pub updates_repeated: Counter,
    /// Updates refused, by reason ([`countersign_core::trust::UpdateRefused::reason`]; `message_unknown` for messages of
    /// another kind).
    pub updates_refused: ByReason,
    /// Revocations in updates that were not taken as they stand: `malformed`, `overlong`, or `expired` before they came; and those of
    /// certificates that are held past a recovery, and that there is `no_room` for.
    pub revocations_set_aside: ByReason,
    /// Snapshots asked for because the state in force could not be continued.
    pub resyncs: Counter,
    /// Heartbeats that confirmed the state in force.
    pub heartbeats_accepted: Counter,
    /// Heartbeats not taken for a confirmation, by reason.
    pub heartbeats_refused: ByReason,
    /// Streams begun.
    pub sessions: Counter,
    /// Streams ended, by reason ([`super::Ended::reason`]).
    pub sessions_ended: ByReason,
    /// 1 while a stream is open.
    pub connected: Gauge,
    /// Saves that are on disk.
    pub cache_saves: Counter,
    /// Saves that are not, by reason ([`crate::cache::NotDurable::reason`]).
    pub cache_failures: ByReason,
    /// 1 while the state in force is on disk, 0 while it is in memory only.
    pub cache_durable: Gauge,
    /// The generation of the publisher set in force.
    pub publishers_in_force: Gauge,
    /// The generation that is on disk.
    pub publishers_durable: Gauge,
    /// Links to other publisher sets that were not taken over, by reason
    /// ([`countersign_core::publishers::LinkRefused::reason`]).
    pub links_refused: ByReason,
    /// Times that somebody set the wall clock.
    pub clock_steps: Counter,
}

impl SyncMetrics {
    /// Counts one in `family`.
    pub(super) fn count(family: &ByReason, reason: &'static str) {
        family.get_or_create(&Reason { reason }).inc();
    }

    /// Tells which publisher sets are in force and on disk.
    pub(super) fn publishers(&self, in_force: Generation, durable: Generation) {
        let gauge = |generation| i64::try_from(generation).unwrap_or(i64::MAX);
        self.publishers_in_force.set(gauge(in_force));
        self.publishers_durable.set(gauge(durable));
    }

    /// Counts revocations that are not taken as they stand.
    pub(super) fn count_revocations(&self, reason: &'static str, count: usize) {
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.revocations_set_aside
                .get_or_create(&Reason { reason })
                .inc_by(count);
        }
    }
}
