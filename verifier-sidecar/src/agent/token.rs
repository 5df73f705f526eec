//! A token that the authority issued, and what it says. Nothing here can be printed by accident.

use std::fmt;
use std::time::Duration;

use countersign_core::bearer::MAX_TOKEN_LENGTH;
use countersign_core::claims::Claims;
use countersign_core::jose::CompactJws;
use countersign_core::names::KeyId;
use countersign_proto::token::v1::IssueTokenResponse;
use http::HeaderValue;

const SCHEME: &str = "Bearer ";

/// A token as it was issued.
pub(crate) struct Token {
    authorization: HeaderValue,
    claims: Claims,
    key_id: KeyId,
    lifetime: Duration,
}

impl Token {
    /// Takes the token out of `response`. Nothing for one that is not of the form of ours or does not last.
    ///
    /// Its signature is not checked: it comes from the authority itself, over a connection that proves it.
    pub(crate) fn read(response: &IssueTokenResponse) -> Option<Self> {
        let text = response.access_token.as_str();
        if text.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        let jws = CompactJws::parse(text.as_bytes()).ok()?;
        let mut authorization = HeaderValue::try_from([SCHEME, text].concat()).ok()?;
        // Not shown by `Debug`, and not put into anybody's compression table.
        authorization.set_sensitive(true);
        let lifetime = u64::try_from(response.expires_in)
            .ok()
            .filter(|seconds| *seconds > 0)?;
        Some(Self {
            authorization,
            claims: Claims::read(&jws.payload).ok()?,
            key_id: jws.key_id,
            lifetime: Duration::from_secs(lifetime),
        })
    }

    /// The value of `authorization` that presents it.
    pub(crate) const fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The bare token.
    pub(crate) fn text(&self) -> &str {
        let value = self.authorization.to_str().unwrap_or_default();
        value.strip_prefix(SCHEME).unwrap_or_default()
    }

    /// What it says.
    pub(crate) const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The key that signed it.
    pub(crate) const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// How long it is good, from its issue.
    pub(crate) const fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use countersign_verifier::test_util::{TestIssuer, claims};

    use super::*;

    fn response(access_token: String, expires_in: i64) -> IssueTokenResponse {
        IssueTokenResponse {
            access_token,
            token_type: "Bearer".to_owned(),
            expires_in,
            scopes: Vec::new(),
            audience: "demo".to_owned(),
        }
    }

    /// Assurance rule: no token in a `Debug`.
    #[test]
    fn a_token_is_presented_as_it_was_issued_and_never_shown() {
        let text = TestIssuer::new("one").token(&claims("1.1"));
        let token = Token::read(&response(text.clone(), 900)).expect("a token");
        assert_eq!(token.text(), text);
        assert_eq!(token.authorization(), &format!("Bearer {text}"));
        assert_eq!(token.lifetime(), Duration::from_secs(900));
        let shown = format!("{token:?} {:?}", token.authorization());
        assert!(!shown.contains(&text) && !shown.contains("1.1"), "{shown}");
    }

    #[test]
    fn what_is_no_token_or_does_not_last_is_not_taken() {
        let text = TestIssuer::new("one").token(&claims("1.1"));
        for expires_in in [0, -1, i64::MIN] {
            assert!(Token::read(&response(text.clone(), expires_in)).is_none());
        }
        let long = format!("{text}{}", "A".repeat(MAX_TOKEN_LENGTH));
        for wrong in ["", "opaque", "a.b.c", "x\r\ny: z", &long] {
            assert!(
                Token::read(&response(wrong.to_owned(), 900)).is_none(),
                "{wrong:?}"
            );
        }
    }
}
