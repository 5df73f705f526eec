//! Every way to show who one is, and every way to fail at it.

use countersign_core::Timestamp;
use countersign_core::client::SecretRecord;
use countersign_core::names::CertificateThumbprint;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_crypto::Envelope;

use super::*;
use crate::test_util::{client_id, identity, registration};

fn hasher() -> SecretHasher {
    let mut key = [1; 32];
    key[0] = 0;
    SecretHasher::new(&Envelope::new(key).expect("a key")).expect("derives")
}

fn client(name: &str, path: Option<&str>, secrets: &[&str]) -> Client {
    let hash = |secret: &&str| SecretRecord {
        secret_id: "1".to_owned(),
        hash: hasher().hash(secret.as_bytes()),
        created_at: Timestamp::default(),
    };
    Client {
        client_id: client_id(name),
        registration: registration(path),
        secrets: secrets.iter().map(hash).collect(),
        disabled: false,
        deleted: false,
        version: 1,
        created_at: Timestamp::default(),
    }
}

/// `orders` by certificate, `billing` by two secrets, `mixed` by thumbprint and secret, and two that may not.
fn registry() -> Registry {
    let mut mixed = client("mixed", None, &["mixed-secret"]);
    mixed.registration.thumbprints = vec![CertificateThumbprint::new([77; 32])];
    let mut stopped = client("stopped", Some("stopped"), &["stopped-secret"]);
    stopped.disabled = true;
    let mut gone = client("gone", None, &["gone-secret"]);
    gone.deleted = true;
    [
        client("orders", Some("orders"), &[]),
        client("billing", None, &["old secret", "new:secret"]),
        mixed,
        stopped,
        gone,
    ]
    .into_iter()
    .fold(Registry::default(), |registry, client| registry.with(client))
}

/// Of the certificate whose thumbprint is of this byte.
const REVOKED: u8 = 99;

fn revocations() -> RevocationList {
    let thumbprint = CertificateThumbprint::new([REVOKED; 32]);
    RevocationList::from([Revocation {
        subject: RevokedSubject::Certificate(thumbprint),
        issued_before: Timestamp::default(),
        expires_at: Timestamp::from_seconds(2000),
    }])
}

fn try_with(
    spiffe_id: Option<&str>,
    thumbprint: u8,
    client_id: &str,
    secret: &str,
) -> Result<(String, bool), Refused> {
    let presented = read_presented(&[], client_id.to_owned(), secret.to_owned())?;
    let domain = TrustDomain::parse("example.org").expect("valid");
    let identity = identity(spiffe_id, thumbprint, 2000);
    let known = Known {
        clients: &registry(),
        revocations: &revocations(),
        hasher: &hasher(),
        trust_domain: &domain,
    };
    let found = known.authenticate(&identity, &presented)?;
    Ok((
        found.client.client_id.as_str().to_owned(),
        found.certificate.is_some(),
    ))
}

const ORDERS: Option<&str> = Some("spiffe://example.org/orders");
const NOBODY: Option<&str> = Some("spiffe://example.org/nobody");

#[test]
fn a_certificate_or_a_secret_names_the_client_and_only_a_certificate_binds() {
    let bound = |name: &str| Ok((name.to_owned(), true));
    let unbound = |name: &str| Ok((name.to_owned(), false));
    assert_eq!(try_with(ORDERS, 1, "", ""), bound("orders"));
    assert_eq!(try_with(ORDERS, 1, "orders", ""), bound("orders"));
    assert_eq!(try_with(NOBODY, 77, "", ""), bound("mixed"));
    assert_eq!(try_with(None, 77, "mixed", ""), bound("mixed"));
    assert_eq!(try_with(NOBODY, 1, "billing", "old secret"), unbound("billing"));
    assert_eq!(try_with(NOBODY, 1, "billing", "new:secret"), unbound("billing"));
    // Its own certificate does no harm to a client that uses its secret, and binds nothing.
    assert_eq!(try_with(None, 77, "mixed", "mixed-secret"), unbound("mixed"));
}

