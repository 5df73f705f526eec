//! Certificates for tests, made anew for each.

use std::path::Path;

use countersign_core::names::CertificateThumbprint;
use countersign_core::ports::Sha256 as _;
use countersign_crypto::AwsLc;
use countersign_mtls::TlsFiles;
use countersign_verifier::test_util::TRUST_DOMAIN;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;

/// A root and what it vouches for: `sidecar`, and the callers `orders` and `billing`.
pub(crate) struct Pki {
    folder: TempDir,
    thumbprints: Vec<(&'static str, CertificateThumbprint)>,
}

impl Pki {
    /// Certificates and keys in a folder of their own.
    pub(crate) fn new() -> Self {
        let kept = tempfile::tempdir().expect("a folder");
        let folder = kept.path();
        let mut params = CertificateParams::new([]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
        std::fs::write(folder.join("ca.crt"), ca.pem()).expect("written");
        let thumbprints = ["sidecar", "orders", "billing"]
            .into_iter()
            .map(|name| (name, issue(folder, name, &ca)))
            .collect();
        Self {
            folder: kept,
            thumbprints,
        }
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder alone.
    pub(crate) fn into_folder(self) -> TempDir {
        self.folder
    }

    /// The files of `name`.
    pub(crate) fn files(&self, name: &str) -> TlsFiles {
        super::files_in(self.folder(), name)
    }

    /// What a token bound to the certificate of `name` carries.
    pub(crate) fn thumbprint(&self, name: &str) -> CertificateThumbprint {
        let mut named = self.thumbprints.iter().filter(|(other, _)| *other == name);
        named.next().expect("a certificate").1
    }
}

fn issue(folder: &Path, name: &str, ca: &CertifiedIssuer<'_, KeyPair>) -> CertificateThumbprint {
    let mut params =
        CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("params");
    let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
    params
        .subject_alt_names
        .push(SanType::URI(id.try_into().expect("an id")));
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, ca).expect("a certificate");
    std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("written");
    let path = folder.join(format!("{name}.key"));
    std::fs::write(&path, key.serialize_pem()).expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("0600");
    CertificateThumbprint::new(AwsLc.sha256(&[certificate.der()]))
}
