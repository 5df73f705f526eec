//! JSON Web Keys (RFC 7517) as they may be published: public signature keys, each with its algorithm and with the
//! RFC 7638 thumbprint for `kid`.
//!
//! Only the form is judged here. Whether the numbers are a good key (on the curve, of safe strength) is judged where keys
//! are made ready for use, behind [`crate::ports::KeyReader`].

use std::borrow::{Borrow, Cow};

use serde_json::value::RawValue;

use crate::jose::{Algorithm, decode_segment, encode_segment};
use crate::json::{self, Members};
use crate::names::KeyId;
use crate::planted::{Bug, planted};
use crate::ports::Sha256;

/// The largest JWK Set read, in bytes.
pub const MAX_SET_LENGTH: usize = 256 * 1024;

/// The most keys in one set.
pub const MAX_KEYS: usize = 64;

/// Why a key or a key set is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over [`MAX_SET_LENGTH`] or [`MAX_KEYS`].
    #[error("the key set is too large")]
    TooLarge,
    /// Not a strict JSON object with an array `keys`.
    #[error("the key set is no JWK Set")]
    Malformed,
    /// No key in it.
    #[error("the key set is empty")]
    Empty,
    /// `kty`, `kid`, `alg`, `use` or a number of the key is missing or of the wrong form.
    #[error("a key lacks `{0}`, or it is not of its form")]
    Member(&'static str),
    /// A symmetric key.
    #[error("a key is symmetric")]
    Symmetric,
    /// A private member.
    #[error("a key carries private members")]
    Private,
    /// `use` is not `sig`, or `key_ops` is not exactly `verify`.
    #[error("a key is not for verifying signatures")]
    Use,
    /// `kty`, `crv` and `alg` do not belong together, or are not known.
    #[error("a key's type, curve and algorithm do not belong together")]
    Algorithm,
    /// `kid` is not the key's RFC 7638 thumbprint.
    #[error("a key's `kid` is not its RFC 7638 thumbprint")]
    Thumbprint,
    /// Two keys have the same `kid`.
    #[error("two keys have the same `kid`")]
    Duplicate,
    /// The numbers are no safe key: off the curve, short, even, with a small exponent, or of a known weak make.
    #[error("a key is weak or no point of its curve")]
    Weak,
    /// The states do not match the keys one to one, or contradict themselves.
    #[error("the key states do not match the keys")]
    Status,
}

impl KeySetError {
    /// One of each reason; members by `kid`.
    pub const ALL: [Self; 12] = [
        Self::TooLarge,
        Self::Malformed,
        Self::Empty,
        Self::Member("kid"),
        Self::Symmetric,
        Self::Private,
        Self::Use,
        Self::Algorithm,
        Self::Thumbprint,
        Self::Duplicate,
        Self::Weak,
        Self::Status,
    ];

    /// The stable name for logs, metrics and `Nack.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "key_set_too_large",
            Self::Malformed => "key_set_malformed",
            Self::Empty => "key_set_empty",
            Self::Member(_) => "key_member",
            Self::Symmetric => "key_symmetric",
            Self::Private => "key_private",
            Self::Use => "key_use",
            Self::Algorithm => "key_algorithm",
            Self::Thumbprint => "key_thumbprint",
            Self::Duplicate => "key_duplicate",
            Self::Weak => "key_weak",
            Self::Status => "key_status",
        }
    }
}

/// The public numbers of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicNumbers {
    /// A P-256 point: the coordinates.
    P256 {
        /// `x`
        x: [u8; 32],
        /// `y`
        y: [u8; 32],
    },
    /// An Ed25519 public key.
    Ed25519 {
        /// `x`
        x: [u8; 32],
    },
    /// An RSA public key: big-endian, without leading zeros.
    Rsa {
        /// `n`
        modulus: Vec<u8>,
        /// `e`
        exponent: Vec<u8>,
    },
}

impl PublicNumbers {
    /// The algorithm that keys of this kind are for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::P256 { .. } => Algorithm::Es256,
            Self::Ed25519 { .. } => Algorithm::EdDsa,
            Self::Rsa { .. } => Algorithm::Rs256,
        }
    }

    /// The RFC 7638 thumbprint: SHA-256 over the required members in their lexicographic order.
    #[must_use]
    pub fn thumbprint(&self, sha256: &dyn Sha256) -> KeyId {
        let members = if planted(Bug::KeyNamedByKind) {
            self.algorithm().name().to_owned()
        } else {
            self.required_members()
        };
        let digest = sha256.sha256(&[members.as_bytes()]);
        // The encoding of 32 bytes is always 43 characters of the alphabet.
        KeyId::from_thumbprint(&digest)
    }

    fn required_members(&self) -> String {
        match self {
            Self::P256 { x, y } => format!(
                r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
                encode_segment(x),
                encode_segment(y)
            ),
            Self::Ed25519 { x } => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode_segment(x))
            }
            Self::Rsa { modulus, exponent } => format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                encode_segment(exponent),
                encode_segment(modulus)
            ),
        }
    }
}

/// One public key, by its thumbprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    key_id: KeyId,
    numbers: PublicNumbers,
}

