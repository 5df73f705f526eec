//! Every metric of the sidecar that is not of its verifier, its name and its labels, once.
//!
//! The registry puts `countersign_` before each name, and `_total` after those of counters. No label holds anything that
//! a caller chooses: methods that the configuration does not name are `_OTHER`, and clients, tokens and keys are no
//! labels at all (H10).

mod access_log;
mod agent;
mod checks;
mod outbound;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

pub(crate) use access_log::AccessLogMetrics;
pub(crate) use agent::{AgentMetrics, register_agent};
pub(crate) use checks::CheckMetrics;
pub use tls::{TlsParts, register_tls};

/// What passes through the proxy.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    requests: Family<RequestLabels, Counter>,
    streams: Gauge,
    upstream_failures: Counter,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    /// Nothing where nothing is decided.
    decisions: Option<Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: MethodLabel,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    method: MethodLabel,
}

/// From 100 microseconds to a minute and a half: whole calls, which wait for the service.
const CALL_DURATIONS: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 2.5, 16));

/// From 250 nanoseconds, for a token that was seen before, to the 200 ms that one may wait for a newer epoch.
fn decision_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_000_25, 2.5, 16))
}

/// What methods are called that the configuration does not name.
pub(crate) const OTHER: &str = "_OTHER";

/// A method as metrics name it: by the pattern that the configuration has for it, or `_OTHER`. Paths are the caller's to
/// choose, so a path is never a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MethodLabel(pub(crate) Option<Arc<str>>);

impl EncodeLabelValue for MethodLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_deref().unwrap_or(OTHER), encoder)
    }
}

impl ProxyMetrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "requests",
            "Calls that have ended, by configured method and the gRPC status that the caller saw",
            requests.clone(),
        );
        let streams = Gauge::default();
        registry.register("active_streams", "Calls in the proxy now", streams.clone());
        let upstream_failures = Counter::default();
        registry.register(
            "upstream_failures",
            "Calls for which the service behind the sidecar could not be reached",
            upstream_failures.clone(),
        );
        let durations = Family::new_with_constructor(CALL_DURATIONS);
        registry.register_with_unit(
            "request_duration",
            "From a call's headers to its end, by configured method",
            Unit::Seconds,
            durations.clone(),
        );
        let decisions = decision_durations();
        registry.register_with_unit(
            "decision_duration",
            "What of that the decision took",
            Unit::Seconds,
            decisions.clone(),
        );
        Self {
            requests,
            streams,
            upstream_failures,
            durations,
            decisions: Some(decisions),
        }
    }

    /// A call has begun. It ends when the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>, method: MethodLabel) -> ActiveCall {
        self.streams.inc();
        ActiveCall {
            metrics: Arc::clone(self),
            method,
            code: None,
            began: Instant::now(),
        }
    }

    /// A decision took this long.
    pub(crate) fn decided_in(&self, took: Duration) {
        if let Some(decisions) = &self.decisions {
            decisions.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn upstream_failed(&self) {
        self.upstream_failures.inc();
    }
}

/// A call in the proxy, counted when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct ActiveCall {
    metrics: Arc<ProxyMetrics>,
    method: MethodLabel,
    code: Option<&'static str>,
    began: Instant,
}

impl ActiveCall {
    /// Takes note of the status that the caller is sent.
    pub(crate) fn ended_with(&mut self, code: &'static str) {
        self.code = Some(code);
    }

    /// Takes note that the answer ended; unless a status was seen, callers take that for `UNKNOWN`.
    pub(crate) fn ended_without_status(&mut self) {
        self.code.get_or_insert("UNKNOWN");
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.metrics.streams.dec();
        let labels = DurationLabels {
            method: self.method.clone(),
        };
        let took = self.began.elapsed().as_secs_f64();
        self.metrics.durations.get_or_create(&labels).observe(took);
        self.metrics
            .requests
            .get_or_create_owned(&RequestLabels {
                method: self.method.clone(),
                // No status at all: the caller went away.
                code: self.code.unwrap_or("CANCELLED"),
            })
            .inc();
    }
}

/// Open connections, by listener.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    open: Family<ListenerLabels, Gauge>,
    ended: Family<EndLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    listener: &'static str,
    reason: &'static str,
}

impl ConnectionMetrics {
    /// Gauges that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "connections",
            "Open connections, by kind of listener",
            metrics.open.clone(),
        );
        registry.register(
            "connections_ended",
            "Connections that have ended, by kind of listener and why",
            metrics.ended.clone(),
        );
        metrics
    }

    pub(crate) fn opened(&self, listener: &'static str) -> OpenConnection {
        let gauge = self.open.get_or_create_owned(&ListenerLabels { listener });
        gauge.inc();
        OpenConnection {
            gauge,
            ended: self.ended.clone(),
            listener,
            reason: "error",
        }
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    gauge: Gauge,
    ended: Family<EndLabels, Counter>,
    listener: &'static str,
    reason: &'static str,
}

impl OpenConnection {
    /// Takes note of why it ends.
    pub(crate) fn ends(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.dec();
        self.ended
            .get_or_create_owned(&EndLabels {
                listener: self.listener,
                reason: self.reason,
            })
            .inc();
    }
}
