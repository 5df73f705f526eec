//! The layer over a service, from requests that are made by hand; and over a tonic server, from a client.

#![expect(clippy::expect_used, reason = "tests fail where they are wrong")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::binding::PeerCertificate;
use countersign_core::names::Scope;
use countersign_core::requirements::{Access, MethodTable, Requirements};
use countersign_core::spiffe::SpiffeId;
use countersign_tower::{GuardedBody, VerifiedToken, VerifyLayer};
use countersign_verifier::test_util::{
    REFUSE_AFTER, SetClock, TestIssuer, bound_claims, claims, claims_bound_to, empty_store, revoke_token,
    trust, verifier,
};
use countersign_verifier::trust::TrustStore;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service, ServiceExt as _};

/// What the service saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    calls: Arc<AtomicUsize>,
}

/// A body that says the same for ever, every second.
#[derive(Debug, Default)]
struct Endless(Option<Pin<Box<tokio::time::Sleep>>>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let second = || Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        let sleep = self.0.get_or_insert_with(second);
        std::task::ready!(sleep.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
    }
}

impl Service<Request<()>> for Seen {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Endless>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if request.uri().path().ends_with("/Hangs") {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Endless::default());
            if let Some(token) = request.extensions().get::<VerifiedToken>() {
                let client = token.claims().client_id.as_str().parse().expect("a header");
                response.headers_mut().insert("seen-client", client);
            }
            for (name, value) in request.headers() {
                response.headers_mut().append(name.clone(), value.clone());
            }
            Ok(response)
        })
    }
}

struct Stage {
    clock: Arc<SetClock>,
    issuer: TestIssuer,
    store: Arc<TrustStore>,
    layer: VerifyLayer,
    service: Seen,
}

impl Stage {
    fn new() -> Self {
        let clock = SetClock::new();
        let issuer = TestIssuer::new("one");
        let store = empty_store(Arc::<SetClock>::clone(&clock));
        trust(&store, issuer.state(1, []));
        let mut methods = MethodTable::new(Requirements::default());
        let scoped = Requirements {
            scopes: vec![Scope::parse("admin").expect("a scope")],
            ..Requirements::default()
        };
        let bound = Requirements {
            bound: true,
            ..Requirements::default()
        };
        for (path, access) in [
            ("/a.A/Scoped", Access::Protected(scoped)),
            ("/a.A/Bound", Access::Protected(bound)),
            ("/a.A/Open", Access::Open),
        ] {
            assert!(methods.set(path, access).expect("a method"));
        }
        let layer = VerifyLayer::new(Arc::new(verifier(&store, methods, 1 << 20)));
        Self {
            clock,
            issuer,
            store,
            layer: layer.disclose_reasons(),
            service: Seen::default(),
        }
    }

    fn token(&self) -> String {
        self.issuer.token(&claims("1.1"))
    }

    async fn call(&self, request: Request<()>) -> Response<GuardedBody<Endless>> {
        let service = self.layer.layer(self.service.clone());
        service.oneshot(request).await.expect("infallible")
    }

    async fn with_token(&self, path: &str, token: &str) -> Response<GuardedBody<Endless>> {
        self.call(
            request(path)
                .header("authorization", format!("Bearer {token}"))
                .body(())
                .expect("a request"),
        )
        .await
    }

    fn calls(&self) -> usize {
        self.service.calls.load(Ordering::Relaxed)
    }
}

fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://orders{path}"))
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().expect("text"))
}

fn status<B>(response: &Response<B>) -> (&str, &str) {
    (header(response, "grpc-status"), header(response, "grpc-message"))
}

