//! Whether a client may have the token it asks for, and what that token says.

use std::time::Duration;

use crate::binding::{PeerCertificate, TokenBinding};
use crate::claims::{Claims, Confirmation, Subject};
use crate::client::{Client, Grant};
use crate::jose::{access_token_header, encode_segment};
use crate::names::{Audience, Issuer, KeyId, Scope, TokenId};
use crate::ports::{Signer, SigningFailed};
use crate::spiffe::TrustDomain;
use crate::time::Timestamp;

/// The one grant type (RFC 6749, section 4.4).
pub const CLIENT_CREDENTIALS: &str = "client_credentials";

/// What the client asks for, as it came in.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The OAuth grant.
    pub grant_type: String,
    /// The audience; empty for the only one registered.
    pub audience: String,
    /// The scopes; none for the default ones.
    pub scopes: Vec<String>,
    /// The lifetime in seconds.
    pub lifetime_seconds: Option<i64>,
}

/// Why no token is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IssueError {
    /// Not `client_credentials`.
    #[error("the grant type is not `client_credentials`")]
    UnsupportedGrantType,
    /// The lifetime is zero or negative, or the request contradicts itself.
    #[error("the request is malformed")]
    InvalidRequest,
    /// The audience is not registered for the client, or has to be named.
    #[error("the audience is not one that the client may ask for")]
    InvalidTarget,
    /// A scope is not registered for the client at this audience.
    #[error("a scope is not one that the client may ask for at this audience")]
    InvalidScope,
    /// The caller is no client, or did not prove to be the one it says. Nothing more is told.
    #[error("client authentication failed")]
    InvalidClient,
    /// The client's tokens are bound to its SPIFFE ID, and it did not authenticate with a certificate that has it.
    #[error("the client has to authenticate with a certificate that has its SPIFFE ID")]
    SpiffeIdRequired,
    /// Too many requests.
    #[error("too many requests")]
    RateLimited,
    /// No key may sign now.
    #[error("no signing key is active")]
    NoActiveKey,
    /// The authority's store is not the one that was published from, and an operator has to recover it.
    #[error("the authority has to be recovered")]
    RecoveryRequired,
    /// The authority's clock is behind a time that it has signed already.
    #[error("the authority's clock is behind")]
    ClockBehind,
    /// The key or the random source failed.
    #[error("signing failed")]
    SigningFailed,
}

impl IssueError {
    /// Every error.
    pub const ALL: [Self; 11] = [
        Self::UnsupportedGrantType,
        Self::InvalidRequest,
        Self::InvalidTarget,
        Self::InvalidScope,
        Self::InvalidClient,
        Self::SpiffeIdRequired,
        Self::RateLimited,
        Self::NoActiveKey,
        Self::RecoveryRequired,
        Self::ClockBehind,
        Self::SigningFailed,
    ];

    /// The stable name: OAuth's error code where there is one (RFC 6749, section 5.2; RFC 8707, section 2).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidClient => "invalid_client",
            Self::SpiffeIdRequired => "spiffe_id_required",
            Self::RateLimited => "rate_limited",
            Self::NoActiveKey => "no_active_key",
            Self::RecoveryRequired => "recovery_required",
            Self::ClockBehind => "clock_behind",
            Self::SigningFailed => "signing_failed",
        }
    }
}

/// The authority's rules for tokens.
#[derive(Clone, Debug)]
pub struct IssuingPolicy {
    /// `iss`.
    pub issuer: Issuer,
    /// The trust domain in `sub`.
    pub trust_domain: TrustDomain,
    /// The lifetime when none is asked for.
    pub default_lifetime: Duration,
    /// The longest lifetime given, whatever is asked for.
    pub max_lifetime: Duration,
}

/// What is granted of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The audience.
    pub audience: Audience,
    /// The scopes, in the order of the registration.
    pub scopes: Vec<Scope>,
    /// The lifetime.
    pub lifetime: Duration,
}

