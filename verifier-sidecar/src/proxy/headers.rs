//! Which headers reach the service behind the sidecar: all but those by which it is told of the caller, and then ours.

use http::header::{AUTHORIZATION, HeaderName, TE};
use http::{HeaderMap, HeaderValue};

use crate::identity::Identity;

/// Whether a caller may not send `name` to the service, because the service takes it for a proxy's word (G07).
///
/// `_` counts as `-`: some servers make variables of headers, in which both are the same.
fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let begins_with = |prefix: &[u8]| {
        name.len() >= prefix.len()
            && name
                .iter()
                .zip(prefix)
                .all(|(byte, wanted)| plain(*byte) == *wanted)
    };
    // Nearly every header ends here.
    begins_with(b"x-")
        && (begins_with(b"x-countersign-")
            || begins_with(b"x-envoy-")
            || (name.len() == XFCC.len() && begins_with(XFCC)))
}

const XFCC: &[u8] = b"x-forwarded-client-cert";

const fn plain(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Takes every reserved header out, in whatever number.
pub(crate) fn strip_reserved(headers: &mut HeaderMap) {
    // A removal moves others, so what is found is removed afterwards. Usually there is nothing.
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// What becomes of the `authorization` of a judged request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenForwarding {
    /// The service does not see it.
    Withhold,
    /// The service sees it as it came in.
    Forward,
}

/// Makes a request's headers ready for the service.
pub(crate) fn prepare(headers: &mut HeaderMap, identity: Option<&Identity>, tokens: TokenForwarding) {
    strip_reserved(headers);
    if tokens == TokenForwarding::Withhold {
        headers.remove(AUTHORIZATION);
    }
    // Some proxies in front of us drop it; gRPC servers may insist on it (G11).
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(identity) = identity {
        identity.insert_into(headers);
    }
}

/// The same for the trailers of a request: they are no place for credentials (G29).
pub(crate) fn prepare_trailers(trailers: &mut HeaderMap) {
    strip_reserved(trailers);
    trailers.remove(AUTHORIZATION);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G07: whatever the case, number or spelling.
    #[test]
    fn nothing_that_a_proxy_vouches_for_comes_from_the_caller() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-countersign-subject",
            "X-Countersign-Client",
            "x-countersign-anything-new",
            "x_countersign_subject",
            "x-countersign_scopes",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-envoy-original-path",
            "X-Envoy-External-Address",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            headers.append(name.clone(), HeaderValue::from_static("one"));
            headers.append(name, HeaderValue::from_static("two"));
        }
        for kept in [
            "x-request-id",
            "x-countersigned",
            "x-forwarded-for",
            "traceparent",
            "x-forwarded-client-certs",
        ] {
            headers.append(kept, HeaderValue::from_static("kept"));
        }
        strip_reserved(&mut headers);
        assert_eq!(headers.len(), 5, "{headers:?}");
        assert!(headers.values().all(|value| value == "kept"));
    }

    /// T08, G29: the token is the header's alone.
    #[test]
    fn credentials_in_trailers_go_nowhere() {
        let mut trailers = HeaderMap::new();
        trailers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        trailers.insert("x-countersign-subject", HeaderValue::from_static("x"));
        trailers.insert("checksum", HeaderValue::from_static("1"));
        prepare_trailers(&mut trailers);
        assert_eq!(trailers.len(), 1);
    }
}