/// G38, G40: who is unknown, stopped, deleted or wrong is told the same.
#[test]
fn whoever_fails_is_told_invalid_client_and_nothing_else() {
    for (spiffe_id, thumbprint, client_id, secret, why) in [
        (NOBODY, 1, "", "", "certificate_unknown"),
        (None, 1, "", "", "certificate_unknown"),
        (NOBODY, 1, "orders", "", "certificate_unknown"),
        (ORDERS, 1, "billing", "", "client_id_mismatch"),
        (ORDERS, 1, "nobody", "", "client_id_mismatch"),
        (ORDERS, 77, "", "", "certificate_ambiguous"),
        (ORDERS, 1, "billing", "old secret", "certificate_of_another"),
        (NOBODY, 77, "billing", "old secret", "certificate_of_another"),
        (NOBODY, 1, "nobody", "old secret", "client_unknown"),
        (NOBODY, 1, "../../orders\n", "old secret", "client_unknown"),
        (NOBODY, 1, "billing", "wrong", "secret_wrong"),
        (NOBODY, 1, "billing", "old secre", "secret_wrong"),
        (NOBODY, 1, "orders", "anything", "secret_wrong"),
        (NOBODY, 1, "stopped", "stopped-secret", "client_disabled"),
        (NOBODY, 1, "stopped", "wrong", "secret_wrong"),
        (Some("spiffe://example.org/stopped"), 1, "", "", "client_disabled"),
        (NOBODY, 1, "gone", "gone-secret", "client_deleted"),
        // The right path in another trust domain is another workload.
        (
            Some("spiffe://elsewhere.org/orders"),
            1,
            "",
            "",
            "certificate_unknown",
        ),
    ] {
        let refused = try_with(spiffe_id, thumbprint, client_id, secret).expect_err("is refused");
        assert_eq!(refused, invalid_client(why), "{spiffe_id:?} {client_id:?}");
    }
}

fn basic(text: &str) -> Vec<u8> {
    format!("Basic {}", STANDARD.encode(text)).into_bytes()
}

fn read(field: &[u8]) -> Option<(String, Vec<u8>)> {
    let presented = read_presented(&[field], String::new(), String::new()).ok()?;
    Some((presented.client_id?, presented.secret?.0.to_vec()))
}

/// RFC 6749, section 2.3.1: both halves are form-encoded.
#[test]
fn basic_is_decoded_twice_and_split_once() {
    let pair = |id: &str, secret: &str| Some((id.to_owned(), secret.as_bytes().to_vec()));
    assert_eq!(read(&basic("billing:secret")), pair("billing", "secret"));
    assert_eq!(read(&basic("billing:a+b%3Ac%2b%25")), pair("billing", "a b:c+%"));
    assert_eq!(read(&basic("bill%69ng:x:y:z")), pair("billing", "x:y:z"));
    let lower = [b"bAsIc ".as_slice(), &basic("a:b")[6..]].concat();
    assert_eq!(read(&lower), pair("a", "b"));
    for field in [
        &b""[..],
        b"Basic",
        b"Basic ",
        b"Basic !!!",
        b"Basic\tYTpi",
        b"Bearer eyJhbGciOiJFUzI1NiJ9.e30.x",
        &basic("no colon"),
        &basic(":secret"),
        &basic("billing:"),
        &basic("billing:%"),
        &basic("billing:%4"),
        &basic("billing:%zz"),
        &basic("%ff:secret"),
    ] {
        let refused = read_presented(&[field], String::new(), String::new()).expect_err("is refused");
        assert_eq!(refused, invalid_client("authorization_malformed"), "{field:?}");
    }
}

/// RFC 6749, section 2.3: one method in a request.
#[test]
fn two_ways_at_once_are_refused() {
    let basic = basic("billing:secret");
    let read = |fields: &[&[u8]], id: &str, secret: &str| {
        read_presented(fields, id.to_owned(), secret.to_owned()).map(|_| ())
    };
    assert_eq!(read(&[&basic], "billing", ""), Ok(()));
    assert_eq!(
        read(&[&basic], "orders", ""),
        Err(invalid_client("client_id_mismatch"))
    );
    assert_eq!(read(&[&basic], "", "x"), Err(invalid_request("two_methods")));
    assert_eq!(
        read(&[&basic], "billing", "x"),
        Err(invalid_request("two_methods"))
    );
    assert_eq!(
        read(&[&basic, &basic], "", ""),
        Err(invalid_request("authorization_twice"))
    );
    assert_eq!(
        read(&[], "", "x"),
        Err(invalid_request("secret_without_client_id"))
    );
}

/// H11: what is shown cannot be printed.
#[test]
fn a_presented_secret_is_not_shown() {
    let presented = read_presented(&[], "billing".to_owned(), "canary".to_owned()).expect("reads");
    assert!(!format!("{presented:?}").contains("canary"));
}

/// Over a certificate whose tokens are revoked nobody is let in, by whatever means.
#[test]
fn a_revoked_certificate_lets_nobody_in() {
    let revoked = Some("certificate_revoked");
    let why = |result: Result<(String, bool), Refused>| result.err().map(|refused| refused.why);
    assert_eq!(why(try_with(ORDERS, REVOKED, "", "")), revoked);
    assert_eq!(why(try_with(NOBODY, REVOKED, "billing", "old secret")), revoked);
    assert!(try_with(ORDERS, REVOKED - 1, "", "").is_ok());
    assert!(try_with(NOBODY, REVOKED - 1, "billing", "old secret").is_ok());
}
