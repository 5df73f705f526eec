//! What answers Envoy, put together.

use std::sync::Arc;

use countersign_verifier::verifier::Verifier;
use countersign_wire::reflection;
use prometheus_client::registry::Registry;

use crate::access_log::AccessLog;
use crate::api::Health;
use crate::config::Config;
use crate::ext_authz::{CheckSettings, Checks, ExtAuthzService};
use crate::metrics::CheckMetrics;
use crate::observations::Observations;
use crate::refusal_log::RefusalLog;

/// The service and its health, if Envoy is to ask.
pub(super) fn service(
    config: &Config,
    verifier: &Arc<Verifier>,
    log: &Arc<RefusalLog>,
    observations: &Arc<Observations>,
    access_log: Option<&Arc<AccessLog>>,
    registry: &mut Registry,
) -> Result<Option<(ExtAuthzService, Health)>, reflection::Error> {
    let Some(ext_authz) = &config.ext_authz else {
        return Ok(None);
    };
    let checks = Checks {
        verifier: Arc::clone(verifier),
        settings: CheckSettings {
            disclosure: ext_authz.disclosure,
            tokens: config.tokens,
            certificates: ext_authz.certificates,
        },
        identity_headers: config.identity_headers.clone(),
        metrics: CheckMetrics::register(registry),
        log: Arc::clone(log),
        observations: Arc::clone(observations),
        access_log: access_log.cloned(),
    };
    ExtAuthzService::new(Arc::new(checks)).map(Some)
}
