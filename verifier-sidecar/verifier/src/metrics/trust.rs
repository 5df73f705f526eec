//! What is read off other parts whenever somebody asks, and the counters that the trust stream keeps.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::cache::WarmStart;
use crate::sync::SyncMetrics;
use crate::trust::{TrustAlarm, TrustStatus, TrustStore};

/// Shows the trust in force in `registry`.
pub fn register_trust(registry: &mut Registry, trust: Arc<TrustStore>) {
    registry.register_collector(Box::new(TrustGauges(trust)));
}

#[derive(Debug)]
struct TrustGauges(Arc<TrustStore>);

impl Collector for TrustGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.status();
        let encoder = &mut encoder;
        let epoch = "Epoch of the trust in force, 0 without any";
        show(encoder, "epoch", epoch, whole(status.epoch))?;
        let floor = "Highest epoch that was ever in force here";
        show(encoder, "epoch_floor", floor, whole(status.floor))?;
        if let Some(age) = status.age {
            let help = "Time since the authority confirmed the trust in force, absent when it never did";
            show(encoder, "trust_age_seconds", help, age.as_secs_f64())?;
        }
        self.show_classes(encoder, &status)?;
        let ready =
            "1 while calls of the default class are decided, 0 while they are refused for want of trust";
        show(encoder, "ready", ready, i64::from(status.decides()))?;
        let known = "1 while it is known what time it is, 0 while calls are refused because it is not";
        show(encoder, "clock_known", known, i64::from(status.time_known))?;
        let ahead = Duration::from_millis(status.wall_ahead_millis.unsigned_abs()).as_secs_f64();
        let ahead = if status.wall_ahead_millis < 0 {
            -ahead
        } else {
            ahead
        };
        let help = "How much the wall clock is ahead of the authority's time, as far as it was told";
        show(encoder, "clock_wall_ahead_seconds", help, ahead)?;
        let help = "1 while the authority contradicts itself in this way";
        let mut family = encoder.encode_descriptor("trust_alarm", help, None, MetricType::Gauge)?;
        for alarm in TrustAlarm::ALL {
            let raised = ConstGauge::new(i64::from(status.alarm == Some(alarm)));
            raised.encode(family.encode_family(&[("reason", alarm.reason())])?)?;
        }
        show(encoder, "keys", "Keys in force", whole(status.keys))?;
        show(
            encoder,
            "revocations",
            "Revocations in force",
            whole(status.revocations),
        )
    }
}

impl TrustGauges {
    fn show_classes(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &TrustStatus,
    ) -> Result<(), fmt::Error> {
        let help =
            "Time until calls of the class are refused if the authority stays away, absent without trust";
        let mut family =
            encoder.encode_descriptor("trust_refuses_in_seconds", help, None, MetricType::Gauge)?;
        for class in &self.0.staleness().classes {
            if let Some(left) = status.refuses_within(&class.budget) {
                let gauge = ConstGauge::new(left.as_secs_f64());
                gauge.encode(family.encode_family(&[("class", class.class.as_str())])?)?;
            }
        }
        let help = "For how long calls of the class are decided without a lease: the shorter of its budgets";
        let mut family = encoder.encode_descriptor("trust_budget_seconds", help, None, MetricType::Gauge)?;
        for class in &self.0.staleness().classes {
            let gauge = ConstGauge::new(class.budget.shortest().as_secs_f64());
            gauge.encode(family.encode_family(&[("class", class.class.as_str())])?)?;
        }
        Ok(())
    }
}

