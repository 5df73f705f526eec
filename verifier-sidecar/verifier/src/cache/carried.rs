//! The file of what is carried: the certificates that are revoked though the state on disk does not say so, because a recovered
//! authority may not know.
//!
//! Nobody signed that, and whoever can change it can also delete everything here; it makes decisions stricter and nothing else. So it
//! holds whatever becomes of the state, and lies outside the database, as the [floor](super::floor) does: neither a database that is
//! set aside takes it along, nor one that cannot be made, nor a disk that cannot be written.
//!
//! ```text
//! save(snapshot):  also the certificates beside it -> the snapshot is on disk -> none but those
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use countersign_core::Timestamp;
use countersign_core::names::CertificateThumbprint;
use countersign_core::ports::Sha256;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use serde::{Deserialize, Serialize};

use super::directory::{open_regular, replace_file};
use super::floor::{check_sum, with_sum};
use super::{CacheIdentity, Unusable};

/// The name of the file in the state directory.
const FILE: &str = "carried";
const FORMAT: u32 = 1;

/// More than the certificates of two states take, each as many as may be in one.
const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// It is the authority that revoked them: whose audience and which sidecar it was is no matter.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    issuer: String,
    trust_domain: String,
    certificates: Vec<Certificate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    thumbprint: String,
    issued_before: u64,
    expires_at: u64,
}

/// The certificates in the file in `directory`. None when there is no file, or one of another authority.
pub(super) fn read(
    directory: &Path,
    identity: &CacheIdentity,
    sha256: &dyn Sha256,
) -> Result<RevocationList, Unusable> {
    match read_text(directory) {
        Ok(text) => parse(&text, identity, sha256).ok_or(Unusable::Malformed),
        Err(error) if is_missing(&error) => Ok(RevocationList::default()),
        Err(error) => {
            tracing::warn!(%error, "the revoked certificates on disk cannot be read");
            Err(Unusable::Unreadable)
        }
    }
}

/// Puts `certificates` in the file in `directory`, besides what is there. When it returns, they survive a power cut.
pub(super) fn add(
    directory: &Path,
    identity: &CacheIdentity,
    certificates: &RevocationList,
    sha256: &dyn Sha256,
) -> io::Result<()> {
    if certificates.is_empty() {
        return Ok(());
    }
    let mut all = read(directory, identity, sha256).unwrap_or_default();
    all.merge(certificates);
    write(directory, identity, &all, sha256)
}

/// Puts `certificates` in the file in `directory`, in place of what is there. When it returns, that survives a power cut.
pub(super) fn write(
    directory: &Path,
    identity: &CacheIdentity,
    certificates: &RevocationList,
    sha256: &dyn Sha256,
) -> io::Result<()> {
    if certificates.is_empty() {
        return remove(directory);
    }
    let content = serde_json::to_string(&Content {
        format: FORMAT,
        issuer: identity.issuer.clone(),
        trust_domain: identity.trust_domain.clone(),
        certificates: certificates.others().filter_map(certificate).collect(),
    })?;
    let text = with_sum(&content, sha256);
    if read_text(directory).is_ok_and(|there| there == text) {
        return Ok(());
    }
    replace_file(directory, FILE, text.as_bytes())
}

/// The certificates in a record of a database that was written before there was the file.
pub(super) fn read_record(record: &[u8]) -> Option<RevocationList> {
    list(serde_json::from_slice(record).ok()?)
}

fn read_text(directory: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(OpenOptions::new().read(true), &directory.join(FILE))?
        .take(MAX_LENGTH)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Whether there is no file, or not even a directory that it could be in.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn parse(text: &str, identity: &CacheIdentity, sha256: &dyn Sha256) -> Option<RevocationList> {
    let content: Content = serde_json::from_str(check_sum(text, sha256)?).ok()?;
    if content.format != FORMAT {
        return None;
    }
    let certificates = list(content.certificates)?;
    let is_ours = content.issuer == identity.issuer && content.trust_domain == identity.trust_domain;
    Some(if is_ours {
        certificates
    } else {
        RevocationList::default()
    })
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILE)) {
        Ok(()) => File::open(directory)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn certificate(entry: Revocation) -> Option<Certificate> {
    let RevokedSubject::Certificate(thumbprint) = entry.subject else {
        return None;
    };
    Some(Certificate {
        thumbprint: thumbprint.to_string(),
        issued_before: entry.issued_before.as_seconds(),
        expires_at: entry.expires_at.as_seconds(),
    })
}

fn list(certificates: Vec<Certificate>) -> Option<RevocationList> {
    let revocation = |certificate: Certificate| {
        let thumbprint = CertificateThumbprint::parse(&certificate.thumbprint).ok()?;
        Some(Revocation {
            subject: RevokedSubject::Certificate(thumbprint),
            issued_before: Timestamp::from_seconds(certificate.issued_before),
            expires_at: Timestamp::from_seconds(certificate.expires_at),
        })
    };
    certificates.into_iter().map(revocation).collect()
}
