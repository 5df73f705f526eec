//! `countersign.trust.v1`: the signed content, to and from core values.
//!
//! Reading refuses what core's types cannot hold. Whether an update follows on the state in force is core's decision
//! ([`countersign_core::trust::UpdateRules`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::claims::Subject as TokenSubject;
use countersign_core::jwk::KeySetError;
use countersign_core::key_set::{KeySet, KeyTimes};
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, Issuer, KeyId, TokenId};
use countersign_core::ports::KeyReader;
use countersign_core::revocation::{
    EXPIRY_STEP, Revocation, RevocationList, RevokedSubject, RevokedTokens, Sequences,
};
use countersign_core::trust::{Change, StateDigest, Update, UpdateContent, UpdateRefused};
use countersign_proto::trust::v1;
use prost::Message as _;

use crate::MAX_REVOCATIONS;

pub use countersign_core::trust::Heartbeat;

/// The bytes of `update`, to be signed and sent as they are.
#[must_use]
pub fn write_update(update: &Update) -> Vec<u8> {
    let content = match &update.content {
        UpdateContent::Snapshot {
            key_set,
            revocations,
            publishers,
        } => v1::epoch_update::Content::Snapshot(v1::Snapshot {
            key_set: Some(write_key_set(key_set)),
            revocations: revocations.others().map(write_revocation).collect(),
            revoked_tokens: write_tokens(revocations),
            publishers_generation: *publishers,
        }),
        UpdateContent::Delta {
            base_epoch,
            base_digest,
            change,
        } => v1::epoch_update::Content::Delta(v1::Delta {
            base_epoch: *base_epoch,
            base_digest: base_digest.to_vec(),
            key_set: change.key_set.as_deref().map(write_key_set),
            revoked: change.revoked.others().map(write_revocation).collect(),
            prune_before: write_optional(change.prune_before),
            revoked_tokens: write_tokens(&change.revoked),
            publishers_generation: change.publishers.unwrap_or_default(),
        }),
    };
    v1::EpochUpdate {
        issuer: update.issuer.as_str().to_owned(),
        epoch: update.epoch,
        state_digest: update.state_digest.to_vec(),
        published_at: update.published_at.to_wire(),
        content: Some(content),
    }
    .encode_to_vec()
}

/// Reads the bytes of an update whose signature is verified.
///
/// # Errors
/// [`UpdateRefused`]: `Malformed`, `Revocation`, `KeySet`, `TooLarge` for more than [`MAX_REVOCATIONS`].
pub fn read_update(payload: &[u8], reader: &dyn KeyReader) -> Result<Update, UpdateRefused> {
    let ReadInPart { update, left_out } = read_update_in_part(payload, reader)?;
    if left_out == 0 {
        Ok(update)
    } else {
        Err(UpdateRefused::Revocation)
    }
}

/// An update without the revocations in it that are none, so that it does not give the state that it states. For what it
/// takes back, and nothing else.
#[derive(Debug)]
pub struct ReadInPart {
    /// What could be read.
    pub update: Update,
    /// How many revocations could not, a set of tokens that cannot be read counting as one, or are there twice.
    pub left_out: usize,
}

/// Reads the bytes of an update whose signature is verified, without the revocations that are none.
///
/// # Errors
/// [`UpdateRefused`]: `Malformed`, `KeySet`, `TooLarge` for more than [`MAX_REVOCATIONS`].
pub fn read_update_in_part(payload: &[u8], reader: &dyn KeyReader) -> Result<ReadInPart, UpdateRefused> {
    let update = v1::EpochUpdate::decode(payload).map_err(|_malformed| UpdateRefused::Malformed)?;
    let (content, left_out) = match update.content.ok_or(UpdateRefused::Malformed)? {
        v1::epoch_update::Content::Snapshot(snapshot) => {
            let revocations = read_revocations(&snapshot.revocations, &snapshot.revoked_tokens)?;
            let content = UpdateContent::Snapshot {
                key_set: read_key_set(&snapshot.key_set.ok_or(UpdateRefused::Malformed)?, reader)?,
                revocations: revocations.list,
                publishers: match snapshot.publishers_generation {
                    0 => return Err(UpdateRefused::Malformed),
                    generation => generation,
                },
            };
            (content, revocations.left_out)
        }
        v1::epoch_update::Content::Delta(delta) => {
            let revocations = read_revocations(&delta.revoked, &delta.revoked_tokens)?;
            let content = UpdateContent::Delta {
                base_epoch: delta.base_epoch,
                base_digest: read_digest(&delta.base_digest)?,
                change: Change {
                    key_set: delta
                        .key_set
                        .map(|key_set| read_key_set(&key_set, reader))
                        .transpose()?,
                    revoked: revocations.list,
                    prune_before: read_optional(delta.prune_before).ok_or(UpdateRefused::Malformed)?,
                    publishers: Some(delta.publishers_generation).filter(|generation| *generation != 0),
                },
            };
            (content, revocations.left_out)
        }
    };
    let update = Update {
        issuer: Issuer::parse(&update.issuer).map_err(|_malformed| UpdateRefused::Issuer)?,
        epoch: update.epoch,
        state_digest: read_digest(&update.state_digest)?,
        published_at: Timestamp::from_wire(update.published_at).ok_or(UpdateRefused::Malformed)?,
        content,
    };
    Ok(ReadInPart { update, left_out })
}

