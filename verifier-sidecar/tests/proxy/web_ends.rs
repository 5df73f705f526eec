//! Answers of gRPC-Web that must end before the service ends them: callers are told why, wherever that can be written.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_proto::demo::v1::ExpandRequest;
use countersign_verifier::test_util::{self, revoke_token};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Builder;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::support::plain::{Caller, whole_reply};
use crate::support::{Setup, Sidecar, eventually, raw, reason, within};
use crate::web::{WEB, before_web, call, with_token};

const EXPAND: &str = "/countersign.demo.v1.DemoService/Expand";
const TEXT: &str = "application/grpc-web-text";

fn for_ever() -> Bytes {
    raw::envelope(&ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    })
}

/// The frames of a body, each with its flags.
fn frames(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..5].try_into().expect("four bytes"));
        let end = 5 + usize::try_from(length).expect("small");
        frames.push((body[0], &body[5..end]));
        body = &body[end..];
    }
    frames
}

/// The bytes that a body of text stands for, each quad of which may be padded.
fn decoded(body: &[u8]) -> Vec<u8> {
    let quads = body.chunks(4);
    quads
        .flat_map(|quad| STANDARD.decode(quad).expect("base64"))
        .collect()
}

/// What the last frame says, which is the only one with trailers.
fn end(body: &[u8]) -> Status {
    let frames = frames(body);
    let (last, before) = frames.split_last().expect("a frame");
    assert!(!before.is_empty() && before.iter().all(|(flags, _)| *flags == 0));
    assert_eq!(last.0, 0x80);
    let text = std::str::from_utf8(last.1).expect("text");
    assert!(text.ends_with("\r\n"), "{text}");
    let lines = text.lines().map(|line| {
        let (name, value) = line.split_once(':').expect("a field");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    });
    let trailers: HeaderMap = lines.collect();
    Status::from_header_map(&trailers).expect("a status")
}

/// G31, G32: over HTTP/1.1 and HTTP/2, in bytes and in text, a stream that ends with its token says so in its own trailers.
#[tokio::test]
async fn a_stream_that_is_revoked_ends_with_trailers() {
    let (sidecar, seen) = before_web().await;
    let address = sidecar.plaintext();
    let mut text_caller = Caller::connect(address).await;
    let body = Bytes::from(STANDARD.encode(for_ever()));
    let asked = call(EXPAND, TEXT).header("accept", TEXT).header("host", "orders");
    let text = text_caller.begin(with_token(&sidecar, asked), body).await;
    let text = text.expect("an answer");
    let mut caller = Caller::connect(address).await;
    let asked = call(EXPAND, WEB).header("host", "orders");
    let binary = caller.begin(with_token(&sidecar, asked), for_ever()).await;
    let binary = binary.expect("an answer");
    let over_http2 = with_token(&sidecar, call(&format!("http://{address}{EXPAND}"), WEB));
    let over_http2 = tokio::spawn(raw::send(address, over_http2, for_ever()));
    eventually("the third stream", async || {
        seen.lock().expect("no panic").len() == 3
    })
    .await;

    test_util::trust(&sidecar.trust, sidecar.issuer.state(2, [revoke_token("1.1")]));
    let over_http2 = within("the end", over_http2).await.expect("no panic");
    let bodies = [
        decoded(&whole_reply(text).await.body),
        whole_reply(binary).await.body.to_vec(),
        over_http2.expect("a whole answer").body.to_vec(),
    ];
    for body in bodies {
        let status = end(&body);
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "token_revoked")
        );
    }
}

#[tokio::test]
async fn a_deadline_is_told_in_trailers() {
    let (sidecar, _seen) = before_web().await;
    let asked = call(EXPAND, WEB)
        .header("host", "orders")
        .header("grpc-timeout", "300m");
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let reply = caller.send(with_token(&sidecar, asked), for_ever()).await;
    let status = end(&reply.body);
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "deadline_exceeded")
    );
}

/// A service over HTTP/1.1 that answers with `part` of a body of `content_type`, and hangs up when it is told to.
async fn hanging_up(content_type: &'static str, part: &'static [u8]) -> (SocketAddr, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let told = Arc::<Notify>::default();
    let hang_up = Arc::clone(&told);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_request(&mut stream).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            part.len()
        );
        let answer = [head.as_bytes(), part, b"\r\n"].concat();
        stream.write_all(&answer).await.expect("written");
        hang_up.notified().await;
        stream.shutdown().await.expect("shut down");
    });
    (address, told)
}

/// Reads a request of a message as short as those here.
async fn read_request(stream: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"for ever") {
        let came = stream.read_buf(&mut read).await.expect("read");
        assert!(came > 0, "the whole request comes");
    }
}

fn ask(sidecar: &Sidecar) -> Builder {
    with_token(sidecar, call(EXPAND, WEB)).header("host", "orders")
}

/// The rest of an answer of such a service that hangs up once this part of it has come.
async fn after(content_type: &'static str, part: &'static [u8]) -> Result<Bytes, hyper::Error> {
    let (address, hang_up) = hanging_up(content_type, part).await;
    let setup = Setup {
        upstream: Some(format!("http://{address}")),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let answer = caller.begin(ask(&sidecar), for_ever()).await.expect("an answer");
    let mut body = answer.into_body();
    let first = within("the part", body.frame()).await.expect("a frame")?;
    let first = first.into_data().expect("data");
    assert_eq!(first, part);
    hang_up.notify_one();
    let rest = within("the end", body.collect()).await?.to_bytes();
    Ok([first, rest].concat().into())
}

/// A service that fails after a whole message: the caller hears of it as gRPC-Web says such things.
#[tokio::test]
async fn a_service_that_breaks_off_is_told_of_in_trailers() {
    for (content_type, part) in [(WEB, &b"\0\0\0\0\x02ab"[..]), (TEXT, b"AAAAAAJhYg==")] {
        let body = after(content_type, part).await.expect("a whole answer");
        let body = if content_type == TEXT {
            decoded(&body)
        } else {
            body.to_vec()
        };
        let status = end(&body);
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "upstream_unavailable"),
            "{content_type}"
        );
    }
}

/// In the midst of a message, after the service's own trailers, and in what is no gRPC-Web, nothing can be said: the answer does not look
/// whole.
#[tokio::test]
async fn what_cannot_be_told_is_broken_off() {
    for (content_type, part) in [
        (WEB, &b"\0\0\0\0\x03ab"[..]),
        (WEB, b"\0\0\0"),
        (TEXT, b"AAAAAAJhYg"),
        (TEXT, b"AAAAAANhYg=="),
        (WEB, b"\x80\0\0\0\x0fgrpc-status:0\r\n"),
        ("text/html", b"<html>"),
    ] {
        let broken = after(content_type, part).await;
        broken.expect_err("it is broken off, and looks so");
    }
}
