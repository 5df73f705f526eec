//! Tokens that are bound to a certificate, of which Envoy tells.

use countersign_core::Timestamp;
use countersign_core::names::CertificateThumbprint;
use countersign_core::ports::Sha256 as _;
use countersign_core::spiffe::SpiffeId;
use countersign_crypto::AwsLc;
use countersign_verifier::test_util::{START, TRUST_DOMAIN, bound_claims, claims_bound_to};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;

/// A certificate for a day from the start of tests: PEM, and DER.
fn certificate(name: &str) -> (String, Vec<u8>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("names");
    let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
    let id = id.try_into().expect("an id");
    params.subject_alt_names.push(SanType::URI(id));
    let at = |seconds: u64| {
        let start = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        start.into()
    };
    params.not_before = at(START - 60);
    params.not_after = at(START + 86_400);
    let certificate = params
        .self_signed(&KeyPair::generate().expect("a key"))
        .expect("signed");
    (certificate.pem(), certificate.der().to_vec())
}

/// As Envoy writes it.
fn escaped(pem: &str) -> String {
    utf8_percent_encode(pem, NON_ALPHANUMERIC).to_string()
}

fn with_certificate(authorization: &[u8], escaped: &str) -> CheckRequest {
    let mut check = grpc(CALL, &[("authorization", authorization)]);
    let attributes = check.attributes.as_mut().expect("attributes");
    attributes.source = Some(Source {
        certificate: escaped.to_owned(),
        ..Source::default()
    });
    check
}

/// T85: only the holder of the certificate may use the token, and only where Envoy is to be believed about who that is.
#[tokio::test]
async fn a_bound_token_is_good_with_the_certificate_that_envoy_tells_of() {
    let asking = Asking::new();
    let (orders, orders_der) = certificate("orders");
    let (billing, _) = certificate("billing");
    let thumbprint = CertificateThumbprint::new(AwsLc.sha256(&[&orders_der]));
    let bound = bearer_of(&asking.issuer.token(&bound_claims("1.1", thumbprint)));
    let good = with_certificate(&bound, &escaped(&orders));
    asking.ask(good.clone()).await.allowed();
    // Should Envoy ever send a chain: the leaf is first.
    asking
        .ask(with_certificate(&bound, &escaped(&format!("{orders}{billing}"))))
        .await
        .allowed();
    for (name, certificate) in [
        ("none", String::new()),
        ("another", escaped(&billing)),
        ("another, then this", escaped(&format!("{billing}{orders}"))),
        ("no PEM", "garbage".to_owned()),
        (
            "half an escape",
            format!("{}%2", escaped(&orders).split_at(200).0),
        ),
        (
            "PEM of no certificate",
            escaped("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        (
            "the public key only",
            escaped(&KeyPair::generate().expect("a key").public_key_pem()),
        ),
    ] {
        let told = asking.ask(with_certificate(&bound, &certificate)).await;
        assert_eq!(
            told.refusal(),
            (401, Code::Unauthenticated, "cnf_mismatch"),
            "{name}"
        );
    }
    let unbelieving = Asking::with(CheckSettings {
        certificates: Certificates::Ignored,
        ..SETTINGS
    });
    assert_eq!(unbelieving.ask(good).await.refusal().2, "cnf_mismatch");
}

/// T85, of the SPIFFE ID: it is read out of the certificate.
#[tokio::test]
async fn a_token_bound_to_a_spiffe_id_is_good_with_each_certificate_that_has_it() {
    let asking = Asking::new();
    let id = SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/orders")).expect("an id");
    let bound = bearer_of(&asking.issuer.token(&claims_bound_to("1.1", id)));
    for (certificate, _) in [certificate("orders"), certificate("orders")] {
        asking
            .ask(with_certificate(&bound, &escaped(&certificate)))
            .await
            .allowed();
    }
    let (billing, _) = certificate("billing");
    for certificate in [escaped(&billing), String::new()] {
        let told = asking.ask(with_certificate(&bound, &certificate)).await;
        assert_eq!(told.refusal().2, "cnf_mismatch");
    }
}

/// An open connection may be older than its certificate.
#[test]
fn a_certificate_that_has_ended_identifies_nobody() {
    let (pem, der) = certificate("orders");
    let read =
        |at| certificate::read(&escaped(&pem), Timestamp::from_seconds(at)).map(|peer| peer.thumbprint);
    let thumbprint = CertificateThumbprint::new(AwsLc.sha256(&[&der]));
    assert_eq!(read(START), Some(thumbprint));
    assert_eq!(read(START + 86_400), Some(thumbprint));
    assert_eq!(read(START + 86_401), None);
}
