//! Records of clients: sealed, so that whoever writes to the store cannot register one or give it more than it has; and
//! counted in the head by their digests, so that he can neither bring back an earlier record of one nor delete it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use countersign_core::Timestamp;
use countersign_core::binding::TokenBinding;
use countersign_core::client::{Client, Grant, Registration, SecretRecord};
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, Scope};
use countersign_core::ports::Sha256;
use countersign_core::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored, Vault};

/// What the names of these records begin with.
pub const PREFIX: &str = "clients/";

/// The name of a client's record.
#[must_use]
pub fn name(client_id: &ClientId) -> String {
    format!("{PREFIX}{client_id}")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredClient {
    client_id: String,
    description: String,
    grants: Vec<StoredGrant>,
    spiffe_ids: Vec<String>,
    thumbprints: Vec<String>,
    /// Left out in records of clients whose tokens are bound to the certificate, as in all that were written before there was it.
    #[serde(default, skip_serializing_if = "StoredBinding::is_usual")]
    binding: StoredBinding,
    secrets: Vec<StoredSecret>,
    disabled: bool,
    deleted: bool,
    version: u64,
    created_at: u64,
}

impl Stored for StoredClient {
    const FORMAT: u32 = 1;
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredBinding {
    #[default]
    Certificate,
    SpiffeId,
}

impl StoredBinding {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_usual(&self) -> bool {
        matches!(self, Self::Certificate)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredGrant {
    audience: String,
    scopes: Vec<String>,
    default_scopes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSecret {
    secret_id: String,
    hash: String,
    created_at: u64,
}

/// The record's bytes.
///
/// # Errors
/// [`RecordError`].
pub fn write(client: &Client, vault: &Vault) -> Result<Vec<u8>, RecordError> {
    vault.write(&name(&client.client_id), &stored(client))
}

/// The digest of what the record says, which does not depend on its seal.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn digest(client: &Client, sha256: &dyn Sha256) -> Result<[u8; 32], RecordError> {
    // A field that is added later has to be left out where it says nothing, or every record written before it would differ.
    let written = record::write(&name(&client.client_id), &stored(client))?;
    Ok(sha256.sha256(&[b"countersign/client/v1\0", &written]))
}

fn stored(client: &Client) -> StoredClient {
    let registration = &client.registration;
    StoredClient {
        client_id: client.client_id.as_str().to_owned(),
        description: registration.description.clone(),
        grants: registration.grants.iter().map(write_grant).collect(),
        spiffe_ids: texts(&registration.spiffe_ids, SpiffeId::as_str),
        thumbprints: registration.thumbprints.iter().map(ToString::to_string).collect(),
        binding: match registration.binding {
            TokenBinding::Certificate => StoredBinding::Certificate,
            TokenBinding::SpiffeId => StoredBinding::SpiffeId,
        },
        secrets: client.secrets.iter().map(write_secret).collect(),
        disabled: client.disabled,
        deleted: client.deleted,
        version: client.version,
        created_at: client.created_at.as_seconds(),
    }
}

/// Reads the record called `name`.
///
/// # Errors
/// [`RecordError`], also when the content is another client's.
pub fn read(record_name: &str, bytes: &[u8], vault: &Vault) -> Result<Client, RecordError> {
    let stored: StoredClient = vault.read(record_name, bytes)?;
    let client = read_stored(stored).ok_or_else(|| RecordError::malformed(record_name))?;
    if name(&client.client_id) == record_name {
        Ok(client)
    } else {
        Err(RecordError::malformed(record_name))
    }
}

fn read_stored(stored: StoredClient) -> Option<Client> {
    let registration = Registration {
        description: stored.description,
        grants: all(&stored.grants, read_grant)?,
        spiffe_ids: all(&stored.spiffe_ids, |text| SpiffeId::parse(text).ok())?,
        thumbprints: all(&stored.thumbprints, |text| {
            CertificateThumbprint::parse(text).ok()
        })?,
        binding: match stored.binding {
            StoredBinding::Certificate => TokenBinding::Certificate,
            StoredBinding::SpiffeId => TokenBinding::SpiffeId,
        },
    };
    Some(Client {
        client_id: ClientId::parse(&stored.client_id).ok()?,
        registration,
        secrets: all(&stored.secrets, read_secret)?,
        disabled: stored.disabled,
        deleted: stored.deleted,
        version: stored.version,
        created_at: Timestamp::from_seconds(stored.created_at),
    })
}

fn write_grant(grant: &Grant) -> StoredGrant {
    StoredGrant {
        audience: grant.audience.as_str().to_owned(),
        scopes: texts(&grant.scopes, Scope::as_str),
        default_scopes: texts(&grant.default_scopes, Scope::as_str),
    }
}

fn read_grant(stored: &StoredGrant) -> Option<Grant> {
    let scope = |text: &String| Scope::parse(text).ok();
    Some(Grant {
        audience: Audience::parse(&stored.audience).ok()?,
        scopes: all(&stored.scopes, scope)?,
        default_scopes: all(&stored.default_scopes, scope)?,
    })
}

fn write_secret(secret: &SecretRecord) -> StoredSecret {
    StoredSecret {
        secret_id: secret.secret_id.clone(),
        hash: STANDARD_NO_PAD.encode(secret.hash),
        created_at: secret.created_at.as_seconds(),
    }
}

fn read_secret(stored: &StoredSecret) -> Option<SecretRecord> {
    Some(SecretRecord {
        secret_id: stored.secret_id.clone(),
        hash: STANDARD_NO_PAD.decode(&stored.hash).ok()?.try_into().ok()?,
        created_at: Timestamp::from_seconds(stored.created_at),
    })
}

fn texts<T>(values: &[T], text: fn(&T) -> &str) -> Vec<String> {
    values.iter().map(|value| text(value).to_owned()).collect()
}

fn all<T, U>(values: &[T], read: impl Fn(&T) -> Option<U>) -> Option<Vec<U>> {
    values.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use countersign_crypto::AwsLc;

    use super::*;
    use crate::test_util::{client_id, registration};

    fn client(binding: TokenBinding) -> Client {
        Client {
            client_id: client_id("orders"),
            registration: Registration {
                binding,
                ..registration(Some("orders"))
            },
            secrets: Vec::new(),
            disabled: false,
            deleted: false,
            version: 1,
            created_at: Timestamp::from_seconds(1),
        }
    }

    /// Whoever has records from before there was a choice finds them as they were, digests and all.
    #[test]
    fn only_what_is_not_the_usual_binding_is_written_down() {
        for (binding, written) in [(TokenBinding::Certificate, false), (TokenBinding::SpiffeId, true)] {
            let client = client(binding);
            let text = serde_json::to_string(&stored(&client)).expect("written");
            assert_eq!(text.contains(r#""binding":"spiffe_id""#), written, "{text}");
            assert_eq!(text.contains("binding"), written, "{text}");
            let read = serde_json::from_str(&text).expect("read");
            assert_eq!(read_stored(read), Some(client));
        }
        let [usual, other] = [TokenBinding::Certificate, TokenBinding::SpiffeId]
            .map(|binding| digest(&client(binding), &AwsLc).expect("a digest"));
        assert_ne!(usual, other, "the head counts it");
    }
}
