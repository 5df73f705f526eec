//! PEM sections into certificates and keys: everything in the file is understood, or the file is refused.

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use super::FileProblem;

/// A leaf and its intermediates. Real chains have two or three.
pub(super) const MAX_CHAIN: usize = 10;
/// Roots of one trust domain, old and new, of all federated ones.
pub(super) const MAX_ROOTS: usize = 200;

/// All certificates of `content`, at least one, at most `limit`.
pub(super) fn certificates(
    content: &[u8],
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, FileProblem> {
    let mut certificates = Vec::new();
    for (kind, mut der) in sections(content)? {
        if is_private_key(kind) {
            der.zeroize();
            return Err(FileProblem::KeyAmongCertificates);
        }
        if kind == SectionKind::Certificate {
            certificates.push(CertificateDer::from(der));
        }
    }
    match certificates.len() {
        0 => Err(FileProblem::NoCertificate),
        count if count > limit => Err(FileProblem::ManyCertificates { limit }),
        _ => Ok(certificates),
    }
}

/// The one private key of `content`.
pub(super) fn private_key(content: &[u8]) -> Result<PrivateKeyDer<'static>, FileProblem> {
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    let sections = sections(content)?;
    if content.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        return Err(FileProblem::EncryptedKey);
    }
    let mut keys = sections
        .into_iter()
        .filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    let key = keys.next().ok_or(FileProblem::NoKey)?;
    match keys.next() {
        None => Ok(key),
        Some(_) => Err(FileProblem::ManyKeys),
    }
}

fn sections(content: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, FileProblem> {
    if content.starts_with(b"\xef\xbb\xbf") {
        return Err(FileProblem::ByteOrderMark);
    }
    let all = <(SectionKind, Vec<u8>)>::pem_slice_iter(content);
    // The parser's own errors quote the file, which may be a key.
    all.collect::<Result<_, _>>()
        .map_err(|_quotes| FileProblem::Damaged("a PEM section is not complete or not base64"))
}

fn is_private_key(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
    )
}
