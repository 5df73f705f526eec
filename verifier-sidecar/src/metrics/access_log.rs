//! What became of the lines of the access log.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Lines of the access log, by what became of them.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogMetrics {
    /// They are where they belong.
    pub(crate) written: Counter,
    /// There was no room: they came faster than they could be written.
    pub(crate) no_room: Counter,
    /// They could not be written.
    pub(crate) failed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LineLabels {
    result: &'static str,
}

impl AccessLogMetrics {
    /// Counters that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let lines = Family::<LineLabels, Counter>::default();
        registry.register(
            "access_log_lines",
            "Lines of the access log, by what became of them",
            lines.clone(),
        );
        let counter = |result| lines.get_or_create_owned(&LineLabels { result });
        Self {
            written: counter("written"),
            no_room: counter("no_room"),
            failed: counter("failed"),
        }
    }
}
