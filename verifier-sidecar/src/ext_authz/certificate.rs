//! The caller's certificate, as Envoy tells of it: PEM with percent escapes.
//!
//! Envoy has verified it, or not, as Envoy is configured; nothing of that can be seen here. So it is looked at only where the
//! operator says that Envoy is to be believed, and what cannot be read identifies nobody.

use countersign_core::Timestamp;
use countersign_mtls::PeerIdentity;
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Who has the certificate in `escaped`, if it has not ended by `now`. Were there a chain, the leaf would be first.
pub(super) fn read(escaped: &str, now: Timestamp) -> Option<PeerIdentity> {
    if escaped.is_empty() {
        return None;
    }
    let pem: Vec<u8> = percent_decode_str(escaped).collect();
    let leaf = CertificateDer::from_pem_slice(&pem).ok()?;
    let identity = PeerIdentity::from_der(&leaf).ok()?;
    (!identity.is_expired(now)).then_some(identity)
}
