//! The ways out, put together.

use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{ClientTls, TlsError, TlsFiles};
use prometheus_client::registry::Registry;

use crate::agent::Agent;
use crate::config::{Config, NeighbourConfig, OutboundConfig};
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
        registry: &mut Registry,
    ) -> Result<Self, TlsError> {
        let mut out = Self::default();
        if config.outbound.is_empty() {
            return Ok(out);
        }
        let metrics = Arc::new(ProxyMetrics::register_outbound(registry));
        for way in &config.outbound {
            let (_, connections) = config.upstream;
            let neighbour = match (&way.neighbour, tls(config, way, clock)?) {
                (NeighbourConfig::Tls { uri, .. }, Some(tls)) => {
                    out.tls.push(Arc::clone(&tls));
                    Neighbour::over_tls(uri, tls, connections)
                }
                (NeighbourConfig::Plaintext(address), _) => {
                    Neighbour::plaintext(address.clone(), connections)
                }
                (NeighbourConfig::Tls { .. }, None) => continue,
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

/// What of the files that `config` names for calls out cannot be used.
pub(super) fn check(config: &Config, clock: &Arc<dyn Clock>) -> Vec<TlsError> {
    let tried = config.outbound.iter().map(|way| tls(config, way, clock));
    tried.filter_map(Result::err).collect()
}

/// The TLS to the neighbour: with the certificate that tokens are bound to.
fn tls(
    config: &Config,
    way: &OutboundConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<ClientTls>>, TlsError> {
    let NeighbourConfig::Tls {
        server, trust_roots, ..
    } = &way.neighbour
    else {
        return Ok(None);
    };
    let own = &config.trust.authority.files;
    let files = TlsFiles {
        trust_roots: trust_roots.clone().unwrap_or_else(|| own.trust_roots.clone()),
        ..own.clone()
    };
    ClientTls::load(&files, server.clone(), Arc::clone(clock)).map(Some)
}
