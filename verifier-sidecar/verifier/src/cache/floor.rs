//! The floor file: the highest epoch that was ever made durable here, and the last link to a publisher set, kept outside the
//! database.
//!
//! It is what shows that a database is older than it was: restored, swapped, or with its tail lost. Two lines: a JSON
//! object, and its SHA-256, so that a damaged number is not taken for a high one that would lock the authority out.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::Path;

use countersign_core::ports::Sha256;
use countersign_core::publishers::{Generation, LinkDigest, LinkId};
use serde::{Deserialize, Serialize};

use super::CacheIdentity;
use super::directory::{open_regular, replace_file};
use crate::trust::StateId;

/// The name of the file in the state directory.
pub(super) const FILE: &str = "floor";
const FORMAT: u32 = 3;
const MAX_LENGTH: u64 = 16 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    identity: CacheIdentity,
    epoch: u64,
    digest: String,
    link: Option<Link>,
    pin: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    generation: Generation,
    digest: String,
}

/// What was made durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    /// The highest state.
    pub(super) state: StateId,
    /// The link that leads to the highest generation of publisher sets. Nothing: there was none.
    pub(super) link: Option<LinkId>,
    /// The digest of the pinned set that links lead there from.
    pub(super) pin: LinkDigest,
}

impl Floor {
    /// Nothing was made durable here.
    pub(super) fn none(pin: LinkDigest) -> Self {
        Self {
            state: StateId::default(),
            link: None,
            pin,
        }
    }
}

/// What the floor file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// It is damaged, of another format, or of another verifier.
    Unreadable,
    /// The floor.
    Floor(Floor),
}

/// Reads the file in `directory`.
pub(super) fn read(directory: &Path, identity: &CacheIdentity, sha256: &dyn Sha256) -> Found {
    let mut text = String::new();
    let read = open_regular(OpenOptions::new().read(true), &directory.join(FILE))
        .and_then(|file| file.take(MAX_LENGTH).read_to_string(&mut text));
    match read {
        Ok(_length) => parse(&text, identity, sha256).map_or(Found::Unreadable, Found::Floor),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => {
            tracing::warn!(%error, "the floor of the trust on disk cannot be read");
            Found::Unreadable
        }
    }
}

/// Replaces the file in `directory`. When it returns, the floor survives a power cut.
pub(super) fn write(
    directory: &Path,
    identity: &CacheIdentity,
    floor: Floor,
    sha256: &dyn Sha256,
) -> io::Result<()> {
    let content = serde_json::to_string(&Content {
        format: FORMAT,
        identity: identity.clone(),
        epoch: floor.state.epoch,
        digest: hex(&floor.state.digest),
        link: floor.link.map(|link| Link {
            generation: link.generation,
            digest: hex(&link.digest),
        }),
        pin: hex(&floor.pin),
    })?;
    replace_file(directory, FILE, with_sum(&content, sha256).as_bytes())
}

/// `content`, which is one line, and its SHA-256 in another.
pub(super) fn with_sum(content: &str, sha256: &dyn Sha256) -> String {
    let sum = hex(&sha256.sha256(&[content.as_bytes()]));
    format!("{content}\n{sum}\n")
}

/// The content in `text`, if the sum in it is right.
pub(super) fn check_sum<'a>(text: &'a str, sha256: &dyn Sha256) -> Option<&'a str> {
    let (content, sum) = text.strip_suffix('\n')?.split_once('\n')?;
    (sum == hex(&sha256.sha256(&[content.as_bytes()]))).then_some(content)
}

fn parse(text: &str, identity: &CacheIdentity, sha256: &dyn Sha256) -> Option<Floor> {
    let content: Content = serde_json::from_str(check_sum(text, sha256)?).ok()?;
    if content.format != FORMAT || content.identity != *identity {
        return None;
    }
    let link = match content.link {
        Some(link) => Some(LinkId {
            generation: link.generation,
            digest: read_hex(&link.digest)?,
        }),
        None => None,
    };
    Some(Floor {
        state: StateId {
            epoch: content.epoch,
            digest: read_hex(&content.digest)?,
        },
        link,
        pin: read_hex(&content.pin)?,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    if digits.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
