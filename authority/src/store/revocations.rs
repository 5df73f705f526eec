//! Records of revocations. Single tokens with numbers are stored chunk by chunk, some bytes for each; every other revocation is
//! a record by itself, whose name is its subject. They are sealed, so that none can be made up, and the head record holds the
//! digest over them all, so that one that is missing or an earlier one is noticed at start.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use countersign_core::Timestamp;
use countersign_core::claims::Subject;
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, TokenId};
use countersign_core::revocation::{
    ChunkName, Revocation, RevocationList, RevokedSubject, RevokedTokens, Sequences,
};
use serde::{Deserialize, Serialize};

use super::record::{RecordError, Stored, Vault};

/// What the names of these records begin with.
pub const PREFIX: &str = "revocations/";
const TOKENS: &str = "revocations/tokens/";

/// The text of a subject: in the names of records, and for whoever goes through the list page by page.
#[must_use]
pub fn write_subject(subject: &RevokedSubject) -> String {
    match subject {
        RevokedSubject::Token(token_id) => format!("token/{token_id}"),
        RevokedSubject::Client(client_id) => format!("client/{client_id}"),
        RevokedSubject::Subject(subject) => format!("subject/{subject}"),
        RevokedSubject::Audience(audience) => format!("audience/{audience}"),
        RevokedSubject::Certificate(thumbprint) => format!("certificate/{thumbprint}"),
        RevokedSubject::Everything => "everything/".to_owned(),
    }
}

/// Reads what [`write_subject`] wrote.
#[must_use]
pub fn read_subject(text: &str) -> Option<RevokedSubject> {
    let (kind, name) = text.split_once('/')?;
    match kind {
        "token" => TokenId::parse(name).ok().map(RevokedSubject::Token),
        "client" => ClientId::parse(name).ok().map(RevokedSubject::Client),
        "subject" => Subject::parse(name).map(RevokedSubject::Subject),
        "audience" => Audience::parse(name).ok().map(RevokedSubject::Audience),
        "certificate" => CertificateThumbprint::parse(name)
            .ok()
            .map(RevokedSubject::Certificate),
        "everything" if name.is_empty() => Some(RevokedSubject::Everything),
        _ => None,
    }
}

/// The name of a subject's record.
#[must_use]
pub fn name(subject: &RevokedSubject) -> String {
    format!("{PREFIX}{}", write_subject(subject))
}

/// The name of a chunk's record.
#[must_use]
pub fn chunk_name(chunk: &ChunkName) -> String {
    format!("{TOKENS}{}/{:x}/{:x}", chunk.expires_at, chunk.shard, chunk.chunk)
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTokens {
    expires_at: u64,
    shard: u64,
    /// In the portable format of Roaring bitmaps, base64.
    sequences: String,
}

impl Stored for StoredTokens {
    const FORMAT: u32 = 1;
}

/// The record's bytes.
///
/// # Errors
/// [`RecordError`].
pub fn write(revocation: &Revocation, vault: &Vault) -> Result<Vec<u8>, RecordError> {
    let stored = StoredRevocation {
        issued_before: revocation.issued_before.as_seconds(),
        expires_at: revocation.expires_at.as_seconds(),
    };
    vault.write(&name(&revocation.subject), &stored)
}

/// The bytes of the record of `chunk`, with `sequences` in it.
///
/// # Errors
/// [`RecordError`].
pub fn write_chunk(chunk: &ChunkName, sequences: &Sequences, vault: &Vault) -> Result<Vec<u8>, RecordError> {
    let stored = StoredTokens {
        expires_at: chunk.expires_at.as_seconds(),
        shard: chunk.shard,
        sequences: STANDARD_NO_PAD.encode(sequences.write()),
    };
    vault.write(&chunk_name(chunk), &stored)
}

/// Reads the record called `record_name` into `list`.
///
/// # Errors
/// [`RecordError`].
pub fn read(
    list: &mut RevocationList,
    record_name: &str,
    bytes: &[u8],
    vault: &Vault,
) -> Result<(), RecordError> {
    if record_name.starts_with(TOKENS) {
        list.add_tokens(&read_chunk(record_name, bytes, vault)?);
    } else {
        list.add(read_revocation(record_name, bytes, vault)?);
    }
    Ok(())
}

fn read_chunk(record_name: &str, bytes: &[u8], vault: &Vault) -> Result<RevokedTokens, RecordError> {
    let stored: StoredTokens = vault.read(record_name, bytes)?;
    let sequences = STANDARD_NO_PAD.decode(&stored.sequences).ok();
    let sequences = sequences.and_then(|sequences| Sequences::read(&sequences));
    Ok(RevokedTokens {
        expires_at: Timestamp::from_seconds(stored.expires_at),
        shard: stored.shard,
        sequences: sequences.ok_or_else(|| RecordError::malformed(record_name))?,
    })
}

fn read_revocation(record_name: &str, bytes: &[u8], vault: &Vault) -> Result<Revocation, RecordError> {
    let subject = record_name.strip_prefix(PREFIX).and_then(read_subject);
    let subject = subject.ok_or_else(|| RecordError::malformed(record_name))?;
    let stored: StoredRevocation = vault.read(record_name, bytes)?;
    Ok(Revocation {
        subject,
        issued_before: Timestamp::from_seconds(stored.issued_before),
        expires_at: Timestamp::from_seconds(stored.expires_at),
    })
}
