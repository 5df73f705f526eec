//! Records of revocations: the subject is the record's name. They lie open; the head record holds the digest over them all,
//! so that one that is missing or changed is noticed at start.

use countersign_core::Timestamp;
use countersign_core::names::{ClientId, TokenId};
use countersign_core::revocation::{Revocation, RevokedSubject};
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored};

/// What the names of these records begin with.
pub const PREFIX: &str = "revocations/";
const TOKEN: &str = "token/";
const CLIENT: &str = "client/";
const EVERYTHING: &str = "everything";

/// The name of a subject's record.
#[must_use]
pub fn name(subject: &RevokedSubject) -> String {
    match subject {
        RevokedSubject::Token(token_id) => format!("{PREFIX}{TOKEN}{token_id}"),
        RevokedSubject::Client(client_id) => format!("{PREFIX}{CLIENT}{client_id}"),
        RevokedSubject::Everything => format!("{PREFIX}{EVERYTHING}"),
    }
}

fn subject(name: &str) -> Option<RevokedSubject> {
    let subject = name.strip_prefix(PREFIX)?;
    if let Some(token_id) = subject.strip_prefix(TOKEN) {
        TokenId::parse(token_id).ok().map(RevokedSubject::Token)
    } else if let Some(client_id) = subject.strip_prefix(CLIENT) {
        ClientId::parse(client_id).ok().map(RevokedSubject::Client)
    } else {
        (subject == EVERYTHING).then_some(RevokedSubject::Everything)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRevocation {
    issued_before: u64,
    expires_at: u64,
}

impl Stored for StoredRevocation {
    const FORMAT: u32 = 1;
}

/// The record's bytes.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write(revocation: &Revocation) -> Result<Vec<u8>, RecordError> {
    let stored = StoredRevocation {
        issued_before: revocation.issued_before.as_seconds(),
        expires_at: revocation.expires_at.as_seconds(),
    };
    record::write(&name(&revocation.subject), &stored)
}

/// Reads the record called `record_name`.
///
/// # Errors
/// [`RecordError`].
pub fn read(record_name: &str, bytes: &[u8]) -> Result<Revocation, RecordError> {
    let subject = subject(record_name).ok_or_else(|| RecordError::malformed(record_name))?;
    let stored: StoredRevocation = record::read(record_name, bytes)?;
    Ok(Revocation {
        subject,
        issued_before: Timestamp::from_seconds(stored.issued_before),
        expires_at: Timestamp::from_seconds(stored.expires_at),
    })
}
