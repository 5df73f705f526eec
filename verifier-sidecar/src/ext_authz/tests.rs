mod answers;
mod certificates;
mod forms;

use std::collections::BTreeMap;

use countersign_core::names::Scope;
use countersign_core::requirements::{Access, MethodTable, Mode, Requirements};
use countersign_proto::envoy::config::core::v3::HeaderMap as RawHeaders;
use countersign_proto::envoy::config::core::v3::HeaderValue as RawHeader;
use countersign_proto::envoy::service::auth::v3::attribute_context::http_request::HeadersEntry;
use countersign_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer as Source, Request};
use countersign_proto::envoy::service::auth::v3::check_response::HttpResponse;
use countersign_proto::envoy::service::auth::v3::{
    AttributeContext, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use countersign_verifier::test_util::{
    self, SCOPE, SetClock, TestIssuer, claims, empty_store, revoke_token, trust,
};
use countersign_verifier::trust::TrustStore;
use http::HeaderName;
use prometheus_client::registry::Registry;
use prost::Message as _;
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Value};

use super::*;

/// A method that asks for a scope, in the tables of these tests.
const CALL: &str = "/test.Service/Call";

/// Envoy's questions, and those who answer them.
struct Asking {
    clock: Arc<SetClock>,
    store: Arc<TrustStore>,
    issuer: TestIssuer,
    checks: Checks,
}

const SETTINGS: CheckSettings = CheckSettings {
    disclosure: Disclosure::Precise,
    tokens: TokenForwarding::Withhold,
    certificates: Certificates::Envoys,
};

impl Asking {
    /// Trust at epoch 1, with the token `1.9` revoked.
    fn new() -> Self {
        Self::with(SETTINGS)
    }

    fn with(settings: CheckSettings) -> Self {
        let asking = Self::cold(settings);
        trust(&asking.store, asking.issuer.state(1, [revoke_token("1.9")]));
        asking
    }

    fn cold(settings: CheckSettings) -> Self {
        let clock = SetClock::new();
        let store = empty_store(Arc::<SetClock>::clone(&clock));
        let verifier = Arc::new(test_util::verifier(&store, methods(), 1 << 20));
        let checks = Checks {
            verifier,
            settings,
            identity_headers: IdentityHeaders::default(),
            metrics: CheckMetrics::register(&mut Registry::default()),
            log: Arc::default(),
            observations: Arc::default(),
            access_log: None,
        };
        Self {
            clock,
            store,
            issuer: TestIssuer::new("issuer"),
            checks,
        }
    }

    fn token(&self) -> String {
        self.issuer.token(&claims("1.1"))
    }

    async fn ask(&self, check: CheckRequest) -> Told {
        self.ask_within(check, None).await
    }

    async fn ask_within(&self, check: CheckRequest, timeout: Option<&'static str>) -> Told {
        let mut headers = HeaderMap::new();
        if let Some(timeout) = timeout {
            headers.insert("grpc-timeout", HeaderValue::from_static(timeout));
        }
        let framed = self.checks.check(Some(check), patience(&headers)).await;
        Told::of(CheckResponse::decode(&framed[5..]).expect("an answer"))
    }
}

fn methods() -> MethodTable {
    let asks_for = |scope| Requirements {
        scopes: vec![Scope::parse(scope).expect("a scope")],
        ..Requirements::default()
    };
    let mut methods = MethodTable::new(asks_for("by.default"));
    for (path, access) in [
        ("/test.Service/*", Access::Protected(asks_for(SCOPE))),
        ("/test.Admin/*", Access::Protected(asks_for("demo.admin"))),
        ("/test.Open/*", Access::Open),
        ("/orders/*", Access::Protected(asks_for(SCOPE))),
        ("/healthz", Access::Open),
    ] {
        assert_eq!(methods.set(path, access), Ok(true));
    }
    let observed = Access::Protected(asks_for("demo.admin"));
    assert_eq!(
        methods.set_in(Mode::Observe, "/test.Observed/*", observed),
        Ok(true)
    );
    methods
}

/// A question as Envoy asks it with `encode_raw_headers`: a gRPC call of `path`, with `headers` more.
fn grpc(path: &str, headers: &[(&str, &[u8])]) -> CheckRequest {
    let usual: [(&str, &[u8]); 3] = [
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
        ("user-agent", b"test"),
    ];
    question("POST", path, &[&usual, headers].concat())
}

