//! Records of links to publisher sets. They lie open, and each is counted in the head by its digest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use countersign_core::ports::Sha256;
use countersign_core::publishers::Generation;
use countersign_core::trust::Epoch;
use countersign_proto::trust::v1::Signed;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored};
use crate::publishing::KeptLink;

/// What the names of records of links begin with.
pub const LINKS: &str = "publisher-links/";

/// The name of the record of the link to `generation`.
#[must_use]
pub fn name(generation: Generation) -> String {
    format!("{LINKS}{generation:016x}")
}

/// The digest of a record, which is counted in the head.
#[must_use]
pub fn digest(name: &str, bytes: &[u8], sha256: &dyn Sha256) -> [u8; 32] {
    sha256.sha256(&[b"countersign/publisher-link/v1\0", name.as_bytes(), b"\0", bytes])
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLink {
    generation: Generation,
    epoch: Epoch,
    payload: String,
    signature: String,
    key_id: String,
}

impl Stored for StoredLink {
    const FORMAT: u32 = 1;
}

/// The record's bytes.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write(link: &KeptLink) -> Result<Vec<u8>, RecordError> {
    let stored = StoredLink {
        generation: link.generation,
        epoch: link.epoch,
        payload: STANDARD_NO_PAD.encode(&link.signed.payload),
        signature: STANDARD_NO_PAD.encode(&link.signed.signature),
        key_id: link.signed.key_id.clone(),
    };
    record::write(&name(link.generation), &stored)
}

/// Reads the record called `record_name`.
///
/// # Errors
/// [`RecordError`], also when the content is another link's.
pub fn read(record_name: &str, bytes: &[u8]) -> Result<KeptLink, RecordError> {
    let stored: StoredLink = record::read(record_name, bytes)?;
    let malformed = || RecordError::malformed(record_name);
    let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_form| malformed());
    if name(stored.generation) != record_name {
        return Err(malformed());
    }
    Ok(KeptLink {
        generation: stored.generation,
        epoch: stored.epoch,
        signed: Signed {
            payload: decode(&stored.payload)?.into(),
            signature: decode(&stored.signature)?.into(),
            key_id: stored.key_id,
        },
    })
}
