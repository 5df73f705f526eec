//! `countersign.admin.v1`: registrations in, clients, keys and revocations out.

use countersign_core::Timestamp;
use countersign_core::binding::TokenBinding;
use countersign_core::claims::Subject as TokenSubject;
use countersign_core::client::{Client, Grant, Registration};
use countersign_core::key_set::{KeyState, PublishedKey};
use countersign_core::names::{
    Audience, CertificateThumbprint, ClientId, InvalidName, KeyId, Scope, TokenId,
};
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::SpiffeId;
use countersign_proto::admin::v1;
use tonic::Status;

use crate::{status, write_time};

/// Reads a client's identifier.
///
/// # Errors
/// INVALID_ARGUMENT naming `client_id`.
pub fn read_client_id(client_id: &str) -> Result<ClientId, Status> {
    ClientId::parse(client_id).map_err(|error| named("client_id", error))
}

/// Reads a `jti`.
///
/// # Errors
/// INVALID_ARGUMENT naming `token_id`.
pub fn read_token_id(token_id: &str) -> Result<TokenId, Status> {
    TokenId::parse(token_id).map_err(|error| named("token_id", error))
}

/// Reads a `sub`.
///
/// # Errors
/// INVALID_ARGUMENT naming `subject_name`.
pub fn read_subject_name(subject: &str) -> Result<TokenSubject, Status> {
    TokenSubject::parse(subject)
        .ok_or_else(|| status::invalid("subject_name", "a subject is `client:<trust domain>/<client id>`"))
}

/// Reads an audience.
///
/// # Errors
/// INVALID_ARGUMENT naming `audience`.
pub fn read_audience(audience: &str) -> Result<Audience, Status> {
    Audience::parse(audience).map_err(|error| named("audience", error))
}

/// Reads the thumbprint of a certificate.
///
/// # Errors
/// INVALID_ARGUMENT naming `certificate_thumbprint`.
pub fn read_thumbprint(thumbprint: &[u8]) -> Result<CertificateThumbprint, Status> {
    thumbprint
        .try_into()
        .map(CertificateThumbprint::new)
        .map_err(|_length| status::invalid("certificate_thumbprint", "a SHA-256 thumbprint is 32 bytes"))
}

/// Reads a `kid`.
///
/// # Errors
/// INVALID_ARGUMENT naming `kid`.
pub fn read_key_id(key_id: &str) -> Result<KeyId, Status> {
    KeyId::parse(key_id).map_err(|error| named("kid", error))
}

/// Reads the parts of a registration and checks the whole.
///
/// # Errors
/// INVALID_ARGUMENT naming the first field that is not of its form.
pub fn read_registration(
    description: String,
    grants: &[v1::Grant],
    spiffe_ids: &[String],
    thumbprints: &[String],
    binding: TokenBinding,
) -> Result<Registration, Status> {
    let registration = Registration {
        description,
        grants: grants.iter().map(read_grant).collect::<Result<_, _>>()?,
        spiffe_ids: spiffe_ids
            .iter()
            .map(|id| SpiffeId::parse(id).map_err(|error| status::invalid("spiffe_ids", &error.to_string())))
            .collect::<Result<_, _>>()?,
        thumbprints: thumbprints
            .iter()
            .map(|text| {
                CertificateThumbprint::parse(text).map_err(|error| named("certificate_thumbprints", error))
            })
            .collect::<Result<_, _>>()?,
        binding,
    };
    registration
        .check()
        .map_err(|error| status::invalid("registration", &error.to_string()))?;
    Ok(registration)
}

/// Reads what tokens are to be bound to. None: it is not said, which means another thing for a new client than for one that is
/// changed.
///
/// # Errors
/// INVALID_ARGUMENT naming `token_binding`.
pub fn read_binding(token_binding: i32) -> Result<Option<TokenBinding>, Status> {
    match v1::TokenBinding::try_from(token_binding) {
        Ok(v1::TokenBinding::Unspecified) => Ok(None),
        Ok(v1::TokenBinding::Certificate) => Ok(Some(TokenBinding::Certificate)),
        Ok(v1::TokenBinding::SpiffeId) => Ok(Some(TokenBinding::SpiffeId)),
        Err(_unknown) => Err(status::invalid("token_binding", "is none that is known here")),
    }
}

const fn write_binding(binding: TokenBinding) -> v1::TokenBinding {
    match binding {
        TokenBinding::Certificate => v1::TokenBinding::Certificate,
        TokenBinding::SpiffeId => v1::TokenBinding::SpiffeId,
    }
}

fn read_grant(grant: &v1::Grant) -> Result<Grant, Status> {
    Ok(Grant {
        audience: Audience::parse(&grant.audience).map_err(|error| named("grants.audience", error))?,
        scopes: read_scopes("grants.scopes", &grant.scopes)?,
        default_scopes: read_scopes("grants.default_scopes", &grant.default_scopes)?,
    })
}