/// The bytes of `heartbeat`, to be signed and sent as they are.
#[must_use]
pub fn write_heartbeat(heartbeat: &Heartbeat) -> Vec<u8> {
    v1::Heartbeat {
        issuer: heartbeat.issuer.as_str().to_owned(),
        epoch: heartbeat.epoch,
        state_digest: heartbeat.state_digest.to_vec(),
        authority_time_ms: i64::try_from(heartbeat.authority_time_millis).unwrap_or(i64::MAX),
        sequence: heartbeat.sequence,
        revocation_count: heartbeat.revocation_count,
        expires_at_ms: heartbeat
            .expires_at_millis
            .map_or(0, |millis| i64::try_from(millis).unwrap_or(i64::MAX)),
    }
    .encode_to_vec()
}

/// Reads the bytes of a heartbeat whose signature is verified.
///
/// # Errors
/// [`UpdateRefused`]: `Malformed` or `Issuer`.
pub fn read_heartbeat(payload: &[u8]) -> Result<Heartbeat, UpdateRefused> {
    let heartbeat = v1::Heartbeat::decode(payload).map_err(|_malformed| UpdateRefused::Malformed)?;
    Ok(Heartbeat {
        issuer: Issuer::parse(&heartbeat.issuer).map_err(|_malformed| UpdateRefused::Issuer)?,
        epoch: heartbeat.epoch,
        state_digest: read_digest(&heartbeat.state_digest)?,
        authority_time_millis: u64::try_from(heartbeat.authority_time_ms)
            .map_err(|_negative| UpdateRefused::Malformed)?,
        sequence: heartbeat.sequence,
        revocation_count: heartbeat.revocation_count,
        expires_at_millis: match heartbeat.expires_at_ms {
            0 => None,
            millis => Some(u64::try_from(millis).map_err(|_negative| UpdateRefused::Malformed)?),
        },
    })
}

/// Reads a digest of 32 bytes.
///
/// # Errors
/// [`UpdateRefused::Malformed`].
pub fn read_digest(digest: &[u8]) -> Result<StateDigest, UpdateRefused> {
    digest.try_into().map_err(|_length| UpdateRefused::Malformed)
}

/// Zero is "not set". Nothing for what is no time.
fn read_optional(seconds: i64) -> Option<Option<Timestamp>> {
    if seconds == 0 {
        Some(None)
    } else {
        Timestamp::from_wire(seconds).map(Some)
    }
}

fn write_optional(time: Option<Timestamp>) -> i64 {
    time.map_or(0, Timestamp::to_wire)
}

fn write_key_set(key_set: &KeySet) -> v1::KeySet {
    let statuses = key_set.keys().iter().map(|key| v1::KeyStatus {
        kid: key.jwk.key_id().as_str().to_owned(),
        prepared_at: key.times.prepared_at.to_wire(),
        accepted_from: write_optional(key.times.accepted_from),
        active_from: write_optional(key.times.active_from),
        retired_from: write_optional(key.times.retired_from),
        compromised_at: write_optional(key.times.compromised_at),
    });
    v1::KeySet {
        jwks: key_set.to_jwks(),
        statuses: statuses.collect(),
    }
}

fn read_key_set(key_set: &v1::KeySet, reader: &dyn KeyReader) -> Result<Arc<KeySet>, UpdateRefused> {
    let times: Option<Vec<_>> = key_set.statuses.iter().map(read_status).collect();
    let times = times.ok_or(UpdateRefused::KeySet(KeySetError::Status))?;
    KeySet::read(key_set.jwks.as_bytes(), &times, reader)
        .map(Arc::new)
        .map_err(UpdateRefused::KeySet)
}

fn read_status(status: &v1::KeyStatus) -> Option<(KeyId, KeyTimes)> {
    let times = KeyTimes {
        prepared_at: Timestamp::from_wire(status.prepared_at)?,
        accepted_from: read_optional(status.accepted_from)?,
        active_from: read_optional(status.active_from)?,
        retired_from: read_optional(status.retired_from)?,
        compromised_at: read_optional(status.compromised_at)?,
    };
    Some((KeyId::parse(&status.kid).ok()?, times))
}

