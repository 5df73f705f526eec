//! What is no call of ours: paths, methods, content types, messages, sizes, times.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::stage::{OPERATOR, ORDERS, Setting, SlowStore, Stage, ask, reason, refusal};
use crate::store::memory::MemoryStore;
use crate::test_util::{Bench, START, client_id, peer, registration};

const ISSUE: &str = "/countersign.token.v1.TokenService/IssueToken";

/// A connection on which anything can be sent.
async fn connect(stage: &Stage) -> SendRequest<Full<Bytes>> {
    let pipe = stage.pipe(peer(Some(ORDERS), 1, START * 2)).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(pipe))
            .await
            .expect("HTTP/2");
    tokio::spawn(async move {
        // Some tests have it cut.
        let _ended = connection.await;
    });
    sender
}

fn frame(flag: u8, length: u32, message: &[u8]) -> Bytes {
    [&[flag], length.to_be_bytes().as_slice(), message]
        .concat()
        .into()
}

fn message(message: &[u8]) -> Bytes {
    frame(0, u32::try_from(message.len()).expect("small"), message)
}

fn request(path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://authority{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .expect("a request")
}

/// The status of an answer, wherever it stands.
async fn status(response: Response<Incoming>) -> Status {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let body = response.into_body().collect().await.expect("ends");
    let trailers = body.trailers().expect("trailers");
    Status::from_header_map(trailers).expect("a status")
}

async fn answer(stage: &Stage, request: Request<Full<Bytes>>) -> Status {
    let mut sender = connect(stage).await;
    let response = sender.send_request(request).await.expect("is answered");
    status(response).await
}

/// G01 to G04: one way to write a method, and no other leads to it.
#[tokio::test]
async fn paths_are_compared_whole() {
    let stage = Stage::new().await;
    for path in [
        "//countersign.token.v1.TokenService/IssueToken",
        "/./countersign.token.v1.TokenService/IssueToken",
        "/x/../countersign.token.v1.TokenService/IssueToken",
        "/countersign.token.v1.TokenService/IssueToken/",
        "/countersign.token.v1.TokenService//IssueToken",
        "/countersign.token.v1.TokenService%2FIssueToken",
        "/countersign%2etoken.v1.TokenService/IssueToken",
        "/countersign.token.v1.TokenService/IssueToken;v=1",
        "/countersign.token.v1.TokenService/IssueToken?a=b",
        "/",
        "/countersign.token.v1.TokenService",
    ] {
        let status = answer(&stage, request(path, message(&ask().encode_to_vec()))).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{path}");
        assert_eq!(reason(&status), "INVALID_ARGUMENT");
    }
    for path in [
        "/countersign.token.v1.TokenService/issuetoken",
        "/countersign.token.v1.TokenService/Issue",
        "/countersign.token.v1.Nothing/IssueToken",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let status = answer(&stage, request(path, message(&[]))).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "METHOD_UNKNOWN"),
            "{path}"
        );
    }
}

/// G03, G10: other methods and content types are no calls.
#[tokio::test]
async fn what_is_not_grpc_is_not_a_call() {
    let stage = Stage::new().await;
    for method in [
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ] {
        let mut request = request(ISSUE, message(&ask().encode_to_vec()));
        *request.method_mut() = method.clone();
        assert_eq!(
            answer(&stage, request).await.code(),
            Code::Unimplemented,
            "{method}"
        );
    }
    for content_type in [
        "text/plain",
        "application/grpc-web",
        "application/grpc+json",
        "application/json",
        "",
    ] {
        let mut request = request(ISSUE, message(&ask().encode_to_vec()));
        request
            .headers_mut()
            .insert("content-type", content_type.parse().expect("ASCII"));
        assert_eq!(
            answer(&stage, request).await.code(),
            Code::Unimplemented,
            "{content_type}"
        );
    }
}

/// G12: a deadline that is no deadline.
#[tokio::test]
async fn deadlines_are_written_as_the_protocol_says() {
    let stage = Stage::new().await;
    for timeout in ["1", "-5S", "abc", "123456789S", "", "S", "1 S", "1s"] {
        let mut request = request(ISSUE, message(&ask().encode_to_vec()));
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().expect("ASCII"));
        let status = answer(&stage, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{timeout:?}");
    }
}

/// G14: the cause is the encoding, not the method, and what is taken instead is said.
#[tokio::test]
async fn compressed_messages_are_not_taken() {
    let stage = Stage::new().await;
    for encoding in ["gzip", "zstd", "bogus"] {
        let mut request = request(ISSUE, frame(1, 4, b"zzzz"));
        request
            .headers_mut()
            .insert("grpc-encoding", encoding.parse().expect("ASCII"));
        let status = answer(&stage, request).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "ENCODING_UNSUPPORTED"),
            "{encoding}"
        );
        assert_eq!(
            status.metadata().get("grpc-accept-encoding").expect("said"),
            "identity"
        );
    }
}

