//! The claims of an access token (RFC 9068, section 2.2), read strictly.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use crate::binding::PeerCertificate;
use crate::json::{self, Members};
use crate::names::{CertificateThumbprint, ClientId, Scope, TokenId};
use crate::rejection::{Claim, Rejection};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::time::Timestamp;

/// The most audiences that one token may name.
pub const MAX_AUDIENCES: usize = 4;

/// The most scopes, and the most roles, that one token may carry.
pub const MAX_SCOPES: usize = 128;

/// Whom a token is about: `client:<trust domain>/<client id>`. The prefix keeps clients, operators and people apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The trust domain that the client is registered in.
    pub trust_domain: TrustDomain,
    /// The client.
    pub client_id: ClientId,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client:{}/{}", self.trust_domain, self.client_id)
    }
}

impl Subject {
    /// Reads `text`. Nothing when it is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (domain, client) = text.strip_prefix("client:")?.split_once('/')?;
        Some(Self {
            trust_domain: TrustDomain::parse(domain).ok()?,
            client_id: ClientId::parse(client).ok()?,
        })
    }
}

/// What the holder of a token must prove to own (`cnf`, RFC 7800).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Nothing: a bearer token.
    Unbound,
    /// This certificate's key (RFC 8705, section 3.1).
    Certificate(CertificateThumbprint),
    /// The key of any certificate with this SPIFFE ID.
    SpiffeId(SpiffeId),
    /// Something that is not understood here. Nobody can prove it.
    Unsupported,
}

/// The member of `cnf` that names a certificate (RFC 8705, section 3.1).
const CERTIFICATE: &str = "x5t#S256";

/// The member of `cnf` that names a SPIFFE ID. It is registered nowhere: a private name (RFC 7800, section 3.1).
const SPIFFE_ID: &str = "spiffe_id";

impl Confirmation {
    /// Whether it is proven by a connection with `certificate`, or by one without.
    #[must_use]
    pub fn is_proven_by(&self, certificate: Option<&PeerCertificate>) -> bool {
        match (self, certificate) {
            (Self::Unbound, _) => true,
            (Self::Certificate(bound), Some(shown)) => shown.thumbprint == *bound,
            (Self::SpiffeId(bound), Some(shown)) => shown.spiffe_id.as_ref() == Some(bound),
            (Self::Certificate(_) | Self::SpiffeId(_), None) | (Self::Unsupported, _) => false,
        }
    }
}

/// The claims of one access token. Their form is checked; whether they are acceptable is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`, as it stands.
    pub issuer: String,
    /// `sub`.
    pub subject: Subject,
    /// `aud`: one to [`MAX_AUDIENCES`], as they stand.
    pub audiences: Vec<String>,
    /// `client_id`.
    pub client_id: ClientId,
    /// `exp`.
    pub expires_at: Timestamp,
    /// `iat`.
    pub issued_at: Timestamp,
    /// `nbf`.
    pub not_before: Option<Timestamp>,
    /// `jti`.
    pub token_id: TokenId,
    /// `scope`, split.
    pub scopes: Vec<Scope>,
    /// `roles`.
    pub roles: Vec<Scope>,
    /// `cnf`.
    pub confirmation: Confirmation,
}

impl Claims {
    /// Reads a payload whose signature is verified.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] when it is no strict JSON object; [`Rejection::ClaimMissing`] and
    /// [`Rejection::ClaimMalformed`] with the first claim concerned.
    pub fn read(payload: &[u8]) -> Result<Self, Rejection> {
        let members = Members::read(payload).map_err(|_invalid| Rejection::TokenMalformed)?;
        check_unknown(&members)?;
        let claims = Self {
            issuer: required(&members, Claim::Iss, |v| json::string(v).map(Cow::into_owned))?,
            subject: required(&members, Claim::Sub, |v| Subject::parse(&json::string(v)?))?,
            audiences: required(&members, Claim::Aud, audiences)?,
            client_id: required(&members, Claim::ClientId, |v| {
                ClientId::parse(&json::string(v)?).ok()
            })?,
            expires_at: required(&members, Claim::Exp, timestamp)?,
            issued_at: required(&members, Claim::Iat, timestamp)?,
            not_before: optional(&members, Claim::Nbf, timestamp)?,
            token_id: required(&members, Claim::Jti, |v| TokenId::parse(&json::string(v)?).ok())?,
            scopes: optional(&members, Claim::Scope, scopes)?.unwrap_or_default(),
            roles: optional(&members, Claim::Roles, roles)?.unwrap_or_default(),
            confirmation: optional(&members, Claim::Cnf, confirmation)?.unwrap_or(Confirmation::Unbound),
        };
        optional(&members, Claim::Act, actor)?;
        claims.agree()?;
        Ok(claims)
    }

    /// Whether the claims agree with each other.
    fn agree(&self) -> Result<(), Rejection> {
        if self.subject.client_id != self.client_id {
            return Err(Rejection::ClaimMalformed(Claim::Sub));
        }
        if self.expires_at <= self.issued_at {
            return Err(Rejection::ClaimMalformed(Claim::Exp));
        }
        if self
            .not_before
            .is_some_and(|not_before| not_before > self.expires_at)
        {
            return Err(Rejection::ClaimMalformed(Claim::Nbf));
        }
        Ok(())
    }
}

