//! Plain HTTP: judged as calls are, forwarded as it came, and refused in its own words.

use std::time::Duration;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_core::claims::{Claims, Confirmation};
use countersign_mtls::{ClientTls, ExpectedServer};
use countersign_verifier::test_util::{self, REFUSE_AFTER, START, SetClock};
use futures_util::stream;
use http::request::Builder;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};

use crate::support::envoy;
use crate::support::plain::{
    Caller, ECHO, ENDLESS, MUTE, ONCE, PlainService, Reply, SIZED, TRAILERS, whole_reply,
};
use crate::support::{METHODS, Setup, Sidecar, claims_with, eventually, raw, within};

/// A sidecar before a service of plain HTTP.
pub(crate) async fn before_plain() -> (Sidecar, PlainService) {
    let service = PlainService::start().await;
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        more: format!("{METHODS}\n[[method]]\npath = \"/v1/admin/*\"\nscopes = [\"demo.admin\"]\n"),
        ..Setup::default()
    };
    (Sidecar::with(setup).await, service)
}

fn request(method: &str, target: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(target)
        .header("host", "orders:80")
}

fn with_token(sidecar: &Sidecar, request: Builder) -> Builder {
    request.header("authorization", format!("Bearer {}", sidecar.token()))
}

async fn send(sidecar: &Sidecar, request: Builder) -> Reply {
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    caller.send(request, Bytes::new()).await
}

/// G07, I-27, I-28: what is judged is what is forwarded, with the caller's identity and without his token.
#[tokio::test]
async fn requests_are_judged_and_forwarded() {
    let (sidecar, service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let reply = caller.send(request("GET", SIZED), Bytes::new()).await;
    assert_eq!((reply.status, reply.reason().as_str()), (401, "token_missing"));
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    assert_eq!(service.connections(), 0, "nobody is asked before the verdict");

    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let asked = with_token(&sidecar, request(method, "/v1/sized?limit=3&next=%2F"))
            .header("x-countersign-client", "root")
            .header("x-kept", "yes")
            .header("connection", "x-hop")
            .header("x-hop", "1");
        let reply = caller.send(asked, Bytes::new()).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]), "{method}");
        assert_eq!(reply.headers["x-from-service"], "yes");
        let seen = service.requests().pop().expect("seen");
        assert_eq!(seen.version, Version::HTTP_11);
        assert_eq!(
            (seen.method.as_str(), seen.uri.to_string().as_str()),
            (method, "/v1/sized?limit=3&next=%2F")
        );
        assert_eq!(seen.headers.get_all("x-countersign-client").iter().count(), 1);
        assert_eq!(seen.headers["x-countersign-client"], "orders");
        assert_eq!(
            (&seen.headers["host"], &seen.headers["x-kept"]),
            (
                &"orders:80".parse().expect("a value"),
                &"yes".parse().expect("a value")
            )
        );
        for gone in ["authorization", "x-hop", "connection", "te"] {
            assert!(!seen.headers.contains_key(gone), "{gone}");
        }
    }
    let reply = caller
        .send(with_token(&sidecar, request("HEAD", SIZED)), Bytes::new())
        .await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.headers["content-length"], "5");
    let reply = caller
        .send(with_token(&sidecar, request("GET", "/v1/nowhere")), Bytes::new())
        .await;
    assert_eq!(reply.status, 404, "the service's own word");
    let reply = caller.send(request("HEAD", SIZED), Bytes::new()).await;
    assert_eq!((reply.status, reply.body.len()), (401, 0));
    let reply = caller
        .send(with_token(&sidecar, request("GET", "/v1/admin/x")), Bytes::new())
        .await;
    assert_eq!(
        (reply.status, reply.reason().as_str()),
        (403, "scope_insufficient")
    );
    let reply = caller
        .send(request("GET", "/test.Open/healthz"), Bytes::new())
        .await;
    assert_eq!(reply.status, 404, "an open path needs no token");
    assert_eq!(service.connections(), 1, "one connection carried them all");
}