/// G15, G16: messages that are none, frames that lie, sizes over the limit. Never INTERNAL.
#[tokio::test]
async fn messages_that_cannot_be_read_are_the_callers_fault() {
    let stage = Stage::new().await;
    let nested = (0..10_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut outer = vec![0x0b];
        outer.extend(inner);
        outer
    });
    let wrong_type = [0x08, 0x01];
    let bad_utf8 = [0x0a, 0x02, 0xff, 0xfe];
    let truncated = [0x0a, 0x05, b'a'];
    let overflow = [
        0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    for (name, body) in [
        ("wrong wire type", message(&wrong_type)),
        ("bad UTF-8", message(&bad_utf8)),
        ("truncated", message(&truncated)),
        ("varint overflow", message(&overflow)),
        ("groups for ever", message(&nested)),
        ("a flag of no meaning", frame(2, 0, &[])),
        ("compressed, which nobody asked for", frame(1, 0, &[])),
        ("4 GiB promised", frame(0, u32::MAX, b"x")),
        ("over the limit", message(&[0x12; 65 * 1024])),
        ("shorter than promised", frame(0, 100, b"x")),
        ("nothing at all", Bytes::new()),
    ] {
        let status = answer(&stage, request(ISSUE, body)).await;
        assert!(
            matches!(status.code(), Code::InvalidArgument | Code::Unimplemented),
            "{name}: {status:?}"
        );
        reason(&status);
    }
    // The connection and the server go on.
    let well = answer(&stage, request(ISSUE, message(&ask().encode_to_vec()))).await;
    assert_eq!(
        (well.code(), reason(&well).as_str()),
        (Code::Unauthenticated, "INVALID_CLIENT")
    );
}

/// G18: header lists over the limit.
#[tokio::test]
async fn headers_are_bounded() {
    let stage = Stage::new().await;
    for (count, length) in [(1, 17 * 1024), (2000, 10)] {
        let mut request = request(ISSUE, message(&ask().encode_to_vec()));
        for n in 0..count {
            let name = http::HeaderName::try_from(format!("x-{n}")).expect("a name");
            request
                .headers_mut()
                .insert(name, "a".repeat(length).parse().expect("ASCII"));
        }
        let mut sender = connect(&stage).await;
        match sender.send_request(request).await {
            Ok(response) => assert_eq!(response.status(), 431, "{count}"),
            Err(_reset) => {}
        }
    }
}

/// G08: a credential that is not ASCII.
#[tokio::test]
async fn credentials_that_are_no_text_are_refused_as_any_other() {
    let stage = Stage::new().await;
    for value in [&b"Basic \xff\x80"[..], b"\xff", b"Bearer x"] {
        let mut request = request(ISSUE, message(&ask().encode_to_vec()));
        let value = http::HeaderValue::from_bytes(value).expect("opaque");
        request.headers_mut().insert("authorization", value);
        let status = answer(&stage, request).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "INVALID_CLIENT")
        );
    }
}

/// G25: who says nothing at all, or nothing after the preface, is hung up on.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_hung_up_on() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let stage = Stage::new().await;
    for length in [0, 12, preface.len()] {
        let mut pipe = stage.pipe(peer(Some(ORDERS), 1, START * 2)).await;
        pipe.write_all(&preface[..length]).await.expect("sent");
        let mut said = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(30), pipe.read_to_end(&mut said));
        assert!(end.await.is_ok(), "{length} bytes, then silence");
    }
}

/// G25: a call whose message never comes does not last.
#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_ended() {
    let stage = Stage::with(Setting {
        timeout: Duration::from_secs(3),
        ..Setting::default()
    })
    .await;
    let pipe = stage.pipe(peer(Some(ORDERS), 1, START * 2)).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(pipe))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let endless =
        futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>();
    let request = request(ISSUE, Bytes::new()).map(|_| http_body_util::StreamBody::new(endless));
    let response = sender.send_request(request).await.expect("is answered");
    let status = status(response).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
}

/// Whoever set the deadline, the status is one of ours.
#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_callers_own_is_kept() {
    let store = SlowStore(MemoryStore::default(), Duration::from_secs(2));
    let stage = Stage::with(Setting {
        bench: Bench::over(Arc::new(store)),
        ..Setting::default()
    })
    .await;
    let pipe = stage.pipe(peer(Some(OPERATOR), 1, START * 2)).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(pipe))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    for (timeout, allowed) in [("1S", 1000), ("100m", 100), ("5m", 5), ("1n", 0)] {
        let prepare = "/countersign.admin.v1.KeyService/PrepareKey";
        let mut request = request(prepare, message(&[]));
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().expect("ASCII"));
        let began = tokio::time::Instant::now();
        let response = sender.send_request(request).await.expect("is answered");
        let status = status(response).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{timeout}"
        );
        assert!(began.elapsed() <= Duration::from_millis(allowed), "{timeout}");
    }
}

