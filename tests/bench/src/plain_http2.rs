//! The servers that the sidecar is compared with: a service that does nothing, and a proxy that decides nothing.

use std::convert::Infallible;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;

/// One message without fields, framed as gRPC does.
pub(crate) const EMPTY_MESSAGE: &[u8] = &[0; 5];

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A free port on loopback.
pub(crate) async fn listen() -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The method that answers with as many messages as `MESSAGES` says.
pub(crate) const STREAM_PATH: &str = "/bench.v1.Orders/Watch";
/// The header that tells `STREAM_PATH` how many messages are wanted.
pub(crate) const MESSAGES: HeaderName = HeaderName::from_static("bench-messages");
/// What each of them has on the wire: 100 bytes, and gRPC's prefix.
pub(crate) const MESSAGE_BYTES: usize = 105;

/// The method whose answer begins and never ends.
pub(crate) const HELD_PATH: &str = "/bench.v1.Orders/Hold";

/// One of them.
static MESSAGE: [u8; MESSAGE_BYTES] = {
    let mut message = [b'x'; MESSAGE_BYTES];
    message.split_at_mut(5).0.copy_from_slice(&[0, 0, 0, 0, 100]);
    message
};

/// A gRPC service which counts calls. Its methods answer OK with an empty message, but for `STREAM_PATH` and `HELD_PATH`.
pub(crate) async fn serve_nothing(listener: TcpListener, calls: Arc<AtomicU64>) {
    accept(listener, |stream| {
        let calls = Arc::clone(&calls);
        async move {
            let answer = service_fn(|request: Request<Incoming>| {
                calls.fetch_add(1, Ordering::Relaxed);
                async move {
                    let messages = Messages::asked_for(&request);
                    // Read to its end, as a service would.
                    let _message = request.into_body().collect().await;
                    Ok::<_, Infallible>(answer(messages))
                }
            });
            let connection = server::Builder::new(TokioExecutor::new()).serve_connection(stream, answer);
            // Ends with the connection, in whatever way.
            drop(connection.await);
        }
    })
    .await;
}

fn answer(messages: Messages) -> Response<Messages> {
    let mut response = Response::new(messages);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer: the same message so many times, each in a frame of its own, and OK, unless it is held open.
#[derive(Debug)]
struct Messages {
    message: &'static [u8],
    left: u64,
    held: bool,
    ended: bool,
}

impl Messages {
    fn asked_for<B>(request: &Request<B>) -> Self {
        let count = request.headers().get(MESSAGES);
        let count = count.and_then(|count| count.to_str().ok()?.parse().ok());
        let (message, left) = match (request.uri().path(), count) {
            (STREAM_PATH, Some(count)) => (MESSAGE.as_slice(), count),
            (HELD_PATH, _) => (EMPTY_MESSAGE, 0),
            _ => (EMPTY_MESSAGE, 1),
        };
        Self {
            message,
            left,
            held: request.uri().path() == HELD_PATH,
            ended: false,
        }
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.message)))));
        }
        if self.held {
            return Poll::Pending;
        }
        if mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// A reverse proxy that looks at nothing: every request goes on over one connection, as it is.
pub(crate) async fn serve_proxy(listener: TcpListener, upstream: SocketAddr) -> Result<(), Failure> {
    let upstream_authority: Authority = upstream.to_string().parse()?;
    let requests = connect(upstream).await?;
    accept(listener, move |stream| {
        let (requests, authority) = (requests.clone(), upstream_authority.clone());
        async move {
            let forward = service_fn(move |mut request: Request<Incoming>| {
                let mut requests = requests.clone();
                *request.uri_mut() = upstream_uri(request.uri(), &authority);
                async move { requests.send_request(request).await }
            });
            let connection = server::Builder::new(TokioExecutor::new()).serve_connection(stream, forward);
            drop(connection.await);
        }
    })
    .await;
    Ok(())
}

fn upstream_uri(uri: &Uri, authority: &Authority) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    Uri::from_parts(parts).unwrap_or_default()
}

/// What may be under way in one answer. With hyper's 2 MiB, an answer in small frames that is not read at once exceeds what h2
/// keeps of them (half of the connection's window, 256 bytes for each), and h2 ends the connection.
const STREAM_WINDOW: u32 = 1 << 20;

/// An HTTP/2 connection without TLS.
pub(crate) async fn connect<B>(address: SocketAddr) -> Result<client::SendRequest<B>, Failure>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = client::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    // Ends with the connection; the calls on it tell why.
    tokio::spawn(async move { drop(connection.await) });
    Ok(requests)
}

/// Serves each connection by `serve`, until the listener fails.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TokioIo<TcpStream>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_ok() {
            tokio::spawn(serve(TokioIo::new(stream)));
        }
    }
}
