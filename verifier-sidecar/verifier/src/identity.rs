//! What the service behind the sidecar is told of the caller: four headers, made once per token.
//!
//! An operator may choose their names ([`IdentityHeaders`]). Whatever they are, a caller cannot say them himself: they are taken
//! out of his request, and with them every other header that a service takes for a proxy's word.

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

/// The usual names: of subject, client, scopes and token id. Everything about a caller is in this order.
pub static USUAL: [HeaderName; 4] = [SUBJECT, CLIENT, SCOPES, TOKEN_ID];

/// The caller, as header values that are cheap to copy.
#[derive(Clone, Debug)]
pub struct Identity([Option<HeaderValue>; 4]);

impl Identity {
    /// The caller that `claims` name. Nothing when a name is no header value, which the grammars of all four exclude.
    #[must_use]
    pub fn of(claims: &Claims) -> Option<Self> {
        let scopes = (!claims.scopes.is_empty()).then(|| claims::join(&claims.scopes));
        let scopes = match scopes {
            Some(scopes) => Some(value(&scopes)?),
            None => None,
        };
        Some(Self([
            Some(value(&claims.subject.to_string())?),
            Some(value(claims.client_id.as_str())?),
            scopes,
            Some(value(claims.token_id.as_str())?),
        ]))
    }

    /// Writes the caller over whatever is in `headers`, under the usual names.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        for (name, value) in USUAL.iter().zip(&self.0) {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// Under which names a service is told of its callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    names: [Option<HeaderName>; 4],
    /// Those of them that are not reserved anyway, with `-` for `_`. Usually none.
    beside: Box<[Box<str>]>,
}

/// No header by which a service can be told of its caller has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaderName {
    /// It is none of a header.
    #[error("is no name of a header: letters, digits, `-`, `_` and `.`")]
    Form,
    /// HTTP, gRPC or a proxy has another use for it.
    #[error("is the name of a header that HTTP, gRPC or proxies have another use for")]
    Taken,
    /// Its values are in Base64.
    #[error("ends in `-bin`, by which gRPC marks binary values")]
    Binary,
}

/// Headers that are somebody else's. A request is not the same with another value in one of them.
const TAKEN: [&str; 21] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// Reads a name for a header by which a service is to be told of its caller.
///
/// # Errors
/// [`InvalidHeaderName`].
pub fn header_name(text: &str) -> Result<HeaderName, InvalidHeaderName> {
    let of_grpc = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_error| InvalidHeaderName::Form)?;
    if !text.bytes().all(of_grpc) {
        return Err(InvalidHeaderName::Form);
    }
    if name.as_str().ends_with("-bin") {
        return Err(InvalidHeaderName::Binary);
    }
    let is_taken = TAKEN.iter().any(|taken| is(&name, taken));
    if is_taken || begins_with(&name, b"grpc-") || (is_reserved(&name) && !is_ours(&name)) {
        return Err(InvalidHeaderName::Taken);
    }
    Ok(name)
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self::named(USUAL.clone().map(Some))
    }
}

impl IdentityHeaders {
    /// Under `names`: of subject, client, scopes and token id. What has none is not told.
    #[must_use]
    pub fn named(names: [Option<HeaderName>; 4]) -> Self {
        let beside = names.iter().flatten().filter(|name| !is_reserved(name));
        let beside = beside
            .map(|name| name.as_str().replace('_', "-").into())
            .collect();
        Self { names, beside }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.names.iter().flatten()
    }

    /// The headers by which a service is told of `identity`.
    pub fn told<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        let named = self.names.iter().zip(&identity.0);
        named.filter_map(|(name, value)| Some((name.as_ref()?, value.as_ref()?)))
    }

    /// Writes `identity` over whatever is in `headers`.
    pub fn tell(&self, identity: &Identity, headers: &mut HeaderMap) {
        for (name, value) in self.told(identity) {
            headers.insert(name, value.clone());
        }
    }

    /// Takes out every header that is reserved or named here, in whatever number (G07).
    pub fn strip(&self, headers: &mut HeaderMap) {
        strip(headers, |name| is_reserved(name) || self.is_beside(name));
    }

    /// Whether a service may take `name` for our word: one of these names or with our prefix, in any spelling.
    #[must_use]
    pub fn claim(&self, name: &HeaderName) -> bool {
        is_ours(name) || self.is_beside(name)
    }

    fn is_beside(&self, name: &HeaderName) -> bool {
        self.beside.iter().any(|ours| is(name, ours))
    }
}

/// Whether both are one name for a service that cannot tell `_` from `-`.
#[must_use]
pub fn are_same(one: &HeaderName, other: &HeaderName) -> bool {
    is(one, &other.as_str().replace('_', "-"))
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
        && (is_ours(name) || begins_with(name, b"x-envoy-") || is(name, "x-forwarded-client-cert"))
}