/// What a probe of gRPC health is told is what a probe of `/ready` is told.
#[tokio::test(start_paused = true)]
async fn health_says_when_no_token_can_be_issued() {
    let stage = Stage::new().await;
    let mut health = HealthClient::new(stage.connect(ORDERS).await);
    let mut statuses = async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut statuses = Vec::new();
        for service in [
            "",
            "countersign.token.v1.TokenService",
            "countersign.sync.v1.SyncService",
        ] {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await;
            statuses.push(answer.expect("is known").into_inner().status);
        }
        statuses
    };
    assert_eq!(statuses().await, [1, 1, 1]);
    stage.bench.clock.set(START - 3600);
    assert_eq!(statuses().await, [2, 2, 1]);
    stage.bench.clock.set(START);
    assert_eq!(statuses().await, [1, 1, 1]);
}

#[tokio::test]
async fn health_knows_every_service() {
    let stage = Stage::new().await;
    let channel = stage.connect(ORDERS).await;
    let mut health = HealthClient::new(channel.clone());
    let mut check = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        health.check(request).await
    };
    for service in [
        "",
        "countersign.token.v1.TokenService",
        "countersign.admin.v1.KeyService",
    ] {
        let answer = check(service).await.expect("is known").into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let unknown = check("countersign.nothing").await.expect_err("is unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}

/// What the reflection of one version lists, and whether it describes each of the symbols.
macro_rules! reflected {
    ($version:ident, $channel:expr, $symbols:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let symbols = $symbols
            .into_iter()
            .map(|symbol: &str| MessageRequest::FileContainingSymbol(symbol.to_owned()));
        let asked = [MessageRequest::ListServices(String::new())]
            .into_iter()
            .chain(symbols);
        let asked: Vec<_> = asked
            .map(|message| pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            })
            .collect();
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
        let answers = client
            .server_reflection_info(futures_util::stream::iter(asked))
            .await;
        let mut answers = answers.expect("answers").into_inner();
        let (mut listed, mut described) = (Vec::new(), Vec::new());
        while let Ok(Some(answer)) = answers.message().await {
            match answer.message_response.expect("an answer") {
                MessageResponse::ListServicesResponse(list) => {
                    listed.extend(list.service.into_iter().map(|service| service.name));
                }
                answer => described.push(matches!(answer, MessageResponse::FileDescriptorResponse(_))),
            }
        }
        listed.sort();
        (listed, described)
    }};
}

/// Both versions, because older tools know only the first.
#[tokio::test]
async fn reflection_lists_what_is_served_here_and_nothing_else() {
    let stage = Stage::with(Setting {
        reflection: true,
        ..Setting::default()
    })
    .await;
    let channel = stage.connect(ORDERS).await;
    let served = [
        "countersign.admin.v1.ClientService",
        "countersign.admin.v1.DrillService",
        "countersign.admin.v1.FleetService",
        "countersign.admin.v1.KeyService",
        "countersign.admin.v1.PublishingKeyService",
        "countersign.admin.v1.RevocationService",
        "countersign.admin.v1.TrustService",
        "countersign.sync.v1.SyncService",
        "countersign.token.v1.TokenService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    // A message behind a message, and what stands in the details of refusals.
    let known = [
        "countersign.trust.v1.Signed",
        "google.protobuf.Timestamp",
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
        "google.rpc.BadRequest",
    ];
    let (listed, described) = reflected!(v1, channel.clone(), known);
    assert_eq!(
        (listed.as_slice(), described),
        (&served.map(str::to_owned)[..], vec![true; 5])
    );
    let (listed, described) = reflected!(v1alpha, channel.clone(), known);
    assert_eq!(
        (listed.as_slice(), described),
        (&served.map(str::to_owned)[..], vec![true; 5])
    );

    let elsewhere = ["countersign.verify.v1.VerifyService"];
    assert_ne!(reflected!(v1, channel.clone(), elsewhere).1, [true]);
    assert_ne!(
        reflected!(v1, channel, ["countersign.demo.v1.EchoRequest"]).1,
        [true]
    );
}

/// G30: a caller that goes away at any moment leaves nothing half done.
#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let stage = Stage::new().await;
    let ledger = &stage.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    for polls in 1..40 {
        let mut tokens = stage.tokens(ORDERS).await;
        let mut call = Box::pin(tokens.issue_token(ask()));
        for _ in 0..polls {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut tokens = stage.tokens(ORDERS).await;
    tokens.issue_token(ask()).await.expect("issues");
    assert_eq!(
        refusal(
            stage
                .tokens("spiffe://example.org/x")
                .await
                .issue_token(ask())
                .await
        )
        .1,
        "INVALID_CLIENT"
    );
}
