//! What passes through the outbound proxies.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{CALL_DURATIONS, OutboundLabels, OutlivedMetrics, ProxyMetrics, Requests};
use crate::access_log::AccessLog;

impl ProxyMetrics {
    /// Counters for calls out that `registry` shows, and that `access_log` tells of. Their `method` is the route.
    pub(crate) fn register_outbound(registry: &mut Registry, access_log: Option<Arc<AccessLog>>) -> Self {
        let requests = Family::<OutboundLabels, Counter>::default();
        registry.register(
            "outbound_requests",
            "Calls out that have ended, by route and the gRPC status that the app saw",
            requests.clone(),
        );
        let streams = Gauge::default();
        registry.register(
            "outbound_active_streams",
            "Calls out under way now",
            streams.clone(),
        );
        let upstream_failures = Counter::default();
        registry.register(
            "outbound_upstream_failures",
            "Calls out for which the neighbour could not be reached, or that it broke off",
            upstream_failures.clone(),
        );
        let durations = Family::new_with_constructor(CALL_DURATIONS);
        registry.register_with_unit(
            "outbound_request_duration",
            "From a call out's headers to its end, by route",
            Unit::Seconds,
            durations.clone(),
        );
        Self {
            requests: Requests::Outbound(requests),
            streams,
            upstream_failures,
            durations,
            outlived: OutlivedMetrics::default(),
            access_log,
        }
    }
}
