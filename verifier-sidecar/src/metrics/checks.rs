//! What Envoy asks.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::MethodLabel;

/// What Envoy is answered.
#[derive(Clone, Debug)]
pub(crate) struct CheckMetrics(Family<CheckLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    method: MethodLabel,
    code: &'static str,
}

impl CheckMetrics {
    /// A counter that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let checks = Family::<CheckLabels, Counter>::default();
        registry.register(
            "ext_authz_checks",
            "Questions of Envoy's that were answered, by configured method and the gRPC status of the decision",
            checks.clone(),
        );
        Self(checks)
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, method: MethodLabel, code: &'static str) {
        self.0.get_or_create_owned(&CheckLabels { method, code }).inc();
    }
}
