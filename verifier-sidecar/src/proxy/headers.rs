//! Which headers reach the service behind the sidecar: all but those by which it is told of the caller, and then ours.

use http::header::{AUTHORIZATION, TE};
use http::{HeaderMap, HeaderValue};

use countersign_verifier::identity::{Identity, IdentityHeaders};

use super::hop;

/// What becomes of the `authorization` of a judged request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenForwarding {
    /// The service does not see it.
    Withhold,
    /// The service sees it as it came in.
    Forward,
}

/// Makes a request's headers ready for the service.
pub(crate) fn prepare(
    headers: &mut HeaderMap,
    names: &IdentityHeaders,
    identity: Option<&Identity>,
    tokens: TokenForwarding,
) {
    names.strip(headers);
    if tokens == TokenForwarding::Withhold {
        headers.remove(AUTHORIZATION);
    }
    if let Some(identity) = identity {
        names.tell(identity, headers);
    }
}

/// Says for a gRPC call what some proxies in front of us drop, and gRPC servers may insist on (G11).
pub(crate) fn take_trailers(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// The same for the trailers of a request: they are no place for credentials (G29), nor for what is for the neighbour alone, which HTTP/2 would
/// not send.
pub(crate) fn prepare_trailers(trailers: &mut HeaderMap, names: &IdentityHeaders) {
    hop::strip_trailers(trailers);
    names.strip(trailers);
    trailers.remove(AUTHORIZATION);
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    /// T08, G29: the token is the header's alone.
    #[test]
    fn credentials_in_trailers_go_nowhere() {
        let mut trailers = HeaderMap::new();
        trailers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        trailers.insert("x-countersign-subject", HeaderValue::from_static("x"));
        trailers.insert("x-user", HeaderValue::from_static("x"));
        trailers.insert("connection", HeaderValue::from_static("x-hop"));
        trailers.insert("te", HeaderValue::from_static("trailers"));
        trailers.insert("checksum", HeaderValue::from_static("1"));
        let names = IdentityHeaders::named([Some(HeaderName::from_static("x-user")), None, None, None]);
        prepare_trailers(&mut trailers, &names);
        assert_eq!(trailers.len(), 1);
    }
}
