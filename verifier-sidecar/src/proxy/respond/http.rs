//! The answers for callers who may know no gRPC, in one place for the proxy and for Envoy: a status of HTTP's, the headers that go
//! with it, and a body of JSON with the reason.

use countersign_core::Outcome;
use countersign_wire::status::{self, Disclosure};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::Refusal;
use crate::proxy::request::METHODS;

impl Refusal {
    /// HTTP's status for it.
    pub(crate) fn http_status(&self) -> StatusCode {
        let status = match self {
            Self::Rejected(denied) => status::http_status(denied.rejection.outcome()),
            Self::Failed(failure) => status::http_status_of(*failure),
            Self::NotACall => 405,
            Self::NotGrpc => 415,
            Self::UpgradeUnsupported => 501,
            Self::VersionUnsupported => 505,
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer as HTTP.
    pub(crate) fn respond_http(&self, disclosure: Disclosure) -> Response<String> {
        let mut response = Response::new(self.json(disclosure));
        *response.status_mut() = self.http_status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(status::JSON));
        // Some statuses would be kept for as long as a cache likes.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Rejected(denied) => {
                if let Some(challenge) = status::challenge(denied.rejection) {
                    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
                if denied.rejection.outcome() == Outcome::Unavailable {
                    headers.insert(RETRY_AFTER, HeaderValue::from(status::RETRY_AFTER.as_secs()));
                }
            }
            Self::NotACall => {
                headers.insert(ALLOW, methods());
            }
            Self::Failed(_) | Self::NotGrpc | Self::UpgradeUnsupported | Self::VersionUnsupported => {}
        }
        response
    }

    fn json(&self, disclosure: Disclosure) -> String {
        match self {
            Self::Rejected(_) | Self::Failed(_) => status::json(&self.status(disclosure)),
            Self::NotACall => self.json_saying("nothing can be asked in this way"),
            Self::NotGrpc => self.json_saying("gRPC is taken with protobuf, over HTTP/2"),
            Self::UpgradeUnsupported => self.json_saying("no other protocol is changed to"),
            Self::VersionUnsupported => self.json_saying("HTTP/1.1 and HTTP/2 are taken"),
        }
    }

    fn json_saying(&self, message: &str) -> String {
        status::json_of(self.reason(), message)
    }
}

/// The methods that are taken, for whoever came with another one.
fn methods() -> HeaderValue {
    let names = METHODS.map(|method| method.to_string()).join(", ");
    HeaderValue::from_str(&names).unwrap_or(HeaderValue::from_static("GET, POST"))
}

/// The name of `status` in metrics. A service may answer with any of a thousand, which is more than metrics should tell apart.
pub(crate) const fn class_name(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "HTTP_1XX",
        2 => "HTTP_2XX",
        3 => "HTTP_3XX",
        4 => "HTTP_4XX",
        5 => "HTTP_5XX",
        _ => "HTTP_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::Rejection;
    use countersign_wire::status::Failure;

    use super::*;

    /// Two refusals of one class are the same for whoever may not know more, headers and all; but that a token is missing shows.
    #[test]
    fn coarse_answers_do_not_tell_reasons_apart() {
        let answer = |rejection: Rejection| {
            let answer = Refusal::from(rejection).respond_http(Disclosure::Coarse);
            (answer.status(), answer.headers().clone(), answer.into_body())
        };
        let known = |rejection: &Rejection| *rejection != Rejection::TokenMissing;
        for one in Rejection::ALL.into_iter().filter(known) {
            let same = |other: &Rejection| other.outcome() == one.outcome();
            for other in Rejection::ALL.into_iter().filter(known).filter(same) {
                assert_eq!(answer(one), answer(other));
            }
        }
    }

    /// The status, the header that says what to do, and the body of what is told of `refusal`.
    fn told(refusal: &Refusal) -> (u16, String, serde_json::Value) {
        let answer = refusal.respond_http(Disclosure::Precise);
        let header = |name| {
            let value = answer.headers().get(name);
            value.map(|value: &HeaderValue| value.to_str().expect("text").to_owned())
        };
        let more = [WWW_AUTHENTICATE, RETRY_AFTER, ALLOW]
            .into_iter()
            .find_map(header);
        assert_eq!(header(CONTENT_TYPE).as_deref(), Some("application/json"));
        assert_eq!(header(CACHE_CONTROL).as_deref(), Some("no-store"));
        let said = serde_json::from_str(answer.body()).expect("JSON");
        (answer.status().as_u16(), more.unwrap_or_default(), said)
    }

    #[test]
    fn every_answer_says_why_and_what_to_do() {
        let invalid = r#"Bearer error="invalid_token""#;
        let insufficient = r#"Bearer error="insufficient_scope""#;
        let malformed = r#"Bearer error="invalid_request""#;
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        for (refusal, status, header) in [
            (Refusal::from(Rejection::TokenMissing), 401, "Bearer"),
            (Rejection::TokenExpired.into(), 401, invalid),
            (Rejection::ScopeInsufficient.into(), 403, insufficient),
            (Rejection::RequestMalformed.into(), 400, malformed),
            (Rejection::TokenTooLarge.into(), 431, ""),
            (Rejection::TrustCold.into(), 503, "2"),
            (Failure::UpstreamUnavailable.into(), 502, ""),
            (Failure::DeadlineExceeded.into(), 504, ""),
            (Refusal::NotACall, 405, methods),
            (Refusal::NotGrpc, 415, ""),
            (Refusal::UpgradeUnsupported, 501, ""),
            (Refusal::VersionUnsupported, 505, ""),
        ] {
            let (told_status, told_header, said) = told(&refusal);
            assert_eq!(
                (told_status, told_header.as_str()),
                (status, header),
                "{refusal:?}"
            );
            assert_eq!(said["reason"], refusal.reason());
            assert!(
                said["message"]
                    .as_str()
                    .is_some_and(|message| !message.is_empty()),
                "{refusal:?}"
            );
        }
    }
}