/// Whether `name` is one of ours, in any spelling.
fn is_ours(name: &HeaderName) -> bool {
    begins_with(name, b"x-countersign-")
}

fn begins_with(name: &HeaderName, prefix: &[u8]) -> bool {
    let name = name.as_str().as_bytes();
    let is_same = |(byte, wanted): (&u8, &u8)| plain(*byte) == *wanted;
    name.len() >= prefix.len() && name.iter().zip(prefix).all(is_same)
}

/// Whether `name` is `wanted`, which has no `_`, in any spelling.
fn is(name: &HeaderName, wanted: &str) -> bool {
    name.as_str().len() == wanted.len() && begins_with(name, wanted.as_bytes())
}

const fn plain(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Takes every reserved header out, in whatever number.
pub fn strip_reserved(headers: &mut HeaderMap) {
    strip(headers, is_reserved);
}

fn strip(headers: &mut HeaderMap, is_reserved: impl Fn(&HeaderName) -> bool) {
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

    /// G07, T18: the same for names that an operator chose, as long as they are anybody's word but ours.
    #[test]
    fn names_of_an_operator_come_from_us_alone() {
        let name = |text: &str| Some(header_name(text).expect(text));
        let chosen =
            IdentityHeaders::named([name("X-User"), name("team_id"), None, name("x-countersign-jti")]);
        let mut headers = HeaderMap::new();
        for spoofed in [
            "x-user",
            "X_USER",
            "team-id",
            "Team_Id",
            "x-countersign-jti",
            "x-countersign-scopes",
            "x-envoy-peer-metadata",
        ] {
            let spoofed = HeaderName::from_bytes(spoofed.as_bytes()).expect("a header name");
            headers.append(spoofed.clone(), HeaderValue::from_static("one"));
            headers.append(spoofed, HeaderValue::from_static("two"));
        }
        for kept in ["x-users", "x-use", "team.id", "teamid"] {
            headers.append(kept, HeaderValue::from_static("kept"));
        }
        chosen.strip(&mut headers);
        assert_eq!(headers.len(), 4, "{headers:?}");
        let value = |text| Some(HeaderValue::from_static(text));
        let identity = Identity([value("subject"), value("client"), value("scopes"), value("1.1")]);
        chosen.tell(&identity, &mut headers);
        let told = |name: &str| headers.get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(told("x-user"), Some("subject"));
        assert_eq!(told("team_id"), Some("client"));
        assert_eq!(told("x-countersign-jti"), Some("1.1"));
        assert_eq!(headers.len(), 7, "nothing of scopes: {headers:?}");
    }

    #[test]
    fn the_usual_names_need_no_choice() {
        let value = |text| Some(HeaderValue::from_static(text));
        let identity = Identity([value("subject"), value("client"), None, value("1.1")]);
        let (mut usual, mut chosen) = (HeaderMap::new(), HeaderMap::new());
        identity.insert_into(&mut usual);
        IdentityHeaders::default().tell(&identity, &mut chosen);
        assert_eq!(usual, chosen);
        assert_eq!(usual.len(), 3);
        assert!(IdentityHeaders::default().beside.is_empty());
    }

    /// T18: nobody reads these for who calls, or everybody reads them for something else.
    #[test]
    fn names_that_others_use_are_refused() {
        for taken in [
            "te",
            "TE",
            "content-type",
            "content_type",
            "authorization",
            "host",
            "connection",
            "upgrade",
            "grpc-timeout",
            "grpc-anything",
            "x-envoy-peer",
            "x-forwarded-client-cert",
            "traceparent",
        ] {
            assert_eq!(header_name(taken), Err(InvalidHeaderName::Taken), "{taken}");
        }
        assert_eq!(header_name("x-subject-bin"), Err(InvalidHeaderName::Binary));
        for malformed in ["", " ", ":path", "x subject", "x-s\u{e9}", "x-a:", "x!y", "x-a\n"] {
            assert_eq!(
                header_name(malformed),
                Err(InvalidHeaderName::Form),
                "{malformed:?}"
            );
        }
        for good in [
            "x-forwarded-user",
            "Remote-User",
            "x-countersign-who",
            "user.id",
            "sub",
        ] {
            assert!(header_name(good).is_ok(), "{good}");
        }
        let same = |one: &str, other: &str| {
            are_same(&header_name(one).expect(one), &header_name(other).expect(other))
        };
        assert!(same("x-user", "X_USER") && same("x_user", "x_user"));
        assert!(!same("x-user", "x-user2"));
    }
}
