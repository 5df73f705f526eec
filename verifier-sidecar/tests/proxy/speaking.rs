//! Apps that speak one HTTP alone, and callers of the other.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign_proto::demo::v1::EchoRequest;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;

use crate::support::pki::Pki;
use crate::support::plain::{self, Caller, PlainService, SIZED, TRAILERS, whole_reply};
use crate::support::service::{Seen, serve_web};
use crate::support::{ECHO, Setup, Sidecar, raw, reason, with_token, within};

/// A sidecar before an app at `uri` that speaks `protocol` alone.
async fn before(uri: &str, protocol: &str, pki: Option<Pki>) -> Sidecar {
    let own = "[[listener]]\naddress = \"127.0.0.1:0\"\nplaintext = true\ndisclose_reasons = true\n";
    let app = format!("upstream = {{ uri = \"{uri}\", protocol = \"{protocol}\" }}\n");
    let setup = Setup {
        more: format!("{}{own}{app}", crate::support::METHODS),
        pki,
        ..Setup::default()
    };
    Sidecar::with(setup).await
}

/// The listener of that app.
fn listener(sidecar: &Sidecar) -> std::net::SocketAddr {
    sidecar.addresses.listeners[3]
}

fn asking(sidecar: &Sidecar, method: &str, path: &str) -> http::request::Builder {
    let uri = format!("http://orders.example:81{path}");
    let token = format!("Bearer {}", sidecar.token());
    Request::builder()
        .method(method)
        .uri(uri)
        .header("authorization", token)
}

/// RFC 9113, sections 8.2.2, 8.2.3 and 8.3.1; RFC 9112, section 3.2: what a request says in pseudo-headers, and in many fields, is said as
/// HTTP/1.1 says it; and what is for the neighbour alone stays here.
#[tokio::test]
async fn http2_reaches_a_service_of_http1() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http1", None).await;
    let asked = asking(&sidecar, "GET", "/v1/sized?next=%2F")
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic x")
        .header("x-countersign-client", "root")
        .header("x-kept", "yes");
    let answer = raw::send(listener(&sidecar), asked, Bytes::new())
        .await
        .expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.headers["x-from-service"], "yes");
    let seen = service.requests().pop().expect("seen");
    assert_eq!(
        (seen.version, seen.uri.to_string().as_str()),
        (Version::HTTP_11, "/v1/sized?next=%2F")
    );
    for (name, value) in [
        ("host", "orders.example:81"),
        ("cookie", "a=1; b=2; c=3"),
        ("te", "trailers"),
        ("connection", "te"),
        ("x-countersign-client", "orders"),
        ("x-kept", "yes"),
    ] {
        let values: Vec<_> = seen.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    for gone in [
        "authorization",
        "proxy-authorization",
        "content-length",
        "transfer-encoding",
    ] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert!(service.bytes().starts_with("GET /v1/sized?next=%2F HTTP/1.1\r\n"));

    // What the service says to its neighbour stays there, too.
    let answer = raw::send(
        listener(&sidecar),
        asking(&sidecar, "GET", plain::ONCE),
        Bytes::new(),
    )
    .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(
        !answer.headers.contains_key("connection") && !answer.headers.contains_key("x-hop"),
        "{answer:?}"
    );
    let refused = Request::get(format!("http://orders{SIZED}"));
    let refused = raw::send(listener(&sidecar), refused, Bytes::new())
        .await
        .expect("an answer");
    assert_eq!(refused.status, 401);
}

/// A body of a length keeps it; one without comes in chunks, with the trailers that were announced; and so do answers.
#[tokio::test]
async fn bodies_and_trailers_pass_from_http2_to_http1_and_back() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http1", None).await;
    let stream = TcpStream::connect(listener(&sidecar)).await.expect("connected");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("begun");
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    for (name, value) in [("checksum", "17"), ("authorization", "Bearer x")] {
        trailers.insert(name, HeaderValue::from_static(value));
    }
    let frames = [
        Frame::data(Bytes::from_static(b"one ")),
        Frame::data(Bytes::from_static(b"two")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, std::convert::Infallible>))).boxed_unsync();
    let asked = asking(&sidecar, "POST", plain::ECHO).header("trailer", "checksum, authorization");
    let asked = asked.body(body).expect("a request");
    let answer = within("an answer", sender.send_request(asked))
        .await
        .expect("an answer");
    assert_eq!(whole_reply(answer).await.body, "one two");
    assert!(service.bytes().ends_with("0\r\nchecksum: 17\r\n\r\n"));
    assert_eq!(
        service.requests().pop().expect("seen").headers["transfer-encoding"],
        "chunked"
    );

    let body = Bytes::from(vec![7; 300_000]);
    let asked = asking(&sidecar, "POST", plain::ECHO).header("content-length", "300000");
    let answer = raw::send(listener(&sidecar), asked, body.clone())
        .await
        .expect("an answer");
    assert!(answer.body == body, "{}", answer.body.len());
    let seen = service.requests().pop().expect("seen");
    assert_eq!(seen.headers["content-length"], "300000");
    assert!(!seen.headers.contains_key("transfer-encoding"));

    let asked = asking(&sidecar, "GET", TRAILERS).header("te", "trailers");
    let answer = raw::send(listener(&sidecar), asked, Bytes::new())
        .await
        .expect("an answer");
    assert_eq!(answer.trailers.expect("trailers")["checksum"], "17");
}

