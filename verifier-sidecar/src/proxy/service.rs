//! One call through the proxy, from its headers to the service's.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::bearer;
use countersign_core::requirements::MethodPath;
use countersign_runtime::trace_context;
use countersign_verifier::identity::IdentityHeaders;
use countersign_verifier::watch::TokenWatch;
use countersign_wire::status::{Disclosure, Failure};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use super::apps::{Apps, Ways};
use super::body::{Relayed, RequestBody, ResponseBody};
use super::headers::{self, TokenForwarding};
use super::lifetime::{Lifetime, Over};
use super::request::{self, Form};
use super::respond::{Refusal, code_in};
use super::upstream::{InFlight, Lane, Upstream};
use crate::metrics::{ActiveCall, MethodLabel, ProxyMetrics};
use crate::observations::{Observations, Origin};
use crate::refusal_log::{RefusalLog, Refused};
use crate::server::listener::Peer;
use crate::server::{Disclosures, Serve};
use countersign_verifier::verifier::{Admission, Decision, Question, Verifier};

/// What the operator chose.
#[derive(Clone, Debug)]
pub(crate) struct ProxySettings {
    /// The longest deadline that a caller can set.
    pub(crate) longest_timeout: Duration,
    /// Whether the service sees tokens.
    pub(crate) tokens: TokenForwarding,
    /// Under which names it is told of its callers.
    pub(crate) identity_headers: Arc<IdentityHeaders>,
    /// Whether calls have spans.
    pub(crate) traced: bool,
}

/// The proxy before one service, or several of one audience.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) settings: ProxySettings,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) log: Arc<RefusalLog>,
    pub(crate) observations: Arc<Observations>,
}

/// The proxy, as one listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct ProxyService {
    proxy: Arc<Proxy>,
    disclosures: Disclosures,
    /// How much the peer of the connection is told.
    disclosure: Disclosure,
    ways: Ways,
}

impl ProxyService {
    /// What serves `proxy` on a listener whose calls go to `apps`.
    pub(crate) fn new(proxy: Arc<Proxy>, disclosures: Disclosures, apps: Arc<Apps>) -> Self {
        Self {
            proxy,
            disclosures,
            disclosure: disclosures.unknown,
            ways: Ways::new(apps),
        }
    }
}

impl Serve for ProxyService {
    type Body = ResponseBody;

    fn connected(&self, peer: &Peer) -> Self {
        Self {
            proxy: Arc::clone(&self.proxy),
            disclosures: self.disclosures,
            disclosure: self.disclosures.to(peer),
            ways: self.ways.of_another(),
        }
    }

    async fn call(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ResponseBody> {
        let proxy = &self.proxy;
        let span = if proxy.settings.traced {
            trace_context::span_of(&request)
        } else {
            Span::none()
        };
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let form = request::read(&parts, &uri);
        let rule = form.as_ref().ok().map(|form| proxy.verifier.rule(form.method));
        let label = MethodLabel(rule.and_then(|rule| rule.pattern.clone()));
        let mut call = proxy.metrics.begin(label);
        let answering = async {
            match form {
                Ok(form) => {
                    let passed = proxy.judge(&parts, form, &uri, &peer).await?;
                    let way = self.ways.lead(uri.authority(), form.method);
                    let way = way.ok_or(Failure::RouteUnknown)?;
                    passed.forward(proxy, way, parts, body).await
                }
                Err(refusal) => Err(proxy.malformed(refusal, &peer)),
            }
        };
        match answering.instrument(span.clone()).await {
            Ok(answer) => answer.relay(call, self.disclosure, span),
            Err(refusal) => {
                call.ended_with(refusal.code());
                refusal.respond(self.disclosure)
            }
        }
    }
}

/// A call that was let in.
struct Passed {
    admission: Admission,
    uri: Uri,
    /// What the service is told of the deadline, where that is not what the caller said.
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    over: Over,
}

/// The service's answer.
struct Answer {
    response: Response<Incoming>,
    over: Over,
    in_flight: InFlight,
}

impl Proxy {
    async fn judge(&self, parts: &Parts, form: Form<'_>, uri: &Uri, peer: &Peer) -> Result<Passed, Refusal> {
        // From here on the caller's time runs.
        let timeout = form
            .timeout
            .map(|timeout| timeout.min(self.settings.longest_timeout));
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let fields = parts.headers.get_all(AUTHORIZATION);
        let now = self.verifier.trust().now().ok();
        let peer_certificate = now.and_then(|now| peer.certificate(now));
        let question = Question {
            token: bearer::from_authorization(fields.iter().map(HeaderValue::as_bytes)),
            method: Some(form.method),
            peer_certificate,
        };
        let asked = Instant::now();
        let decision = within(deadline, self.verifier.decide_patiently(&question)).await?;
        self.metrics.decided_in(asked.elapsed());
        self.tell(&decision, form.method, peer);
        let admission = decision.verdict?;
        let token = match &admission {
            Admission::Open => None,
            Admission::Token(admitted) => Some(TokenWatch {
                verifier: Arc::clone(&self.verifier),
                admitted: admitted.clone(),
                uri: uri.clone(),
                peer_certificate,
                renewal: None,
            }),
        };
        Ok(Passed {
            admission,
            uri: uri.clone(),
            timeout: timeout.filter(|timeout| Some(*timeout) != form.timeout),
            deadline,
            over: Lifetime { deadline, token }.over(),
        })
    }

