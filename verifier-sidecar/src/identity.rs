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
