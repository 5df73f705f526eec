//! One call out, from its headers to the neighbour's.

use std::sync::Arc;

use countersign_runtime::trace_context;
use countersign_wire::status::{self, Disclosure, Failure};
use http::header::{AUTHORIZATION, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use super::{Leading, Outbound};
use crate::agent::{Fetched, Unavailable};
use crate::metrics::{ActiveCall, MethodLabel};
use crate::proxy::answer::{Answer, Told};
use crate::proxy::body::{Counted, RequestBody, ResponseBody};
use crate::proxy::lifetime::Lifetime;
use crate::proxy::request::{self, Face, Form};
use crate::proxy::respond::Refusal;
use crate::proxy::upstream::Lane;
use crate::server::Serve;
use crate::server::listener::Peer;

/// The way out, as its listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct OutboundService {
    outbound: Arc<Outbound>,
    lane: Lane,
}

impl OutboundService {
    /// What serves `outbound`.
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        let lane = outbound.neighbour.for_token(None).upstream.lane();
        Self { outbound, lane }
    }
}

/// Why a call is not made.
enum NotCalled {
    Refused(Refusal),
    NoToken(Unavailable),
}

impl From<Failure> for NotCalled {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure.into())
    }
}

impl From<Refusal> for NotCalled {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl NotCalled {
    /// The answer in the neighbour's place. The app may know everything.
    fn respond(&self, call: &mut ActiveCall) -> Response<ResponseBody> {
        match self {
            Self::Refused(refusal) => {
                call.ended_for(refusal.reason(), refusal.code());
                refusal.respond(TOLD.disclosure)
            }
            Self::NoToken(no) => {
                call.ended_for(no.why.reason(), "UNAVAILABLE");
                status::not_called(no.why, no.retry_after).into_http()
            }
        }
    }
}

/// The app is told everything.
const TOLD: Told = Told {
    face: Face::Grpc,
    disclosure: Disclosure::Precise,
};

impl Serve for OutboundService {
    type Body = ResponseBody;

    fn connected(&self, _peer: &Peer) -> Self {
        Self::new(Arc::clone(&self.outbound))
    }

    async fn call(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ResponseBody> {
        let outbound = &self.outbound;
        let span = if outbound.settings.traced {
            trace_context::span_of(&request)
        } else {
            Span::none()
        };
        let record = outbound.metrics.record(&request, &peer);
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let form = request::read(&parts, &uri);
        let found = form.as_ref().ok();
        let found = found.and_then(|form| outbound.route(uri.authority(), form.method));
        let mut call = outbound.metrics.begin(
            MethodLabel(found.map(|leading| Arc::clone(&leading.name))),
            record,
        );
        let body = Counted::new(body, parts.version, call.received());
        let answering = async {
            let form = form?;
            let leading = found.ok_or(Failure::RouteUnknown)?;
            call.goes_to(outbound.neighbour.name());
            outbound
                .pass_on(leading, form, &uri, self.lane, parts, body)
                .await
        };
        match answering.instrument(span.clone()).await {
            Ok(answer) => answer.relay(call, TOLD, span),
            Err(not_called) => {
                let answer = not_called.respond(&mut call);
                call.responded(answer.status());
                answer
            }
        }
    }
}

impl Outbound {
    async fn pass_on(
        &self,
        leading: &Leading,
        form: Form<'_>,
        uri: &Uri,
        lane: Lane,
        parts: Parts,
        body: Counted,
    ) -> Result<Answer, NotCalled> {
        // From here on the caller's time runs.
        let timeout = form
            .timeout
            .map(|timeout| timeout.min(self.settings.longest_timeout));
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut headers = parts.headers;
        let token = self.token(leading, &headers, deadline).await?;
        prepare(&mut headers, token.as_deref());
        if self.settings.traced {
            trace_context::inject(&mut headers);
        }
        let over = Lifetime {
            deadline,
            token: None,
            outliving: None,
        }
        .over();
        let mut request = Request::new(RequestBody {
            body,
            over: over.clone(),
            identity_headers: Arc::clone(&self.identity_headers),
        });
        *request.method_mut() = parts.method;
        *request.uri_mut() = self
            .neighbour
            .target(uri, leading.route.calls.host.is_some())
            .map_err(|_impossible| Failure::Internal)?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        let way = self.neighbour.for_token(token.as_deref().map(|held| &held.token));
        let answer = Answer::to(request, &way.upstream, lane, (over, deadline), &self.metrics);
        answer.await.map_err(NotCalled::Refused)
    }

    /// The token to add; none where the call brings its own.
    async fn token(
        &self,
        leading: &Leading,
        headers: &HeaderMap,
        deadline: Option<Instant>,
    ) -> Result<Option<Arc<Fetched>>, NotCalled> {
        if headers.contains_key(AUTHORIZATION) {
            return if self.settings.own_tokens {
                Ok(None)
            } else {
                Err(Failure::TokenPresent.into())
            };
        }
        // INVARIANT (no token, no call): what follows is reached with one.
        let asking = self.agent.pinned_token(&leading.slot);
        let answer = match deadline {
            None => asking.await,
            Some(deadline) => timeout_at(deadline, asking)
                .await
                .map_err(|_elapsed| Failure::DeadlineExceeded)?,
        };
        answer.map(Some).map_err(NotCalled::NoToken)
    }
}

/// Makes the app's headers ready for the neighbour: with the token, and without what only sidecars say of callers.
fn prepare(headers: &mut HeaderMap, token: Option<&Fetched>) {
    let is_reserved = |name: &&HeaderName| name.as_str().starts_with("x-countersign-");
    let reserved: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(held) = token {
        headers.insert(AUTHORIZATION, held.token.authorization().clone());
    }
}
