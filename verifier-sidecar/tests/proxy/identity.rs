//! What the service is told of the caller, and that only we tell it.

use bytes::Bytes;
use countersign_core::names::Scope;
use countersign_proto::demo::v1::EchoRequest;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::support::raw::{call, envelope, send};
use crate::support::{ECHO, METHODS, Setup, Sidecar, claims_with, with_token};

fn message() -> Bytes {
    envelope(&EchoRequest::default())
}

#[tokio::test]
async fn the_service_is_told_who_calls() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.issuer.token(&claims_with(|claims| {
        claims.scopes.push(Scope::parse("other").expect("a scope"));
    }));
    let echo = EchoRequest {
        message: "hello".to_owned(),
    };
    let answer = sidecar
        .client()
        .echo(with_token(echo, &token))
        .await
        .expect("an answer")
        .into_inner();
    let caller = answer.caller.expect("a caller");
    assert_eq!(answer.message, "hello");
    assert_eq!(caller.subject, "client:test.example.com/orders");
    assert_eq!(caller.client_id, "orders");
    assert_eq!(caller.scopes, ["demo.call", "other"]);
    assert_eq!(caller.token_id, "1.7");
}

/// G07: a caller's own identity headers do not reach the service, in whatever case, number or spelling; also on methods
/// that are open, where nobody is told of.
#[tokio::test]
async fn identity_headers_of_callers_do_not_pass() {
    let sidecar = Sidecar::start().await;
    let spoofed = [
        "x-countersign-subject",
        "x-countersign-client",
        "x-countersign-scopes",
        "x-countersign-token-id",
        "x-countersign-invented",
        "x_countersign_subject",
        "x-forwarded-client-cert",
        "x-envoy-original-path",
        "x-envoy-external-address",
    ];
    for (path, authenticated) in [
        ("/countersign.demo.v1.DemoService/Echo", true),
        ("/test.Open/Do", false),
    ] {
        let mut request = call(sidecar.plaintext()).uri(format!("http://service{path}"));
        for name in spoofed {
            request = request.header(name, "spoofed").header(name, "spoofed again");
        }
        if authenticated {
            request = request.header("authorization", format!("Bearer {}", sidecar.token()));
        }
        send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        let seen = sidecar.service.seen().pop().expect("a request");
        assert_eq!(seen.path, path);
        assert!(
            !format!("{:?}", seen.headers).contains("spoofed"),
            "{:?}",
            seen.headers
        );
        let told = seen
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-countersign-"))
            .count();
        assert_eq!(told, if authenticated { 4 } else { 0 });
    }
}

/// T18, G07: the same under names that the operator chose: of the caller they come from us alone, in headers and in trailers.
#[tokio::test]
async fn the_service_is_told_under_the_names_that_were_chosen() {
    let names = "[identity_headers]\nsubject = \"X-User\"\nclient = \"team_client\"\nscopes = \"\"\n";
    let setup = Setup {
        more: format!("{METHODS}{names}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let spoofed = ["x-user", "X_User", "team-client", "x-countersign-scopes"];
    for (path, authenticated) in [(ECHO, true), ("/test.Open/Do", false)] {
        let mut request = call(sidecar.plaintext()).uri(format!("http://service{path}"));
        for name in spoofed {
            request = request.header(name, "spoofed").header(name, "spoofed again");
        }
        if authenticated {
            request = request.header("authorization", format!("Bearer {}", sidecar.token()));
        }
        send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        let seen = sidecar.service.seen().pop().expect("a request").headers;
        assert!(!format!("{seen:?}").contains("spoofed"), "{seen:?}");
        let told = |name: &str| seen.get(name).map(|value| value.to_str().expect("text"));
        let expected = |value| authenticated.then_some(value);
        assert_eq!(told("x-user"), expected("client:test.example.com/orders"));
        assert_eq!(told("team_client"), expected("orders"));
        assert_eq!(told("x-countersign-token-id"), expected("1.1"));
        assert_eq!(told("x-countersign-scopes"), None);
        assert_eq!(told("x-countersign-subject"), None);
    }
}

/// I-27: what is forwarded is what was judged, less the reserved headers and the token, plus ours.
#[tokio::test]
async fn everything_else_passes_as_it_is() {
    let sidecar = Sidecar::start().await;
    let mut sent = HeaderMap::new();
    for (name, value) in [
        ("x-request-id", &b"42"[..]),
        ("x-twice", b"one"),
        ("x-twice", b"two"),
        ("x-bytes-bin", b"AAH+/w"),
        ("x-latin", b"caf\xe9"),
        ("cookie", b"a=b; c=d"),
        (
            "traceparent",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("tracestate", b"a=b"),
        ("user-agent", b"test/1"),
        ("grpc-accept-encoding", b"gzip"),
        ("x-forwarded-for", b"10.0.0.1"),
        ("x-countersigned", b"not reserved"),
    ] {
        sent.append(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).expect("a value"),
        );
    }
    let mut request = call(sidecar.plaintext())
        .uri("http://service.example:8443/countersign.demo.v1.DemoService/Echo")
        .header("authorization", format!("Bearer {}", sidecar.token()));
    for (name, value) in &sent {
        request = request.header(name, value);
    }
    send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    let seen = sidecar.service.seen().pop().expect("a request");
    assert_eq!(seen.authority, "service.example:8443");
    for name in sent.keys() {
        let (ours, theirs): (Vec<_>, Vec<_>) = (
            sent.get_all(name).iter().collect(),
            seen.headers.get_all(name).iter().collect(),
        );
        assert_eq!(ours, theirs, "{name}");
    }
    assert!(
        !seen.headers.contains_key("authorization"),
        "the token is not the service's"
    );
    let unexpected: Vec<_> = seen
        .headers
        .keys()
        .filter(|name| !sent.contains_key(*name) && !name.as_str().starts_with("x-countersign-"))
        .filter(|name| !["te", "content-type", "content-length"].contains(&name.as_str()))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[tokio::test]
async fn the_service_sees_the_token_only_by_choice() {
    let setup = Setup {
        more: "[tokens]\nforward = true\n".to_owned(),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let authorization = format!("bearer {}", sidecar.token());
    let request = call(sidecar.plaintext()).header("authorization", &authorization);
    send(sidecar.plaintext(), request, message())
        .await
        .expect("an answer");
    let seen = sidecar.service.seen().pop().expect("a request");
    assert_eq!(seen.headers["authorization"], authorization.as_str());
}

/// T08: a token anywhere else is no token.
#[tokio::test]
async fn a_token_elsewhere_is_no_token() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    for name in [
        "cookie",
        "x-forwarded-access-token",
        "proxy-authorization",
        "x-authorization",
        "token",
    ] {
        let request = call(sidecar.plaintext()).header(name, format!("Bearer {token}"));
        let answer = send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        assert_eq!(answer.reason(), "token_missing", "{name}");
    }
    let answer = send(
        sidecar.plaintext(),
        call(sidecar.plaintext()),
        envelope(&EchoRequest {
            message: token.clone(),
        }),
    );
    assert_eq!(answer.await.expect("an answer").reason(), "token_missing");
    assert!(sidecar.service.seen().is_empty());
}
