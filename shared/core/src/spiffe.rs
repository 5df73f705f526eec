//! SPIFFE IDs: who a workload is (SPIFFE-ID specification, section 2).

use std::fmt;
use std::sync::Arc;

/// The text is no SPIFFE ID, or no trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long or has a character outside `a-z`, `0-9`, `.`, `-`, `_`.
    #[error("a trust domain is 1 to 255 of `a-z`, `0-9`, `.`, `-`, `_`")]
    TrustDomain,
    /// The path is empty, has an empty, `.` or `..` segment, or a character outside `A-Z`, `a-z`, `0-9`, `.`, `-`, `_`.
    #[error(
        "a SPIFFE path is segments of `A-Z`, `a-z`, `0-9`, `.`, `-`, `_`, none of them empty, `.` or `..`"
    )]
    Path,
    /// It is over 2048 bytes.
    #[error("a SPIFFE ID is at most 2048 bytes")]
    TooLong,
}

/// The name of a trust domain: who vouches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a name such as `prod.example.com`.
    ///
    /// # Errors
    /// [`SpiffeIdError::TrustDomain`].
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let valid = (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(SpiffeIdError::TrustDomain)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

/// A workload's identity: `spiffe://<trust domain>/<path>`. Compared byte for byte, never as a pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Reads an identity. A bare trust domain (no path) is no workload and is refused.
    ///
    /// # Errors
    /// [`SpiffeIdError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > 2048 {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        let trust_domain = TrustDomain::parse(domain)?;
        if path.split('/').all(is_segment) {
            Ok(Self {
                text: text.into(),
                trust_domain,
            })
        } else {
            Err(SpiffeIdError::Path)
        }
    }

    /// The whole identity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Who vouches for it.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_whole() {
        let id = SpiffeId::parse("spiffe://prod.example.com/ns/shop/sa/orders").expect("valid");
        assert_eq!(id.trust_domain().as_str(), "prod.example.com");
        assert_eq!(id.as_str(), "spiffe://prod.example.com/ns/shop/sa/orders");
    }

    /// S10: uppercase, ports, wildcards, NUL, percent escapes and dot segments are not identities.
    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///x",
            "SPIFFE://a/x",
            "spiffe://A/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/x/",
            "spiffe://a//x",
            "spiffe://a/./x",
            "spiffe://a/../x",
            "spiffe://a/*",
            "spiffe://a/x?y",
            "spiffe://a/x#y",
            "spiffe://a/%41",
            "spiffe://a/x\0",
            "https://a/x",
            "spiffe://a/\u{e4}",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text:?}");
        }
    }
}
