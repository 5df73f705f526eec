//! Every metric of the sidecar that is not of its verifier, its name and its labels, once.
//!
//! The registry puts `countersign_` before each name, and `_total` after those of counters. No label holds anything that
//! a caller chooses: methods that the configuration does not name are `_OTHER`, and clients, tokens and keys are no
//! labels at all (H10).

mod access_log;
mod agent;
mod checks;
mod outbound;
mod outlived;
mod tls;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_verifier::verifier::{Admission, Decision};
use http::{Request, StatusCode};
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
pub(crate) use outlived::OutlivedMetrics;
pub use tls::{TlsParts, register_tls};

use crate::access_log::{AccessLog, Ended, Record};
use crate::server::listener::Peer;

/// What passes through a proxy: counted, and told of where there is an access log.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    requests: Requests,
    streams: Gauge,
    upstream_failures: Counter,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    outlived: OutlivedMetrics,
    access_log: Option<Arc<AccessLog>>,
}

/// Calls that have ended, with what there is to know of them.
#[derive(Clone, Debug)]
enum Requests {
    /// Calls in are decided.
    Inbound {
        requests: Family<InboundLabels, Counter>,
        decisions: Histogram,
    },
    /// Calls out are not.
    Outbound(Family<OutboundLabels, Counter>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InboundLabels {
    method: MethodLabel,
    decision: &'static str,
    reason: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutboundLabels {
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
    /// Counters that `registry` shows, of calls that `access_log` tells of.
    pub(crate) fn register(registry: &mut Registry, access_log: Option<Arc<AccessLog>>) -> Self {
        let requests = Family::<InboundLabels, Counter>::default();
        registry.register(
            "requests",
            "Calls that have ended, by configured method, the decision with its reason, and the gRPC status that the caller saw",
            requests.clone(),
        );
        let streams = Gauge::default();
        registry.register("active_streams", "Calls in the proxy now", streams.clone());
        let upstream_failures = Counter::default();
        registry.register(
            "upstream_failures",
            "Calls for which the service behind the sidecar could not be reached, or that it broke off",
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
            requests: Requests::Inbound { requests, decisions },
            streams,
            upstream_failures,
            durations,
            outlived: OutlivedMetrics::register(registry),
            access_log,
        }
    }

    /// What tells of calls, if anything does.
    pub(crate) const fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// What is kept of a call of this `request` to tell of it.
    pub(crate) fn record<B>(&self, request: &Request<B>, peer: &Arc<Peer>) -> Option<Record> {
        let log = self.access_log.as_ref()?;
        let record = Record::new(Arc::clone(log), Arc::clone(peer), request);
        Some(match self.requests {
            Requests::Inbound { .. } => record,
            Requests::Outbound(_) => record.outbound(),
        })
    }

    /// A call has begun. It ends when the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>, method: MethodLabel, record: Option<Record>) -> ActiveCall {
        self.streams.inc();
        ActiveCall {
            metrics: Arc::clone(self),
            method,
            judged: None,
            code: None,
            began: Instant::now(),
            record,
        }
    }

    pub(crate) fn upstream_failed(&self) {
        self.upstream_failures.inc();
    }

    /// Counts a stream that goes on although its token ended, because nothing is enforced.
    pub(crate) fn outlived(&self, method: MethodLabel, reason: &'static str) {
        self.outlived.count(method, reason);
    }

    fn ended(&self, method: &MethodLabel, ended: &Ended<'_>) {
        self.streams.dec();
        let labels = DurationLabels {
            method: method.clone(),
        };
        let took = ended.took.as_secs_f64();
        self.durations.get_or_create(&labels).observe(took);
        let method = method.clone();
        match &self.requests {
            Requests::Inbound { requests, .. } => requests.get_or_create_owned(&InboundLabels {
                method,
                decision: ended.decision.unwrap_or(UNDECIDED),
                reason: ended.reason.unwrap_or_default(),
                code: ended.code,
            }),
            Requests::Outbound(requests) => requests.get_or_create_owned(&OutboundLabels {
                method,
                code: ended.code,
            }),
        }
        .inc();
    }
}

/// The decision about calls whose caller went away before it.
const UNDECIDED: &str = "undecided";

/// The decision about calls that are not let in.
const REFUSED: &str = "refused";

/// What was decided about a call, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
}

impl Judged {
    /// It is not let in.
    pub(crate) const fn refused(reason: &'static str) -> Self {
        Self {
            decision: REFUSED,
            reason,
        }
    }
}

impl From<&Decision> for Judged {
    fn from(decision: &Decision) -> Self {
        let (decision, reason) = match (&decision.verdict, &decision.observed) {
            (Ok(Admission::Token(_)), _) => ("allowed", "token_verified"),
            (Ok(Admission::Open), None) => ("allowed", "method_open"),
            (Ok(Admission::Open), Some(observed)) => ("observed", observed.denied.rejection.reason()),
            (Err(denied), _) => (REFUSED, denied.rejection.reason()),
        };
        Self { decision, reason }
    }
}

/// A call in a proxy, counted when it ends, however it ends, and told of where there is an access log.
#[derive(Debug)]
pub(crate) struct ActiveCall {
    metrics: Arc<ProxyMetrics>,
    method: MethodLabel,
    judged: Option<Judged>,
    code: Option<&'static str>,
    began: Instant,
    record: Option<Record>,
}

impl ActiveCall {
    /// Takes note of the decision about it, and of how long that took.
    pub(crate) fn decided(&mut self, decision: &Decision, took: Duration) {
        self.judged = Some(decision.into());
        if let Requests::Inbound { decisions, .. } = &self.metrics.requests {
            decisions.observe(took.as_secs_f64());
        }
        if let Some(record) = &mut self.record {
            record.decided(decision, took);
        }
    }