/// As the payload of a token: `nbf` is written as `iat` when not set.
impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut payload = serializer.serialize_map(None)?;
        payload.serialize_entry(Claim::Iss.name(), &self.issuer)?;
        payload.serialize_entry(Claim::Sub.name(), &Text(&self.subject))?;
        match self.audiences.as_slice() {
            [audience] => payload.serialize_entry(Claim::Aud.name(), audience)?,
            several => payload.serialize_entry(Claim::Aud.name(), several)?,
        }
        payload.serialize_entry(Claim::ClientId.name(), self.client_id.as_str())?;
        payload.serialize_entry(Claim::Exp.name(), &self.expires_at.as_seconds())?;
        payload.serialize_entry(Claim::Iat.name(), &self.issued_at.as_seconds())?;
        let not_before = self.not_before.unwrap_or(self.issued_at);
        payload.serialize_entry(Claim::Nbf.name(), &not_before.as_seconds())?;
        payload.serialize_entry(Claim::Jti.name(), self.token_id.as_str())?;
        if !self.scopes.is_empty() {
            payload.serialize_entry(Claim::Scope.name(), &join(&self.scopes))?;
        }
        if !self.roles.is_empty() {
            let roles: Vec<&str> = self.roles.iter().map(Scope::as_str).collect();
            payload.serialize_entry(Claim::Roles.name(), &roles)?;
        }
        match &self.confirmation {
            Confirmation::Unbound | Confirmation::Unsupported => {}
            Confirmation::Certificate(thumbprint) => {
                let member = BTreeMap::from([(CERTIFICATE, Text(thumbprint))]);
                payload.serialize_entry(Claim::Cnf.name(), &member)?;
            }
            Confirmation::SpiffeId(id) => {
                let member = BTreeMap::from([(SPIFFE_ID, id.as_str())]);
                payload.serialize_entry(Claim::Cnf.name(), &member)?;
            }
        }
        payload.end()
    }
}

/// A value as a string, as it is displayed.
struct Text<'a, T>(&'a T);

impl<T: fmt::Display> Serialize for Text<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// Scopes as the `scope` claim writes them: in one string, a space between.
#[must_use]
pub fn join(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// Claims that are not ours may be there, but must be of strict form, or two readers could see two documents.
fn check_unknown(members: &Members<'_>) -> Result<(), Rejection> {
    let known = |name: &str| Claim::ALL.iter().any(|claim| claim.name() == name);
    members
        .iter()
        .filter(|(name, _)| !known(name))
        .try_for_each(|(_, value)| json::check(value).map_err(|_invalid| Rejection::TokenMalformed))
}

fn optional<'a, T>(
    members: &Members<'a>,
    claim: Claim,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Result<Option<T>, Rejection> {
    members
        .find(claim.name())
        .map(|value| read(value).ok_or_else(|| refusal(claim, value)))
        .transpose()
}

/// Why `value` is not taken for `claim`. Text that is no Unicode, and an object with a member twice, make the document
/// unreadable and not just the claim wrong.
fn refusal(claim: Claim, value: &RawValue) -> Rejection {
    let is_number = value
        .get()
        .starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if is_number || json::check(value).is_ok() {
        Rejection::ClaimMalformed(claim)
    } else {
        Rejection::TokenMalformed
    }
}

fn required<'a, T>(
    members: &Members<'a>,
    claim: Claim,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Result<T, Rejection> {
    optional(members, claim, read)?.ok_or(Rejection::ClaimMissing(claim))
}

/// An integer that is a time. Fractions, exponents, strings and numbers that a reader could round are refused.
fn timestamp(value: &RawValue) -> Option<Timestamp> {
    serde_json::from_str::<i64>(value.get())
        .ok()
        .and_then(Timestamp::from_wire)
}

fn audiences(value: &RawValue) -> Option<Vec<String>> {
    if let Some(one) = json::string(value) {
        return Some(vec![one.into_owned()]);
    }
    let several: Vec<String> = serde_json::from_str(value.get()).ok()?;
    (1..=MAX_AUDIENCES).contains(&several.len()).then_some(several)
}

fn scopes(value: &RawValue) -> Option<Vec<Scope>> {
    let text = json::string(value)?;
    distinct(text.split(' '))
}

fn roles(value: &RawValue) -> Option<Vec<Scope>> {
    let names: Vec<String> = serde_json::from_str(value.get()).ok()?;
    distinct(names.iter())
}

fn distinct<T: AsRef<str>>(names: impl Iterator<Item = T>) -> Option<Vec<Scope>> {
    let mut found: Vec<Scope> = Vec::new();
    for name in names {
        let scope = Scope::parse(name.as_ref()).ok()?;
        if found.len() == MAX_SCOPES || found.contains(&scope) {
            return None;
        }
        found.push(scope);
    }
    Some(found)
}

fn confirmation(value: &RawValue) -> Option<Confirmation> {
    let members = Members::read(value.get().as_bytes()).ok()?;
    let mut names = members.iter();
    match (names.next(), names.next()) {
        (Some((CERTIFICATE, value)), None) => {
            let thumbprint = CertificateThumbprint::parse(&json::string(value)?).ok()?;
            Some(Confirmation::Certificate(thumbprint))
        }
        (Some((SPIFFE_ID, value)), None) => {
            let id = SpiffeId::parse(&json::string(value)?).ok()?;
            Some(Confirmation::SpiffeId(id))
        }
        _ => Some(Confirmation::Unsupported),
    }
}

fn actor(value: &RawValue) -> Option<()> {
    Members::read(value.get().as_bytes()).ok()?;
    json::check(value).ok()
}
