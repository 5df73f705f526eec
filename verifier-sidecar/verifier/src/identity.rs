//! What the service behind the sidecar is told of the caller: four headers, made once per token.

use countersign_core::claims::{self, Claims};
use http::{HeaderMap, HeaderName, HeaderValue};

/// `sub` of the token.
pub const SUBJECT: HeaderName = HeaderName::from_static("x-countersign-subject");
/// `client_id` of the token.
pub const CLIENT: HeaderName = HeaderName::from_static("x-countersign-client");
/// `scope` of the token: scopes with a space between. Absent when there are none.
pub const SCOPES: HeaderName = HeaderName::from_static("x-countersign-scopes");
/// `jti` of the token.
pub const TOKEN_ID: HeaderName = HeaderName::from_static("x-countersign-token-id");

/// The caller, as header values that are cheap to copy.
#[derive(Clone, Debug)]
pub struct Identity {
    subject: HeaderValue,
    client: HeaderValue,
    scopes: Option<HeaderValue>,
    token_id: HeaderValue,
}

impl Identity {
    /// The caller that `claims` name. Nothing when a name is no header value, which the grammars of all four exclude.
    #[must_use]
    pub fn of(claims: &Claims) -> Option<Self> {
        let scopes = (!claims.scopes.is_empty()).then(|| claims::join(&claims.scopes));
        Some(Self {
            subject: value(&claims.subject.to_string())?,
            client: value(claims.client_id.as_str())?,
            scopes: match scopes {
                Some(scopes) => Some(value(&scopes)?),
                None => None,
            },
            token_id: value(claims.token_id.as_str())?,
        })
    }

    /// Writes the caller over whatever is in `headers`.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        headers.insert(SUBJECT, self.subject.clone());
        headers.insert(CLIENT, self.client.clone());
        if let Some(scopes) = &self.scopes {
            headers.insert(SCOPES, scopes.clone());
        }
        headers.insert(TOKEN_ID, self.token_id.clone());
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// Whether a caller may not send `name` to the service, because the service takes it for a proxy's word (G07).
///
/// `_` counts as `-`: some servers make variables of headers, in which both are the same.
fn is_reserved(name: &HeaderName) -> bool {
    // Nearly every header ends here.
    begins_with(name, b"x-")
        && (is_ours(name)
            || begins_with(name, b"x-envoy-")
            || (name.as_str().len() == XFCC.len() && begins_with(name, XFCC)))
}

/// Whether `name` is one of ours, in any spelling.
#[must_use]
pub fn is_ours(name: &HeaderName) -> bool {
    begins_with(name, b"x-countersign-")
}

fn begins_with(name: &HeaderName, prefix: &[u8]) -> bool {
    let name = name.as_str().as_bytes();
    let is_same = |(byte, wanted): (&u8, &u8)| plain(*byte) == *wanted;
    name.len() >= prefix.len() && name.iter().zip(prefix).all(is_same)
}

const XFCC: &[u8] = b"x-forwarded-client-cert";

const fn plain(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Takes every reserved header out, in whatever number.
pub fn strip_reserved(headers: &mut HeaderMap) {
    // A removal moves others, so what is found is removed afterwards. Usually there is nothing.
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
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
}
