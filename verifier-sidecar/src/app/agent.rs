//! What the app beside the sidecar uses for its own calls: the token agent, and the ways out.

use std::sync::Arc;

use countersign_core::ports::Clock;
use countersign_mtls::{ClientTls, DEFAULT_WATCH_INTERVAL};
use countersign_runtime::Shutdown;
use countersign_verifier::source::TrustSource;
use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::outbound::WaysOut;
use super::serving::Services;
use crate::agent::{Agent, AgentService, AuthoritySource};
use crate::config::Config;
use crate::metrics::{AgentMetrics, register_agent};

/// What goes on in the background for it. Nothing, where nobody asks for tokens.
#[derive(Default)]
pub(super) struct Outgoing {
    agent: Option<Agent>,
    tls: Vec<Arc<ClientTls>>,
}

impl Outgoing {
    /// Adds what `config` asks for to `services`, for so many workers. Tokens come from where the trust comes from, with the same
    /// certificate.
    pub(super) fn new(
        config: &Config,
        source: &TrustSource,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
        services: &mut Services,
        workers: usize,
    ) -> Result<Self, StartError> {
        if !config.agent.is_served() && config.outbound.is_empty() {
            return Ok(Self::default());
        }
        let uri = config.trust.authority.uri.clone();
        let tokens = AuthoritySource::new(Arc::clone(source.authority()), uri);
        let agent = Agent::new(
            Arc::new(tokens),
            Arc::clone(source.trust()),
            config.agent.limits,
            AgentMetrics::register(registry),
        );
        register_agent(registry, agent.clone());
        let access_log = services.proxy.metrics.access_log().cloned();
        let out = WaysOut::new(config, &agent, clock, access_log, registry, workers)?;
        services.agent = Some(AgentService::new(agent.clone())?);
        services.ways_out = out.ways;
        Ok(Self {
            agent: Some(agent),
            tls: out.tls,
        })
    }

    /// Keeps tokens, and follows the TLS files, until `stop`.
    pub(super) fn run(self, tasks: &TaskTracker, stop: &Shutdown) {
        if let Some(agent) = self.agent {
            tasks.spawn(agent.run(stop.token()));
        }
        for tls in self.tls {
            tasks.spawn(tls.watch(DEFAULT_WATCH_INTERVAL, stop.token()));
        }
    }
}
