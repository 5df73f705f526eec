//! A development PKI: one authority for certificates and a certificate for each part, in files.
//!
//! ECDSA P-256 throughout. Every certificate has a random serial number, both key identifiers, key usages and a bounded
//! life, because rcgen by default repeats serials, omits identifiers and lets certificates live until the year 4096. A leaf has
//! exactly one URI name, its SPIFFE ID; servers are also named `localhost` and 127.0.0.1.
//!
//! For development only: the key that signs certificates lies beside them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_core::ports::{Entropy as _, EntropyFailed};
use countersign_core::spiffe::SpiffeId;
use countersign_crypto::AwsLc;
use countersign_mtls::PeerIdentity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the authority's certificate lives: longer than anybody keeps a development environment.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());

/// How long a leaf lives.
const LEAF_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());

/// What must be left of a certificate's life, or it is made anew.
const LEAST_LEFT: Duration = Duration::from_secs(30 * DAY.as_secs());

/// How far into the past a certificate is valid, for clocks that disagree.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be called.
    Server,
    /// To call.
    Client,
    /// Both.
    ServerAndClient,
}

impl Usage {
    const fn serves(self) -> bool {
        matches!(self, Self::Server | Self::ServerAndClient)
    }

    fn extended(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::ServerAndClient => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 in PEM, readable by its owner only.
    pub key: PathBuf,
}

impl CertificateFiles {
    fn named(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}-key.pem")),
        }
    }

    fn write(&self, certificate: &str, key: &KeyPair) -> Result<(), Failure> {
        files::write(&self.key, key.serialize_pem().as_bytes(), Audience::Owner)?;
        files::write(&self.certificate, certificate.as_bytes(), Audience::Everybody)
    }
}

/// The authority for certificates.
pub struct Pki {
    folder: PathBuf,
    certificate: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    subject: Vec<u8>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Pki {
    /// The authority in `folder`, made when there is none or when it ends soon.
    ///
    /// # Errors
    /// When files cannot be read or written, or no key can be made.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self, Failure> {
        files::folder(folder)?;
        let paths = CertificateFiles::named(folder, "ca");
        if !lasts(&paths, now, |_| true) {
            let key = KeyPair::generate().map_err(|error| failed(&error))?;
            let params = authority_params(now).map_err(|error| failed(&error))?;
            let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
            paths.write(&certificate.pem(), &key)?;
        }
        let pem = text(&paths.certificate)?;
        let key = KeyPair::from_pem(&text(&paths.key)?).map_err(|error| failed(&error))?;
        let subject = parsed(pem.as_bytes(), |certificate| {
            certificate.subject().as_raw().to_vec()
        })
        .ok_or_else(|| unreadable(&paths.certificate))?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::from_ca_cert_pem(&pem, key).map_err(|error| failed(&error))?,
            certificate: paths.certificate,
            subject,
        })
    }

    /// The authority's certificate: the trust root of all parts.
    #[must_use]
    pub fn trust_roots(&self) -> &Path {
        &self.certificate
    }

    /// The certificate called `name`, made when there is none that still fits.
    ///
    /// # Errors
    /// When files cannot be read or written, or no key can be made.
    pub fn leaf(
        &self,
        name: &str,
        identity: &SpiffeId,
        usage: Usage,
        now: Timestamp,
    ) -> Result<CertificateFiles, Failure> {
        let paths = CertificateFiles::named(&self.folder, name);
        let fits = |found: &X509Certificate<'_>| {
            found.issuer().as_raw() == self.subject && names_exactly(found, identity)
        };
        if !lasts(&paths, now, fits) {
            let key = KeyPair::generate().map_err(|error| failed(&error))?;
            let params = leaf_params(name, identity, usage, now).map_err(|error| failed(&error))?;
            let certificate = params
                .signed_by(&key, &self.issuer)
                .map_err(|error| failed(&error))?;
            paths.write(&certificate.pem(), &key)?;
        }
        Ok(paths)
    }
}

/// The parts of making a certificate that can fail.
#[derive(Debug, thiserror::Error)]
enum PkiError {
    #[error("a name is not acceptable in a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Entropy(#[from] EntropyFailed),
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, PkiError> {
    let serial = random()?;
    // The name differs between authorities, so that a leaf of an earlier one is known as such.
    let name = serial
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let mut params = params(
        &format!("Countersign development {name}"),
        serial,
        now,
        AUTHORITY_LIFE,
    );
    // It signs leaves and no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(
    name: &str,
    identity: &SpiffeId,
    usage: Usage,
    now: Timestamp,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(name, random()?, now, LEAF_LIFE);
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    if usage.serves() {
        params
            .subject_alt_names
            .push(SanType::DnsName("localhost".try_into()?));
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usage.extended();
    Ok(params)
}

fn params(name: &str, serial: [u8; 16], now: Timestamp, life: Duration) -> CertificateParams {
    let at = |time: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_seconds());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now.saturating_sub(BACKDATE));
    params.not_after = at(now.saturating_add(life));
    params
}

/// A serial number: 128 random bits, positive and not zero (RFC 5280, section 4.1.2.2).
fn random() -> Result<[u8; 16], EntropyFailed> {
    let mut serial = [0_u8; 16];
    AwsLc.fill(&mut serial)?;
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(serial)
}

/// Whether both files are there and the certificate fits and does not end soon.
fn lasts(paths: &CertificateFiles, now: Timestamp, fits: impl Fn(&X509Certificate<'_>) -> bool) -> bool {
    let Ok(pem) = std::fs::read(&paths.certificate) else {
        return false;
    };
    let latest = now.saturating_add(LEAST_LEFT).to_wire();
    let lasts = parsed(&pem, |certificate| {
        certificate.validity().not_after.timestamp() > latest && fits(certificate)
    });
    lasts == Some(true) && paths.key.exists()
}

/// Whether `identity` is the certificate's one URI name.
fn names_exactly(certificate: &X509Certificate<'_>, identity: &SpiffeId) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        if let x509_parser::extensions::GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    (uris.next(), uris.next()) == (Some(identity.as_str()), None)
}

fn parsed<T>(pem: &[u8], read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(read(&certificate))
}

/// The thumbprint (`x5t#S256`) of the first certificate in a PEM file.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn thumbprint(path: &Path) -> Result<countersign_core::names::CertificateThumbprint, Failure> {
    use countersign_core::ports::Sha256 as _;
    let der = first_certificate(path)?;
    Ok(countersign_core::names::CertificateThumbprint::new(
        AwsLc.sha256(&[&der]),
    ))
}

/// The first certificate in a PEM file, as a verifier sees it that it is shown to.
///
/// # Errors
/// When the file cannot be read, holds no certificate, or one that no verifier takes.
pub fn certificate(path: &Path) -> Result<PeerCertificate, Failure> {
    let identity = PeerIdentity::from_der(&first_certificate(path)?).map_err(|refused| {
        let doing = format!("the certificate in `{}` identifies nobody", path.display());
        Failure::because(&doing, &refused)
    })?;
    Ok(identity.certificate())
}

fn first_certificate(path: &Path) -> Result<Vec<u8>, Failure> {
    let content = files::read(path)?;
    x509_parser::pem::parse_x509_pem(&content)
        .ok()
        .map(|(_, pem)| pem.contents)
        .filter(|der| X509Certificate::from_der(der).is_ok())
        .ok_or_else(|| unreadable(path))
}

fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(files::read(path)?).map_err(|_not_text| unreadable(path))
}

fn unreadable(path: &Path) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("`{}` holds no certificate", path.display()),
    )
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::because("cannot make a certificate", error)
}

#[cfg(test)]
mod tests;