fn show<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> Result<(), fmt::Error>
where
    ConstGauge<N>: EncodeMetric,
{
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WarmStartLabels {
    outcome: &'static str,
}

/// Shows in `registry` what became of the file for a warm start, which is looked at once.
pub fn register_warm_start(registry: &mut Registry, warm_start: WarmStart) {
    let outcomes = Family::<WarmStartLabels, Gauge>::default();
    for each in WarmStart::OUTCOMES {
        let became = outcomes.get_or_create_owned(&WarmStartLabels { outcome: each });
        became.set(i64::from(each == warm_start.outcome()));
    }
    registry.register(
        "warm_start",
        "1 for what became of the file for a warm start, at the last start",
        outcomes,
    );
}

/// Shows what the trust stream counts in `registry`.
pub fn register_sync(registry: &mut Registry, sync: &SyncMetrics) {
    let (updates, heartbeats) = (sync.clone(), sync.clone());
    registry.register(
        "sync_updates_installed",
        "Updates put in force",
        updates.updates_installed,
    );
    registry.register(
        "sync_updates_repeated",
        "Updates that were known",
        updates.updates_repeated,
    );
    registry.register(
        "sync_updates_refused",
        "Updates refused, by reason",
        updates.updates_refused,
    );
    registry.register(
        "sync_revocations_set_aside",
        "Revocations in updates that were not taken as they stand, by reason",
        updates.revocations_set_aside,
    );
    registry.register(
        "sync_resyncs",
        "Snapshots asked for because the state in force could not be continued",
        updates.resyncs,
    );
    registry.register(
        "sync_heartbeats_accepted",
        "Heartbeats that confirmed the state in force",
        heartbeats.heartbeats_accepted,
    );
    registry.register(
        "sync_heartbeats_refused",
        "Heartbeats that confirmed nothing, by reason",
        heartbeats.heartbeats_refused,
    );
    register_streams(registry, sync);
}

fn register_streams(registry: &mut Registry, sync: &SyncMetrics) {
    let streams = sync.clone();
    registry.register(
        "sync_sessions",
        "Streams to the authority begun",
        streams.sessions,
    );
    registry.register(
        "sync_sessions_ended",
        "Streams to the authority ended, by reason",
        streams.sessions_ended,
    );
    registry.register("sync_connected", "1 while a stream is open", streams.connected);
    registry.register(
        "publishers_generation",
        "The generation of the set of publishing keys that is in force; 0 for the pinned one",
        streams.publishers_in_force,
    );
    registry.register(
        "publishers_durable_generation",
        "The generation of the set of publishing keys that is on disk; 0 for the pinned one",
        streams.publishers_durable,
    );
    registry.register(
        "publisher_links_refused",
        "Links to other publishing keys that were not taken over, by reason",
        streams.links_refused,
    );
    registry.register(
        "clock_steps",
        "Times that somebody set the wall clock",
        streams.clock_steps,
    );
    let cache = sync.clone();
    registry.register(
        "cache_saves",
        "Saves of trust that are on disk",
        cache.cache_saves,
    );
    registry.register(
        "cache_failures",
        "Saves of trust that are not, by reason",
        cache.cache_failures,
    );
    registry.register(
        "cache_durable",
        "1 while the trust in force is on disk, 0 while it is in memory only",
        cache.cache_durable,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Unusable;

    /// Every outcome has its series, and the one that came has 1.
    #[test]
    fn what_became_of_the_file_for_a_warm_start_is_shown() {
        for (warm_start, came) in [
            (WarmStart::NotNamed, "not_named"),
            (WarmStart::Missing, "missing"),
            (WarmStart::NoFurther(7), "no_further"),
            (WarmStart::Used(7), "used"),
            (WarmStart::Refused(Unusable::BelowFloor), "refused"),
            (WarmStart::Refused(Unusable::Malformed), "refused"),
        ] {
            let mut registry = countersign_runtime::metrics::registry("test", "1");
            register_warm_start(&mut registry, warm_start);
            let mut shown = String::new();
            prometheus_client::encoding::text::encode(&mut shown, &registry).expect("encodes");
            for outcome in WarmStart::OUTCOMES {
                let value = i64::from(outcome == came);
                let line = format!("countersign_warm_start{{outcome=\"{outcome}\"}} {value}");
                assert!(shown.lines().any(|has| has == line), "{line} is not in\n{shown}");
            }
        }
    }
}
