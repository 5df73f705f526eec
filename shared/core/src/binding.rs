//! What tokens are bound to, and what a caller shows of it.
//!
//! A token may be bound to one certificate (RFC 8705, section 3.1), and is of no more use when that is replaced. Or it may be
//! bound to the SPIFFE ID of a workload, and goes on over each certificate that the workload has had and will have, as long as
//! it lasts. No token is bound to both, because the one would take away what the other is for.

use crate::names::CertificateThumbprint;
use crate::spiffe::SpiffeId;

/// A certificate whose holder is at the other end of a connection, as far as tokens are bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificate itself.
    pub thumbprint: CertificateThumbprint,
    /// The SPIFFE ID in it, when it has one.
    pub spiffe_id: Option<SpiffeId>,
}

/// A certificate without a SPIFFE ID, or whose SPIFFE ID is not known.
impl From<CertificateThumbprint> for PeerCertificate {
    fn from(thumbprint: CertificateThumbprint) -> Self {
        Self {
            thumbprint,
            spiffe_id: None,
        }
    }
}

/// The same, by the SHA-256 of its DER.
impl From<[u8; 32]> for PeerCertificate {
    fn from(sha256: [u8; 32]) -> Self {
        CertificateThumbprint::new(sha256).into()
    }
}

/// What a client's tokens are bound to, when it authenticates by a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenBinding {
    /// That certificate. Tokens that are got with a secret are not bound.
    #[default]
    Certificate,
    /// The SPIFFE ID in it. Without one there is no token, and with a secret neither.
    SpiffeId,
}