impl Jwk {
    /// The key of these numbers.
    #[must_use]
    pub fn new(numbers: PublicNumbers, sha256: &dyn Sha256) -> Self {
        Self {
            key_id: numbers.thumbprint(sha256),
            numbers,
        }
    }

    /// Reads one JWK.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn read(json: &[u8], sha256: &dyn Sha256) -> Result<Self, KeySetError> {
        let members = Members::read(json).map_err(|_invalid| KeySetError::Malformed)?;
        let numbers = read_numbers(&members)?;
        let key = Self::new(numbers, sha256);
        if text(&members, "kid")? == key.key_id.as_str() {
            Ok(key)
        } else {
            Err(KeySetError::Thumbprint)
        }
    }

    /// Its `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Its numbers.
    #[must_use]
    pub const fn numbers(&self) -> &PublicNumbers {
        &self.numbers
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.numbers.algorithm()
    }

    /// The key as a JWK.
    #[must_use]
    pub fn to_json(&self) -> String {
        let required = self.numbers.required_members();
        let open = required.strip_suffix('}').unwrap_or(&required);
        format!(
            r#"{open},"alg":"{}","kid":"{}","use":"sig"}}"#,
            self.algorithm().name(),
            self.key_id
        )
    }
}

/// Reads a JWK Set: at least one key, no `kid` twice, every key acceptable. One bad key refuses the set, because a set
/// is replaced as a whole and a part of it would be another set.
///
/// # Errors
/// [`KeySetError`].
pub fn read_set(json: &[u8], sha256: &dyn Sha256) -> Result<Vec<Jwk>, KeySetError> {
    if json.len() > MAX_SET_LENGTH {
        return Err(KeySetError::TooLarge);
    }
    let members = Members::read(json).map_err(|_invalid| KeySetError::Malformed)?;
    let keys = members.find("keys").ok_or(KeySetError::Malformed)?;
    let keys: Vec<&RawValue> = serde_json::from_str(keys.get()).map_err(|_invalid| KeySetError::Malformed)?;
    if keys.is_empty() {
        return Err(KeySetError::Empty);
    }
    if keys.len() > MAX_KEYS {
        return Err(KeySetError::TooLarge);
    }
    let mut set: Vec<Jwk> = Vec::with_capacity(keys.len());
    for key in keys {
        let key = Jwk::read(key.get().as_bytes(), sha256)?;
        if set.iter().any(|other| other.key_id == key.key_id) {
            return Err(KeySetError::Duplicate);
        }
        set.push(key);
    }
    Ok(set)
}

/// The keys as a JWK Set.
pub fn write_set<T: Borrow<Jwk>>(keys: impl IntoIterator<Item = T>) -> String {
    let keys: Vec<String> = keys.into_iter().map(|key| key.borrow().to_json()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// Members that only a private key has (RFC 7518, section 6).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

fn text<'a>(members: &Members<'a>, name: &'static str) -> Result<Cow<'a, str>, KeySetError> {
    members
        .find(name)
        .and_then(json::string)
        .ok_or(KeySetError::Member(name))
}

fn number<const N: usize>(members: &Members<'_>, name: &'static str) -> Result<[u8; N], KeySetError> {
    let bytes = decode_segment(text(members, name)?.as_bytes()).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(KeySetError::Member(name))
}

fn big_number(members: &Members<'_>, name: &'static str) -> Result<Vec<u8>, KeySetError> {
    decode_segment(text(members, name)?.as_bytes())
        .filter(|bytes| bytes.first().is_some_and(|byte| *byte != 0))
        .ok_or(KeySetError::Member(name))
}

fn read_numbers(members: &Members<'_>) -> Result<PublicNumbers, KeySetError> {
    let kty = text(members, "kty")?;
    if kty == "oct" || members.find("k").is_some() {
        return Err(KeySetError::Symmetric);
    }
    if members.iter().any(|(name, _)| PRIVATE.contains(&name)) {
        return Err(KeySetError::Private);
    }
    if text(members, "use")? != "sig" {
        return Err(KeySetError::Use);
    }
    if let Some(operations) = members.find("key_ops") {
        let operations: Vec<String> =
            serde_json::from_str(operations.get()).map_err(|_invalid| KeySetError::Use)?;
        if operations != ["verify"] {
            return Err(KeySetError::Use);
        }
    }
    let algorithm = Algorithm::from_name(&text(members, "alg")?).ok_or(KeySetError::Algorithm)?;
    let curve = members.find("crv").map(|_| text(members, "crv")).transpose()?;
    match (algorithm, kty.as_ref(), curve.as_deref()) {
        (Algorithm::Es256, "EC", Some("P-256")) => Ok(PublicNumbers::P256 {
            x: number(members, "x")?,
            y: number(members, "y")?,
        }),
        (Algorithm::EdDsa, "OKP", Some("Ed25519")) => Ok(PublicNumbers::Ed25519 {
            x: number(members, "x")?,
        }),
        (Algorithm::Rs256, "RSA", None) => Ok(PublicNumbers::Rsa {
            modulus: big_number(members, "n")?,
            exponent: big_number(members, "e")?,
        }),
        _ => Err(KeySetError::Algorithm),
    }
}