/// RFC 9110, section 6.5.1: what a service says in trailers to its neighbour alone stays here. Over HTTP/2 the answer would be broken off for it.
#[tokio::test]
async fn what_trailers_say_to_the_neighbour_stays_here() {
    let service = plain::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
        connection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\nte: gzip\r\n\
        transfer-encoding: chunked\r\nupgrade: h2c\r\ngrpc-status: 5\r\nchecksum: 17\r\n\r\n",
    )
    .await;
    let sidecar = before(&format!("http://{service}"), "http1", None).await;
    let answer = raw::send(listener(&sidecar), asking(&sidecar, "GET", SIZED), Bytes::new());
    let answer = within("an answer", answer).await.expect("to its end");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello"[..]));
    let trailers = answer.trailers.expect("trailers");
    let mut left: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["checksum", "grpc-status"]);
}

/// RFC 9112, section 6.3: of a length and chunks the chunks count, and nobody is told the length.
#[tokio::test]
async fn a_length_beside_chunks_does_not_go_on() {
    let service = plain::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let sidecar = before(&format!("http://{service}"), "http1", None).await;
    let answer = raw::send(listener(&sidecar), asking(&sidecar, "GET", SIZED), Bytes::new());
    let answer = within("an answer", answer).await.expect("to its end");
    assert_eq!(answer.body, "hello");
    assert!(!answer.headers.contains_key("content-length"), "{answer:?}");
    let mut caller = Caller::connect(listener(&sidecar)).await;
    let asked = asking(&sidecar, "GET", SIZED).uri(SIZED).header("host", "orders");
    let reply = caller.send(asked, Bytes::new()).await;
    assert_eq!(reply.body, "hello");
    assert!(!reply.headers.contains_key("content-length"), "{reply:?}");
}

/// What HTTP/2 lets be said to the neighbour alone stays here as well, in requests and in answers.
#[tokio::test]
async fn what_is_for_the_neighbour_stays_here_from_http2_to_http2() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http2", None).await;
    let asked = asking(&sidecar, "GET", plain::CHALLENGE)
        .header("proxy-authorization", "Basic x")
        .header("expect", "100-continue")
        .header("te", "trailers")
        .header("x-kept", "yes");
    let answer = raw::send(listener(&sidecar), asked, Bytes::new())
        .await
        .expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.headers["x-from-service"], "yes");
    assert!(!answer.headers.contains_key("proxy-authenticate"), "{answer:?}");
    let seen = service.requests().pop().expect("seen");
    assert_eq!(seen.version, Version::HTTP_2);
    for gone in ["proxy-authorization", "expect"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(
        (&seen.headers["te"], &seen.headers["x-kept"]),
        (
            &HeaderValue::from_static("trailers"),
            &HeaderValue::from_static("yes")
        )
    );
}

/// RFC 9110, section 9.3.1: a GET may have a body. It is not left out because nobody said how long it is; and that there is none is said where one
/// is usual.
#[tokio::test]
async fn a_body_passes_with_every_method() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http1", None).await;
    for method in ["GET", "DELETE", "POST"] {
        let asked = asking(&sidecar, method, plain::ECHO);
        let answer = raw::send_streamed(listener(&sidecar), asked, "what I look for").await;
        assert_eq!(answer, "what I look for", "{method}");
        let seen = service.requests().pop().expect("seen");
        assert_eq!(seen.headers["transfer-encoding"], "chunked", "{method}");
    }
    for (method, length) in [
        ("GET", None),
        ("POST", Some("0")),
        ("PUT", Some("0")),
        ("DELETE", None),
    ] {
        let asked = asking(&sidecar, method, plain::ECHO);
        raw::send(listener(&sidecar), asked, Bytes::new())
            .await
            .expect("an answer");
        let seen = service.requests().pop().expect("seen");
        let said = seen.headers.get("content-length");
        assert_eq!(
            said.map(HeaderValue::as_bytes),
            length.map(str::as_bytes),
            "{method}"
        );
        assert!(!seen.headers.contains_key("transfer-encoding"), "{method}");
    }
}

/// A length that is said twice could be read twice: nobody is asked.
#[tokio::test]
async fn a_length_that_is_said_twice_goes_nowhere() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http1", None).await;
    let bearer = format!("Bearer {}", sidecar.token());
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", plain::ECHO),
        (":authority", "localhost"),
        ("authorization", &bearer),
        ("content-length", "0"),
        ("content-length", "0"),
    ];
    let outcome = raw::send_fields(listener(&sidecar), &fields).await;
    assert_ne!(outcome, raw::Outcome::Closed);
    assert_eq!(service.connections(), 0);
    let outcome = raw::send_fields(listener(&sidecar), &fields[..6]).await;
    assert_eq!((outcome, service.connections()), (raw::Outcome::Answered, 1));
}

