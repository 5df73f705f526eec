//! G01 to G12: requests of the wrong form are refused before anything else, and nothing of them reaches the service.

use bytes::Bytes;
use countersign_proto::demo::v1::EchoRequest;
use http::Uri;
use http::request::Builder;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::support::raw::{self, Answer, Outcome, call, envelope, send, send_fields};
use crate::support::{ECHO, METHODS, Setup, Sidecar, envoy};

const UNIMPLEMENTED: i32 = 12;
const INVALID_ARGUMENT: i32 = 3;
const UNAUTHENTICATED: i32 = 16;

fn message() -> Bytes {
    envelope(&EchoRequest {
        message: "hello".to_owned(),
    })
}

/// Sends a good call with a good token, changed by `change`, and checks that the service did not see it, and that Envoy is answered
/// the same about it (I-18).
async fn refused(sidecar: &Sidecar, change: impl Fn(Builder) -> Builder) -> Answer {
    let before = sidecar.service.seen().len();
    let token = format!("Bearer {}", sidecar.token());
    let request = || change(call(sidecar.plaintext()).header("authorization", &token));
    let answer = send(sidecar.plaintext(), request(), message())
        .await
        .expect("an answer");
    let denied = envoy::denial(sidecar, request()).await.expect("denied");
    let headers = envoy::said(&envoy::headers(&denied));
    for (name, value) in envoy::said(&answer.headers) {
        assert_eq!(headers.get(&name), Some(&value), "ext_authz: {name}");
    }
    assert_eq!(sidecar.service.seen().len(), before, "{answer:?}");
    assert!(answer.body.is_empty(), "{answer:?}");
    answer
}

fn target(authority: &str, path: &str) -> Uri {
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority.parse::<Authority>().expect(authority))
        .path_and_query(path.parse::<PathAndQuery>().expect(path))
        .build()
        .expect("a target")
}

#[tokio::test]
async fn a_call_as_it_should_be_passes() {
    let sidecar = Sidecar::start().await;
    let request = call(sidecar.plaintext()).header("authorization", format!("Bearer {}", sidecar.token()));
    let answer = send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.grpc_status()),
        (200, Some(0)),
        "{answer:?}"
    );
    assert_eq!(sidecar.service.seen().len(), 1);
}

/// G01, G02: the path is one method, byte for byte.
#[tokio::test]
async fn paths_that_could_mean_another_method_are_refused() {
    let sidecar = Sidecar::start().await;
    for path in [
        "//countersign.demo.v1.DemoService/Echo",
        "/./countersign.demo.v1.DemoService/Echo",
        "/x/../countersign.demo.v1.DemoService/Echo",
        "/countersign.demo.v1.DemoService/Echo/",
        "/countersign.demo.v1.DemoService//Echo",
        "/countersign.demo.v1.DemoService%2FEcho",
        "/countersign%2edemo.v1.DemoService/Echo",
        "/countersign.demo.v1.DemoService/Echo;v=1",
        "/countersign.demo.v1.DemoService/Echo?a=b",
        "/countersign.demo.v1.DemoService/Echo?",
        "/countersign.demo.v1.DemoService\\Echo",
        "/",
    ] {
        let answer = refused(&sidecar, |request| request.uri(target("service", path))).await;
        assert_eq!(answer.grpc_status(), Some(INVALID_ARGUMENT), "{path}: {answer:?}");
        assert_eq!(answer.reason(), "request_malformed", "{path}");
        assert_eq!(answer.status.as_u16(), 200, "{path}");
    }
}

