//! gRPC-Web, as browsers and gateways speak it, to a service that understands it (tonic-web).

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_proto::demo::v1::{EchoRequest, EchoResponse};
use http::Request;
use http::request::Builder;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::support::plain::{Caller, Reply};
use crate::support::service::{Seen, serve_web};
use crate::support::{ECHO, Setup, Sidecar, raw};

pub(crate) const WEB: &str = "application/grpc-web+proto";

/// A sidecar before the demo service, which here takes gRPC-Web over HTTP/1.1 and HTTP/2.
pub(crate) async fn before_web() -> (Sidecar, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    serve_web(TcpListenerStream::new(listener), Arc::clone(&seen));
    let setup = Setup {
        upstream: Some(format!("http://{address}")),
        ..Setup::default()
    };
    (Sidecar::with(setup).await, seen)
}

fn message(text: &str) -> Bytes {
    raw::envelope(&EchoRequest {
        message: text.to_owned(),
    })
}

pub(crate) fn call(target: &str, content_type: &str) -> Builder {
    Request::post(target)
        .header("content-type", content_type)
        .header("x-grpc-web", "1")
}

pub(crate) fn with_token(sidecar: &Sidecar, request: Builder) -> Builder {
    request.header("authorization", format!("Bearer {}", sidecar.token()))
}

async fn send(sidecar: &Sidecar, request: Builder, body: Bytes) -> Reply {
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    caller.send(request.header("host", "orders"), body).await
}

/// The message and the trailers in the body of an answer.
fn read(body: &[u8]) -> (EchoResponse, String) {
    let length = |at: usize| {
        let bytes: [u8; 4] = body[at + 1..at + 5].try_into().expect("four");
        usize::try_from(u32::from_be_bytes(bytes)).expect("small")
    };
    assert_eq!(body[0], 0, "a message");
    let end = 5 + length(0);
    let message = EchoResponse::decode(&body[5..end]).expect("a message");
    assert_eq!(body[end], 0x80, "trailers");
    assert_eq!(end + 5 + length(end), body.len(), "nothing after them");
    (message, String::from_utf8_lossy(&body[end + 5..]).into_owned())
}

#[tokio::test]
async fn calls_of_grpc_web_pass_as_they_came() {
    let (sidecar, seen) = before_web().await;
    let reply = send(&sidecar, with_token(&sidecar, call(ECHO, WEB)), message("hello")).await;
    assert_eq!(
        (reply.status, &reply.headers["content-type"]),
        (200, &WEB.parse().expect("a value"))
    );
    let (answer, trailers) = read(&reply.body);
    assert_eq!(
        (
            answer.message.as_str(),
            answer.caller.expect("a caller").client_id.as_str()
        ),
        ("hello", "orders")
    );
    assert!(trailers.contains("grpc-status:0"), "{trailers}");

    let text = "application/grpc-web-text";
    let body = Bytes::from(STANDARD.encode(message("hello")));
    let reply = send(
        &sidecar,
        with_token(&sidecar, call(ECHO, text)).header("accept", text),
        body,
    )
    .await;
    assert!(
        reply.headers["content-type"]
            .to_str()
            .expect("text")
            .starts_with(text),
        "{reply:?}"
    );
    // Every frame is padded by itself.
    let quads = reply.body.chunks(4);
    let decoded: Vec<u8> = quads
        .flat_map(|quad| STANDARD.decode(quad).expect("base64"))
        .collect();
    assert_eq!(read(&decoded).0.message, "hello");

    let address = sidecar.plaintext();
    let over_http2 = with_token(&sidecar, call(&format!("http://{address}{ECHO}"), WEB));
    let answer = raw::send(address, over_http2, message("hello"))
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), read(&answer.body).0.message.as_str()),
        (200, "hello")
    );
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|seen| !seen.headers.contains_key("authorization")),
        "{seen:?}"
    );
}

/// A refusal is what gRPC-Web calls trailers-only: success for HTTP, and the status in the headers.
#[tokio::test]
async fn refusals_of_grpc_web_are_in_its_own_form() {
    let (sidecar, seen) = before_web().await;
    for (path, token, code, reason) in [
        (ECHO, None, "16", "token_missing"),
        ("/test.Admin/Do", Some(sidecar.token()), "7", "scope_insufficient"),
        (
            "/countersign.demo.v1.DemoService//Echo",
            Some(sidecar.token()),
            "3",
            "request_malformed",
        ),
    ] {
        let mut request = call(path, WEB);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let reply = send(&sidecar, request, message("hello")).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
        assert_eq!(reply.headers["content-type"], WEB);
        assert_eq!(reply.headers["grpc-status"], code);
        let status = tonic::Status::from_header_map(&reply.headers).expect("a status");
        assert_eq!(crate::support::reason(&status), reason);
    }
    assert!(seen.lock().expect("no panic").is_empty());
    let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
    let counted = r#"countersign_requests_total{method="/countersign.demo.v1.DemoService/*",decision="refused",reason="token_missing",code="UNAUTHENTICATED"} 1"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

/// An error of the service is the service's to tell.
#[tokio::test]
async fn errors_of_the_service_pass() {
    let (sidecar, _seen) = before_web().await;
    let reply = send(&sidecar, with_token(&sidecar, call(ECHO, WEB)), message("fail")).await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let code = reply
        .headers
        .get("grpc-status")
        .map(|code| code.to_str().expect("text").to_owned());
    assert!(
        code.as_deref() == Some("15") || text.contains("grpc-status:15"),
        "{reply:?}"
    );
}