/// The same for a request that is no gRPC.
fn http(method: &str, path: &str, headers: &[(&str, &[u8])]) -> CheckRequest {
    question(method, path, headers)
}

fn question(method: &str, path: &str, headers: &[(&str, &[u8])]) -> CheckRequest {
    let pseudo: [(&str, &[u8]); 4] = [
        (":authority", b"service:8080"),
        (":path", path.as_bytes()),
        (":method", method.as_bytes()),
        (":scheme", b"http"),
    ];
    let raw = |(name, value): &(&str, &[u8])| RawHeader {
        key: (*name).to_owned(),
        value: String::new(),
        raw_value: value.to_vec().into(),
    };
    let http = HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        host: "service:8080".to_owned(),
        headers: Vec::new(),
        header_map: Some(RawHeaders {
            headers: pseudo.iter().chain(headers).map(raw).collect(),
        }),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Source::default()),
            request: Some(Request { http: Some(http) }),
        }),
    }
}

/// `check` as Envoy asks it without `encode_raw_headers`: what is there twice is joined.
fn joined(mut check: CheckRequest) -> CheckRequest {
    let raw = change(&mut check).header_map.take().expect("headers").headers;
    let mut headers = BTreeMap::<String, String>::new();
    for header in raw {
        let value = String::from_utf8_lossy(&header.raw_value).replace('\u{fffd}', "!");
        headers
            .entry(header.key)
            .and_modify(|before| *before = format!("{before},{value}"))
            .or_insert(value);
    }
    let entry = |(key, value)| HeadersEntry { key, value };
    change(&mut check).headers = headers.into_iter().map(entry).collect();
    check
}

/// The request in a question, to be changed.
fn change(check: &mut CheckRequest) -> &mut HttpRequest {
    let request = check
        .attributes
        .as_mut()
        .and_then(|attributes| attributes.request.as_mut());
    request
        .and_then(|request| request.http.as_mut())
        .expect("a request")
}

/// An answer, taken apart.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    code: Code,
    answer: HttpResponse,
    metadata: BTreeMap<String, Value>,
}

impl Told {
    fn of(answer: CheckResponse) -> Self {
        Self {
            code: Code::from(answer.status.expect("a status").code),
            answer: answer.http_response.expect("an answer"),
            metadata: answer.dynamic_metadata.expect("metadata").fields,
        }
    }

    fn allowed(&self) -> &OkHttpResponse {
        assert_eq!(self.code, Code::Ok, "{self:?}");
        match &self.answer {
            HttpResponse::OkResponse(allowed) => allowed,
            HttpResponse::DeniedResponse(_) => panic!("{self:?}"),
        }
    }

    fn denied(&self) -> &DeniedHttpResponse {
        assert_ne!(self.code, Code::Ok, "{self:?}");
        match &self.answer {
            HttpResponse::DeniedResponse(denied) => denied,
            HttpResponse::OkResponse(_) => panic!("{self:?}"),
        }
    }

    /// HTTP status, gRPC code and reason of a denial.
    fn refusal(&self) -> (i32, Code, &str) {
        let status = self.denied().status.expect("a status").code;
        (status, self.code, self.said("reason"))
    }

    /// The headers that Envoy is to write, each over what is there.
    fn headers(&self) -> BTreeMap<&str, &str> {
        let options = match &self.answer {
            HttpResponse::OkResponse(allowed) => &allowed.headers,
            HttpResponse::DeniedResponse(denied) => &denied.headers,
        };
        let read = options.iter().map(|option| {
            assert_eq!(option.append_action().as_str_name(), "OVERWRITE_IF_EXISTS_OR_ADD");
            let header = option.header.as_ref().expect("a header");
            (header.key.as_str(), header.value.as_str())
        });
        let headers: BTreeMap<_, _> = read.collect();
        assert_eq!(headers.len(), options.len(), "{options:?}");
        headers
    }

    fn said(&self, name: &str) -> &str {
        match self.metadata.get(name).and_then(|value| value.kind.as_ref()) {
            Some(ValueKind::StringValue(text)) => text,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn number(&self, name: &str) -> f64 {
        match self.metadata[name].kind {
            Some(ValueKind::NumberValue(number)) => number,
            ref other => panic!("{name}: {other:?}"),
        }
    }
}

/// The `authorization` of `token`.
fn bearer_of(token: &str) -> Vec<u8> {
    format!("Bearer {token}").into_bytes()
}
