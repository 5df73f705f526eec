//! A service that no gRPC library would be: it keeps what it is sent, or reads nothing at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Reads it to its end and answers well.
    Polite,
    /// Keeps it open and reads nothing.
    Deaf,
}

/// A request as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A service of a certain manner.
pub(crate) struct RawService {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl RawService {
    /// Starts one.
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let received = Arc::default();
        let keep = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let keep = Arc::clone(&keep);
                let service = service_fn(move |request| answer(manner, request, Arc::clone(&keep)));
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { address, received }
    }

    /// Every request that it has read so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }
}

async fn answer(
    manner: Manner,
    request: Request<Incoming>,
    keep: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    if manner == Manner::Deaf {
        let _unread = request;
        std::future::pending::<()>().await;
        return Ok(Response::new(Empty::new()));
    }
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.expect("a body");
    keep.lock().expect("no panic").push(Received {
        headers: parts.headers,
        trailers: collected.trailers().cloned(),
        body: collected.to_bytes(),
    });
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "0");
    Ok(response.body(Empty::new()).expect("a response"))
}
