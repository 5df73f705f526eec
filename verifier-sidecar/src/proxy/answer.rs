//! What a service answers, and how it is passed on: the same for calls in and for calls out.

use countersign_wire::status::{Disclosure, Failure};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::Span;

use super::body::{Relayed, RequestBody, ResponseBody};
use super::hop;
use super::lifetime::Over;
use super::request::Face;
use super::respond::{Refusal, class_name, code_in};
use super::upstream::{InFlight, Lane, Upstream};
use super::web::Framing;
use crate::metrics::{ActiveCall, ProxyMetrics};

/// How a caller is told that his request is not served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// In which form.
    pub(crate) face: Face,
    /// How precisely.
    pub(crate) disclosure: Disclosure,
}

/// A service's answer.
pub(crate) struct Answer {
    response: Response<Incoming>,
    over: Over,
    in_flight: InFlight,
}

impl Answer {
    /// Waits for the answer of `upstream` to `request`, until the call is `over`.
    pub(crate) async fn to(
        request: Request<RequestBody>,
        upstream: &Upstream,
        lane: Lane,
        (over, deadline): (Over, Option<Instant>),
        metrics: &ProxyMetrics,
    ) -> Result<Self, Refusal> {
        let answer = tokio::select! {
            biased;
            refusal = over.clone() => return Err(refusal),
            answer = upstream.call(lane, request) => answer,
        };
        match answer {
            // A service that keeps the deadline itself may wake before this does, and has other words for it.
            Ok(_late) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                Err(Failure::DeadlineExceeded.into())
            }
            // Nobody has asked it for that.
            Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                metrics.upstream_failed();
                Err(Failure::UpstreamUnavailable.into())
            }
            Ok((response, in_flight)) => Ok(Self {
                response,
                over,
                in_flight,
            }),
            Err(error) => {
                metrics.upstream_failed();
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "the service did not answer");
                Err(Failure::UpstreamUnavailable.into())
            }
        }
    }

    /// Passes it on, to a caller who is told in this way if it cannot go on to its end.
    pub(crate) fn relay(self, mut call: ActiveCall, told: Told, span: Span) -> Response<ResponseBody> {
        let (mut parts, incoming) = self.response.into_parts();
        let code = code_in(&parts.headers);
        call.responded(parts.status);
        let without_status = match told.face {
            Face::Grpc => None,
            Face::GrpcWeb => code.or_else(|| Some(class_name(parts.status))),
            Face::Http => Some(class_name(parts.status)),
        };
        match (told.face, code) {
            (Face::Grpc, Some(code)) => call.ended_with(code),
            (Face::Grpc | Face::GrpcWeb | Face::Http, _) => {}
        }
        // Of two ways to tell a length, the chunks were followed (RFC 9112, section 6.3).
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        if told.face != Face::Grpc || parts.version != Version::HTTP_2 {
            hop::strip(&mut parts.headers);
        }
        // Over HTTP/2 no version is said.
        parts.version = Version::HTTP_11;
        let framing = match told.face {
            Face::GrpcWeb => Framing::of(&parts.headers),
            Face::Grpc | Face::Http => None,
        };
        let mut relayed = Relayed {
            incoming,
            over: self.over,
            told,
            framing,
            is_over: false,
            without_status,
            call,
            in_flight: self.in_flight,
            _span: span,
        };
        // Nobody asks a body that has ended for its end.
        if relayed.incoming.is_end_stream() {
            relayed.ended();
        }
        Response::from_parts(parts, ResponseBody::Relayed(Box::new(relayed)))
    }
}