fn read_scopes(field: &'static str, scopes: &[String]) -> Result<Vec<Scope>, Status> {
    scopes
        .iter()
        .map(|scope| Scope::parse(scope).map_err(|error| named(field, error)))
        .collect()
}

fn named(field: &'static str, error: InvalidName) -> Status {
    status::invalid(field, error.expected)
}

/// A client as operators see it.
#[must_use]
pub fn write_client(client: &Client) -> v1::Client {
    let registration = &client.registration;
    v1::Client {
        client_id: client.client_id.as_str().to_owned(),
        description: registration.description.clone(),
        grants: registration.grants.iter().map(write_grant).collect(),
        spiffe_ids: registration
            .spiffe_ids
            .iter()
            .map(|id| id.as_str().to_owned())
            .collect(),
        certificate_thumbprints: registration.thumbprints.iter().map(ToString::to_string).collect(),
        secrets: client
            .secrets
            .iter()
            .map(|secret| v1::ClientSecret {
                secret_id: secret.secret_id.clone(),
                created_at: Some(write_time(secret.created_at)),
            })
            .collect(),
        disabled: client.disabled,
        version: client.version,
        created_at: Some(write_time(client.created_at)),
        token_binding: write_binding(registration.binding).into(),
    }
}

fn write_grant(grant: &Grant) -> v1::Grant {
    let names = |scopes: &[Scope]| scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    v1::Grant {
        audience: grant.audience.as_str().to_owned(),
        scopes: names(&grant.scopes),
        default_scopes: names(&grant.default_scopes),
    }
}

/// Where a key is in its life.
#[must_use]
pub const fn write_key_state(state: KeyState) -> v1::KeyState {
    match state {
        KeyState::Prepared => v1::KeyState::Prepared,
        KeyState::Active => v1::KeyState::Active,
        KeyState::Retired => v1::KeyState::Retired,
        KeyState::Compromised => v1::KeyState::Compromised,
    }
}

/// A key as operators see it at `now`, but for who holds it.
#[must_use]
pub fn write_key(key: &PublishedKey, now: Timestamp) -> v1::Key {
    let state = write_key_state(key.times.state(now));
    v1::Key {
        kid: key.jwk.key_id().as_str().to_owned(),
        algorithm: key.jwk.algorithm().name().to_owned(),
        state: state.into(),
        prepared_at: Some(write_time(key.times.prepared_at)),
        active_from: key.times.active_from.map(write_time),
        retired_from: key.times.retired_from.map(write_time),
        compromised_at: key.times.compromised_at.map(write_time),
        jwk: key.jwk.to_json(),
        ..v1::Key::default()
    }
}

/// A revocation as operators see it.
#[must_use]
pub fn write_revocation(revocation: &Revocation) -> v1::RevocationRecord {
    use v1::revocation_record::Subject;
    let watermark = Some(write_time(revocation.issued_before));
    let (subject, issued_before) = match &revocation.subject {
        RevokedSubject::Token(token_id) => (Subject::TokenId(token_id.as_str().to_owned()), None),
        RevokedSubject::Client(client_id) => (Subject::ClientId(client_id.as_str().to_owned()), watermark),
        RevokedSubject::Subject(subject) => (Subject::SubjectName(subject.to_string()), watermark),
        RevokedSubject::Audience(audience) => (Subject::Audience(audience.as_str().to_owned()), watermark),
        RevokedSubject::Certificate(thumbprint) => (
            Subject::CertificateThumbprint(thumbprint.as_bytes().to_vec()),
            watermark,
        ),
        RevokedSubject::Everything => (Subject::Everything(true), watermark),
    };
    v1::RevocationRecord {
        subject: Some(subject),
        issued_before,
        expires_at: Some(write_time(revocation.expires_at)),
    }
}

/// What a revocation that operators see is about. Nothing when it is not of its form.
#[must_use]
pub fn read_revoked_subject(subject: &v1::revocation_record::Subject) -> Option<RevokedSubject> {
    use v1::revocation_record::Subject;
    match subject {
        Subject::TokenId(token_id) => TokenId::parse(token_id).ok().map(RevokedSubject::Token),
        Subject::ClientId(client_id) => ClientId::parse(client_id).ok().map(RevokedSubject::Client),
        Subject::SubjectName(subject) => TokenSubject::parse(subject).map(RevokedSubject::Subject),
        Subject::Audience(audience) => Audience::parse(audience).ok().map(RevokedSubject::Audience),
        Subject::CertificateThumbprint(thumbprint) => {
            read_thumbprint(thumbprint).ok().map(RevokedSubject::Certificate)
        }
        Subject::Everything(_) => Some(RevokedSubject::Everything),
    }
}
