//! The same refusals for callers who speak HTTP and no gRPC: a status of HTTP's, and what the gRPC status tells as JSON.

use std::collections::BTreeMap;

use countersign_core::Outcome;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Failure;

/// The HTTP status for an outcome.
#[must_use]
pub const fn http_status(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Invalid => 400,
        Outcome::Unauthenticated => 401,
        Outcome::Denied => 403,
        Outcome::TooLarge => 431,
        Outcome::Unavailable => 503,
    }
}

/// The HTTP status for a failure.
#[must_use]
pub const fn http_status_of(failure: Failure) -> u16 {
    if matches!(failure, Failure::UpstreamUnavailable) {
        // It is not the sidecar that is away.
        return 502;
    }
    match failure.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

/// The media type of [`json`].
pub const JSON: &str = "application/json";

/// What a status tells.
#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    /// The metadata of its `ErrorInfo`; `reason` is in it. In an order that is always the same.
    #[serde(flatten)]
    metadata: BTreeMap<String, String>,
}

/// What `status` tells, as JSON: an object with the message, the reason, and whatever else stands in its `ErrorInfo`.
#[must_use]
pub fn json(status: &Status) -> String {
    let info = status.get_details_error_info();
    let told = Told {
        message: status.message(),
        metadata: info.map(|info| info.metadata).into_iter().flatten().collect(),
    };
    // Strings alone always become JSON.
    serde_json::to_string(&told).unwrap_or_default()
}

/// The same for what has no status: `message`, and `reason` for it.
#[must_use]
pub fn json_of(reason: &str, message: &str) -> String {
    let told = Told {
        message,
        metadata: BTreeMap::from([("reason".to_owned(), reason.to_owned())]),
    };
    serde_json::to_string(&told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use countersign_core::Rejection;

    use super::super::{Disclosure, failed, refused};
    use super::*;

    /// Nothing that is refused or fails looks like a success, and what passes by itself can be told from what does not.
    #[test]
    fn no_refusal_is_a_success_of_http() {
        for failure in Failure::ALL {
            assert!((400..600).contains(&http_status_of(failure)), "{failure:?}");
        }
        for (failure, status) in [
            (Failure::UpstreamUnavailable, 502),
            (Failure::DeadlineExceeded, 504),
            (Failure::Draining, 503),
            (Failure::Internal, 500),
            (Failure::LimitReached, 429),
            (Failure::RouteUnknown, 403),
        ] {
            assert_eq!(http_status_of(failure), status, "{failure:?}");
        }
    }

    #[test]
    fn what_a_status_tells_is_json() {
        for (status, text) in [
            (
                refused(Rejection::TokenExpired, Disclosure::Precise),
                r#"{"message":"the token is refused: token_expired","reason":"token_expired"}"#,
            ),
            (
                refused(Rejection::TokenExpired, Disclosure::Coarse),
                r#"{"message":"the token is refused","reason":"invalid_token"}"#,
            ),
            (
                failed(Failure::UpstreamUnavailable),
                r#"{"message":"the called service cannot be reached","reason":"upstream_unavailable"}"#,
            ),
        ] {
            assert_eq!(json(&status), text);
        }
    }

    /// Two reasons under one coarse class are the same bytes, each time.
    #[test]
    fn coarse_json_does_not_tell_reasons_apart() {
        for one in Rejection::ALL {
            let same = Rejection::ALL.into_iter();
            for other in same.filter(|other| other.outcome() == one.outcome()) {
                let [one, other] =
                    [one, other].map(|rejection| json(&refused(rejection, Disclosure::Coarse)));
                assert_eq!(one, other);
            }
        }
    }
}
