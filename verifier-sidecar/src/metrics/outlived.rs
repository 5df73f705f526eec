//! Streams on methods that are only observed, and go on when their token ends.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::MethodLabel;

/// Streams that would have been ended, were their method enforced.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutlivedMetrics(Family<OutlivedLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutlivedLabels {
    method: MethodLabel,
    reason: &'static str,
}

impl OutlivedMetrics {
    /// A counter that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "observed_streams_outlived",
            "Streams on observed methods that went on although they would have been ended if enforced, by configured method and why",
            metrics.0.clone(),
        );
        metrics
    }

    /// Counts a stream.
    pub(crate) fn count(&self, method: MethodLabel, reason: &'static str) {
        self.0
            .get_or_create_owned(&OutlivedLabels { method, reason })
            .inc();
    }
}
