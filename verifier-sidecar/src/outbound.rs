//! Calls out: the app calls a neighbour through the sidecar without TLS and without a token; the sidecar adds both.
//!
//! ```text
//!   app --> form --> route --> token (agent) --> authorization --> neighbour --> frames and trailers, both ways
//!                     |           |
//!                  refused    UNAVAILABLE: nothing has been sent
//! ```
//!
//! INVARIANT (no token, no call): nothing of a call is sent, not even a connection made, before its token is there.
//! INVARIANT (routes only): a token goes only with calls that a route of the configuration leads.
//! INVARIANT (one certificate): a token that is bound to our certificate goes over connections that show it.

mod neighbour;
mod service;

use std::sync::Arc;
use std::time::Duration;

use countersign_core::requirements::MethodPath;
use countersign_verifier::identity::IdentityHeaders;
use http::uri::Authority;

use crate::agent::{Agent, Slot, TokenKey};
use crate::metrics::ProxyMetrics;
use crate::routes::Calls;

pub(crate) use neighbour::Neighbour;
pub(crate) use service::OutboundService;

/// Calls that go out with the same token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which.
    pub calls: Calls,
    /// The token.
    pub key: TokenKey,
}

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboundSettings {
    /// Whether calls may bring their own credential.
    pub(crate) own_tokens: bool,
    /// The longest deadline that a caller can set.
    pub(crate) longest_timeout: Duration,
    /// Whether calls have spans.
    pub(crate) traced: bool,
}

/// The way out to one neighbour.
#[derive(Debug)]
pub(crate) struct Outbound {
    neighbour: Neighbour,
    routes: Vec<Leading>,
    agent: Agent,
    settings: OutboundSettings,
    /// What an app may not say of itself.
    identity_headers: Arc<IdentityHeaders>,
    metrics: Arc<ProxyMetrics>,
}

/// A route, and where its tokens are.
#[derive(Debug)]
struct Leading {
    route: Route,
    name: Arc<str>,
    slot: Arc<Slot>,
}

impl Outbound {
    /// The way to `neighbour` for what `routes` lead there. Their tokens are kept from now on.
    pub(crate) fn new(
        neighbour: Neighbour,
        routes: &[Route],
        agent: Agent,
        settings: OutboundSettings,
        metrics: Arc<ProxyMetrics>,
    ) -> Self {
        let leading = |route: &Route| Leading {
            name: route.calls.to_string().into(),
            slot: agent.pin(route.key.clone()),
            route: route.clone(),
        };
        Self {
            routes: routes.iter().map(leading).collect(),
            neighbour,
            agent,
            settings,
            identity_headers: Arc::default(),
            metrics,
        }
    }

    /// The first route that leads a call of `method` at `authority`.
    fn route(&self, authority: Option<&Authority>, method: MethodPath<'_>) -> Option<&Leading> {
        self.routes
            .iter()
            .find(|leading| leading.route.calls.contain(authority, method))
    }
}
