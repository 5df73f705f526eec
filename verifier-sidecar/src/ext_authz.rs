//! Envoy's external authorization (`envoy.service.auth.v3`): the decision that the proxy would make, about requests that Envoy
//! holds back (I-18).
//!
//! ```text
//! Envoy -- CheckRequest --> request (form) -> verdict -> answer --> headers set and removed, or a denial; metadata
//! ```
//!
//! INVARIANT (always an answer): what is asked is answered with a decision, never with an rpc that fails. Envoy would take that
//! for an outage, and may be configured to let requests pass then. What is not understood is denied (I-16, G48).
//!
//! The one rpc is read and written here, and not by the gRPC library, which would take half again as long.

mod answer;
mod certificate;
mod request;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::trust::Epoch;
use countersign_core::{Rejection, bearer};
use countersign_mtls::PeerIdentity;
use countersign_proto::envoy::service::auth::v3::CheckRequest;
use countersign_proto::envoy::service::auth::v3::authorization_server::SERVICE_NAME;
use countersign_verifier::identity::IdentityHeaders;
use countersign_verifier::verifier::{Decision, Question, Verifier};
use countersign_wire::status::{self, Disclosure, Failure};
use countersign_wire::{encoding, framing, reflection};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tonic::Code;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::access_log::AccessLog;
use crate::access_log::decided::{Request as Told, Verdict};
use crate::api::Health;
use crate::metrics::{CheckMetrics, MethodLabel};
use crate::observations::{Observations, Origin};
use crate::proxy::{Refusal, TokenForwarding, code_name, request as form};
use crate::refusal_log::{RefusalLog, Refused};
use crate::server::Serve;
use crate::server::listener::Peer;
use request::{Asked, Kind};

/// The largest question read. Envoy takes 60 KiB of headers by default, some of which stand in a question twice, and a certificate.
/// Bodies have no place in it.
const LARGEST_QUESTION: usize = 128 * 1024;

/// The only method.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckSettings {
    /// How much refused callers are told.
    pub(crate) disclosure: Disclosure,
    /// Whether the service sees tokens.
    pub(crate) tokens: TokenForwarding,
    /// Whether certificates are what Envoy says.
    pub(crate) certificates: Certificates,
}

/// Who is believed about a caller's certificate. Tokens may be bound to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Nobody: no caller has one.
    Ignored,
    /// Envoy, which verifies certificates before it asks.
    Envoys,
}

/// What decides on Envoy's questions.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) settings: CheckSettings,
    /// Under which names services are told of their callers.
    pub(crate) identity_headers: IdentityHeaders,
    pub(crate) metrics: CheckMetrics,
    pub(crate) log: Arc<RefusalLog>,
    pub(crate) observations: Arc<Observations>,
    /// Tells of decisions, if anything does.
    pub(crate) access_log: Option<Arc<AccessLog>>,
}

/// The authorization service as one listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct ExtAuthzService {
    routes: Routes,
    checks: Arc<Checks>,
}

impl ExtAuthzService {
    /// The service with health and reflection. The second value is told whether decisions are made.
    pub(crate) fn new(checks: Arc<Checks>) -> Result<(Self, Health), reflection::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let service = SERVICE_NAME;
        let routes = reflection::add(Routes::new(health), &[service])?.prepare();
        Ok((Self { routes, checks }, Health { reporter, service }))
    }
}

impl Serve for ExtAuthzService {
    type Body = Body;

    async fn call(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        if request.uri().path() == CHECK {
            let patience = patience(request.headers());
            let answer = self.checks.check(question(request).await, patience).await;
            return framing::answer(answer);
        }
        if let Err(refused) = encoding::check(request.headers()) {
            return refused.into_http();
        }
        match self.routes.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "the authorization service failed");
                status::failed(Failure::Internal).into_http()
            }
        }
    }
}

/// The question in `request`. Nothing when it is too large, compressed or no protobuf.
async fn question(request: Request<Incoming>) -> Option<CheckRequest> {
    encoding::check(request.headers()).ok()?;
    framing::message(request.into_body(), LARGEST_QUESTION).await
}

/// How long a decision may wait for a newer epoch: three quarters of the time after which Envoy gives up, so that the answer is
/// ours and not an outage.
fn patience(headers: &HeaderMap) -> Duration {
    let timeout = form::timeout(headers).ok().flatten();
    timeout.map_or(Duration::MAX, |timeout| timeout / 4 * 3)
}

