//! What the listener counted, read when it is asked for.

use std::fmt;
use std::sync::Arc;

use countersign_mtls::{ListenerStats, ServerTls};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The connections of one listener, and the certificate that it shows.
#[derive(Debug)]
pub struct Connections {
    /// What the listener counted.
    pub stats: Arc<ListenerStats>,
    /// How its certificate is doing.
    pub tls: Arc<ServerTls>,
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        count(
            &mut encoder,
            "connections_accepted",
            "Connections with a finished handshake",
            self.stats.accepted(),
        )?;
        count(
            &mut encoder,
            "connections_limited",
            "How often accepting paused at a limit",
            self.stats.full(),
        )?;
        let health = self.tls.health();
        count(
            &mut encoder,
            "certificate_reloads",
            "Certificates that were taken over",
            health.reloads,
        )?;
        count(
            &mut encoder,
            "certificate_reloads_failed",
            "Certificates that could not be taken over; the last good one stays",
            health.failed_reloads,
        )?;
        let expiry = ConstGauge::new(health.not_after.to_wire());
        let metric = encoder.encode_descriptor(
            "certificate_expiry_timestamp_seconds",
            "When our certificate expires, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?;
        expiry.encode(metric)?;
        let mut family = encoder.encode_descriptor(
            "handshakes_refused",
            "Connections that ended in their handshake, by reason",
            None,
            MetricType::Counter,
        )?;
        for refused in self.stats.refused() {
            let labels = [("reason", refused.failure.reason())];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(refused.count).encode(metric)?;
        }
        Ok(())
    }
}

fn count(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}
