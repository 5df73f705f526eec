//! What comes before every service: whether the request is gRPC at all, and how long it may take; and what comes after: the
//! statuses that are not ours.
//!
//! The gRPC library takes any HTTP method and content type for a call. It calls a message that is no message INTERNAL, and
//! one that is too large OUT_OF_RANGE; each becomes a status of our tables. A handler that panics fails its own call and no
//! other.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_core::requirements::MethodPath;
use countersign_wire::encoding;
use countersign_wire::status::{self, Failure};
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Puts [`Border`] before a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct BorderLayer {
    /// The longest that a call may take until its answer begins.
    pub(super) timeout: Duration,
}

impl<S> Layer<S> for BorderLayer {
    type Service = Border<S>;

    fn layer(&self, inner: S) -> Border<S> {
        Border {
            inner,
            timeout: self.timeout,
        }
    }
}

/// A service whose every status is one of ours.
#[derive(Clone, Debug)]
pub(super) struct Border<S> {
    inner: S,
    timeout: Duration,
}

impl<S, B> Service<Request<B>> for Border<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Err(refused) = judge(&request) {
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        }
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let call = tokio::time::timeout(self.timeout, call);
        Box::pin(async move {
            match call.await {
                Ok(Ok(result)) => result.map(translate),
                // Logged and counted where it happened (`countersign_runtime::panics`).
                Ok(Err(_panic)) => Ok(status::failed(Failure::Internal).into_http()),
                Err(_elapsed) => Ok(status::failed(Failure::DeadlineExceeded).into_http()),
            }
        })
    }
}

/// Whether a request is a call of gRPC, written as it must be (G01 to G03, G10, G12, G14).
fn judge<B>(request: &Request<B>) -> Result<(), Status> {
    if request.method() != Method::POST || !is_grpc(request.headers()) {
        return Err(status::failed(Failure::MethodUnknown));
    }
    if request.uri().query().is_some() || MethodPath::parse(request.uri().path()).is_err() {
        return Err(status::invalid("path", "is not `/package.Service/Method`"));
    }
    let timeout = request.headers().get("grpc-timeout");
    if timeout.is_some_and(|timeout| !is_timeout(timeout.as_bytes())) {
        return Err(status::invalid("grpc-timeout", "is 1 to 8 digits and a unit"));
    }
    encoding::check(request.headers())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    matches!(
        content_type,
        Some(b"application/grpc" | b"application/grpc+proto")
    )
}

fn is_timeout(text: &[u8]) -> bool {
    text.split_last().is_some_and(|(unit, digits)| {
        b"HMSmun".contains(unit) && (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    })
}

fn translate(response: Response<Body>) -> Response<Body> {
    match foreign(response.headers()) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// The status in place of one that the library made. Ours have details; its have none.
fn foreign(headers: &HeaderMap) -> Option<Status> {
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return None;
    }
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    match code {
        Code::Internal => Some(status::invalid("request", "is no message of this method")),
        Code::OutOfRange => Some(status::invalid("request", "is over 64 KiB")),
        Code::Unimplemented => Some(status::failed(Failure::MethodUnknown)),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}