impl Checks {
    /// The framed answer to `question`, within `patience`. One that cannot be read is denied like a request that cannot.
    async fn check(&self, question: Option<CheckRequest>, patience: Duration) -> Bytes {
        let unreadable = (Rejection::RequestMalformed, Kind::Http);
        match question.ok_or(unreadable).and_then(Asked::read) {
            Ok(asked) => self.answer(&asked, patience).await,
            Err((rejection, kind)) => self.refuse_form(&rejection.into(), kind, None),
        }
    }

    async fn answer(&self, asked: &Asked, patience: Duration) -> Bytes {
        let method = match asked.method() {
            Ok(method) => method,
            Err(refusal) => return self.refuse_form(&refusal, asked.kind, Some(asked)),
        };
        let fields = asked.headers().get_all(AUTHORIZATION);
        let peer = self.peer(asked);
        let certificate = peer.as_ref().map(PeerIdentity::certificate);
        let question = Question {
            token: bearer::from_authorization(fields.iter().map(HeaderValue::as_bytes)),
            method: Some(method),
            peer_certificate: certificate.as_ref(),
        };
        let decision = self.decide(&question, patience).await;
        let refused = |denied| Refused {
            denied,
            method: Some(method),
            remote: asked.remote,
            epoch: decision.epoch,
        };
        let pattern = self.verifier.rule(method).pattern.clone();
        let identity = peer.as_ref().and_then(|peer| peer.spiffe_id.as_ref());
        if let Some(observed) = &decision.observed {
            self.log.tell_observed(&refused(&observed.denied));
            let origin = Origin {
                peer: identity,
                remote: asked.remote,
            };
            let now = self.verifier.trust().clock().now();
            self.observations.note(pattern.clone(), observed, origin, now);
        }
        let told = asked.told(identity, pattern.as_deref());
        self.tell_decided(Some(&told), &Verdict::from(&decision));
        match &decision.verdict {
            Ok(admission) => {
                self.metrics.answered(MethodLabel(pattern), code_name(Code::Ok));
                let names = &self.identity_headers;
                answer::allowed(admission, &decision, asked.headers(), names, self.settings.tokens)
            }
            Err(denied) => {
                self.log.tell(&refused(denied));
                let refusal = denied.clone().into();
                self.deny(&refusal, asked.kind, MethodLabel(pattern), decision.epoch)
            }
        }
    }

    /// Waits for a newer epoch where that may change the verdict, and decides without it when Envoy's patience is nearly over.
    async fn decide(&self, question: &Question<'_>, patience: Duration) -> Decision {
        let deciding = self.verifier.decide_patiently(question);
        match tokio::time::timeout(patience, deciding).await {
            Ok(decision) => decision,
            Err(_elapsed) => self.verifier.decide(question),
        }
    }

    fn peer(&self, asked: &Asked) -> Option<PeerIdentity> {
        match self.settings.certificates {
            Certificates::Ignored => None,
            Certificates::Envoys => {
                let now = self.verifier.trust().now().ok()?;
                certificate::read(&asked.certificate, now)
            }
        }
    }

    /// Denies a request for its form, which comes before the token.
    fn refuse_form(&self, refusal: &Refusal, kind: Kind, asked: Option<&Asked>) -> Bytes {
        let epoch = self.verifier.trust().epoch();
        let verdict = Verdict::refused(refusal.reason(), epoch);
        let told = asked.map(|asked| asked.told(None, None));
        self.tell_decided(told.as_ref(), &verdict);
        if let Refusal::Rejected(denied) = refusal {
            self.verifier.count_refused(denied.rejection);
            self.log.tell(&Refused {
                denied,
                method: None,
                remote: asked.and_then(|asked| asked.remote),
                epoch,
            });
        }
        self.deny(refusal, kind, MethodLabel(None), epoch)
    }

    fn tell_decided(&self, request: Option<&Told<'_>>, verdict: &Verdict<'_>) {
        if let Some(log) = &self.access_log {
            log.tell_decided("ext_authz", request, verdict);
        }
    }

    fn deny(&self, refusal: &Refusal, kind: Kind, label: MethodLabel, epoch: Epoch) -> Bytes {
        self.metrics.answered(label, refusal.code());
        answer::denied(refusal, kind, epoch, self.settings.disclosure)
    }
}

#[cfg(test)]
mod tests;
