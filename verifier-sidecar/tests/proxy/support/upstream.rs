//! A service that no gRPC library would be: what it does with a call is in the name of the method.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Reads the request to its end and answers with the same.
pub(crate) const POLITE: &str = "/countersign.demo.v1.DemoService/Echo";

/// The same, with trailers.
pub(crate) const TRAILING: &str = "/countersign.demo.v1.DemoService/Trail";

/// Keeps the call open and reads nothing of it.
pub(crate) const DEAF: &str = "/countersign.demo.v1.DemoService/Collect";

/// Answers for ever, as fast as it is let.
pub(crate) const ENDLESS: &str = "/countersign.demo.v1.DemoService/Expand";

/// The same in messages of nothing, each in a frame of its own.
pub(crate) const MURMUR: &str = "/countersign.demo.v1.DemoService/Murmur";

/// Answers with headers alone, which say nothing of how the call went.
pub(crate) const MUTE: &str = "/countersign.demo.v1.DemoService/Chat";

/// A request as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// What it keeps.
#[derive(Debug, Default)]
struct Kept {
    received: Mutex<Vec<Received>>,
    /// Bytes of endless answers that were asked for.
    given: AtomicUsize,
    connections: AtomicUsize,
}

/// The service.
pub(crate) struct RawService {
    pub(crate) address: SocketAddr,
    kept: Arc<Kept>,
}

impl RawService {
    /// Starts one. Of one call, and of all calls of a connection, it has so many bytes under way before it reads them.
    pub(crate) async fn start(stream_window: u32, connection_window: u32) -> Self {
        Self::granting(stream_window, connection_window, None).await
    }

    /// The same, of which a connection has no more than so many calls at once.
    pub(crate) async fn granting(stream_window: u32, connection_window: u32, calls: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let kept = Arc::<Kept>::default();
        let keep = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                keep.connections.fetch_add(1, Ordering::Relaxed);
                let keep = Arc::clone(&keep);
                let service = service_fn(move |request| answer(request, Arc::clone(&keep)));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(stream_window)
                    .initial_connection_window_size(connection_window)
                    .max_concurrent_streams(calls)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { address, kept }
    }

    /// Every request that it has read so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.kept.received.lock().expect("no panic").clone()
    }

    /// How many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.kept.connections.load(Ordering::Relaxed)
    }

    /// How much it has given of endless answers.
    pub(crate) fn given(&self) -> usize {
        self.kept.given.load(Ordering::Relaxed)
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, keep: Arc<Kept>) -> Result<Response<Body>, Infallible> {
    let response = Response::builder().header("content-type", "application/grpc");
    match request.uri().path() {
        // The request stays with us, unread.
        DEAF => std::future::pending().await,
        ENDLESS => return Ok(response.body(endless(FRAME, keep)).expect("a response")),
        MURMUR => return Ok(response.body(endless(NOTHING, keep)).expect("a response")),
        MUTE => return Ok(response.body(Empty::new().boxed_unsync()).expect("a response")),
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let trails = parts.uri.path() == TRAILING;
    let collected = body.collect().await.expect("a body");
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    keep.received.lock().expect("no panic").push(Received {
        headers: parts.headers,
        body: body.clone(),
        trailers,
    });
    if trails {
        let status = HeaderMap::from_iter([(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        let frames = [Frame::data(body), Frame::trailers(status)].map(Ok);
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        return Ok(response.body(body).expect("a response"));
    }
    let response = response.header("grpc-status", "0");
    Ok(response.body(Full::new(body).boxed_unsync()).expect("a response"))
}

/// `frame` again and again.
fn endless(frame: &'static [u8], keep: Arc<Kept>) -> Body {
    let frames = futures_util::stream::repeat_with(move || {
        keep.given.fetch_add(frame.len(), Ordering::Relaxed);
        Ok(Frame::data(Bytes::from_static(frame)))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A message without content.
const NOTHING: &[u8] = &[0; 5];

/// As much as goes into one frame.
pub(crate) const FRAME: &[u8] = &[0; 16_384];