    /// Where it will be noted why it would have ended, were its method enforced.
    pub(crate) fn may_outlive(&mut self) -> Arc<OnceLock<&'static str>> {
        let noted = Arc::default();
        if let Some(record) = &mut self.record {
            record.may_outlive(Arc::clone(&noted));
        }
        noted
    }

    /// Takes note that all that it brings is a token, which is good.
    pub(crate) const fn token_taken(&mut self) {
        self.judged = Some(Judged {
            decision: "allowed",
            reason: "token_verified",
        });
    }

    /// Takes note of where it goes.
    pub(crate) fn goes_to(&mut self, upstream: &Arc<str>) {
        if let Some(record) = &mut self.record {
            record.goes_to(upstream);
        }
    }

    /// Takes note that whoever serves it broke off.
    pub(crate) fn upstream_failed(&self) {
        self.metrics.upstream_failed();
    }

    /// Takes note of the HTTP status that the caller is sent.
    pub(crate) const fn responded(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record {
            record.responded(status);
        }
    }

    /// What counts the bytes that its caller sends, if anything does.
    pub(crate) fn received(&self) -> Option<Arc<AtomicU64>> {
        self.record.as_ref().map(|record| Arc::clone(record.received()))
    }

    /// Takes note of a part of the answer that the caller is sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Takes note of the status that the caller is sent.
    pub(crate) const fn ended_with(&mut self, code: &'static str) {
        self.code = Some(code);
    }

    /// Takes note that the sidecar ends it, for this reason and with this status. A call in is refused, unless it was let in before.
    pub(crate) fn ended_for(&mut self, reason: &'static str, code: &'static str) {
        self.code = Some(code);
        let was_let_in = match (&self.metrics.requests, self.judged) {
            (Requests::Outbound(_), _) => true,
            (Requests::Inbound { .. }, judged) => judged.is_some_and(|judged| judged.decision != REFUSED),
        };
        if !was_let_in {
            self.judged.get_or_insert(Judged::refused(reason));
        } else if let Some(record) = &mut self.record {
            record.ended_for(reason);
        }
    }

    /// Takes note that the answer ended; unless a status was seen, callers take that for `UNKNOWN`.
    pub(crate) fn ended_without_status(&mut self) {
        self.code.get_or_insert("UNKNOWN");
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        let ended = Ended {
            decision: self.judged.map(|judged| judged.decision),
            reason: self.judged.map(|judged| judged.reason),
            route: self.method.0.as_deref(),
            // No status at all: the caller went away.
            code: self.code.unwrap_or("CANCELLED"),
            took: self.began.elapsed(),
        };
        self.metrics.ended(&self.method, &ended);
        if let Some(record) = &self.record {
            record.tell(&ended);
        }
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

#[cfg(test)]
mod tests {
    use countersign_core::Rejection;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn let_in() -> Decision {
        Decision {
            verdict: Ok(Admission::Open),
            ..Decision::refused(Rejection::TokenMissing, 1)
        }
    }

    /// The calls that were counted, as far as their labels after the method's.
    fn counted(registry: &Registry, name: &str) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).expect("encodes");
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let mut lines: Vec<String> = lines
            .map(|line| line.replace(r#"{method="_OTHER","#, ""))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_call_is_counted_by_its_decision_and_its_end() {
        let mut registry = Registry::default();
        let metrics = Arc::new(ProxyMetrics::register(&mut registry, None));
        let begin = || metrics.begin(MethodLabel(None), None);
        let decided = |decision: &Decision| {
            let mut call = begin();
            call.decided(decision, Duration::ZERO);
            call
        };
        drop(begin());
        begin().ended_for("not_a_call", "UNIMPLEMENTED");
        let refused = Decision::refused(Rejection::TokenMissing, 1);
        decided(&refused).ended_for("token_missing", "UNAUTHENTICATED");
        decided(&let_in()).ended_with("OK");
        // What was let in is not refused by what becomes of it.
        decided(&let_in()).ended_for("deadline_exceeded", "DEADLINE_EXCEEDED");
        assert_eq!(
            counted(&registry, "requests_total"),
            [
                r#"decision="allowed",reason="method_open",code="DEADLINE_EXCEEDED"} 1"#,
                r#"decision="allowed",reason="method_open",code="OK"} 1"#,
                r#"decision="refused",reason="not_a_call",code="UNIMPLEMENTED"} 1"#,
                r#"decision="refused",reason="token_missing",code="UNAUTHENTICATED"} 1"#,
                r#"decision="undecided",reason="",code="CANCELLED"} 1"#,
            ]
        );
        assert_eq!(counted(&registry, "active_streams "), ["0"]);
    }

    #[test]
    fn calls_out_are_counted_by_their_end_alone() {
        let mut registry = Registry::default();
        let metrics = Arc::new(ProxyMetrics::register_outbound(&mut registry, None));
        let begin = || metrics.begin(MethodLabel(None), None);
        begin().ended_for("route_unknown", "PERMISSION_DENIED");
        begin().ended_with("OK");
        assert_eq!(
            counted(&registry, "outbound_requests_total"),
            [r#"code="OK"} 1"#, r#"code="PERMISSION_DENIED"} 1"#]
        );
    }
}
