//! The servers that the sidecar is compared with: a service that does nothing, and a proxy that decides nothing.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
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

/// A gRPC service whose every method answers OK with an empty message, and counts.
pub(crate) async fn serve_nothing(listener: TcpListener, calls: Arc<AtomicU64>) {
    accept(listener, |stream| {
        let calls = Arc::clone(&calls);
        async move {
            let answer = service_fn(|request: Request<Incoming>| {
                calls.fetch_add(1, Ordering::Relaxed);
                async move {
                    // Read to its end, as a service would.
                    let _message = request.into_body().collect().await;
                    Ok::<_, Infallible>(empty_answer())
                }
            });
            let connection = server::Builder::new(TokioExecutor::new()).serve_connection(stream, answer);
            // Ends with the connection, in whatever way.
            drop(connection.await);
        }
    })
    .await;
}

fn empty_answer() -> Response<impl Body<Data = Bytes, Error = Infallible>> {
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from_static(EMPTY_MESSAGE)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
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
