//! What of a call is not in its headers: it passes as it comes, and what has no place in it does not.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::raw::call;
use crate::support::upstream::{Manner, RawService};
use crate::support::{Setup, Sidecar, eventually, within};

type Body =
    StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// A sidecar before a service of `manner`.
async fn before(manner: Manner) -> (Sidecar, RawService) {
    let service = RawService::start(manner).await;
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        ..Setup::default()
    };
    (Sidecar::with(setup).await, service)
}

/// Sends a call of these frames.
async fn send(
    sidecar: &Sidecar,
    frames: impl futures_util::Stream<Item = Frame<Bytes>> + Send + 'static,
) -> tokio::task::JoinHandle<hyper::Result<http::Response<hyper::body::Incoming>>> {
    let body: Body = StreamBody::new(Box::pin(frames.map(Ok)));
    let request = call(sidecar.plaintext()).header("authorization", format!("Bearer {}", sidecar.token()));
    let request = request.body(body).expect("a request");
    let stream = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    tokio::spawn(async move { sender.send_request(request).await })
}

/// G29, T08: data and harmless trailers pass; credentials and identities in trailers do not.
#[tokio::test]
async fn trailers_of_requests_carry_no_credentials() {
    let (sidecar, service) = before(Manner::Polite).await;
    let mut trailers = HeaderMap::new();
    for name in [
        "authorization",
        "x-countersign-subject",
        "x-envoy-anything",
        "checksum",
    ] {
        trailers.insert(name, HeaderValue::from_static("Bearer x"));
    }
    let frames = [
        Frame::data(Bytes::from_static(b"one ")),
        Frame::data(Bytes::from_static(b"two")),
        Frame::trailers(trailers),
    ];
    let response = within(
        "an answer",
        send(&sidecar, futures_util::stream::iter(frames)).await,
    )
    .await;
    let response = response.expect("no panic").expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "0");
    let received = service.received().pop().expect("a request");
    assert_eq!(received.body, "one two");
    let names: Vec<_> = received.trailers.expect("trailers").keys().cloned().collect();
    assert_eq!(names, ["checksum"]);
    assert_eq!(received.headers["x-countersign-client"], "orders");
}

/// Nothing is buffered: a service that does not read stops its caller, after no more than the windows.
#[tokio::test]
async fn a_service_that_does_not_read_stops_its_caller() {
    let (sidecar, _service) = before(Manner::Deaf).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let frames = futures_util::stream::repeat_with(move || {
        counter.fetch_add(16_384, Ordering::Relaxed);
        Frame::data(Bytes::from_static(&[0; 16_384]))
    });
    let call = send(&sidecar, frames).await;
    // Once nothing more was taken for a while, nothing more will be.
    let mut before = usize::MAX;
    eventually("standstill", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = taken.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    let taken = taken.load(Ordering::Relaxed);
    assert!((1..8 << 20).contains(&taken), "{taken} bytes were taken");
    call.abort();
}
