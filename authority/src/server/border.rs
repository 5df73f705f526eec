//! What comes before every service: whether the request is gRPC at all, and how long it may take; and what comes after: the
//! statuses that are not ours.
//!
//! The gRPC library takes any HTTP method and content type for a call. It calls a message that is no message INTERNAL, and
//! one that is too large OUT_OF_RANGE; each becomes a status of our tables. Whoever sets a deadline is told by one of ours, too,
//! that it has passed: the library would say CANCELLED. A handler that panics fails its own call and no other. What health and
//! reflection answer is of their own protocols.

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

/// A service whose every status is one of ours, wherever the caller can still read it.
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
        let deadline = match judge(&request) {
            Ok(deadline) => deadline.unwrap_or(self.timeout),
            Err(refused) => return Box::pin(std::future::ready(Ok(refused.into_http()))),
        };
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let call = tokio::time::timeout(deadline.min(self.timeout), call);
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
/// The time that its caller gives it, if he says.
fn judge<B>(request: &Request<B>) -> Result<Option<Duration>, Status> {
    if request.method() != Method::POST || !is_grpc(request.headers()) {
        return Err(status::failed(Failure::MethodUnknown));
    }
    if request.uri().query().is_some() || MethodPath::parse(request.uri().path()).is_err() {
        return Err(status::invalid("path", "is not `/package.Service/Method`"));
    }
    encoding::check(request.headers())?;
    let Some(timeout) = request.headers().get("grpc-timeout") else {
        return Ok(None);
    };
    let timeout = timeout.to_str().ok().and_then(read_timeout);
    let timeout = timeout.ok_or_else(|| status::invalid("grpc-timeout", "is 1 to 8 digits and a unit"))?;
    Ok(Some(timeout.saturating_sub(EARLIER)))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    matches!(
        content_type,
        Some(b"application/grpc" | b"application/grpc+proto")
    )
}

/// The library keeps the same deadline, from a moment before: ours has to pass first.
const EARLIER: Duration = Duration::from_millis(2);

fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(3600 * count)),
        "M" => Some(Duration::from_secs(60 * count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
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
