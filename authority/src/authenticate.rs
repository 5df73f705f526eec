//! Which client a token request comes from: by the certificate of its connection, by HTTP Basic, or by the fields of the
//! request. One way, not several.
//!
//! Whoever fails is told `invalid_client` and nothing else, after the same work: an unknown client, a stopped one and a
//! wrong secret look alike (G38). Why it was is for the audit trail.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_core::binding::PeerCertificate;
use countersign_core::client::Client;
use countersign_core::issuing::IssueError;
use countersign_core::names::ClientId;
use countersign_core::revocation::RevocationList;
use countersign_core::spiffe::TrustDomain;
use countersign_crypto::SecretHasher;
use countersign_mtls::PeerIdentity;
use zeroize::Zeroizing;

use crate::registry::Registry;

/// What a caller shows besides its certificate.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// The client that it says to be.
    pub client_id: Option<String>,
    /// The client's secret.
    pub secret: Option<Secret>,
}

/// A secret as it came in. Cleared on drop, and not shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the secret over.
    #[must_use]
    pub fn new(secret: Vec<u8>) -> Self {
        Self(Zeroizing::new(secret))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is told.
    pub error: IssueError,
    /// What the audit trail is told.
    pub why: &'static str,
}

const fn invalid_client(why: &'static str) -> Refused {
    Refused {
        error: IssueError::InvalidClient,
        why,
    }
}

const fn invalid_request(why: &'static str) -> Refused {
    Refused {
        error: IssueError::InvalidRequest,
        why,
    }
}

/// A client that proved who it is.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The client.
    pub client: Arc<Client>,
    /// The certificate that it proved it with; its tokens are bound to it, or to the SPIFFE ID in it.
    pub certificate: Option<PeerCertificate>,
}

/// Reads what is shown in the `authorization` fields of the metadata, and in the request's own fields (empty: not given).
///
/// # Errors
/// `invalid_request` when both are used, or neither is whole; `invalid_client` when `authorization` is not Basic.
pub fn read_presented(
    authorization: &[&[u8]],
    client_id: String,
    client_secret: String,
) -> Result<Presented, Refused> {
    let client_secret = Secret::new(client_secret.into_bytes());
    let has_secret = !client_secret.0.is_empty();
    let client_id = Some(client_id).filter(|id| !id.is_empty());
    let Some((field, others)) = authorization.split_first() else {
        return match (&client_id, has_secret) {
            (None, true) => Err(invalid_request("secret_without_client_id")),
            (_, has_secret) => Ok(Presented {
                client_id,
                secret: has_secret.then_some(client_secret),
            }),
        };
    };
    if !others.is_empty() {
        return Err(invalid_request("authorization_twice"));
    }
    // RFC 6749, section 2.3: not more than one method in a request.
    if has_secret {
        return Err(invalid_request("two_methods"));
    }
    let (basic_id, secret) = read_basic(field).ok_or(invalid_client("authorization_malformed"))?;
    if client_id.is_some_and(|client_id| client_id != basic_id) {
        return Err(invalid_client("client_id_mismatch"));
    }
    Ok(Presented {
        client_id: Some(basic_id),
        secret: Some(secret),
    })
}