    fn tell(&self, decision: &Decision, method: MethodPath<'_>, peer: &Peer) {
        let observed = decision.observed.as_ref();
        let denied = decision.verdict.as_ref().err();
        let Some(denied) = denied.or(observed.map(|observed| &observed.denied)) else {
            return;
        };
        let refused = Refused {
            denied,
            method: Some(method),
            remote: peer.remote,
            epoch: decision.epoch,
        };
        let Some(observed) = observed else {
            return self.log.tell(&refused);
        };
        self.log.tell_observed(&refused);
        let origin = Origin {
            peer: peer
                .identity
                .as_ref()
                .and_then(|identity| identity.spiffe_id.as_ref()),
            remote: peer.remote,
        };
        let now = self.verifier.trust().clock().now();
        let pattern = self.verifier.rule(method).pattern.clone();
        self.observations.note(pattern, observed, origin, now);
    }

    /// Counts and tells of a request without the form of a call.
    fn malformed(&self, refusal: Refusal, peer: &Peer) -> Refusal {
        if let Refusal::Rejected(denied) = &refusal {
            self.verifier.count_refused(denied.rejection);
            let refused = Refused {
                denied,
                method: None::<MethodPath<'_>>,
                remote: peer.remote,
                epoch: self.verifier.trust().epoch(),
            };
            self.log.tell(&refused);
        }
        refusal
    }
}

/// What `deciding` gives, unless the caller's time is over first: a decision may wait for a newer epoch.
async fn within<T>(deadline: Option<Instant>, deciding: impl Future<Output = T>) -> Result<T, Refusal> {
    match deadline {
        None => Ok(deciding.await),
        Some(deadline) => timeout_at(deadline, deciding)
            .await
            .map_err(|_elapsed| Failure::DeadlineExceeded.into()),
    }
}

/// The same target, with another `scheme`.
fn with_scheme(uri: Uri, scheme: Scheme) -> Result<Uri, Refusal> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(scheme);
    Uri::from_parts(parts).map_err(|_impossible| Failure::Internal.into())
}

impl Passed {
    async fn forward(
        self,
        proxy: &Proxy,
        (app, lane): (&Upstream, Lane),
        parts: Parts,
        incoming: Incoming,
    ) -> Result<Answer, Refusal> {
        let mut headers = parts.headers;
        let identity = match &self.admission {
            Admission::Open => None,
            Admission::Token(admitted) => Some(admitted.identity()),
        };
        let names = &proxy.settings.identity_headers;
        headers::prepare(&mut headers, names, identity, proxy.settings.tokens);
        if let Some(clamped) = self.timeout {
            headers.insert("grpc-timeout", timeout_value(clamped));
        }
        if proxy.settings.traced {
            trace_context::inject(&mut headers);
        }
        let over = self.over;
        let body = RequestBody {
            incoming,
            over: over.clone(),
            identity_headers: Arc::clone(names),
        };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = with_scheme(self.uri, app.scheme())?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        tokio::select! {
            biased;
            refusal = over.clone() => Err(refusal),
            answer = app.call(lane, request) => match answer {
                // A service that keeps the deadline itself may wake before this does, and has other words for it.
                Ok(_late) if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    Err(Failure::DeadlineExceeded.into())
                }
                Ok((response, in_flight)) => Ok(Answer { response, over, in_flight }),
                Err(error) => {
                    proxy.metrics.upstream_failed();
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(error, "the service did not answer");
                    Err(Failure::UpstreamUnavailable.into())
                }
            },
        }
    }
}

/// `timeout` as a header, in which a number has at most eight digits.
fn timeout_value(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let millis = timeout.as_millis();
    let text = if millis <= MOST {
        format!("{millis}m")
    } else {
        format!("{}S", (millis / 1000).min(MOST))
    };
    // Digits and a letter are a header's value.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0m"))
}

impl Answer {
    fn relay(self, mut call: ActiveCall, disclosure: Disclosure, span: Span) -> Response<ResponseBody> {
        let (parts, incoming) = self.response.into_parts();
        match code_in(&parts.headers) {
            Some(code) => call.ended_with(code),
            // Nobody asks a body that has ended for its end.
            None if incoming.is_end_stream() => call.ended_without_status(),
            None => {}
        }
        let relayed = Relayed {
            incoming,
            over: self.over,
            disclosure,
            call,
            _in_flight: self.in_flight,
            _span: span,
        };
        Response::from_parts(parts, ResponseBody::Relayed(Box::new(relayed)))
    }
}
