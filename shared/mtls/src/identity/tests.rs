use rcgen::{CertificateParams, KeyUsagePurpose};

use super::*;
use crate::tests::pki::{Authority, dns, other_name, raw_names, uri};

fn identity(change: impl FnOnce(&mut CertificateParams)) -> Result<PeerIdentity, IdentityRefused> {
    PeerIdentity::from_der(Authority::root("root").leaf(change).der())
}

#[test]
fn one_uri_is_the_identity_and_none_leaves_the_certificate() {
    let with_names =
        identity(|params| params.subject_alt_names = vec![dns("a.test"), uri("spiffe://test/orders")]);
    let with_names = with_names.expect("good");
    assert_eq!(
        with_names.spiffe_id.expect("SPIFFE ID").as_str(),
        "spiffe://test/orders"
    );
    assert_eq!(with_names.not_after, Timestamp::from_seconds(1_780_272_000));
    // S10: a common name is no identity.
    assert_eq!(identity(|_| {}).expect("good").spiffe_id, None);
    assert_eq!(
        identity(|params| params.subject_alt_names = vec![dns("a.test")])
            .expect("good")
            .spiffe_id,
        None
    );
}

#[test]
fn the_thumbprint_is_the_digest_of_the_certificate() {
    let leaf = Authority::root("root").leaf(|_| {});
    let identity = PeerIdentity::from_der(leaf.der()).expect("good");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf.der());
    assert_eq!(identity.thumbprint.as_bytes().as_slice(), digest.as_ref());
}

fn with_uris(uris: &[&str]) -> Result<PeerIdentity, IdentityRefused> {
    identity(|params| params.subject_alt_names = uris.iter().map(|text| uri(text)).collect())
}

fn with_raw_names(content: &[u8]) -> Result<PeerIdentity, IdentityRefused> {
    identity(|params| params.custom_extensions = vec![raw_names(content)])
}

/// S10: several URIs, or one that is no SPIFFE ID to the letter, are no identity.
#[test]
fn uris_that_are_not_exactly_one_spiffe_id_identify_nobody() {
    use IdentityRefused::{ManyUris, NotSpiffe};
    for (uris, expected) in [
        (["spiffe://test/a", "spiffe://test/b"].as_slice(), ManyUris),
        (&["spiffe://test/a", "spiffe://test/a"], ManyUris),
        (&["spiffe://test/a", "https://test/a"], ManyUris),
        (&["https://test/a"], NotSpiffe(SpiffeIdError::Scheme)),
        (&["spiffe://test/*"], NotSpiffe(SpiffeIdError::Path)),
        (&["spiffe://Test/a"], NotSpiffe(SpiffeIdError::TrustDomain)),
        (&["spiffe://test/a\0.evil"], NotSpiffe(SpiffeIdError::Path)),
        (&["spiffe://test/a/"], NotSpiffe(SpiffeIdError::Path)),
        (&["spiffe://xn--\u{7f}/a"], NotSpiffe(SpiffeIdError::TrustDomain)),
    ] {
        assert_eq!(with_uris(uris), Err(expected), "{uris:?}");
    }
}

/// S10: names of the free-form kind, unreadable names and names given twice are ambiguous.
#[test]
fn ambiguous_names_identify_nobody() {
    let names = || vec![uri("spiffe://test/a")];
    let other = identity(|params| {
        params.subject_alt_names = names();
        params.subject_alt_names.push(other_name("spiffe://test/b"));
    });
    let twice = identity(|params| {
        params.subject_alt_names = names();
        params.custom_extensions = vec![raw_names(b"\x30\x00")];
    });
    let cases = [
        ("otherName", other),
        ("twice", twice),
        ("cut off", with_raw_names(b"\x30\x03\x86\x09x")),
        ("no text", with_raw_names(b"\x30\x04\x86\x02\xff\xfe")),
    ];
    for (what, result) in cases {
        assert_eq!(result, Err(IdentityRefused::AlternativeNames), "{what}");
    }
}

/// S08, S10: who may vouch for others is no workload.
#[test]
fn an_authority_is_no_workload() {
    let root = Authority::root("root");
    let signer = |usage| identity(|params| params.key_usages = vec![usage]);
    for result in [
        PeerIdentity::from_der(&root.certificate),
        signer(KeyUsagePurpose::KeyCertSign),
        signer(KeyUsagePurpose::CrlSign),
    ] {
        assert_eq!(result, Err(IdentityRefused::Authority));
    }
}

#[test]
fn what_is_no_certificate_is_malformed() {
    let leaf = Authority::root("root").leaf(|_| {});
    let with_tail = [leaf.der(), b"x"].concat();
    for der in [
        b"".as_slice(),
        b"\x30\x00",
        &with_tail,
        &leaf.der()[..leaf.der().len() - 1],
    ] {
        assert_eq!(PeerIdentity::from_der(der), Err(IdentityRefused::Malformed));
    }
}
