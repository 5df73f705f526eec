//! Records of verifiers: who may hold a lease, who is granted none, and until when somebody may decide on a trust file. They lie
//! open; the head record holds the digest over
//! them all, so that one that is missing or changed is noticed at start.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::VerifierKey;
use countersign_core::jose::encode_segment;
use countersign_core::names::{ClassName, VerifierId};
use countersign_core::ports::Sha256;
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::{ClassBudget, StalenessBudget};
use countersign_core::trust::Epoch;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored};

/// What the names of verifiers' records begin with.
pub const KNOWN: &str = "verifiers/";
/// What the names of quarantines' records begin with.
pub const QUARANTINED: &str = "quarantine/";

/// What the names of trust files' records begin with.
pub const EXPORTED: &str = "exports/";

/// A verifier that may hold a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub key: VerifierKey,
    /// How long it decides without one.
    pub budgets: Arc<[ClassBudget]>,
}

/// An identity that is granted no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Since when.
    pub since: Timestamp,
}

/// Trust files that were given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// They are of this epoch or later.
    pub epoch: Epoch,
    /// From then on nobody decides on them.
    pub until: Timestamp,
}

/// The name of a verifier's record. Identities are longer than names may be.
#[must_use]
pub fn known_name(key: &VerifierKey, sha256: &dyn Sha256) -> String {
    let parts = [
        key.spiffe_id.as_str().as_bytes(),
        b"\0",
        key.verifier_id.as_str().as_bytes(),
    ];
    format!("{KNOWN}{}", encode_segment(&sha256.sha256(&parts)))
}

/// The name of a quarantine's record.
#[must_use]
pub fn quarantine_name(spiffe_id: &SpiffeId, sha256: &dyn Sha256) -> String {
    let digest = sha256.sha256(&[spiffe_id.as_str().as_bytes()]);
    format!("{QUARANTINED}{}", encode_segment(&digest))
}

/// The name of the record of the trust files of `epoch`.
#[must_use]
pub fn export_name(epoch: Epoch) -> String {
    format!("{EXPORTED}{epoch:016x}")
}

/// The digest of a record, which is counted in the head.
#[must_use]
pub fn digest(name: &str, bytes: &[u8], sha256: &dyn Sha256) -> [u8; 32] {
    sha256.sha256(&[b"countersign/verifier/v1\0", name.as_bytes(), b"\0", bytes])
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVerifier {
    spiffe_id: String,
    verifier_id: String,
    budgets: Vec<StoredBudget>,
}

impl Stored for StoredVerifier {
    const FORMAT: u32 = 1;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBudget {
    class: String,
    revocations_ms: u64,
    keys_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredQuarantine {
    spiffe_id: String,
    since: u64,
}

impl Stored for StoredQuarantine {
    const FORMAT: u32 = 1;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredExport {
    epoch: u64,
    until: u64,
}

impl Stored for StoredExport {
    const FORMAT: u32 = 1;
}

/// The record of a verifier, under `name`.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write_known(name: &str, known: &Known) -> Result<Vec<u8>, RecordError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let budget = |class: &ClassBudget| StoredBudget {
        class: class.class.as_str().to_owned(),
        revocations_ms: millis(class.budget.revocations),
        keys_ms: millis(class.budget.keys),
    };
    let stored = StoredVerifier {
        spiffe_id: known.key.spiffe_id.as_str().to_owned(),
        verifier_id: known.key.verifier_id.as_str().to_owned(),
        budgets: known.budgets.iter().map(budget).collect(),
    };
    record::write(name, &stored)
}

/// Reads the record called `name`.
///
/// # Errors
/// [`RecordError`].
pub fn read_known(name: &str, bytes: &[u8]) -> Result<Known, RecordError> {
    let stored: StoredVerifier = record::read(name, bytes)?;
    let read = || {
        let budget = |stored: &StoredBudget| {
            Some(ClassBudget {
                class: ClassName::parse(&stored.class).ok()?,
                budget: StalenessBudget {
                    revocations: Duration::from_millis(stored.revocations_ms),
                    keys: Duration::from_millis(stored.keys_ms),
                },
            })
        };
        Some(Known {
            key: VerifierKey {
                spiffe_id: SpiffeId::parse(&stored.spiffe_id).ok()?,
                verifier_id: VerifierId::parse(&stored.verifier_id).ok()?,
            },
            budgets: stored.budgets.iter().map(budget).collect::<Option<_>>()?,
        })
    };
    read().ok_or_else(|| RecordError::malformed(name))
}

/// The record of a quarantine, under `name`.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write_quarantine(name: &str, quarantine: &Quarantine) -> Result<Vec<u8>, RecordError> {
    let stored = StoredQuarantine {
        spiffe_id: quarantine.spiffe_id.as_str().to_owned(),
        since: quarantine.since.as_seconds(),
    };
    record::write(name, &stored)
}

/// Reads the record called `name`.
///
/// # Errors
/// [`RecordError`].
pub fn read_quarantine(name: &str, bytes: &[u8]) -> Result<Quarantine, RecordError> {
    let stored: StoredQuarantine = record::read(name, bytes)?;
    Ok(Quarantine {
        spiffe_id: SpiffeId::parse(&stored.spiffe_id).map_err(|_form| RecordError::malformed(name))?,
        since: Timestamp::from_seconds(stored.since),
    })
}

/// The record of trust files, under `name`.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write_export(name: &str, export: &Export) -> Result<Vec<u8>, RecordError> {
    let stored = StoredExport {
        epoch: export.epoch,
        until: export.until.as_seconds(),
    };
    record::write(name, &stored)
}

/// Reads the record called `name`.
///
/// # Errors
/// [`RecordError`].
pub fn read_export(name: &str, bytes: &[u8]) -> Result<Export, RecordError> {
    let stored: StoredExport = record::read(name, bytes)?;
    Ok(Export {
        epoch: stored.epoch,
        until: Timestamp::from_seconds(stored.until),
    })
}

#[cfg(test)]
mod tests {
    use countersign_core::fleet::assumed_budgets;
    use countersign_crypto::AwsLc;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let known = Known {
            key: VerifierKey {
                spiffe_id: SpiffeId::parse("spiffe://test/a").unwrap(),
                verifier_id: VerifierId::parse("1f").unwrap(),
            },
            budgets: assumed_budgets(),
        };
        let name = known_name(&known.key, &AwsLc);
        let bytes = write_known(&name, &known).unwrap();
        assert_eq!(read_known(&name, &bytes), Ok(known.clone()));
        let quarantine = Quarantine {
            spiffe_id: known.key.spiffe_id,
            since: Timestamp::from_seconds(5),
        };
        let name = quarantine_name(&quarantine.spiffe_id, &AwsLc);
        let bytes = write_quarantine(&name, &quarantine).unwrap();
        assert_eq!(read_quarantine(&name, &bytes), Ok(quarantine));
        assert!(read_known(&name, &bytes).is_err());
        let export = Export {
            epoch: 7,
            until: Timestamp::from_seconds(9),
        };
        let name = export_name(export.epoch);
        let bytes = write_export(&name, &export).unwrap();
        assert_eq!(read_export(&name, &bytes), Ok(export));
    }
}