fn write_tokens(revocations: &RevocationList) -> Vec<v1::RevokedTokens> {
    let groups = revocations.tokens().into_iter();
    groups
        .map(|tokens| v1::RevokedTokens {
            expires_at: tokens.expires_at.to_wire(),
            shard: tokens.shard,
            sequences: tokens.sequences.write(),
        })
        .collect()
}

fn write_revocation(revocation: Revocation) -> v1::Revocation {
    use v1::revocation::Subject;
    let watermark = revocation.issued_before.to_wire();
    let (subject, issued_before) = match revocation.subject {
        RevokedSubject::Token(token_id) => (Subject::TokenId(token_id.as_str().to_owned()), 0),
        RevokedSubject::Client(client_id) => (Subject::ClientId(client_id.as_str().to_owned()), watermark),
        RevokedSubject::Subject(subject) => (Subject::SubjectName(subject.to_string()), watermark),
        RevokedSubject::Audience(audience) => (Subject::Audience(audience.as_str().to_owned()), watermark),
        RevokedSubject::Certificate(thumbprint) => (
            Subject::CertificateThumbprint(thumbprint.as_bytes().to_vec()),
            watermark,
        ),
        RevokedSubject::Everything => (Subject::Everything(v1::Everything {}), watermark),
    };
    v1::Revocation {
        subject: Some(subject),
        issued_before,
        expires_at: revocation.expires_at.to_wire(),
    }
}

/// The revocations of an update that are of their form and there once.
struct ReadRevocations {
    list: RevocationList,
    left_out: usize,
}

fn read_revocations(
    entries: &[v1::Revocation],
    groups: &[v1::RevokedTokens],
) -> Result<ReadRevocations, UpdateRefused> {
    let mut seen = BTreeSet::new();
    let tokens: Vec<RevokedTokens> = groups
        .iter()
        .filter_map(read_tokens)
        .filter(|tokens| seen.insert((tokens.expires_at, tokens.shard)))
        .collect();
    let unreadable = groups.len().saturating_sub(tokens.len());
    // Some bytes can stand for any number of tokens: they are counted before they are gone through (K09).
    let count = tokens.iter().map(|tokens| tokens.sequences.len());
    let count = count.fold(0, u64::saturating_add);
    let listed = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .saturating_add(entries.len());
    if listed > MAX_REVOCATIONS {
        return Err(UpdateRefused::TooLarge);
    }
    let mut list: RevocationList = entries.iter().filter_map(read_revocation).collect();
    for tokens in &tokens {
        list.add_tokens(tokens);
    }
    let left_out = unreadable.saturating_add(listed.saturating_sub(list.len()));
    Ok(ReadRevocations { list, left_out })
}

fn read_tokens(tokens: &v1::RevokedTokens) -> Option<RevokedTokens> {
    let expires_at = Timestamp::from_wire(tokens.expires_at)?;
    let is_rounded = expires_at.as_seconds().is_multiple_of(EXPIRY_STEP.as_secs());
    let sequences = Sequences::read(&tokens.sequences)?;
    (is_rounded && !sequences.is_empty()).then_some(RevokedTokens {
        expires_at,
        shard: tokens.shard,
        sequences,
    })
}

fn read_revocation(entry: &v1::Revocation) -> Option<Revocation> {
    let subject = read_subject(entry.subject.as_ref()?)?;
    let issued_before = match subject {
        RevokedSubject::Token(_) => (entry.issued_before == 0).then(Timestamp::default)?,
        RevokedSubject::Client(_)
        | RevokedSubject::Subject(_)
        | RevokedSubject::Audience(_)
        | RevokedSubject::Certificate(_)
        | RevokedSubject::Everything => Timestamp::from_wire(entry.issued_before)?,
    };
    Some(Revocation {
        subject,
        issued_before,
        expires_at: Timestamp::from_wire(entry.expires_at)?,
    })
}

fn read_subject(subject: &v1::revocation::Subject) -> Option<RevokedSubject> {
    use v1::revocation::Subject;
    match subject {
        Subject::TokenId(token_id) => {
            let token_id = TokenId::parse(token_id).ok();
            // One with numbers has its place among `RevokedTokens`.
            let token_id = token_id.filter(|token_id| token_id.serial().is_none());
            token_id.map(RevokedSubject::Token)
        }
        Subject::ClientId(client_id) => ClientId::parse(client_id).ok().map(RevokedSubject::Client),
        Subject::SubjectName(subject) => TokenSubject::parse(subject).map(RevokedSubject::Subject),
        Subject::Audience(audience) => Audience::parse(audience).ok().map(RevokedSubject::Audience),
        Subject::CertificateThumbprint(thumbprint) => {
            let thumbprint = thumbprint.as_slice().try_into().ok();
            thumbprint
                .map(CertificateThumbprint::new)
                .map(RevokedSubject::Certificate)
        }
        Subject::Everything(_) => Some(RevokedSubject::Everything),
    }
}
