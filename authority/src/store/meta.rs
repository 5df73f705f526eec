//! Records about the store itself: whose it is, how far it has come, how often it was opened for issuing.

use countersign_core::Timestamp;
use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::names::{Issuer, KeyId};
use countersign_core::revocation::DigestSum;
use countersign_core::spiffe::TrustDomain;
use countersign_core::trust::{Epoch, StateDigest};
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored, Vault};

/// Says whose store it is. The only record that is read before the key-encryption key is known to be the right one.
pub const IDENTITY: &str = "meta/identity";
/// Says which state the other records add up to.
pub const HEAD: &str = "meta/head";
/// Counts process starts.
pub const SHARD: &str = "meta/shard";

/// Whose store it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random; sealed records open only in the installation that sealed them.
    pub installation: String,
    /// The issuer.
    pub issuer: Issuer,
    /// The trust domain of the issuer's clients.
    pub trust_domain: TrustDomain,
    /// Which key-encryption key the records are sealed under, in hexadecimal.
    pub key_encryption_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredIdentity {
    installation: String,
    issuer: String,
    trust_domain: String,
    key_encryption_key: String,
}

impl Stored for StoredIdentity {
    const FORMAT: u32 = 1;
}

impl Identity {
    /// The record's bytes.
    ///
    /// # Errors
    /// [`RecordError::Unwritable`].
    pub fn write(&self) -> Result<Vec<u8>, RecordError> {
        let stored = StoredIdentity {
            installation: self.installation.clone(),
            issuer: self.issuer.as_str().to_owned(),
            trust_domain: self.trust_domain.as_str().to_owned(),
            key_encryption_key: self.key_encryption_key.clone(),
        };
        record::write(IDENTITY, &stored)
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let stored: StoredIdentity = record::read(IDENTITY, bytes)?;
        let malformed = || RecordError::malformed(IDENTITY);
        Ok(Self {
            installation: stored.installation,
            issuer: Issuer::parse(&stored.issuer).map_err(|_form| malformed())?,
            trust_domain: TrustDomain::parse(&stored.trust_domain).map_err(|_form| malformed())?,
            key_encryption_key: stored.key_encryption_key,
        })
    }
}

/// What shows that this store is not the one that was last published from: a later or another state, signed by a publishing key
/// that is in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The highest epoch that was shown.
    pub epoch: Epoch,
    /// When it was signed, in seconds since 1970.
    pub signed_at: u64,
    /// The verifier that showed it.
    pub shown_by: String,
}

/// Which state the other records add up to. Sealed, so that nobody who writes to the store can make up another state, or
/// bring back an earlier one of a single record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The epoch.
    pub epoch: Epoch,
    /// The digest of the trust state at that epoch.
    pub state_digest: StateDigest,
    /// The digests of all clients' records, summed up.
    pub clients: DigestSum,
    /// The digests of all records about verifiers, summed up.
    pub roster: DigestSum,
    /// The digests of all records of drills, summed up.
    pub drills: DigestSum,
    /// When the last change was committed. The clock may not be behind it.
    pub committed_at: Timestamp,
    /// Why nothing is signed or changed, if so.
    pub recovery: Option<Recovery>,
    /// The keys that publish.
    pub publishing: Publishing,
}

/// Who publishes, and how verifiers are led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// The publishing key that signs.
    pub signing: KeyId,
    /// The digests of all records of links, summed up.
    pub links: DigestSum,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHead {
    epoch: Epoch,
    state_digest: String,
    clients: String,
    roster: String,
    drills: String,
    committed_at: u64,
    publisher: String,
    publisher_links: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<Recovery>,
}

impl Stored for StoredHead {
    const FORMAT: u32 = 1;
}

impl Head {
    /// The record's bytes: each time others, because sealing is randomized.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn write(&self, vault: &Vault) -> Result<Vec<u8>, RecordError> {
        let stored = StoredHead {
            epoch: self.epoch,
            state_digest: encode_segment(&self.state_digest),
            clients: encode_segment(self.clients.as_bytes()),
            roster: encode_segment(self.roster.as_bytes()),
            drills: encode_segment(self.drills.as_bytes()),
            committed_at: self.committed_at.as_seconds(),
            recovery: self.recovery.clone(),
            publisher: self.publishing.signing.as_str().to_owned(),
            publisher_links: encode_segment(self.publishing.links.as_bytes()),
        };
        vault.write(HEAD, &stored)
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(bytes: &[u8], vault: &Vault) -> Result<Self, RecordError> {
        let stored: StoredHead = vault.read(HEAD, bytes)?;
        let digest = |text: &str| -> Result<[u8; 32], RecordError> {
            let bytes = decode_segment(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| RecordError::malformed(HEAD))
        };
        Ok(Self {
            epoch: stored.epoch,
            state_digest: digest(&stored.state_digest)?,
            clients: DigestSum::new(digest(&stored.clients)?),
            roster: DigestSum::new(digest(&stored.roster)?),
            drills: DigestSum::new(digest(&stored.drills)?),
            committed_at: Timestamp::from_seconds(stored.committed_at),
            recovery: stored.recovery,
            publishing: Publishing {
                signing: KeyId::parse(&stored.publisher).map_err(|_form| RecordError::malformed(HEAD))?,
                links: DigestSum::new(digest(&stored.publisher_links)?),
            },
        })
    }
}

/// How often the store was opened for issuing. Each opening gives out token identifiers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// The number of the opening.
    pub shard: u64,
}

impl Stored for Shard {
    const FORMAT: u32 = 1;
}

impl Shard {
    /// The record's bytes.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn write(self, vault: &Vault) -> Result<Vec<u8>, RecordError> {
        vault.write(SHARD, &self)
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(bytes: &[u8], vault: &Vault) -> Result<Self, RecordError> {
        vault.read(SHARD, bytes)
    }
}
