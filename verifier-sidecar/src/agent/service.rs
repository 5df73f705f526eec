//! `countersign.agent.v1`: the app asks, the agent answers. With health and reflection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::names::{Audience, Scope};
use countersign_proto::agent::v1;
use countersign_proto::agent::v1::token_agent_service_server::{TokenAgentService, TokenAgentServiceServer};
use countersign_wire::verify::write_millis;
use countersign_wire::{MAX_REQUEST_LENGTH, encoding, reflection, status, write_time};
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::kept::Fetched;
use super::{Agent, KeyStatus, TokenKey};
use crate::server::Serve;
use crate::server::listener::Peer;

/// The service as its listeners serve it.
#[derive(Clone, Debug)]
pub(crate) struct AgentService(Routes);

impl AgentService {
    /// What serves `agent`. It is healthy as long as it runs: what it has is told for each token.
    pub(crate) fn new(agent: Agent) -> Result<Self, reflection::Error> {
        let service = TokenAgentServiceServer::new(Api(agent)).max_decoding_message_size(MAX_REQUEST_LENGTH);
        let (_reporter, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(service).add_service(health);
        let routes = reflection::add(routes, &[TokenAgentServiceServer::<Api>::NAME])?;
        Ok(Self(routes.prepare()))
    }
}

impl Serve for AgentService {
    type Body = Body;

    async fn call(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        if let Err(refused) = encoding::check(request.headers()) {
            return refused.into_http();
        }
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "the token agent failed");
                status::failed(status::Failure::Internal).into_http()
            }
        }
    }
}

#[derive(Debug)]
struct Api(Agent);

/// The most scopes that one token is asked for with. It has to fit a header.
const MAX_SCOPES: usize = 64;

#[tonic::async_trait]
impl TokenAgentService for Api {
    async fn get_token(
        &self,
        request: tonic::Request<v1::GetTokenRequest>,
    ) -> Result<tonic::Response<v1::GetTokenResponse>, tonic::Status> {
        let key = read_key(request.get_ref())?;
        let answer = self.0.token(&key).await;
        let token = answer.map_err(|no| status::no_token(no.why, no.retry_after))?;
        let last_error = self.last_error(&key);
        Ok(tonic::Response::new(self.write_token(&token, last_error)))
    }

    async fn get_status(
        &self,
        _request: tonic::Request<v1::GetStatusRequest>,
    ) -> Result<tonic::Response<v1::GetStatusResponse>, tonic::Status> {
        let kept = self.0.status();
        Ok(tonic::Response::new(v1::GetStatusResponse {
            tokens: kept.into_iter().map(|status| self.write_status(status)).collect(),
            max_tokens: u32::try_from(self.0.limits().max_tokens).unwrap_or(u32::MAX),
        }))
    }
}

impl Api {
    fn write_token(&self, held: &Fetched, last_error: String) -> v1::GetTokenResponse {
        let claims = held.token.claims();
        let now = self.0.clock().elapsed();
        v1::GetTokenResponse {
            access_token: held.token.text().to_owned(),
            token_type: "Bearer".to_owned(),
            expires_at: Some(write_time(claims.expires_at)),
            scopes: claims
                .scopes
                .iter()
                .map(|scope| scope.as_str().to_owned())
                .collect(),
            audience: claims.audiences.first().cloned().unwrap_or_default(),
            refresh_at: Some(write_time(self.wall_time(held.refresh_at))),
            good_for_ms: write_millis(held.served_until.saturating_sub(now)),
            last_error,
        }
    }

    fn write_status(&self, status: KeyStatus) -> v1::KeptToken {
        let held = status.token.as_deref();
        v1::KeptToken {
            audience: status
                .key
                .audience
                .as_ref()
                .map_or("", Audience::as_str)
                .to_owned(),
            scopes: status
                .key
                .scopes
                .iter()
                .map(|scope| scope.as_str().to_owned())
                .collect(),
            expires_at: held.map(|held| write_time(held.token.claims().expires_at)),
            refresh_at: held.map(|held| write_time(self.wall_time(held.refresh_at))),
            good_for_ms: write_millis(status.good_for),
            last_error: status.last_error.map_or("", |why| why.reason()).to_owned(),
            pinned: status.pinned,
        }
    }

    fn last_error(&self, key: &TokenKey) -> String {
        let why = self.0.last_error(key);
        why.map_or("", |why| why.reason()).to_owned()
    }

    /// What our wall clock shows when the elapsed clock shows `at`.
    fn wall_time(&self, at: Duration) -> Timestamp {
        let clock = self.0.clock();
        let (wall, elapsed) = (Duration::from_secs(clock.now().as_seconds()), clock.elapsed());
        Timestamp::from_seconds((wall + at).saturating_sub(elapsed).as_secs())
    }
}

fn read_key(request: &v1::GetTokenRequest) -> Result<TokenKey, tonic::Status> {
    let audience = Some(request.audience.as_str()).filter(|audience| !audience.is_empty());
    let audience = audience.map(Audience::parse).transpose();
    let audience = audience.map_err(|invalid| status::invalid("audience", invalid.expected))?;
    if request.scopes.len() > MAX_SCOPES {
        return Err(status::invalid("scopes", "are more than 64"));
    }
    let scopes: Result<BTreeSet<Scope>, _> = request.scopes.iter().map(|name| Scope::parse(name)).collect();
    let scopes = scopes.map_err(|invalid| status::invalid("scopes", invalid.expected))?;
    Ok(TokenKey { audience, scopes })
}
