//! What the development certificates hold, seen through another library's eyes.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use countersign_core::ports::Clock as _;
use countersign_mtls::{ClientCertificates, ClientTls, ExpectedServer, ServerTls, TlsFiles};
use countersign_runtime::SystemClock;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn identity(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://dev.test/{path}")).expect("an identity")
}

fn with<T>(path: &Path, read: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    parsed(&std::fs::read(path).expect("there"), read).expect("a certificate")
}

/// T5 of the traps: rcgen's defaults repeat serials, omit key identifiers and usages, and never end.
#[test]
fn a_leaf_has_serial_identifiers_usages_and_an_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::open(folder.path(), NOW).expect("a PKI");
    let leaf = pki
        .leaf("orders", &identity("orders"), Usage::Client, NOW)
        .expect("a leaf");
    let authority_key_id = with(pki.trust_roots(), |authority| {
        let basic = authority.basic_constraints().expect("readable").expect("there");
        assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
        let usage = authority.key_usage().expect("readable").expect("there");
        assert!(usage.value.key_cert_sign() && !usage.value.digital_signature());
        subject_key_id(authority)
    });
    with(&leaf.certificate, |leaf| {
        assert_eq!(leaf.raw_serial().len(), 16);
        assert!(leaf.raw_serial().iter().any(|byte| *byte != 0));
        let usage = leaf.key_usage().expect("readable").expect("there");
        assert!(usage.value.digital_signature() && !usage.value.key_cert_sign());
        let extended = leaf.extended_key_usage().expect("readable").expect("there");
        assert!(extended.value.client_auth && !extended.value.server_auth && !extended.value.any);
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert!((0..=366 * 24 * 60 * 60).contains(&life));
        assert!(leaf.validity().not_before.timestamp() <= NOW.to_wire());
        let names_issuer = leaf.extensions().iter().any(|extension| {
            if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
                id.key_identifier.as_ref().map(|id| id.0.to_vec()) == Some(authority_key_id.clone())
            } else {
                false
            }
        });
        assert!(names_issuer, "the issuer's key is named");
    });
    for key in [&leaf.key, &folder.path().join("ca-key.pem")] {
        let mode = std::fs::metadata(key).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Vec<u8> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| {
            if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                Some(id.0.to_vec())
            } else {
                None
            }
        })
        .expect("a key identifier")
}

#[test]
fn only_a_server_is_named_by_host_and_each_has_one_spiffe_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::open(folder.path(), NOW).expect("a PKI");
    for (usage, hosts) in [
        (Usage::Server, 2),
        (Usage::ServerAndClient, 2),
        (Usage::Client, 0),
    ] {
        let name = format!("{usage:?}");
        let leaf = pki.leaf(&name, &identity(&name), usage, NOW).expect("a leaf");
        with(&leaf.certificate, |leaf| {
            let names = leaf.subject_alternative_name().expect("readable").expect("there");
            let names = &names.value.general_names;
            let uris = names
                .iter()
                .filter(|name| matches!(name, GeneralName::URI(_)))
                .count();
            assert_eq!((uris, names.len()), (1, 1 + hosts), "{usage:?}");
            assert_eq!(names.contains(&GeneralName::DNSName("localhost")), hosts > 0);
            assert_eq!(
                names.contains(&GeneralName::IPAddress(&[127, 0, 0, 1])),
                hosts > 0
            );
        });
    }
}

#[test]
fn certificates_are_kept_until_they_end_soon_or_no_longer_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let print = |now: Timestamp, path: &str| {
        let pki = Pki::open(folder.path(), now).expect("a PKI");
        let leaf = pki
            .leaf("orders", &identity(path), Usage::Client, now)
            .expect("a leaf");
        thumbprint(&leaf.certificate).expect("a certificate")
    };
    let first = print(NOW, "orders");
    assert_eq!(print(NOW.saturating_add(300 * DAY), "orders"), first);
    let renewed = print(NOW.saturating_add(340 * DAY), "orders");
    assert_ne!(renewed, first, "it would have ended within a month");
    let renamed = print(NOW.saturating_add(340 * DAY), "other");
    assert_ne!(renamed, renewed, "it names somebody else");
    std::fs::remove_file(folder.path().join("ca.pem")).expect("removed");
    assert_ne!(
        print(NOW.saturating_add(340 * DAY), "other"),
        renamed,
        "its authority is gone"
    );
}

#[test]
fn a_file_without_a_certificate_has_no_thumbprint() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.pem");
    std::fs::write(
        &path,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .expect("written");
    let failure = thumbprint(&path).expect_err("no certificate");
    assert!(failure.message.contains("x.pem"));
}

/// The parts read them as they are: usable certificates of workloads, keys that nobody else can read.
#[test]
fn our_own_tls_takes_every_certificate() {
    countersign_mtls::install_default_provider();
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(SystemClock);
    let pki = Pki::open(folder.path(), clock.now()).expect("a PKI");
    for usage in [Usage::Server, Usage::Client, Usage::ServerAndClient] {
        let name = format!("{usage:?}");
        let leaf = pki
            .leaf(&name, &identity(&name), usage, clock.now())
            .expect("a leaf");
        let files = TlsFiles {
            certificate: leaf.certificate,
            private_key: leaf.key,
            trust_roots: pki.trust_roots().to_owned(),
        };
        if usage.serves() {
            ServerTls::load(
                &files,
                ClientCertificates::Required,
                Arc::<SystemClock>::clone(&clock),
            )
            .expect("a server's files");
        }
        ClientTls::load(
            &files,
            ExpectedServer::default(),
            Arc::<SystemClock>::clone(&clock),
        )
        .expect("a client's files");
    }
}