/// Bodies pass as they come, of a length or not, with their trailers.
#[tokio::test]
async fn bodies_pass_both_ways() {
    let (sidecar, service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let large = Bytes::from((0..3_000_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    let reply = caller
        .send(with_token(&sidecar, request("POST", ECHO)), large.clone())
        .await;
    assert_eq!(reply.status, 200);
    assert!(
        reply.body == large,
        "{} of {} bytes",
        reply.body.len(),
        large.len()
    );
    assert_eq!(
        service.requests().pop().expect("seen").headers["content-length"],
        "12000000"
    );

    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("checksum", "17"),
        ("authorization", "Bearer x"),
        ("x-countersign-client", "root"),
    ] {
        trailers.insert(name, HeaderValue::from_static(value));
    }
    let frames = [
        Frame::data(Bytes::from_static(b"one ")),
        Frame::data(Bytes::from_static(b"two")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync();
    let asked = with_token(&sidecar, request("POST", ECHO))
        .header("trailer", "checksum, authorization, x-countersign-client")
        .header("te", "trailers")
        .header("connection", "te");
    let answer = caller.begin_with(asked, body).await.expect("an answer");
    assert_eq!(whole_reply(answer).await.body, "one two");
    let sent = service.bytes();
    // G29: a checksum passes, credentials do not.
    assert!(sent.ends_with("0\r\nchecksum: 17\r\n\r\n"));
    assert_eq!(service.requests().pop().expect("seen").headers["te"], "trailers");

    let asked = with_token(&sidecar, request("GET", TRAILERS)).header("te", "trailers");
    let reply = caller.send(asked.header("connection", "te"), Bytes::new()).await;
    assert_eq!(reply.trailers.expect("trailers")["checksum"], "17");
}

/// A connection to the service that is gone is replaced; what was kept and is closed costs no request.
#[tokio::test]
async fn a_connection_that_the_service_closed_is_not_used() {
    let (sidecar, service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    for round in 1..=3 {
        let reply = caller
            .send(with_token(&sidecar, request("GET", ONCE)), Bytes::new())
            .await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]));
        assert!(
            !reply.headers.contains_key("x-hop") && !reply.headers.contains_key("connection"),
            "{reply:?}"
        );
        assert_eq!(service.connections(), round);
    }
    assert!(!caller.is_closed(), "ours stays");
}

/// Each refusal has its status and its reason; and with the same class the same bytes for whoever may not know more.
#[tokio::test]
async fn refusals_are_in_the_words_of_http() {
    let (sidecar, service) = before_plain().await;
    let bearer = |change: fn(&mut Claims)| format!("Bearer {}", sidecar.issuer.token(&claims_with(change)));
    let expired = bearer(|claims| {
        claims.issued_at = Timestamp::from_seconds(START - 60);
        claims.not_before = None;
        claims.expires_at = Timestamp::from_seconds(START);
    });
    let elsewhere = bearer(|claims| claims.audiences = vec!["elsewhere".to_owned()]);
    let mut coarse = Vec::new();
    for (token, reason) in [
        (expired, "token_expired"),
        (elsewhere, "aud_mismatch"),
        ("Bearer x".to_owned(), "token_malformed"),
    ] {
        let asked = || request("GET", SIZED).header("authorization", &token);
        let reply = send(&sidecar, asked()).await;
        assert_eq!((reply.status, reply.reason().as_str()), (401, reason));
        assert_eq!(
            reply.headers["www-authenticate"],
            r#"Bearer error="invalid_token""#
        );
        let mut caller = Caller::connect(sidecar.coarse()).await;
        let reply = caller.send(asked(), Bytes::new()).await;
        assert_eq!((reply.status, reply.reason().as_str()), (401, "invalid_token"));
        coarse.push((reply.headers, reply.body));
    }
    assert!(coarse.windows(2).all(|pair| pair[0] == pair[1]), "{coarse:?}");

    let asked = with_token(&sidecar, request("GET", MUTE)).header("grpc-timeout", "50m");
    let reply = send(&sidecar, asked).await;
    assert_eq!(
        (reply.status, reply.reason().as_str()),
        (504, "deadline_exceeded")
    );
    assert_eq!(service.requests().len(), 1);

    let long = format!("Bearer {}", "x".repeat(9000));
    let reply = send(&sidecar, request("GET", SIZED).header("authorization", long)).await;
    assert_eq!((reply.status, reply.reason().as_str()), (431, "token_too_large"));
    sidecar.clock.advance(REFUSE_AFTER + Duration::from_secs(60));
    let reply = send(&sidecar, with_token(&sidecar, request("GET", SIZED))).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.headers["retry-after"], "2");
}

#[tokio::test]
async fn a_service_that_is_away_is_a_bad_gateway() {
    let sidecar = Sidecar::with(Setup {
        upstream: Some("http://127.0.0.1:9".to_owned()),
        ..Setup::default()
    })
    .await;
    let reply = send(&sidecar, with_token(&sidecar, request("GET", SIZED))).await;
    assert_eq!(
        (reply.status, reply.reason().as_str()),
        (502, "upstream_unavailable")
    );
}

/// G31, G32: an answer that goes on ends with its token, and does not look whole; and one that nobody reads any more ends too.
#[tokio::test]
async fn long_answers_end_with_their_token_or_their_reader() {
    let (sidecar, service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let asked = || with_token(&sidecar, request("GET", ENDLESS));
    let answer = caller.begin(asked(), Bytes::new()).await.expect("an answer");
    let mut body = answer.into_body();
    assert!(
        within("a frame", body.frame())
            .await
            .is_some_and(|frame| frame.is_ok())
    );
    drop((body, caller));
    eventually("the end at the service", async || service.endless() == 0).await;

    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let answer = caller.begin(asked(), Bytes::new()).await.expect("an answer");
    test_util::trust(
        &sidecar.trust,
        sidecar.issuer.state(2, [test_util::revoke_token("1.1")]),
    );
    let ended = within("the end", answer.into_body().collect()).await;
    ended.expect_err("it is broken off, and looks so");
    eventually("the end at the service", async || service.endless() == 0).await;
}

/// What is neither gRPC nor HTTP/1.1 goes on as HTTP/2.
#[tokio::test]
async fn plain_http2_stays_http2() {
    let (sidecar, service) = before_plain().await;
    let address = sidecar.plaintext();
    let ask = |path: &str| {
        Request::builder()
            .method("PUT")
            .uri(format!("http://{address}{path}"))
    };
    let asked = ask(ECHO).header("authorization", format!("Bearer {}", sidecar.token()));
    let answer = raw::send(address, asked, Bytes::from_static(b"body"))
        .await
        .expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"body"[..]));
    let seen = service.requests().pop().expect("seen");
    assert_eq!((seen.version, seen.method.as_str()), (Version::HTTP_2, "PUT"));
    let answer = raw::send(address, ask(ECHO), Bytes::new())
        .await
        .expect("an answer");
    let reply = Reply {
        status: answer.status.as_u16(),
        headers: answer.headers,
        body: answer.body,
        trailers: answer.trailers,
    };
    assert_eq!((reply.status, reply.reason().as_str()), (401, "token_missing"));
}

