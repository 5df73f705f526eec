//! One call through the proxy, from its headers to the service's.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::bearer;
use countersign_core::requirements::{MethodPath, Mode, Rule};
use countersign_runtime::trace_context;
use countersign_verifier::identity::IdentityHeaders;
use countersign_verifier::renewal::{Renewals, Stream, StreamId};
use countersign_verifier::watch::TokenWatch;
use countersign_wire::status::{Disclosure, Failure};
use http::header::{AUTHORIZATION, CONNECTION, HOST, TE};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::{Instrument as _, Span};

use super::answer::{Answer, Told};
use super::apps::{Apps, Way, Ways};
use super::body::{Counted, RequestBody, ResponseBody};
use super::headers::{self, TokenForwarding};
use super::hop;
use super::lifetime::{Lifetime, Outliving, Over};
use super::request::{self, Face, Form};
use super::respond::{Refusal, code_name};
use super::stream_tokens::PRESENT;
use crate::metrics::{ActiveCall, MethodLabel, ProxyMetrics};
use crate::observations::{Observations, Origin};
use crate::refusal_log::{RefusalLog, Refused};
use crate::server::listener::Peer;
use crate::server::{Disclosures, Protocols, Serve};
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
    /// Streams that their callers have named.
    pub(crate) renewals: Arc<Renewals>,
}

/// The proxy, as one listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct ProxyService {
    proxy: Arc<Proxy>,
    disclosures: Disclosures,
    /// How much the peer of the connection is told.
    disclosure: Disclosure,
    protocols: Protocols,
    ways: Ways,
}

impl ProxyService {
    /// What serves `proxy` on a listener whose calls go to `apps`. On one that takes HTTP/2 alone, nothing but gRPC is taken.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        disclosures: Disclosures,
        protocols: Protocols,
        apps: Arc<Apps>,
    ) -> Self {
        Self {
            proxy,
            disclosures,
            disclosure: disclosures.unknown,
            protocols,
            ways: Ways::new(apps),
        }
    }

    fn face(&self, parts: &Parts) -> Face {
        match self.protocols {
            Protocols::Http2 => Face::Grpc,
            Protocols::Any => Face::of(parts),
        }
    }
}

impl Serve for ProxyService {
    type Body = ResponseBody;

    fn protocols(&self) -> Protocols {
        self.protocols
    }

    fn connected(&self, peer: &Peer) -> Self {
        Self {
            proxy: Arc::clone(&self.proxy),
            disclosures: self.disclosures,
            disclosure: self.disclosures.to(peer),
            protocols: self.protocols,
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
        let record = proxy.metrics.record(&request, &peer);
        let (parts, body) = request.into_parts();
        let told = Told {
            face: self.face(&parts),
            disclosure: self.disclosure,
        };
        let http_method = parts.method.clone();
        let target = request::target(&parts);
        let asked = target.as_ref().map_err(Refusal::clone);
        let asked = asked.and_then(|uri| proxy.read(told.face, &parts, uri));
        let pattern = asked.as_ref().ok();
        let pattern = pattern.and_then(|asked| asked.rule.pattern.clone());
        let label = MethodLabel(pattern);
        let mut call = proxy.metrics.begin(label, record);
        let body = Counted::new(body, parts.version, call.received());
        let answering = async {
            match asked {
                Ok(asked) if told.face == Face::Grpc && asked.form.method.as_str() == PRESENT => {
                    let answer = proxy
                        .present(parts, body.incoming, asked.form.method, &peer)
                        .await?;
                    Ok(Answered::Here(answer))
                }
                Ok(asked) => {
                    let uri = target.as_ref().map_err(Refusal::clone)?;
                    let passed = proxy.judge(&parts, asked, uri, &peer, &mut call).await?;
                    let way = self.ways.lead(uri.authority(), asked.form.method);
                    let way = way.ok_or(Failure::RouteUnknown)?;
                    call.goes_to(way.upstream.name());
                    let answer = passed.forward(proxy, way, told.face, parts, body).await?;
                    Ok(Answered::ByService(answer))
                }
                Err(refusal) => Err(proxy.malformed(refusal, &peer)),
            }
        };
        match answering.instrument(span.clone()).await {
            Ok(Answered::ByService(answer)) => answer.relay(call, told, span),
            Ok(Answered::Here(answer)) => {
                call.ended_with(code_name(Code::Ok));
                call.token_taken();
                call.responded(answer.status());
                answer.map(ResponseBody::Ours)
            }
            Err(refusal) => {
                call.ended_for(refusal.reason(), refusal.code_for(told.face));
                let answer = refusal.answer(&http_method, told);
                call.responded(answer.status());
                answer
            }
        }
    }
}

/// What is asked, by a request of the right form.
#[derive(Clone, Copy)]
struct Asked<'a> {
    form: Form<'a>,
    /// What the configuration says of its method.
    rule: &'a Rule,
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

/// An answer that is no refusal.
enum Answered {
    ByService(Answer),
    /// By the one method that is served here.
    Here(Response<tonic::body::Body>),
}

impl Proxy {
    /// Reads the form that a request of this face must have.
    fn read<'a>(&'a self, face: Face, parts: &Parts, uri: &'a Uri) -> Result<Asked<'a>, Refusal> {
        if face != Face::Grpc && parts.version == Version::HTTP_11 {
            hop::check(&parts.headers)?;
        }
        let form = match face {
            Face::Grpc => request::read(parts, uri)?,
            Face::GrpcWeb | Face::Http => request::read_plain(parts, uri)?,
        };
        Ok(Asked {
            form,
            rule: self.verifier.rule(form.method),
        })
    }

