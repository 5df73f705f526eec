//! The answers that the proxy gives in the service's place: gRPC errors in one header block, without a body.

use countersign_core::Rejection;
use countersign_wire::status::{self, Disclosure, Failure};
use http::header::{ALLOW, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use tonic::{Code, Status};

use countersign_verifier::verifier::Denied;

/// Why a call is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is refused.
    Rejected(Denied),
    /// It failed.
    Failed(Failure),
    /// It is no call of a method.
    NotACall,
    /// Its content is not gRPC with protobuf.
    NotGrpc,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection.into())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Rejected(denied)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Refusal {
    /// The stable reason, for the log.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(denied) => denied.rejection.reason(),
            Self::Failed(failure) => failure.reason(),
            Self::NotACall => "not_a_call",
            Self::NotGrpc => "not_grpc",
        }
    }

    /// The status that the caller sees.
    pub(crate) fn status(&self, disclosure: Disclosure) -> Status {
        match self {
            Self::Rejected(denied) => denied.status(disclosure),
            Self::Failed(failure) => status::failed(*failure),
            Self::NotACall | Self::NotGrpc => status::failed(Failure::MethodUnknown),
        }
    }

    /// The name of the gRPC code that the caller sees.
    pub(crate) fn code(&self) -> &'static str {
        code_name(self.status(Disclosure::Coarse).code())
    }

    /// The answer as a response.
    pub(crate) fn respond<B: Default>(&self, disclosure: Disclosure) -> Response<B> {
        let mut response: Response<B> = self.status(disclosure).into_http();
        let headers = response.headers_mut();
        match self {
            Self::Rejected(denied) => {
                if let Some(challenge) = status::challenge(denied.rejection) {
                    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            Self::Failed(_) => {}
            // Whoever asks in this way may not know gRPC, so HTTP says it too.
            Self::NotACall => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            Self::NotGrpc => *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
        response
    }

    /// The answer as the trailers of a response that has begun.
    pub(crate) fn trailers(&self, disclosure: Disclosure) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let written = self.status(disclosure).add_header(&mut trailers);
        if written.is_err() {
            // Our own messages are header values; were one not, the code alone would have to do.
            trailers.insert("grpc-status", code_value(self.status(disclosure).code()));
        }
        trailers
    }
}

fn code_value(code: Code) -> HeaderValue {
    HeaderValue::from(i32::from(code))
}

/// The name of `code` in metrics.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The name of the code that `headers` or trailers carry, if they carry one.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<&'static str> {
    headers
        .get("grpc-status")
        .map(|status| code_name(Code::from_bytes(status.as_bytes())))
}
