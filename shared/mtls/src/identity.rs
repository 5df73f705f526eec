//! Who a peer is, read from its leaf certificate after the chain was verified.
//!
//! A leaf has one URI as alternative name, which is a SPIFFE ID, or it has none and the peer is known only by the
//! certificate itself. Anything that two readers could read differently is refused: several URIs, repeated or
//! unreadable extensions, names of the free-form `otherName` kind, leaves that may sign certificates
//! (X509-SVID specification, sections 2 to 4). The common name means nothing.

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_core::names::CertificateThumbprint;
use countersign_core::spiffe::{SpiffeId, SpiffeIdError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The SPIFFE ID, when the certificate has one.
    pub spiffe_id: Option<SpiffeId>,
    /// The certificate itself. Two certificates of equal subject and serial differ here.
    pub thumbprint: CertificateThumbprint,
    /// The last second of the certificate's validity.
    pub not_after: Timestamp,
}

/// A certificate that identifies nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefused {
    /// It is no X.509 certificate in DER.
    #[error("the certificate cannot be read")]
    Malformed,
    /// It may sign certificates or revocation lists; an authority is no workload.
    #[error("the certificate is of an authority, not of a workload")]
    Authority,
    /// Its alternative names are repeated, unreadable or of the `otherName` kind.
    #[error("the certificate's alternative names are ambiguous")]
    AlternativeNames,
    /// It has more than one URI.
    #[error("the certificate has more than one URI")]
    ManyUris,
    /// Its URI is no SPIFFE ID.
    #[error("the certificate's URI is no SPIFFE ID: {0}")]
    NotSpiffe(SpiffeIdError),
}

impl PeerIdentity {
    /// Reads the identity of a leaf certificate. Does not verify it.
    ///
    /// # Errors
    /// [`IdentityRefused`] says why the certificate identifies nobody.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityRefused> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_bytes| IdentityRefused::Malformed)?;
        if !rest.is_empty() {
            return Err(IdentityRefused::Malformed);
        }
        if may_sign_certificates(&certificate)? {
            return Err(IdentityRefused::Authority);
        }
        Ok(Self {
            spiffe_id: spiffe_id(&certificate)?,
            thumbprint: thumbprint(der),
            not_after: not_after(&certificate),
        })
    }

    /// What tokens can be bound to of it.
    #[must_use]
    pub fn certificate(&self) -> PeerCertificate {
        PeerCertificate {
            thumbprint: self.thumbprint,
            spiffe_id: self.spiffe_id.clone(),
        }
    }

    /// Whether the certificate's validity has ended.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.not_after
    }
}

fn may_sign_certificates(certificate: &X509Certificate<'_>) -> Result<bool, IdentityRefused> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_error| IdentityRefused::Malformed)?;
    let usage = certificate
        .key_usage()
        .map_err(|_error| IdentityRefused::Malformed)?;
    Ok(constraints.is_some_and(|c| c.value.ca)
        || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign()))
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, IdentityRefused> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_error| IdentityRefused::AlternativeNames)?;
    let Some(names) = names else { return Ok(None) };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::OtherName(..) | GeneralName::Invalid(..) => {
                return Err(IdentityRefused::AlternativeNames);
            }
            GeneralName::DNSName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::X400Address(_)
            | GeneralName::EDIPartyName(_) => {}
        }
    }
    match uris.as_slice() {
        [] => Ok(None),
        [uri] => SpiffeId::parse(uri).map(Some).map_err(IdentityRefused::NotSpiffe),
        [..] => Err(IdentityRefused::ManyUris),
    }
}

fn thumbprint(der: &[u8]) -> CertificateThumbprint {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let mut sha256 = [0; 32];
    for (to, from) in sha256.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    CertificateThumbprint::new(sha256)
}

fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_seconds(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests;
