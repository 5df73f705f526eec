//! The compact JWS taken apart (RFC 7515, section 7.1), strictly: what an access token of ours can look like and nothing
//! else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{self, Members};
use crate::names::KeyId;
use crate::rejection::Rejection;

/// The `typ` of an access token (RFC 9068, section 2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// A signature algorithm that tokens may be signed with. There are no others: no `none`, no HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518, section 3.4).
    Es256,
    /// Ed25519 (RFC 8037, section 3.1).
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, section 3.3).
    Rs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Es256, Self::EdDsa, Self::Rs256];

    /// The JOSE name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    /// The algorithm of exactly this JOSE name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Base64url without padding (RFC 7515, section 2).
#[must_use]
pub fn encode_segment(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of base64url without padding; nothing for any other alphabet, padding or unused bits that are set.
#[must_use]
pub fn decode_segment(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A compact JWS in its parts. The header is judged; payload and signature are decoded and not looked at.
#[derive(Debug)]
pub struct CompactJws<'a> {
    /// What the signature covers: the first two segments as they came in.
    pub signing_input: &'a [u8],
    /// The algorithm named; the key must agree.
    pub algorithm: Algorithm,
    /// The key named.
    pub key_id: KeyId,
    /// The payload's bytes.
    pub payload: Vec<u8>,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

impl<'a> CompactJws<'a> {
    /// Takes `token` apart and judges its header: members, `typ`, `alg`, `crit`, `kid`, in this order.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] for anything but three segments of canonical base64url with a strict JSON object
    /// first; otherwise the reason that names the header member.
    pub fn parse(token: &'a [u8]) -> Result<Self, Rejection> {
        let [header, payload, signature] = segments(token)?;
        let decode = |segment: &str| decode_segment(segment.as_bytes()).ok_or(Rejection::TokenMalformed);
        let (header_bytes, payload_bytes, signature) =
            (decode(header)?, decode(payload)?, decode(signature)?);
        let (algorithm, key_id) = judge_header(&header_bytes)?;
        let signing_input = token
            .get(..header.len() + 1 + payload.len())
            .ok_or(Rejection::TokenMalformed)?;
        Ok(Self {
            signing_input,
            algorithm,
            key_id,
            payload: payload_bytes,
            signature,
        })
    }
}

/// The three segments, the first two not empty. An empty signature is left to the signature check, which refuses it.
fn segments(token: &[u8]) -> Result<[&str; 3], Rejection> {
    let token = std::str::from_utf8(token).map_err(|_not_base64url| Rejection::TokenMalformed)?;
    let mut split = token.split('.');
    match (split.next(), split.next(), split.next(), split.next()) {
        (Some(header), Some(payload), Some(signature), None) if !header.is_empty() && !payload.is_empty() => {
            Ok([header, payload, signature])
        }
        _ => Err(Rejection::TokenMalformed),
    }
}

/// JOSE header members that change how a token is read or say where a key is to be had. None has a place here.
const FORBIDDEN: [&str; 10] = [
    "b64", "cty", "enc", "jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u", "zip",
];

fn judge_header(header: &[u8]) -> Result<(Algorithm, KeyId), Rejection> {
    let members = Members::read(header).map_err(|_invalid| Rejection::TokenMalformed)?;
    judge_members(&members).map_err(|refusal| {
        // A value that is no Unicode or has a member twice makes the header unreadable, whatever else is wrong with it.
        let is_strict = members.iter().all(|(_, value)| json::check(value).is_ok());
        if is_strict {
            refusal
        } else {
            Rejection::TokenMalformed
        }
    })
}

fn judge_members(members: &Members<'_>) -> Result<(Algorithm, KeyId), Rejection> {
    if members.iter().any(|(name, _)| FORBIDDEN.contains(&name)) {
        return Err(Rejection::HeaderForbidden);
    }
    if members.find("crit").is_some() {
        // RFC 7515, section 4.1.11: not understood, hence refused; no extension is understood here.
        return Err(Rejection::CritUnsupported);
    }
    if members
        .iter()
        .any(|(name, _)| !matches!(name, "alg" | "kid" | "typ"))
    {
        return Err(Rejection::HeaderForbidden);
    }
    let algorithm = members
        .find("alg")
        .and_then(json::string)
        .ok_or(Rejection::TokenMalformed)?;
    let key_id = members
        .find("kid")
        .map(|kid| json::string(kid).ok_or(Rejection::TokenMalformed))
        .transpose()?;
    let typ = members.find("typ").and_then(json::string).unwrap_or_default();
    if !is_access_token(&typ) {
        return Err(Rejection::TypNotAllowed);
    }
    let algorithm = Algorithm::from_name(&algorithm).ok_or(Rejection::AlgNotAllowed)?;
    let key_id = key_id
        .filter(|kid| !kid.is_empty())
        .ok_or(Rejection::KidMissing)?;
    let key_id = KeyId::parse(&key_id).map_err(|_not_a_thumbprint| Rejection::KidUnknown)?;
    Ok((algorithm, key_id))
}

/// RFC 9068, section 4: `at+jwt` or `application/at+jwt`; media types compare without case.
fn is_access_token(typ: &str) -> bool {
    let subtype = match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => typ,
    };
    subtype.eq_ignore_ascii_case(ACCESS_TOKEN_TYPE)
}

/// The header of the tokens that we issue.
#[must_use]
pub fn access_token_header(algorithm: Algorithm, key_id: &KeyId) -> String {
    format!(
        r#"{{"alg":"{}","typ":"{ACCESS_TOKEN_TYPE}","kid":"{key_id}"}}"#,
        algorithm.name()
    )
}
