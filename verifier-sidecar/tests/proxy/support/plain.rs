//! A service of plain HTTP, which keeps every byte that it is sent, and callers of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_mtls::{ClientCertificates, Limits, Protocols, ServerTls, TlsListener};
use countersign_verifier::test_util::SetClock;
use futures_util::stream;
use http::header::{CONNECTION, PROXY_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::pki::Pki;
use super::within;

/// Answers with what it is sent, as it comes.
pub(crate) const ECHO: &str = "/v1/echo";

/// Answers with a length.
pub(crate) const SIZED: &str = "/v1/sized";

/// Answers for ever, a little at a time.
pub(crate) const ENDLESS: &str = "/v1/endless";

/// Does not answer.
pub(crate) const MUTE: &str = "/v1/mute";

/// Answers, and closes the connection.
pub(crate) const ONCE: &str = "/v1/once";

/// Answers with what a proxy asks of its neighbour.
pub(crate) const CHALLENGE: &str = "/v1/challenge";

/// Answers with trailers.
pub(crate) const TRAILERS: &str = "/v1/trailers";

/// What it keeps.
#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<Parts>>,
    bytes: Mutex<Vec<u8>>,
    connections: AtomicUsize,
    /// Endless answers that are being given.
    endless: AtomicUsize,
}

/// The service. It speaks HTTP/1.1 and HTTP/2.
pub(crate) struct PlainService {
    pub(crate) address: SocketAddr,
    kept: Arc<Kept>,
}

impl PlainService {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let service = Self::at(listener.local_addr().expect("an address"));
        let kept = Arc::clone(&service.kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &kept);
            }
        });
        service
    }

    /// The same over TLS, as `name`.
    pub(crate) async fn start_tls(pki: &Pki, name: &str) -> Self {
        let clock = SetClock::new();
        let required = ClientCertificates::Required;
        let tls = ServerTls::speaking(Protocols::Any, &pki.files(name), required, clock).expect("TLS");
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut listener = TlsListener::bind(any, tls, Limits::default())
            .await
            .expect("bound");
        let service = Self::at(listener.local_addr());
        let kept = Arc::clone(&service.kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &kept);
            }
        });
        service
    }

    /// The same on a unix socket. Its address is nobody's.
    pub(crate) fn start_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("bound");
        let service = Self::at("127.0.0.1:0".parse().expect("an address"));
        let kept = Arc::clone(&service.kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &kept);
            }
        });
        service
    }

    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            kept: Arc::default(),
        }
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<Parts> {
        self.kept.requests.lock().expect("no panic").clone()
    }

    /// Everything that it was sent.
    pub(crate) fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.kept.bytes.lock().expect("no panic")).into_owned()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.kept.connections.load(Ordering::Relaxed)
    }

    /// Endless answers that are being given.
    pub(crate) fn endless(&self) -> usize {
        self.kept.endless.load(Ordering::Relaxed)
    }
}

/// Serves one connection.
fn serve<T>(stream: T, kept: &Arc<Kept>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    kept.connections.fetch_add(1, Ordering::Relaxed);
    let (keep, kept) = (Arc::clone(kept), Arc::clone(kept));
    let stream = Recorded { stream, kept };
    let service = service_fn(move |request| answer(request, Arc::clone(&keep)));
    tokio::spawn(async move {
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        // How a connection ends is its callers' affair.
        let _ended = server.serve_connection(TokioIo::new(stream), service).await;
    });
}

/// A stream that keeps what it reads.
struct Recorded<T> {
    stream: T,
    kept: Arc<Kept>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Recorded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = &buffer.filled()[before..];
        self.kept.bytes.lock().expect("no panic").extend_from_slice(came);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Recorded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn whole(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

struct Giving(Arc<Kept>);

impl Drop for Giving {
    fn drop(&mut self) {
        self.0.endless.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(request: Request<Incoming>, kept: Arc<Kept>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    kept.requests.lock().expect("no panic").push(parts.clone());
    let mut response = Response::new(whole("hello"));
    response
        .headers_mut()
        .insert("x-from-service", HeaderValue::from_static("yes"));
    match parts.uri.path() {
        ECHO => *response.body_mut() = body.boxed_unsync(),
        ENDLESS => {
            kept.endless.fetch_add(1, Ordering::Relaxed);
            let giving = Giving(Arc::clone(&kept));
            let frames = stream::unfold(giving, |giving| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok(Frame::data(Bytes::from_static(b"tick "))), giving))
            });
            *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        }
        MUTE => std::future::pending().await,
        ONCE => {
            let close = HeaderValue::from_static("close, x-hop");
            response.headers_mut().insert(CONNECTION, close);
            response
                .headers_mut()
                .insert("x-hop", HeaderValue::from_static("1"));
        }
        TRAILERS => {
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", HeaderValue::from_static("17"));
            let frames = [
                Frame::data(Bytes::from_static(b"hello")),
                Frame::trailers(trailers),
            ];
            *response.body_mut() = StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync();
            response
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("checksum"));
        }
        CHALLENGE => {
            let basic = HeaderValue::from_static("Basic realm=x");
            response.headers_mut().insert(PROXY_AUTHENTICATE, basic);
        }
        SIZED => {}
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// A service that answers every request of HTTP/1.1 without a body with exactly these bytes, and hangs up.
pub(crate) async fn answering(bytes: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                let came = stream.read_buf(&mut read).await.expect("read");
                assert!(came > 0, "the whole request comes");
            }
            stream.write_all(bytes.as_bytes()).await.expect("written");
        }
    });
    address
}

/// What came back, as a whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reply {
    /// The reason in a refusal.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/json");
        let said: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        said["reason"].as_str().expect("a reason").to_owned()
    }
}

/// A connection of HTTP/1.1.
pub(crate) struct Caller(http1::SendRequest<UnsyncBoxBody<Bytes, Infallible>>);

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connected")).await
    }

    pub(crate) async fn over<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("begun");
        // How it ends, its requests hear.
        tokio::spawn(async move { drop(connection.await) });
        Self(sender)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends `request`, and gives the answer as it comes.
    pub(crate) async fn begin(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let body = body.into();
        let body = if body.is_empty() {
            Empty::new().boxed_unsync()
        } else {
            Full::new(body).boxed_unsync()
        };
        self.begin_with(request, body).await
    }

    /// The same with any body.
    pub(crate) async fn begin_with(
        &mut self,
        request: http::request::Builder,
        body: UnsyncBoxBody<Bytes, Infallible>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let request = request.body(body).expect("a request");
        within("the connection", self.0.ready()).await?;
        within("an answer", self.0.send_request(request)).await
    }

    /// Sends `request`, and gives the answer as a whole.
    pub(crate) async fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Reply {
        let answer = self.begin(request, body).await.expect("an answer");
        whole_reply(answer).await
    }
}

/// The rest of an answer.
pub(crate) async fn whole_reply(answer: Response<Incoming>) -> Reply {
    let (parts, body) = answer.into_parts();
    let collected = within("the rest", body.collect()).await.expect("the rest");
    Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        trailers: collected.trailers().cloned(),
        body: collected.to_bytes(),
    }
}

/// Sends these bytes, and gives all that comes until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // Whoever has read enough may have closed.
    let _sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ended = within("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
