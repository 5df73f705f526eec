//! Records of keys. The public half and the times of a key lie open: the head record holds the digest over them all. The
//! private half is a record of its own, sealed, and deleted with its key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::jwk::Jwk;
use countersign_core::key_set::KeyTimes;
use countersign_core::names::KeyId;
use countersign_core::trust::Epoch;
use countersign_crypto::{AwsLc, SigningKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::{self, RecordError, Stored, Vault};

/// What the names of records of token keys begin with.
pub const KEYS: &str = "keys/";
/// What the names of records of their private halves begin with.
pub const SIGNERS: &str = "signers/";
/// What the names of records of publishing keys begin with.
pub const PUBLISHERS: &str = "publishers/";

/// The name of a key's record under one of the prefixes above.
#[must_use]
pub fn name(prefix: &str, key_id: &KeyId) -> String {
    format!("{prefix}{key_id}")
}

/// A token key, its public part.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// The key.
    pub jwk: Jwk,
    /// Its life.
    pub times: KeyTimes,
    /// The epoch that first published it.
    pub published_in: Epoch,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    jwk: String,
    prepared_at: u64,
    accepted_from: Option<u64>,
    active_from: Option<u64>,
    retired_from: Option<u64>,
    compromised_at: Option<u64>,
    published_in: Epoch,
}

impl Stored for StoredKey {
    const FORMAT: u32 = 1;
}

impl KeyRecord {
    /// The record's bytes.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn write(&self) -> Result<Vec<u8>, RecordError> {
        let seconds = |time: Option<Timestamp>| time.map(Timestamp::as_seconds);
        let stored = StoredKey {
            jwk: self.jwk.to_json(),
            prepared_at: self.times.prepared_at.as_seconds(),
            accepted_from: seconds(self.times.accepted_from),
            active_from: seconds(self.times.active_from),
            retired_from: seconds(self.times.retired_from),
            compromised_at: seconds(self.times.compromised_at),
            published_in: self.published_in,
        };
        record::write(&name(KEYS, self.jwk.key_id()), &stored)
    }

    /// Reads the record called `record_name`.
    ///
    /// # Errors
    /// [`RecordError`], also when the content is another key's.
    pub fn read(record_name: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let stored: StoredKey = record::read(record_name, bytes)?;
        let malformed = || RecordError::malformed(record_name);
        let jwk = Jwk::read(stored.jwk.as_bytes(), &AwsLc).map_err(|_refused| malformed())?;
        if name(KEYS, jwk.key_id()) != record_name {
            return Err(malformed());
        }
        let time = |seconds: Option<u64>| seconds.map(Timestamp::from_seconds);
        Ok(Self {
            jwk,
            times: KeyTimes {
                prepared_at: Timestamp::from_seconds(stored.prepared_at),
                accepted_from: time(stored.accepted_from),
                active_from: time(stored.active_from),
                retired_from: time(stored.retired_from),
                compromised_at: time(stored.compromised_at),
            },
            published_in: stored.published_in,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSigner {
    algorithm: String,
    pkcs8: Zeroizing<String>,
}

impl Stored for StoredSigner {
    const FORMAT: u32 = 1;
}

/// The bytes of the record of a private key, under `prefix`.
///
/// # Errors
/// [`RecordError`].
pub fn write_signer(prefix: &str, key: &SigningKey, vault: &Vault) -> Result<Vec<u8>, RecordError> {
    let record_name = name(prefix, key.key_id());
    let pkcs8 = key.to_pkcs8().map_err(|_failed| RecordError::Unwritable {
        name: record_name.clone(),
    })?;
    let stored = StoredSigner {
        algorithm: key.jwk().algorithm().name().to_owned(),
        pkcs8: Zeroizing::new(STANDARD_NO_PAD.encode(pkcs8.as_slice())),
    };
    vault.write(&record_name, &stored)
}

/// Reads the record of a private key called `record_name`, under `prefix`.
///
/// # Errors
/// [`RecordError`], also when the content is another key's.
pub fn read_signer(
    prefix: &str,
    record_name: &str,
    bytes: &[u8],
    vault: &Vault,
) -> Result<SigningKey, RecordError> {
    let stored: StoredSigner = vault.read(record_name, bytes)?;
    read_key(&stored)
        .filter(|key| name(prefix, key.key_id()) == record_name)
        .ok_or_else(|| RecordError::malformed(record_name))
}

fn read_key(stored: &StoredSigner) -> Option<SigningKey> {
    let algorithm = Algorithm::from_name(&stored.algorithm)?;
    let pkcs8 = Zeroizing::new(STANDARD_NO_PAD.decode(stored.pkcs8.as_bytes()).ok()?);
    SigningKey::from_pkcs8(algorithm, &pkcs8).ok()
}