    async fn judge(
        &self,
        parts: &Parts,
        Asked { form, rule }: Asked<'_>,
        uri: &Uri,
        peer: &Peer,
        call: &mut ActiveCall,
    ) -> Result<Passed, Refusal> {
        // From here on the caller's time runs.
        let timeout = form
            .timeout
            .map(|timeout| timeout.min(self.settings.longest_timeout));
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let fields = parts.headers.get_all(AUTHORIZATION);
        let now = self.verifier.trust().now().ok();
        let peer_certificate = now.and_then(|now| peer.certificate(now));
        // A bad name of a stream counts as bad credentials do: for nothing where none are asked for, and it is noted where nothing is enforced.
        let id = StreamId::read(&parts.headers);
        let token = bearer::from_authorization(fields.iter().map(HeaderValue::as_bytes));
        let question = Question {
            token: id.as_ref().map_err(|bad| *bad).and(token),
            method: Some(form.method),
            peer_certificate: peer_certificate.as_ref(),
        };
        let asked = Instant::now();
        let decision = within(deadline, self.verifier.decide_patiently(&question)).await?;
        call.decided(&decision, asked.elapsed());
        self.tell(&decision, form.method, peer);
        let admission = decision.verdict?;
        let token = match &admission {
            Admission::Open => None,
            Admission::Token(admitted) => Some(TokenWatch {
                verifier: Arc::clone(&self.verifier),
                admitted: admitted.clone(),
                uri: uri.clone(),
                renewal: id.ok().flatten().map(|id| {
                    let stream = Stream {
                        uri: uri.clone(),
                        peer_certificate: peer_certificate.clone(),
                    };
                    self.renewals.register(id, stream, admitted)
                }),
                peer_certificate,
            }),
        };
        Ok(Passed {
            admission,
            uri: uri.clone(),
            timeout: timeout.filter(|timeout| Some(*timeout) != form.timeout),
            deadline,
            over: Lifetime {
                deadline,
                outliving: (token.is_some() && rule.mode == Mode::Observe)
                    .then(|| self.outliving(uri, peer, call)),
                token,
            }
            .over(),
        })
    }

    /// Who hears of it when a call of `uri` goes on without a good token.
    fn outliving(&self, uri: &Uri, peer: &Peer, call: &mut ActiveCall) -> Outliving {
        Outliving {
            verifier: Arc::clone(&self.verifier),
            metrics: Arc::clone(&self.metrics),
            log: Arc::clone(&self.log),
            uri: uri.clone(),
            remote: peer.remote,
            noted: call.may_outlive(),
        }
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
    pub(super) fn malformed(&self, refusal: Refusal, peer: &Peer) -> Refusal {
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
        way: Way<'_>,
        face: Face,
        parts: Parts,
        body: Counted,
    ) -> Result<Answer, Refusal> {
        let goes = way.speaks.to_it(parts.version);
        let (came_as_http1, goes_as_http1) = (parts.version == Version::HTTP_11, goes == Version::HTTP_11);
        if face == Face::Grpc && goes_as_http1 {
            return Err(Failure::GrpcUnsupported.into());
        }
        let mut headers = parts.headers;
        let identity = match &self.admission {
            Admission::Open => None,
            Admission::Token(admitted) => Some(admitted.identity()),
        };
        if face != Face::Grpc {
            hop::strip(&mut headers);
        }
        match (came_as_http1, goes_as_http1) {
            (false, true) => hop::to_http1(&mut headers, self.uri.authority())?,
            (true, false) => drop(headers.remove(HOST)),
            (true, true) | (false, false) => {}
        }
        let names = &proxy.settings.identity_headers;
        headers::prepare(&mut headers, names, identity, proxy.settings.tokens);
        match face {
            Face::Grpc => headers::take_trailers(&mut headers),
            Face::GrpcWeb | Face::Http if goes_as_http1 => {
                name_hops(&mut headers);
                hop::frame(&mut headers, &parts.method, body.incoming.is_end_stream());
            }
            Face::GrpcWeb | Face::Http => {}
        }
        if let Some(clamped) = self.timeout {
            headers.insert("grpc-timeout", timeout_value(clamped));
        }
        if proxy.settings.traced {
            trace_context::inject(&mut headers);
        }
        let over = self.over;
        let mut request = Request::new(RequestBody {
            body,
            over: over.clone(),
            identity_headers: Arc::clone(names),
        });
        *request.method_mut() = parts.method;
        *request.uri_mut() = if goes_as_http1 {
            origin(self.uri)?
        } else {
            with_scheme(self.uri, way.upstream.scheme())?
        };
        *request.version_mut() = goes;
        *request.headers_mut() = headers;
        let until = (over, self.deadline);
        Answer::to(request, way.upstream, way.lane, until, &proxy.metrics).await
    }
}

/// The same target as HTTP/1.1 writes it, which names the server in a header.
fn origin(uri: Uri) -> Result<Uri, Refusal> {
    let target = uri.into_parts().path_and_query.map(Uri::from);
    target.ok_or_else(|| Failure::Internal.into())
}

/// Says in `Connection` what of the headers is for the neighbour alone.
fn name_hops(headers: &mut HeaderMap) {
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
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