/// S18, T50: over TLS, with the certificate that the token is bound to.
#[tokio::test]
async fn http1_is_served_over_tls() {
    let (sidecar, service) = before_plain().await;
    let clock = std::sync::Arc::<SetClock>::clone(&sidecar.clock);
    let tls = ClientTls::load(&sidecar.pki.files("orders"), ExpectedServer::default(), clock).expect("TLS");
    let uri = format!("https://localhost:{}", sidecar.tls().port());
    let stream = tls
        .connect_http1(&uri, Duration::from_secs(10))
        .await
        .expect("connected");
    let mut caller = Caller::over(stream).await;
    let thumbprint = sidecar.pki.thumbprint("orders");
    let bound = sidecar.issuer.token(&claims_with(|claims| {
        claims.confirmation = Confirmation::Certificate(thumbprint)
    }));
    let asked = |path: &str| request("GET", path).header("authorization", format!("Bearer {bound}"));
    let reply = caller.send(asked("/test.Bound/x"), Bytes::new()).await;
    assert_eq!(reply.status, 404, "{reply:?}");
    assert_eq!(service.requests().len(), 1);
    let reply = send(&sidecar, asked("/test.Bound/x")).await;
    assert_eq!((reply.status, reply.reason().as_str()), (401, "cnf_mismatch"));
}

