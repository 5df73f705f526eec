//! The identifiers that tokens and registrations carry, each parsed once and valid from then on.
//!
//! All grammars are ASCII without controls, so that no identifier can carry a line break, a NUL or a look-alike into a
//! log, a header or a comparison. Identifiers are compared byte for byte.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The text is not of the identifier's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected}")]
pub struct InvalidName {
    /// What the form is, for people.
    pub expected: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads `text`.
            ///
            /// # Errors
            /// [`InvalidName`], which says what the form is.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(InvalidName { expected: $expected }) }
            }

            /// The identifier's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A registered client (`client_id`, RFC 6749, section 2.2).
    ClientId, "a client id is 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, beginning with a letter or digit", |text| {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    }
}

name! {
    /// The service that a token is for (`aud`, RFC 7519, section 4.1.3).
    Audience, "an audience is 1 to 255 visible ASCII characters other than `*`, `\"` and `\\`", |text| {
        (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"*\"\\".contains(&b))
    }
}

name! {
    /// One scope (`scope-token`, RFC 6749, section 3.3), without `*`.
    Scope, "a scope is 1 to 128 visible ASCII characters other than `*`, `\"` and `\\`", |text| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"*\"\\".contains(&b))
    }
}

name! {
    /// Who issues tokens (`iss`): an https URL without query, fragment or trailing slash (RFC 8414, section 2).
    Issuer, "an issuer is an https URL of at most 255 characters without user, query, fragment or trailing slash", |text| {
        text.len() <= 255
            && text.bytes().all(|b| b.is_ascii_graphic())
            && !text.bytes().any(|b| b"?#@\\\"".contains(&b))
            && !text.ends_with('/')
            && text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    }
}

/// The identifier of one token (`jti`, RFC 7519, section 4.1.7).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    text: Arc<str>,
    serial: Option<TokenSerial>,
}

impl TokenId {
    /// Reads `text`.
    ///
    /// # Errors
    /// [`InvalidName`], which says what the form is.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !valid {
            return Err(InvalidName {
                expected: "a token id is 1 to 64 of `A-Z`, `a-z`, `0-9`, `.`, `_`, `-`",
            });
        }
        Ok(Self {
            text: text.into(),
            serial: TokenSerial::parse(text),
        })
    }

    /// The identifier's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The two numbers that it is made of, if it is one that an authority gives.
    #[must_use]
    pub const fn serial(&self) -> Option<TokenSerial> {
        self.serial
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({})", self.text)
    }
}

/// The two numbers that an authority makes a `jti` of: `<shard>.<sequence>`, both in lower-case hexadecimal without leading
/// zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSerial {
    /// One for each start of an authority.
    pub shard: u64,
    /// Counts the tokens of the shard.
    pub sequence: u64,
}

impl TokenSerial {
    fn parse(text: &str) -> Option<Self> {
        let (shard, sequence) = text.split_once('.')?;
        Some(Self {
            shard: hexadecimal(shard)?,
            sequence: hexadecimal(sequence)?,
        })
    }
}

/// One spelling for each number: two would be two tokens.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

impl fmt::Display for TokenSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.shard, self.sequence)
    }
}

impl From<TokenSerial> for TokenId {
    fn from(serial: TokenSerial) -> Self {
        Self {
            text: serial.to_string().into(),
            serial: Some(serial),
        }
    }
}

name! {
    /// The identifier of a key (`kid`): always the RFC 7638 thumbprint of its JWK under SHA-256, base64url.
    KeyId, "a key id is the 43 base64url characters of an RFC 7638 thumbprint", |text| {
        text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    }
}

name! {
    /// A class of methods that share a staleness budget: `strict`, `normal`, `tolerant`, or as a configuration names it.
    ClassName, "a class is 1 to 32 of `a-z`, `0-9`, `-`, beginning with a letter", |text| {
        (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

name! {
    /// Which verifier of an identity it is: replicas of one service have one SPIFFE ID.
    VerifierId, "a verifier id is 1 to 64 of `A-Z`, `a-z`, `0-9`, `.`, `_`, `-`", |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    }
}

impl ClassName {
    /// One of the classes that every verifier has.
    pub(crate) fn built_in(name: &'static str) -> Self {
        Self(name.into())
    }
}

impl KeyId {
    /// The identifier of the key with this thumbprint.
    #[must_use]
    pub fn from_thumbprint(sha256: &[u8; 32]) -> Self {
        Self(crate::jose::encode_segment(sha256).into())
    }
}

/// A certificate, by the SHA-256 of its DER (`x5t#S256`, RFC 8705, section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateThumbprint([u8; 32]);

impl CertificateThumbprint {
    /// From the digest.
    #[must_use]
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// From base64url without padding, as in `x5t#S256`.
    ///
    /// # Errors
    /// [`InvalidName`] when it is not 32 bytes in that form.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let bytes = crate::jose::decode_segment(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(InvalidName {
            expected: "a certificate thumbprint is 43 base64url characters",
        })
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::jose::encode_segment(&self.0))
    }
}

impl fmt::Debug for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateThumbprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O19, C06, G39: wildcards, empty names, line breaks and URLs of the wrong form are not names.
    #[test]
    fn names_refuse_what_could_mean_something_else() {
        for text in [
            "",
            "*",
            "a b",
            "a\n",
            "a\0",
            "\u{e4}",
            "Orders",
            "-a",
            &"a".repeat(65),
        ] {
            assert!(ClientId::parse(text).is_err(), "client id {text:?}");
        }
        for text in ["", "Strict", "2a", "-a", "a b", &"a".repeat(33)] {
            assert!(ClassName::parse(text).is_err(), "class {text:?}");
        }
        for text in ["", "*", "read *", "a\tb", "a\"", "a\\", "\u{202e}x"] {
            assert!(Scope::parse(text).is_err(), "scope {text:?}");
            assert!(Audience::parse(text).is_err(), "audience {text:?}");
        }
        for text in [
            "http://a",
            "https://",
            "https://a/",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "a",
            "https:///x",
        ] {
            assert!(Issuer::parse(text).is_err(), "issuer {text:?}");
        }
        assert!(Issuer::parse("https://auth.example.com/t1").is_ok());
        assert!(ClientId::parse("orders.v2_x-1").is_ok());
        assert!(KeyId::parse("../../../dev/null").is_err());
    }
}