/// G01, G02, G05, G11: what the HTTP/2 layer itself refuses, and the one thing that it hides from us.
#[tokio::test]
async fn what_cannot_be_a_request_is_reset() {
    let sidecar = Sidecar::start().await;
    for changed in [
        (":path", "countersign.demo.v1.DemoService/Echo"),
        (":path", ""),
        (":path", "http://localhost/countersign.demo.v1.DemoService/Echo"),
        (":path", "/countersign.demo.v1.DemoService/Echo x"),
        ("te", "gzip"),
        ("connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("Upper", "case"),
    ] {
        let outcome = send_changed(&sidecar, changed).await;
        assert_ne!(outcome, Outcome::Answered, "{changed:?}");
        assert_eq!(sidecar.service.seen().len(), 0, "{changed:?}");
    }
    // h2 cuts a fragment off before we see the path. What is judged is what is forwarded, so nothing is hidden behind it.
    assert_eq!(
        send_changed(&sidecar, (":path", "/countersign.demo.v1.DemoService/Echo#f")).await,
        Outcome::Answered
    );
    assert!(sidecar.service.seen().iter().all(|seen| seen.path == ECHO));
}

async fn send_changed(sidecar: &Sidecar, changed: (&str, &str)) -> Outcome {
    let token = format!("Bearer {}", sidecar.token());
    let mut fields: Vec<(&str, &str)> = raw::GOOD.to_vec();
    fields.push(("authorization", &token));
    match fields.iter_mut().find(|(name, _)| *name == changed.0) {
        Some(field) => *field = changed,
        None => fields.push(changed),
    }
    send_fields(sidecar.plaintext(), &fields).await
}

/// G03: only POST of a method is a call.
#[tokio::test]
async fn other_http_methods_are_unimplemented() {
    let sidecar = Sidecar::start().await;
    for method in ["GET", "PUT", "OPTIONS", "TRACE", "HEAD", "post", "PRI"] {
        let answer = refused(&sidecar, |request| request.method(method)).await;
        assert_eq!(answer.grpc_status(), Some(UNIMPLEMENTED), "{method}: {answer:?}");
        assert_eq!(answer.status.as_u16(), 405, "{method}");
    }
    // CONNECT names a server and no path.
    let connect = [(":method", "CONNECT"), (":authority", "localhost")];
    send_fields(sidecar.plaintext(), &connect).await;
    assert!(sidecar.service.seen().is_empty());
    for changed in [(":path", "*"), (":method", "post")] {
        assert_eq!(
            send_changed(&sidecar, changed).await,
            Outcome::Answered,
            "{changed:?}"
        );
        assert!(sidecar.service.seen().is_empty(), "{changed:?}");
    }
}

/// G04: nobody learns which methods there are without a token; with one, the service says.
#[tokio::test]
async fn unknown_methods_need_a_token_first() {
    let sidecar = Sidecar::start().await;
    let unknown = |request: Builder| request.uri(target("service", "/no.Such/Method"));
    let request = unknown(call(sidecar.plaintext()));
    let answer = send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    assert_eq!(answer.grpc_status(), Some(UNAUTHENTICATED));
    assert_eq!(answer.reason(), "token_missing");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    assert!(sidecar.service.seen().is_empty());
    let request =
        unknown(call(sidecar.plaintext())).header("authorization", format!("Bearer {}", sidecar.token()));
    let answer = send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    assert_eq!(answer.grpc_status(), Some(UNIMPLEMENTED));
    assert_eq!(sidecar.service.seen().len(), 1);
}

/// G05: the server has one name, of one meaning.
#[tokio::test]
async fn ambiguous_authorities_are_refused() {
    let sidecar = Sidecar::start().await;
    for authority in ["user@service", "user:secret@service", "service:", "service:99999"] {
        let answer = refused(&sidecar, |request| request.uri(target(authority, ECHO))).await;
        assert_eq!(
            answer.grpc_status(),
            Some(INVALID_ARGUMENT),
            "{authority}: {answer:?}"
        );
        assert_eq!(answer.reason(), "request_malformed", "{authority}");
    }
    for host in ["evil", "SERVICE", "service:80"] {
        let answer = refused(&sidecar, |request| {
            request.uri(target("service", ECHO)).header("host", host)
        })
        .await;
        assert_eq!(answer.reason(), "request_malformed", "{host}");
    }
    for authority in ["", "[fe80::1%eth0]", "a b"] {
        send_changed(&sidecar, (":authority", authority)).await;
        assert!(sidecar.service.seen().is_empty(), "{authority}");
    }
    let without: Vec<_> = raw::GOOD
        .iter()
        .copied()
        .filter(|(name, _)| *name != ":authority")
        .collect();
    send_fields(sidecar.plaintext(), &without).await;
    assert!(sidecar.service.seen().is_empty());
}

/// G08: bytes outside ASCII in `authorization`.
#[tokio::test]
async fn a_token_outside_ascii_is_malformed() {
    let sidecar = Sidecar::start().await;
    for bytes in [&b"Bearer \xff"[..], b"Bearer a\x80b", b"\xff"] {
        let value = http::HeaderValue::from_bytes(bytes).expect("a value");
        let request = call(sidecar.plaintext()).header("authorization", value);
        let answer = send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        assert_eq!(
            (answer.grpc_status(), answer.reason().as_str()),
            (Some(UNAUTHENTICATED), "token_malformed")
        );
    }
    assert!(sidecar.service.seen().is_empty());
}

/// G09, T06, T07: repeated headers that matter are judged value by value.
#[tokio::test]
async fn repeated_headers_that_matter_are_refused() {
    let sidecar = Sidecar::start().await;
    let token = format!("Bearer {}", sidecar.token());
    let answer = refused(&sidecar, |request| request.header("authorization", &token)).await;
    assert_eq!(
        (answer.grpc_status(), answer.reason().as_str()),
        (Some(UNAUTHENTICATED), "token_malformed")
    );
    let answer = refused(&sidecar, |request| request.header("content-type", "text/plain")).await;
    assert_eq!(answer.status.as_u16(), 415);
    let answer = refused(&sidecar, |request| {
        request.header("grpc-timeout", "1S").header("grpc-timeout", "1S")
    })
    .await;
    assert_eq!(answer.reason(), "request_malformed");
    let answer = send(
        sidecar.plaintext(),
        call(sidecar.plaintext()).header("authorization", format!("{token}, {token}")),
        message(),
    );
    assert_eq!(answer.await.expect("an answer").reason(), "token_malformed");
    assert!(sidecar.service.seen().is_empty());
}

/// G10: only gRPC with protobuf, where nothing else is taken.
#[tokio::test]
async fn other_content_types_are_unsupported() {
    let sidecar = Sidecar::with(Setup {
        grpc_only: true,
        ..Setup::default()
    })
    .await;
    let token = format!("Bearer {}", sidecar.token());
    let with_type = |content_type: Option<&'static str>| {
        let request = http::Request::post(target("service", ECHO)).header("authorization", &token);
        match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        }
    };
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/grpc-web"),
        Some("application/grpc+json"),
        Some("application/json"),
    ] {
        let answer = send(sidecar.plaintext(), with_type(content_type), message())
            .await
            .expect("an answer");
        assert_eq!(
            (answer.status.as_u16(), answer.grpc_status()),
            (415, Some(UNIMPLEMENTED)),
            "{content_type:?}"
        );
    }
    assert!(sidecar.service.seen().is_empty());
    // G11: `te` absent, as here, is accepted; and the service gets it.
    let answer = send(
        sidecar.plaintext(),
        with_type(Some("application/grpc+proto")),
        message(),
    )
    .await
    .expect("an answer");
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    assert_eq!(sidecar.service.seen()[0].headers["te"], "trailers");
}