/// What of `request` an authenticated `client` is granted: all of it, or nothing.
///
/// # Errors
/// [`IssueError`] with the first thing that it may not have.
pub fn grant(client: &Client, request: &TokenRequest, policy: &IssuingPolicy) -> Result<Granted, IssueError> {
    if request.grant_type != CLIENT_CREDENTIALS {
        return Err(IssueError::UnsupportedGrantType);
    }
    let grant = find_grant(client, &request.audience)?;
    Ok(Granted {
        audience: grant.audience.clone(),
        scopes: scopes(grant, &request.scopes)?,
        lifetime: lifetime(request.lifetime_seconds, policy)?,
    })
}

fn find_grant<'a>(client: &'a Client, audience: &str) -> Result<&'a Grant, IssueError> {
    match (client.registration.grants.as_slice(), audience) {
        ([only], "") => Ok(only),
        (_, "") => Err(IssueError::InvalidTarget),
        (_, audience) => client
            .registration
            .grant(audience)
            .ok_or(IssueError::InvalidTarget),
    }
}

fn scopes(grant: &Grant, wanted: &[String]) -> Result<Vec<Scope>, IssueError> {
    if wanted.is_empty() {
        return Ok(grant.default_scopes.clone());
    }
    let registered = |name: &String| grant.scopes.iter().any(|scope| scope.as_str() == name);
    if !wanted.iter().all(registered) {
        return Err(IssueError::InvalidScope);
    }
    let asked_for = |scope: &&Scope| wanted.iter().any(|name| name == scope.as_str());
    Ok(grant.scopes.iter().filter(asked_for).cloned().collect())
}

fn lifetime(wanted: Option<i64>, policy: &IssuingPolicy) -> Result<Duration, IssueError> {
    let Some(seconds) = wanted else {
        return Ok(policy.default_lifetime);
    };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds).min(policy.max_lifetime)),
        _ => Err(IssueError::InvalidRequest),
    }
}

/// What a token for `client` is bound to, when it authenticated with `certificate`, or without one.
///
/// # Errors
/// [`IssueError::SpiffeIdRequired`].
pub fn confirmation(
    client: &Client,
    certificate: Option<&PeerCertificate>,
) -> Result<Confirmation, IssueError> {
    match (client.registration.binding, certificate) {
        (TokenBinding::Certificate, None) => Ok(Confirmation::Unbound),
        (TokenBinding::Certificate, Some(shown)) => Ok(Confirmation::Certificate(shown.thumbprint)),
        (TokenBinding::SpiffeId, shown) => shown
            .and_then(|shown| shown.spiffe_id.as_ref())
            // The certificate may be registered by its thumbprint, and say of its holder what nobody registered.
            .filter(|id| client.registration.spiffe_ids.contains(id))
            .map(|id| Confirmation::SpiffeId(id.clone()))
            .ok_or(IssueError::SpiffeIdRequired),
    }
}

/// The claims of a token for `client`, bound as `confirmation` says.
#[must_use]
pub fn draft(
    client: &Client,
    granted: &Granted,
    confirmation: Confirmation,
    token_id: TokenId,
    policy: &IssuingPolicy,
    now: Timestamp,
) -> Claims {
    Claims {
        issuer: policy.issuer.as_str().to_owned(),
        subject: Subject {
            trust_domain: policy.trust_domain.clone(),
            client_id: client.client_id.clone(),
        },
        audiences: vec![granted.audience.as_str().to_owned()],
        client_id: client.client_id.clone(),
        expires_at: now.saturating_add(granted.lifetime),
        issued_at: now,
        not_before: Some(now),
        token_id,
        scopes: granted.scopes.clone(),
        roles: Vec::new(),
        confirmation,
    }
}

/// The token that says `claims`, signed by `signer` under the name `key_id`: a compact JWS (RFC 7515, section 7.1).
///
/// # Errors
/// [`SigningFailed`].
pub fn sign_token(claims: &Claims, key_id: &KeyId, signer: &dyn Signer) -> Result<String, SigningFailed> {
    let header = access_token_header(signer.algorithm(), key_id);
    let mut token = encode_segment(header.as_bytes());
    token.push('.');
    let payload = serde_json::to_vec(claims).map_err(|_unwritable| SigningFailed)?;
    token.push_str(&encode_segment(&payload));
    let signature = signer.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&encode_segment(&signature));
    Ok(token)
}

#[cfg(test)]
mod tests;