/// gRPC needs HTTP/2: it is refused with a reason, and the service is not asked.
#[tokio::test]
async fn a_service_of_http1_is_asked_for_no_grpc() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http1", None).await;
    let mut client = countersign_proto::demo::v1::demo_service_client::DemoServiceClient::new(
        crate::support::channel(listener(&sidecar)),
    );
    let asked = with_token(EchoRequest::default(), &sidecar.token());
    let refused = client.echo(asked).await.expect_err("no gRPC");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unimplemented, "grpc_unsupported")
    );
    // Who may not call it learns nothing of it.
    let refused = client.echo(EchoRequest::default()).await.expect_err("no token");
    assert_eq!(reason(&refused), "token_missing");
    assert_eq!(service.connections(), 0);
}

/// gRPC-Web is HTTP: of either version before a service of one.
#[tokio::test]
async fn grpc_web_reaches_a_service_of_either() {
    for protocol in ["http1", "http2"] {
        let listener_of_app = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener_of_app.local_addr().expect("an address");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        serve_web(TcpListenerStream::new(listener_of_app), Arc::clone(&seen));
        let sidecar = before(&format!("http://{address}"), protocol, None).await;
        let message = || {
            raw::envelope(&EchoRequest {
                message: "hello".to_owned(),
            })
        };
        let web = |target: &str| {
            asking(&sidecar, "POST", target)
                .header("content-type", "application/grpc-web+proto")
                .header("x-grpc-web", "1")
        };
        let answer = raw::send(listener(&sidecar), web(ECHO), message())
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200, "{protocol}");
        let over_http2 = answer.body;
        let mut caller = Caller::connect(listener(&sidecar)).await;
        let reply = caller
            .send(web(ECHO).uri(ECHO).header("host", "orders"), message())
            .await;
        assert_eq!((reply.status, &reply.body), (200, &over_http2), "{protocol}");
        let text = String::from_utf8_lossy(&over_http2);
        assert!(text.contains("hello") && text.contains("grpc-status:0"), "{text}");
        assert_eq!(seen.lock().expect("no panic").len(), 2);
    }
}

/// The other way about: what comes over HTTP/1.1 reaches a service that speaks HTTP/2 alone.
#[tokio::test]
async fn http1_reaches_a_service_of_http2() {
    let service = PlainService::start().await;
    let sidecar = before(&format!("http://{}", service.address), "http2", None).await;
    let mut caller = Caller::connect(listener(&sidecar)).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("17"));
    let frames = [Frame::data(Bytes::from_static(b"one")), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync();
    let asked = asking(&sidecar, "POST", plain::ECHO)
        .uri(plain::ECHO)
        .header("host", "orders.example:81")
        .header("trailer", "checksum")
        .header("connection", "x-hop")
        .header("x-hop", "1");
    let answer = caller.begin_with(asked, body).await.expect("an answer");
    assert_eq!(whole_reply(answer).await.body, "one");
    let seen = service.requests().pop().expect("seen");
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(
        seen.uri.authority().map(|authority| authority.as_str()),
        Some("orders.example:81")
    );
    for gone in ["host", "connection", "x-hop", "transfer-encoding"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    let asked = asking(&sidecar, "GET", TRAILERS)
        .uri(TRAILERS)
        .header("host", "orders");
    let asked = asked.header("te", "trailers").header("connection", "te");
    let reply = caller.send(asked, Bytes::new()).await;
    assert_eq!(reply.trailers.expect("trailers")["checksum"], "17");
    assert_eq!(
        (
            reply.status,
            service.requests().pop().expect("seen").headers.get("te")
        ),
        (200, Some(&HeaderValue::from_static("trailers")))
    );
}

/// RFC 9110, section 10.1.1: nobody is told to go on with a request for a service that cannot be reached.
#[tokio::test]
async fn nobody_is_told_to_go_on_to_nowhere() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let uri = format!("http://{}", nowhere.local_addr().expect("an address"));
    drop(nowhere);
    let sidecar = before(&uri, "http2", None).await;
    let mut stream = TcpStream::connect(listener(&sidecar)).await.expect("connected");
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
        plain::ECHO,
        sidecar.token()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut told = String::new();
    within("all of it", stream.read_to_string(&mut told))
        .await
        .expect("told");
    assert!(told.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{told}");
}

/// Over TLS, too, where the version is agreed on in the handshake.
#[tokio::test]
async fn a_service_of_http1_is_reached_over_tls() {
    let pki = Pki::new();
    let service = PlainService::start_tls(&pki, "orders").await;
    let sidecar = before(&format!("https://{}", service.address), "http1", Some(pki)).await;
    let answer = raw::send(listener(&sidecar), asking(&sidecar, "GET", SIZED), Bytes::new()).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello"[..]));
    let seen = service.requests().pop().expect("seen");
    assert_eq!(
        (seen.version, &seen.headers["host"]),
        (Version::HTTP_11, &HeaderValue::from_static("orders.example:81"))
    );
}
