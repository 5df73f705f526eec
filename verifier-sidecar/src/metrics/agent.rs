//! What the token agent does, and how long it can go on without the authority.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::agent::{Agent, KeyStatus};

/// Counts what apps ask for, and what the authority is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentMetrics {
    requests: Family<ResultLabels, Counter>,
    fetches: Family<ResultLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

impl AgentMetrics {
    /// Counters that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_requests",
            "Tokens that were asked for by the app, for itself or for its calls, by result",
            metrics.requests.clone(),
        );
        registry.register(
            "agent_fetches",
            "Tokens that the authority was asked for, by result",
            metrics.fetches.clone(),
        );
        metrics
    }

    pub(crate) fn requested(&self, result: &'static str) {
        self.requests.get_or_create_owned(&ResultLabels { result }).inc();
    }

    pub(crate) fn fetched(&self, result: &'static str) {
        self.fetches.get_or_create_owned(&ResultLabels { result }).inc();
    }
}

/// Shows what `agent` keeps in `registry`.
pub(crate) fn register_agent(registry: &mut Registry, agent: Agent) {
    registry.register_collector(Box::new(AgentGauges(agent)));
}

#[derive(Debug)]
struct AgentGauges(Agent);

impl Collector for AgentGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kept = self.0.status();
        let is_good = |status: &&KeyStatus| !status.good_for.is_zero();
        let good = i64::try_from(kept.iter().filter(is_good).count()).unwrap_or(i64::MAX);
        let help = "Tokens that are kept and good";
        let gauge = encoder.encode_descriptor("agent_tokens", help, None, MetricType::Gauge)?;
        ConstGauge::new(good).encode(gauge)?;
        // What never came says nothing of how long things will go on.
        let came = kept.iter().filter(|status| status.token.is_some());
        if let Some(least) = came.map(|status| status.good_for).min() {
            let help = "How long calls go on without the authority: until the first token that is kept ends";
            let gauge = encoder.encode_descriptor("agent_autonomy_seconds", help, None, MetricType::Gauge)?;
            ConstGauge::new(least.as_secs_f64()).encode(gauge)?;
        }
        Ok(())
    }
}