/// G12: deadlines that are none, and one that is too long to mean anything.
#[tokio::test]
async fn deadlines_follow_the_grammar_and_are_clamped() {
    let sidecar = Sidecar::start().await;
    for timeout in ["1", "-5S", "abc", "999999999H", "", "1.5S", "1 S"] {
        let answer = refused(&sidecar, |request| request.header("grpc-timeout", timeout)).await;
        assert_eq!(answer.grpc_status(), Some(INVALID_ARGUMENT), "{timeout:?}");
        assert_eq!(answer.reason(), "request_malformed", "{timeout:?}");
    }
    for (timeout, forwarded) in [
        ("99999999H", "86400000m"),
        ("30S", "30S"),
        ("00030000m", "00030000m"),
    ] {
        let request = call(sidecar.plaintext())
            .header("authorization", format!("Bearer {}", sidecar.token()))
            .header("grpc-timeout", timeout);
        let answer = send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        assert_eq!(answer.grpc_status(), Some(0), "{timeout}");
        assert_eq!(
            sidecar.service.seen().last().expect("seen").headers["grpc-timeout"],
            forwarded
        );
    }
}

/// G12: what is left of a deadline keeps its milliseconds. Of half a second, seconds would leave nothing.
#[tokio::test]
async fn a_clamped_deadline_is_forwarded_as_it_was_set() {
    for (longest, forwarded) in [("500ms", "500m"), ("1500ms", "1500m"), ("1m", "60000m")] {
        let setup = Setup {
            more: format!("{METHODS}\n[limits]\ntimeout = \"{longest}\"\n"),
            ..Setup::default()
        };
        let sidecar = Sidecar::with(setup).await;
        let request = call(sidecar.plaintext())
            .header("authorization", format!("Bearer {}", sidecar.token()))
            .header("grpc-timeout", "1H");
        let answer = send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        assert_eq!(answer.grpc_status(), Some(0), "{longest}");
        let seen = sidecar.service.seen().pop().expect("seen");
        assert_eq!(seen.headers["grpc-timeout"], forwarded, "{longest}");
    }
}

/// The form comes before the token: also without one, and with one that is good.
#[tokio::test]
async fn the_form_is_judged_first() {
    let sidecar = Sidecar::start().await;
    let request = call(sidecar.plaintext()).uri(target("service", "/a/b/c"));
    let answer = send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    assert_eq!(answer.reason(), "request_malformed");
    assert!(sidecar.service.seen().is_empty());
}
