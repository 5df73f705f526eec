//! The local API: asks for the decision that the proxy would make (`countersign.verify.v1`), with health and reflection.
//!
//! For services that are called in other ways than through the proxy. Issuer and audience are the sidecar's own; no
//! request chooses them.

mod health;
mod judging;

use std::sync::Arc;
use std::time::Duration;

use countersign_core::staleness::ClassBudget;
use countersign_proto::verify::v1;
use countersign_proto::verify::v1::verify_service_server::{VerifyService, VerifyServiceServer};
use countersign_verifier::sync::SyncMetrics;
use countersign_verifier::trust::TrustStatus;
use countersign_verifier::verifier::Verifier;
use countersign_wire::{encoding, reflection, status, verify, write_time};
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::observations::Observations;
use crate::refusal_log::RefusalLog;
use crate::server::Serve;
use crate::server::listener::Peer;
pub(crate) use health::{Health, report_health};
use judging::{Answers, Place};

/// The longest message: a batch of tokens of the usual size, and a single one of any.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The API's handlers.
#[derive(Clone, Debug)]
pub(crate) struct VerifyApi {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) sync: SyncMetrics,
    pub(crate) log: Arc<RefusalLog>,
    pub(crate) observations: Arc<Observations>,
}

/// The API as one listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct ApiService(Routes);

impl ApiService {
    /// The API with health and reflection. The second value is told whether decisions are made.
    pub(crate) fn new(api: VerifyApi) -> Result<(Self, Health), reflection::Error> {
        let verify = VerifyServiceServer::new(api).max_decoding_message_size(MAX_MESSAGE);
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(verify).add_service(health);
        let service = VerifyServiceServer::<VerifyApi>::NAME;
        let routes = reflection::add(routes, &[service])?;
        Ok((Self(routes.prepare()), Health { reporter, service }))
    }
}

impl Serve for ApiService {
    type Body = Body;

    async fn call(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        if let Err(refused) = encoding::check(request.headers()) {
            return refused.into_http();
        }
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "the local API failed");
                status::failed(status::Failure::Internal).into_http()
            }
        }
    }
}

#[tonic::async_trait]
impl VerifyService for VerifyApi {
    async fn verify(
        &self,
        request: tonic::Request<v1::VerifyRequest>,
    ) -> Result<tonic::Response<v1::VerifyResponse>, tonic::Status> {
        let answer = self.judge(request.into_inner(), Place::Alone).await?;
        Ok(tonic::Response::new(answer))
    }

    async fn verify_batch(
        &self,
        request: tonic::Request<v1::VerifyBatchRequest>,
    ) -> Result<tonic::Response<v1::VerifyBatchResponse>, tonic::Status> {
        let responses = self.judge_all(request.into_inner().requests).await?;
        Ok(tonic::Response::new(v1::VerifyBatchResponse { responses }))
    }

    type VerifyStreamStream = Answers;

    async fn verify_stream(
        &self,
        request: tonic::Request<tonic::Streaming<v1::VerifyStreamRequest>>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        Ok(tonic::Response::new(self.judge_each(request.into_inner())))
    }

    async fn list_observed(
        &self,
        _request: tonic::Request<v1::ListObservedRequest>,
    ) -> Result<tonic::Response<v1::ListObservedResponse>, tonic::Status> {
        let (kinds, others) = self.observations.list();
        let observed = kinds.into_iter().map(|(kind, calls)| v1::Observed {
            method: kind.method.as_deref().unwrap_or_default().to_owned(),
            reason: kind.reason.to_owned(),
            caller: kind.caller,
            calls: calls.count,
            first_at: Some(write_time(calls.first_at)),
            last_at: Some(write_time(calls.last_at)),
        });
        Ok(tonic::Response::new(v1::ListObservedResponse {
            observed: observed.collect(),
            others,
        }))
    }

    async fn get_status(
        &self,
        _request: tonic::Request<v1::GetStatusRequest>,
    ) -> Result<tonic::Response<v1::GetStatusResponse>, tonic::Status> {
        let status = self.verifier.trust().status();
        let expected = self.verifier.expected();
        let classes = self.verifier.trust().staleness().classes.iter();
        Ok(tonic::Response::new(v1::GetStatusResponse {
            issuer: expected.issuer.as_str().to_owned(),
            audience: expected.audience.as_str().to_owned(),
            epoch: status.epoch,
            state_digest: if status.epoch == 0 {
                Vec::new()
            } else {
                status.digest.to_vec()
            },
            freshness: status.freshness_name().to_owned(),
            age_ms: status.age.map(verify::write_millis),
            refuses_in_ms: status.refuses_in().map(verify::write_millis),
            connected: self.sync.connected.get() != 0,
            keys: u32::try_from(status.keys).unwrap_or(u32::MAX),
            revocations: u64::try_from(status.revocations).unwrap_or(u64::MAX),
            classes: classes.map(|class| write_class(class, &status)).collect(),
        }))
    }
}

fn write_class(class: &ClassBudget, status: &TrustStatus) -> v1::ClassStatus {
    let millis = |budget: Duration| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
    v1::ClassStatus {
        class: class.class.as_str().to_owned(),
        revocations_ms: millis(class.budget.revocations),
        keys_ms: millis(class.budget.keys),
        refuses_in_ms: status.refuses_within(&class.budget).map(verify::write_millis),
        decides: status.decides_within(&class.budget),
    }
}
