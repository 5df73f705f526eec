//! `countersign.trust.v1.PublisherSet`: a link from one set of publishing keys to the next.

use std::sync::Arc;

use countersign_core::jwk::{Jwk, read_set, write_set};
use countersign_core::names::Issuer;
use countersign_core::ports::{KeyReader, PublicKey, Sha256};
use countersign_core::publishers::{Generation, Link, LinkDigest, LinkRefused, read_keys};
use countersign_proto::trust::v1;
use prost::Message as _;

/// The longest payload of a link: a set has two keys, and one that an operator made by hand has a few.
const MAX_LENGTH: usize = 64 * 1024;

/// The bytes of the link that leads to `keys`, to be signed and sent as they are.
#[must_use]
pub fn write_publishers(
    issuer: &Issuer,
    generation: Generation,
    keys: impl IntoIterator<Item = Jwk>,
    previous: Option<&LinkDigest>,
) -> Vec<u8> {
    v1::PublisherSet {
        issuer: issuer.as_str().to_owned(),
        generation,
        jwks: write_set(keys),
        previous_digest: previous.map(|digest| digest.to_vec()).unwrap_or_default(),
    }
    .encode_to_vec()
}

/// Reads the bytes of a link whose signature is verified.
///
/// # Errors
/// [`LinkRefused`]: `Malformed` or `Issuer`.
pub fn read_publishers(
    payload: &[u8],
    reader: &dyn KeyReader,
) -> Result<Link<Arc<dyn PublicKey>>, LinkRefused> {
    if payload.len() > MAX_LENGTH {
        return Err(LinkRefused::Malformed);
    }
    let set = v1::PublisherSet::decode(payload).map_err(|_malformed| LinkRefused::Malformed)?;
    Ok(Link {
        issuer: Issuer::parse(&set.issuer).map_err(|_malformed| LinkRefused::Issuer)?,
        generation: set.generation,
        previous: read_previous(&set.previous_digest)?,
        digest: reader.sha256(&[payload]),
        keys: read_keys(set.jwks.as_bytes(), reader).map_err(|_refused| LinkRefused::Malformed)?,
    })
}

/// The keys of a link, as they are written, oldest first.
///
/// # Errors
/// [`LinkRefused::Malformed`].
pub fn read_publisher_jwks(payload: &[u8], sha256: &dyn Sha256) -> Result<Vec<Jwk>, LinkRefused> {
    let set = v1::PublisherSet::decode(payload).map_err(|_malformed| LinkRefused::Malformed)?;
    read_set(set.jwks.as_bytes(), sha256).map_err(|_refused| LinkRefused::Malformed)
}

fn read_previous(digest: &[u8]) -> Result<Option<LinkDigest>, LinkRefused> {
    if digest.is_empty() {
        return Ok(None);
    }
    let digest = digest.try_into();
    digest.map(Some).map_err(|_length| LinkRefused::Malformed)
}
