//! The answers that the proxy gives in the service's place: gRPC errors in one header block, without a body; for callers who may
//! know no gRPC, [`http`] ones.

mod http;

use ::http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use ::http::{Method, Response, StatusCode};
use bytes::Bytes;
use countersign_core::Rejection;
use countersign_wire::status::{self, Disclosure, Failure};
use tonic::{Code, Status};

use super::answer::Told;
use super::body::ResponseBody;
use super::request::Face;
use countersign_verifier::verifier::Denied;

pub(crate) use http::class_name;

/// Why a call is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is refused.
    Rejected(Denied),
    /// It failed.
    Failed(Failure),
    /// It is no call of a method.
    NotACall,
    /// Its content is not gRPC with protobuf, or cannot be gRPC.
    NotGrpc,
    /// It asks for another protocol.
    UpgradeUnsupported,
    /// It is of a version that is not served.
    VersionUnsupported,
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
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::VersionUnsupported => "version_unsupported",
        }
    }

    /// The status that the caller sees.
    pub(crate) fn status(&self, disclosure: Disclosure) -> Status {
        match self {
            Self::Rejected(denied) => denied.status(disclosure),
            Self::Failed(failure) => status::failed(*failure),
            Self::NotACall | Self::NotGrpc | Self::UpgradeUnsupported | Self::VersionUnsupported => {
                status::failed(Failure::MethodUnknown)
            }
        }
    }

    /// The name of the gRPC code that the caller sees.
    pub(crate) fn code(&self) -> &'static str {
        code_name(self.status(Disclosure::Coarse).code())
    }

    /// The name of whichever status a caller sees who is told in this form.
    pub(crate) fn code_for(&self, face: Face) -> &'static str {
        match face {
            Face::Grpc => self.code(),
            Face::GrpcWeb if self.has_grpc_status() => self.code(),
            Face::GrpcWeb | Face::Http => class_name(self.http_status()),
        }
    }

    /// Whether it is about a call. What cannot be one at all is for HTTP to say.
    const fn has_grpc_status(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Failed(_) => true,
            Self::NotACall | Self::NotGrpc | Self::UpgradeUnsupported | Self::VersionUnsupported => false,
        }
    }

    /// The answer to a request of this `method`.
    pub(crate) fn answer(&self, method: &Method, told: Told) -> Response<ResponseBody> {
        match told.face {
            Face::Grpc => self.respond(told.disclosure),
            // Trailers in the place of headers, which is what a stream without a message is (gRPC-Web, "Trailers-only").
            Face::GrpcWeb if self.has_grpc_status() => {
                let mut response = self.respond(told.disclosure);
                let web = HeaderValue::from_static("application/grpc-web+proto");
                response.headers_mut().insert(CONTENT_TYPE, web);
                response
            }
            Face::GrpcWeb | Face::Http => self.respond_http(told.disclosure).map(|text| {
                if *method == Method::HEAD {
                    ResponseBody::Empty
                } else {
                    ResponseBody::Text(Bytes::from(text))
                }
            }),
        }
    }

    /// The answer as gRPC.
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
            Self::NotGrpc | Self::UpgradeUnsupported | Self::VersionUnsupported => {
                *response.status_mut() = self.http_status();
            }
        }
        response
    }

    /// The answer as the trailers of a response that has begun.
    pub(crate) fn trailers(&self, disclosure: Disclosure) -> HeaderMap {
        status_trailers(&self.status(disclosure))
    }
}

/// `status` as the trailers of a response that has begun.
pub(super) fn status_trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Our own messages are header values; were one not, the code alone would have to do.
        trailers.insert("grpc-status", code_value(status.code()));
    }
    trailers
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
