//! What is read off certificates and listeners whenever somebody asks.

use std::fmt;
use std::sync::Arc;

use countersign_mtls::{ClientTls, ListenerStats, ServerTls, TlsHealth};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What there is to ask about TLS.
#[derive(Debug)]
pub struct TlsParts {
    /// The connection to the authority.
    pub authority: Arc<ClientTls>,
    /// Where callers connect with TLS.
    pub listeners: Vec<Arc<ServerTls>>,
    /// What the listeners counted, those without TLS too.
    pub stats: Vec<Arc<ListenerStats>>,
}

/// Shows certificates and refused connections in `registry`.
pub fn register_tls(registry: &mut Registry, parts: TlsParts) {
    registry.register_collector(Box::new(parts));
}

impl TlsParts {
    fn health(&self) -> impl Iterator<Item = TlsHealth> {
        let listeners = self.listeners.iter().map(|tls| tls.health());
        listeners.chain([self.authority.health()])
    }
}

impl Collector for TlsParts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        if let Some(first) = self.health().map(|tls| tls.not_after).min() {
            let help = "When the first of our certificates expires, in seconds since 1970";
            show(
                encoder,
                "certificate_expiry_timestamp_seconds",
                help,
                first.to_wire(),
            )?;
        }
        let failing = self.health().any(|tls| tls.failing);
        let help = "1 while changed TLS files cannot be used, so that older ones are in force";
        show(encoder, "tls_reload_failing", help, i64::from(failing))?;
        let help = "Connections that ended before they were served, by reason";
        let mut family = encoder.encode_descriptor("handshakes_refused", help, None, MetricType::Counter)?;
        let totals = self
            .stats
            .first()
            .map(|stats| stats.refused())
            .unwrap_or_default();
        for total in totals {
            let of_all = self.stats.iter().flat_map(|stats| stats.refused());
            let same = of_all.filter(|one| one.failure == total.failure);
            let count: u64 = same.map(|one| one.count).sum();
            ConstCounter::new(count).encode(family.encode_family(&[("reason", total.failure.reason())])?)?;
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