/// RFC 7617 and RFC 6749, section 2.3.1: base64 of identifier, colon and secret, each form-encoded before.
fn read_basic(field: &[u8]) -> Option<(String, Secret)> {
    let (scheme, encoded) = field.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim_ascii_start()).ok()?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (id, secret) = decoded.split_at_checked(colon)?;
    let secret = Secret(form_decode(secret.get(1..)?)?);
    let id = String::from_utf8(form_decode(id)?.to_vec()).ok()?;
    (!id.is_empty() && !secret.0.is_empty()).then_some((id, secret))
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%` begins two hexadecimal digits, and nothing else is encoded.
fn form_decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // As long as the text, so that no half of a secret is left behind by growing.
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex(*rest.next()?)? * 16 + hex(*rest.next()?)?,
            byte => *byte,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// What callers are known by.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The clients.
    pub clients: &'a Registry,
    /// What is revoked: over a certificate that is, nobody is let in.
    pub revocations: &'a RevocationList,
    /// Compares secrets.
    pub hasher: &'a SecretHasher,
    /// Where clients live.
    pub trust_domain: &'a TrustDomain,
}

impl Known<'_> {
    /// The client at the other end.
    ///
    /// # Errors
    /// `invalid_client`, for whatever reason.
    pub fn authenticate(
        &self,
        identity: &PeerIdentity,
        presented: &Presented,
    ) -> Result<Authenticated, Refused> {
        if self.revocations.holds_certificate(&identity.thumbprint) {
            return Err(invalid_client("certificate_revoked"));
        }
        let owner = certificate_owner(self.clients, self.trust_domain, identity)?;
        let client_id = presented.client_id.as_deref();
        match &presented.secret {
            Some(secret) => by_secret(self.clients, self.hasher, owner, client_id, secret),
            None => by_certificate(owner, identity, client_id),
        }
    }
}

/// The client that the connection's certificate is registered for.
fn certificate_owner<'a>(
    registry: &'a Registry,
    trust_domain: &TrustDomain,
    identity: &PeerIdentity,
) -> Result<Option<&'a Arc<Client>>, Refused> {
    let spiffe_id = identity
        .spiffe_id
        .as_ref()
        .filter(|id| id.trust_domain() == trust_domain);
    let by_name = spiffe_id.and_then(|id| registry.by_spiffe_id(id));
    let by_thumbprint = registry.by_thumbprint(&identity.thumbprint);
    match (by_name, by_thumbprint) {
        (Some(one), Some(other)) if one.client_id != other.client_id => {
            Err(invalid_client("certificate_ambiguous"))
        }
        (Some(owner), _) | (None, Some(owner)) => Ok(Some(owner)),
        (None, None) => Ok(None),
    }
}

fn by_secret(
    registry: &Registry,
    hasher: &SecretHasher,
    owner: Option<&Arc<Client>>,
    client_id: Option<&str>,
    secret: &Secret,
) -> Result<Authenticated, Refused> {
    let client = client_id.and_then(|client_id| registry.find(client_id));
    let hashes: Vec<[u8; 32]> = client
        .iter()
        .flat_map(|client| &client.secrets)
        .map(|secret| secret.hash)
        .collect();
    // Before anything is decided, so that every refusal has cost the same.
    let matches = hasher.matches(&secret.0, &hashes);
    let client = client.ok_or(invalid_client("client_unknown"))?;
    if !matches {
        return Err(invalid_client("secret_wrong"));
    }
    // A stolen secret is of no use to another client.
    if owner.is_some_and(|owner| owner.client_id != client.client_id) {
        return Err(invalid_client("certificate_of_another"));
    }
    usable(client)?;
    Ok(Authenticated {
        client: Arc::clone(client),
        certificate: None,
    })
}

fn by_certificate(
    owner: Option<&Arc<Client>>,
    identity: &PeerIdentity,
    client_id: Option<&str>,
) -> Result<Authenticated, Refused> {
    let client = owner.ok_or(invalid_client("certificate_unknown"))?;
    if client_id.is_some_and(|client_id| client_id != client.client_id.as_str()) {
        return Err(invalid_client("client_id_mismatch"));
    }
    usable(client)?;
    Ok(Authenticated {
        client: Arc::clone(client),
        certificate: Some(identity.certificate()),
    })
}

fn usable(client: &Client) -> Result<(), Refused> {
    match (client.deleted, client.disabled) {
        (true, _) => Err(invalid_client("client_deleted")),
        (false, true) => Err(invalid_client("client_disabled")),
        (false, false) => Ok(()),
    }
}

/// The client that a refused caller said to be, for the audit trail: only if it is of the form of an identifier.
#[must_use]
pub fn claimed(presented: &Presented) -> Option<ClientId> {
    ClientId::parse(presented.client_id.as_deref()?).ok()
}

#[cfg(test)]
mod tests;