/// G07: the service is told who called, in types and in headers, and nobody else tells it.
#[tokio::test(start_paused = true)]
async fn the_service_is_told_who_calls() {
    let stage = Stage::new();
    let request = request("/a.A/Any")
        .header("authorization", format!("Bearer {}", stage.token()))
        .header("x-countersign-subject", "client:else/where")
        .header("x-countersign-roles", "root")
        .header("other", "stays");
    let response = stage.call(request.body(()).expect("a request")).await;
    assert_eq!(header(&response, "seen-client"), "orders");
    assert_eq!(header(&response, "x-countersign-client"), "orders");
    assert_eq!(
        header(&response, "x-countersign-subject"),
        "client:test.example.com/orders"
    );
    assert_eq!(header(&response, "x-countersign-token-id"), "1.1");
    assert_eq!(header(&response, "other"), "stays");
    for gone in ["authorization", "x-countersign-roles"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let open = self::request("/a.A/Open").header("x-countersign-client", "else");
    let response = stage.call(open.body(()).expect("a request")).await;
    assert!(!response.headers().contains_key("x-countersign-client"));
}

/// I-18: whatever is not good does not reach the service, and says why.
#[tokio::test(start_paused = true)]
async fn what_is_refused_does_not_reach_the_service() {
    let stage = Stage::new();
    trust(&stage.store, stage.issuer.state(2, [revoke_token("1.2")]));
    let revoked = stage.issuer.token(&claims("1.2"));
    let stranger = TestIssuer::new("two").token(&claims("1.3"));
    let good = stage.token();
    for (path, token, code, reason) in [
        ("/a.A/Any", revoked.as_str(), "16", "token_revoked"),
        ("/a.A/Any", &stranger, "16", "key_unknown"),
        ("/a.A/Any", "garbage", "16", "token_malformed"),
        ("/a.A/Scoped", &good, "7", "scope_missing"),
        ("/a.A/Bound", &good, "16", "binding_missing"),
        ("/a.A/Any?x=1", &good, "3", "request_malformed"),
        ("/a.A/%41ny", &good, "3", "request_malformed"),
    ] {
        let response = stage.with_token(path, token).await;
        let details = header(&response, "grpc-status-details-bin").to_owned();
        assert_eq!(
            status(&response).0,
            code,
            "{path} {reason}: {:?}",
            status(&response)
        );
        assert!(!details.is_empty(), "{reason}");
        assert!(response.body().is_end_stream());
    }
    let bare = stage.call(request("/a.A/Any").body(()).expect("a request")).await;
    assert_eq!(status(&bare).0, "16");
    assert!(bare.headers().contains_key("www-authenticate"));
    let twice = request("/a.A/Any")
        .header("authorization", format!("Bearer {good}"))
        .header("authorization", format!("Bearer {good}"));
    let twice = stage.call(twice.body(()).expect("a request")).await;
    assert_ne!(status(&twice).0, "0");
    assert_eq!(stage.calls(), 0);
}

/// RFC 8705: a bound token is good with its certificate, which the service knows where to find.
#[tokio::test(start_paused = true)]
async fn a_bound_token_is_good_with_its_certificate() {
    let stage = Stage::new();
    let layer = stage
        .layer
        .clone()
        .peer_certificate(|extensions| extensions.get::<[u8; 32]>().copied());
    let token = stage.issuer.token(&bound_claims(
        "1.4",
        countersign_core::names::CertificateThumbprint::new([7; 32]),
    ));
    for (certificate, code) in [(Some([7; 32]), ""), (Some([8; 32]), "16"), (None, "16")] {
        let mut request = request("/a.A/Bound")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
        if let Some(certificate) = certificate {
            request.extensions_mut().insert::<[u8; 32]>(certificate);
        }
        let response = layer
            .layer(stage.service.clone())
            .oneshot(request)
            .await
            .expect("infallible");
        assert_eq!(status(&response).0, code, "{certificate:?}");
    }
    assert_eq!(stage.calls(), 1);
}

/// The same by the SPIFFE ID in it.
#[tokio::test(start_paused = true)]
async fn a_token_bound_to_a_spiffe_id_is_good_with_a_certificate_that_has_it() {
    let stage = Stage::new();
    let layer = stage
        .layer
        .clone()
        .peer_certificate(|extensions| extensions.get::<PeerCertificate>().cloned());
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://prod.example.com/{name}")).expect("an id");
    let token = stage.issuer.token(&claims_bound_to("1.4", id("orders")));
    let certificate = |number: u8, spiffe_id| PeerCertificate {
        spiffe_id,
        ..PeerCertificate::from([number; 32])
    };
    for (certificate, code) in [
        (certificate(1, Some(id("orders"))), ""),
        (certificate(2, Some(id("orders"))), ""),
        (certificate(1, Some(id("billing"))), "16"),
        (certificate(1, None), "16"),
    ] {
        let mut request = request("/a.A/Bound")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
        request.extensions_mut().insert(certificate.clone());
        let response = layer.layer(stage.service.clone()).oneshot(request);
        let response = response.await.expect("infallible");
        assert_eq!(status(&response).0, code, "{certificate:?}");
    }
    assert_eq!(stage.calls(), 2);
}

/// I-29, G31: an answer that goes on ends when its token is revoked, with the status that a new call gets.
#[tokio::test(start_paused = true)]
async fn a_long_answer_ends_when_its_token_is_revoked() {
    let stage = Stage::new();
    let response = stage.with_token("/a.A/Any", &stage.token()).await;
    let mut body = response.into_body();
    for _ in 0..5 {
        let frame = body.frame().await.expect("more").expect("infallible");
        assert!(frame.is_data());
    }
    trust(&stage.store, stage.issuer.state(2, [revoke_token("1.1")]));
    let frame = body.frame().await.expect("the end").expect("infallible");
    let trailers = frame.into_trailers().expect("trailers");
    assert_eq!(trailers.get("grpc-status").expect("a status"), "16");
    assert!(body.frame().await.is_none() && body.is_end_stream());
}

/// I-29: so does a call that the service has not answered yet, and one whose trust has grown too old.
#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_too() {
    let stage = Stage::new();
    let token = stage.token();
    let waiting = stage.with_token("/a.A/Hangs", &token);
    let revoking = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        trust(&stage.store, stage.issuer.state(2, [revoke_token("1.1")]));
    };
    let (response, ()) = tokio::join!(waiting, revoking);
    assert_eq!(status(&response).0, "16");

    let other = stage.issuer.token(&claims("1.5"));
    let waiting = stage.with_token("/a.A/Hangs", &other);
    let ageing = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The trust is too old before the token is.
        stage.clock.advance(REFUSE_AFTER - Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(15)).await;
        stage.clock.advance(Duration::from_secs(2));
    };
    let (response, ()) = tokio::join!(waiting, ageing);
    assert_ne!(status(&response).0, "");
}

/// Where nothing is decided, nothing passes, and it is said that this is not the caller's fault.
#[tokio::test(start_paused = true)]
async fn without_trust_nothing_passes() {
    let stage = Stage::new();
    let store = empty_store(Arc::<SetClock>::clone(&stage.clock));
    let cold = VerifyLayer::new(Arc::new(verifier(
        &store,
        MethodTable::new(Requirements::default()),
        0,
    )));
    let request = request("/a.A/Any").header("authorization", format!("Bearer {}", stage.token()));
    let service = cold.layer(stage.service.clone());
    let response = service
        .oneshot(request.body(()).expect("a request"))
        .await
        .expect("infallible");
    assert_eq!((status(&response).0, stage.calls()), ("14", 0));
}
