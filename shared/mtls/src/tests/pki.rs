//! Authorities and certificates, good and bad.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, OtherNameValue, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// 2026-01-01. The clock of these tests stands there.
pub(crate) const NOW: u64 = 1_767_225_600;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
    /// What leaves show besides themselves: nothing for a root.
    chain: Vec<CertificateDer<'static>>,
}

/// A leaf and its key.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl Leaf {
    pub(crate) fn der(&self) -> &[u8] {
        self.chain[0].as_ref()
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            chain_pem: self.chain_pem.clone(),
            key_pem: self.key_pem.clone(),
        }
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    params
}

/// A workload's certificate, good in 2026.
pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "workload");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = rcgen::date_time_ymd(2025, 6, 1);
    params.not_after = rcgen::date_time_ymd(2026, 6, 1);
    params.serial_number = Some(SerialNumber::from(7_u64));
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

pub(crate) fn other_name(text: &str) -> SanType {
    SanType::OtherName((
        vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
        OtherNameValue::Utf8String(text.to_owned()),
    ))
}

/// A subject alternative name extension with any content.
pub(crate) fn raw_names(content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec())
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().expect("key"), ca_params(name));
        let certificate = params.self_signed(&key).expect("signed");
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            chain: Vec::new(),
        }
    }

    /// An authority below this one, as `change` makes it.
    pub(crate) fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (KeyPair::generate().expect("key"), ca_params(name));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            chain,
        }
    }

    /// A workload with a SPIFFE ID that is `localhost` and 127.0.0.1 as well.
    pub(crate) fn workload(&self, path: &str) -> Leaf {
        self.leaf(|params| {
            let ip = SanType::IpAddress([127, 0, 0, 1].into());
            params.subject_alt_names = vec![uri(&format!("spiffe://test/{path}")), dns("localhost"), ip];
        })
    }

    /// A leaf without names, as `change` makes it.
    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let (key, mut params) = (KeyPair::generate().expect("key"), leaf_params());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        leaf_of(chain, &key)
    }
}

/// A certificate that vouches for itself.
pub(crate) fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let (key, mut params) = (KeyPair::generate().expect("key"), leaf_params());
    change(&mut params);
    let certificate = params.self_signed(&key).expect("signed");
    leaf_of(vec![certificate.der().clone()], &key)
}

fn leaf_of(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Leaf {
    let chain_pem = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Leaf {
        chain,
        key: der,
        chain_pem,
        key_pem: key.serialize_pem(),
    }
}

/// PEM, with lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("ASCII"));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_usize, |group, byte| group << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[group >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}