/// H10: whatever callers and services say, there are few labels.
#[tokio::test]
async fn requests_are_counted_by_class() {
    let (sidecar, _service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    for path in [SIZED, SIZED, ECHO, "/v1/nowhere"] {
        caller
            .send(with_token(&sidecar, request("GET", path)), Bytes::new())
            .await;
    }
    caller.send(request("GET", "/v1/admin/x"), Bytes::new()).await;
    let asked = with_token(&sidecar, request("GET", ENDLESS));
    let answer = caller.begin(asked, Bytes::new()).await.expect("an answer");
    drop((answer, caller));
    eventually("the counts", async || {
        let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
        let counted = |method: &str, code: &str| {
            let of_method = format!("countersign_requests_total{{method=\"{method}\"");
            let of_code = format!("code=\"{code}\"");
            let lines = metrics
                .lines()
                .filter(|line| line.starts_with(&of_method) && line.contains(&of_code));
            let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            counts.sum::<u64>()
        };
        counted("_OTHER", "HTTP_2XX") == 3
            && counted("_OTHER", "HTTP_4XX") == 1
            && counted("/v1/admin/*", "HTTP_4XX") == 1
            && counted("_OTHER", "CANCELLED") == 1
    })
    .await;
}

/// F71: what is under way is answered, and the connection then ends.
#[tokio::test]
async fn a_sidecar_that_stops_answers_first() {
    let (sidecar, _service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let asked = with_token(&sidecar, request("POST", ECHO));
    let (sending, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body)).boxed_unsync();
    let answer = caller.begin_with(asked, body).await.expect("an answer");
    sidecar.shutdown.request();
    sending
        .send(Ok(Frame::data(Bytes::from_static(b"late"))))
        .await
        .expect("taken");
    drop(sending);
    assert_eq!(whole_reply(answer).await.body, "late");
    within("the end", sidecar.running).await.expect("no panic");
    assert!(caller.is_closed());
}

/// I-18, G01 to G05, G08, G12: the same question has the same answer, of the proxy and for Envoy, byte for byte.
#[tokio::test]
async fn envoy_is_answered_the_same() {
    let (sidecar, service) = before_plain().await;
    let token = format!("Bearer {}", sidecar.token());
    let hostile_paths = [
        "//v1/sized",
        "/./v1/sized",
        "/x/../v1/sized",
        "/v1/sized/",
        "/v1//sized",
        "/v1%2Fsized",
        "/v1/%2e%2e/sized",
        "/v1/sized;v=1",
        "/v1\\sized",
    ];
    let paths = hostile_paths
        .iter()
        .map(|path| request("GET", path).header("authorization", &token));
    let good = || request("GET", SIZED).header("authorization", &token);
    let others = [
        request("GET", SIZED),
        request("GET", "/v1/admin/x").header("authorization", &token),
        request("TRACE", SIZED).header("authorization", &token),
        request("get", SIZED).header("authorization", &token),
        good().header("authorization", &token),
        good().header("grpc-timeout", "1"),
        request("GET", SIZED).header(
            "authorization",
            HeaderValue::from_bytes(b"Bearer \xff").expect("a value"),
        ),
        request("GET", SIZED).header("authorization", format!("{token}, {token}")),
    ];
    for asked in paths.chain(others) {
        let (parts, ()) = asked.body(()).expect("a request").into_parts();
        let again = || {
            let mut request = Request::builder()
                .method(parts.method.clone())
                .uri(parts.uri.clone());
            request
                .headers_mut()
                .expect("headers")
                .extend(parts.headers.clone());
            request
        };
        let reply = send(&sidecar, again()).await;
        let for_envoy = again().uri(format!("http://orders:80{}", parts.uri));
        let denied = envoy::denial(&sidecar, for_envoy).await.expect("denied");
        assert_eq!(
            denied.status.as_ref().expect("a status").code,
            i32::from(reply.status),
            "{parts:?}"
        );
        assert_eq!(denied.body, reply.body, "{parts:?}");
        for (name, value) in &envoy::headers(&denied) {
            assert_eq!(reply.headers.get(name), Some(value), "{parts:?}");
        }
    }
    assert!(service.requests().is_empty());
    let reply = send(&sidecar, good()).await;
    assert_eq!(reply.status, 200);
    let for_envoy = good().uri(format!("http://orders:80{SIZED}"));
    assert!(envoy::denial(&sidecar, for_envoy).await.is_none());
}

/// A caller that sends more than one body can be kept waiting by a service that reads none of it.
#[tokio::test]
async fn a_request_that_is_refused_is_not_read() {
    let (sidecar, service) = before_plain().await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let endless = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 16_384]))));
    let answer = caller
        .begin_with(request("POST", ECHO), StreamBody::new(endless).boxed_unsync())
        .await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 401));
    assert_eq!(service.connections(), 0);
    let small = Full::new(Bytes::from_static(b"x")).boxed_unsync();
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let answer = caller
        .begin_with(request("POST", ECHO), small)
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 401);
}
