//! The ways out, put together.

use std::iter;
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
    /// In the order of the configuration, for each worker: what goes to a neighbour stays on its thread.
    pub(super) ways: Vec<Vec<Arc<Outbound>>>,
    pub(super) tls: Vec<Arc<ClientTls>>,
}

impl WaysOut {
    /// Those that `config` names, for so many workers. Their tokens come from `agent`.
    pub(super) fn new(
        config: &Config,
        agent: &Agent,
        clock: &Arc<dyn Clock>,
        access_log: Option<Arc<AccessLog>>,
        registry: &mut Registry,
        workers: usize,
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
            let outbound = || {
                let neighbour = neighbour.over_others();
                let metrics = Arc::clone(&metrics);
                Arc::new(Outbound::new(
                    neighbour,
                    &way.routes,
                    agent.clone(),
                    settings,
                    metrics,
                ))
            };
            out.ways.push(iter::repeat_with(outbound).take(workers).collect());
        }
        Ok(out)
    }
}
