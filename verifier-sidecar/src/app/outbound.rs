//! The ways out, put together.

use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{ClientTls, TlsError};
use prometheus_client::registry::Registry;

use super::services;
use crate::access_log::AccessLog;
use crate::agent::Agent;
use crate::config::{Config, ServiceConfig};
use crate::metrics::ProxyMetrics;
use crate::outbound::{Neighbour, Outbound, OutboundSettings};

/// The ways out of a sidecar, and the TLS of those that have it.
#[derive(Default)]
pub(super) struct WaysOut {
    pub(super) ways: Vec<Arc<Outbound>>,
    pub(super) tls: Vec<Arc<ClientTls>>,
}

impl WaysOut {
    /// Those that `config` names. Their tokens come from `agent`.
    pub(super) fn new(
        config: &Config,
        agent: &Agent,
        clock: &Arc<dyn Clock>,
        access_log: Option<Arc<AccessLog>>,
        registry: &mut Registry,
    ) -> Result<Self, TlsError> {
        let mut out = Self::default();
        if config.outbound.is_empty() {
            return Ok(out);
        }
        let metrics = Arc::new(ProxyMetrics::register_outbound(registry, access_log));
        for way in &config.outbound {
            let connections = config.upstream_connections;
            let neighbour = match &way.neighbour {
                ServiceConfig::Tls(service) => {
                    let tls = services::tls(config, service, clock)?;
                    out.tls.push(Arc::clone(&tls));
                    Neighbour::over_tls(&service.uri, tls, config.limits.keepalive, connections)
                }
                ServiceConfig::Plaintext(address) => Neighbour::plaintext(address.clone(), connections),
            };
            let settings = OutboundSettings {
                own_tokens: way.own_tokens,
                longest_timeout: config.longest_timeout,
                traced: config.traced,
            };
            let outbound = Outbound::new(
                neighbour,
                &way.routes,
                agent.clone(),
                settings,
                Arc::clone(&metrics),
            );
            out.ways.push(Arc::new(outbound));
        }
        Ok(out)
    }
}
