//! What a client is granted: all that it asked for and may have, or nothing (G34 to G39, I-23).

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::client::Registration;
use crate::names::{CertificateThumbprint, ClientId};
use crate::spiffe::SpiffeId;
use crate::test_util::{NOW, ToyKey, jwk};

fn scope(name: &str) -> Scope {
    Scope::parse(name).expect("a scope")
}

fn grant_of(audience: &str, scopes: &[&str], defaults: &[&str]) -> Grant {
    Grant {
        audience: Audience::parse(audience).expect("an audience"),
        scopes: scopes.iter().map(|name| scope(name)).collect(),
        default_scopes: defaults.iter().map(|name| scope(name)).collect(),
    }
}

fn client(grants: Vec<Grant>) -> Client {
    Client {
        client_id: ClientId::parse("billing").expect("a client id"),
        registration: Registration {
            description: String::new(),
            grants,
            spiffe_ids: Vec::new(),
            thumbprints: Vec::new(),
            binding: TokenBinding::Certificate,
        },
        secrets: Vec::new(),
        disabled: false,
        deleted: false,
        version: 1,
        created_at: NOW,
    }
}

fn policy() -> IssuingPolicy {
    IssuingPolicy {
        issuer: Issuer::parse("https://auth.example.com").expect("an issuer"),
        trust_domain: TrustDomain::parse("prod.example.com").expect("a trust domain"),
        default_lifetime: Duration::from_secs(900),
        max_lifetime: Duration::from_secs(3600),
    }
}

fn request(audience: &str, scopes: &[&str]) -> TokenRequest {
    TokenRequest {
        grant_type: CLIENT_CREDENTIALS.to_owned(),
        audience: audience.to_owned(),
        scopes: scopes.iter().map(|&name| name.to_owned()).collect(),
        lifetime_seconds: None,
    }
}

fn billing() -> Client {
    client(vec![grant_of("orders", &["read", "write"], &["read"])])
}

fn names(granted: &Granted) -> Vec<&str> {
    granted.scopes.iter().map(Scope::as_str).collect()
}

/// G34: one grant type, byte for byte.
#[test]
fn only_client_credentials_are_a_grant() {
    for grant_type in [
        "",
        "password",
        "authorization_code",
        "Client_Credentials",
        "client_credentials ",
    ] {
        let request = TokenRequest {
            grant_type: grant_type.to_owned(),
            ..request("orders", &[])
        };
        let answer = grant(&billing(), &request, &policy());
        assert_eq!(answer, Err(IssueError::UnsupportedGrantType), "{grant_type:?}");
    }
}

/// G35: none asked for are the default ones; one that is not registered refuses all.
#[test]
fn scopes_are_granted_whole_or_not_at_all() {
    let granted = |scopes: &[&str]| grant(&billing(), &request("orders", scopes), &policy());
    assert_eq!(names(&granted(&[]).expect("granted")), ["read"]);
    assert_eq!(names(&granted(&["write"]).expect("granted")), ["write"]);
    assert_eq!(
        names(&granted(&["write", "read", "read"]).expect("granted")),
        ["read", "write"]
    );
    // G39: nor a wildcard, nor an empty name.
    for refused in ["admin", "*", "", "read write", "READ", "rea"] {
        assert_eq!(
            granted(&["read", refused]),
            Err(IssueError::InvalidScope),
            "{refused:?}"
        );
    }
}

/// G36: an audience is registered, and named when there are several.
#[test]
fn an_audience_is_one_that_is_registered() {
    let one = billing();
    let audience = |client: &Client, name: &str| {
        grant(client, &request(name, &[]), &policy()).map(|granted| granted.audience.as_str().to_owned())
    };
    assert_eq!(audience(&one, ""), Ok("orders".to_owned()));
    for refused in ["stock", "orders#x", "Orders", "*", "orders "] {
        assert_eq!(
            audience(&one, refused),
            Err(IssueError::InvalidTarget),
            "{refused:?}"
        );
    }
    let two = client(vec![grant_of("orders", &[], &[]), grant_of("stock", &[], &[])]);
    assert_eq!(audience(&two, "stock"), Ok("stock".to_owned()));
    assert_eq!(audience(&two, ""), Err(IssueError::InvalidTarget));
    assert_eq!(audience(&client(Vec::new()), ""), Err(IssueError::InvalidTarget));
}

/// G37: too long is cut to the ceiling; nothing or less than nothing is an error.
#[test]
fn a_lifetime_is_cut_to_the_ceiling() {
    let lifetime = |seconds: Option<i64>| {
        let request = TokenRequest {
            lifetime_seconds: seconds,
            ..request("orders", &[])
        };
        grant(&billing(), &request, &policy()).map(|granted| granted.lifetime.as_secs())
    };
    for (asked, given) in [
        (None, 900),
        (Some(1), 1),
        (Some(3600), 3600),
        (Some(3601), 3600),
        (Some(i64::MAX), 3600),
    ] {
        assert_eq!(lifetime(asked), Ok(given), "{asked:?}");
    }
    for refused in [0, -1, i64::MIN] {
        assert_eq!(
            lifetime(Some(refused)),
            Err(IssueError::InvalidRequest),
            "{refused}"
        );
    }
}

/// What is drafted and signed is read back the same, with every claim of the profile.
#[test]
fn a_token_says_what_was_granted() {
    let granted = grant(&billing(), &request("", &["write"]), &policy()).expect("granted");
    let bound = Confirmation::Certificate(CertificateThumbprint::new([9; 32]));
    let token_id = TokenId::parse("1.2a").expect("a token id");
    let claims = draft(&billing(), &granted, bound.clone(), token_id, &policy(), NOW);
    assert_eq!(claims.expires_at, NOW.saturating_add(granted.lifetime));
    assert_eq!(claims.confirmation, bound);
    assert_eq!(claims.subject.to_string(), "client:prod.example.com/billing");

    let jwk = jwk(1);
    let token = sign_token(&claims, jwk.key_id(), &ToyKey::of(&jwk)).expect("signed");
    let jws = crate::jose::CompactJws::parse(token.as_bytes()).expect("a compact JWS");
    assert_eq!(&jws.key_id, jwk.key_id());
    assert_eq!(Claims::read(&jws.payload), Ok(claims));
    let right = ToyKey::of(&jwk).sign(jws.signing_input).expect("signed");
    assert_eq!(jws.signature, right);
}

fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://prod.example.com/{path}")).expect("a SPIFFE ID")
}

fn certificate(path: Option<&str>) -> PeerCertificate {
    PeerCertificate {
        thumbprint: CertificateThumbprint::new([9; 32]),
        spiffe_id: path.map(spiffe_id),
    }
}

#[test]
fn tokens_are_bound_to_the_certificate_unless_registered_otherwise() {
    let shown = certificate(Some("billing"));
    let bound = confirmation(&billing(), Some(&shown));
    assert_eq!(bound, Ok(Confirmation::Certificate(shown.thumbprint)));
    assert_eq!(confirmation(&billing(), None), Ok(Confirmation::Unbound));
}

/// Bound to the SPIFFE ID of the certificate, or not given: never bound to something else, and never to nothing.
#[test]
fn tokens_of_a_client_that_is_bound_to_its_spiffe_id_are_bound_to_that_or_are_not_given() {
    let mut client = billing();
    client.registration.binding = TokenBinding::SpiffeId;
    client.registration.spiffe_ids = vec![spiffe_id("billing"), spiffe_id("billing/nightly")];
    for path in ["billing", "billing/nightly"] {
        let bound = confirmation(&client, Some(&certificate(Some(path))));
        assert_eq!(bound, Ok(Confirmation::SpiffeId(spiffe_id(path))));
    }
    // With a secret, by a certificate that is registered by its thumbprint, and the same that says to be somebody else.
    for shown in [None, Some(certificate(None)), Some(certificate(Some("orders")))] {
        let refused = confirmation(&client, shown.as_ref());
        assert_eq!(refused, Err(IssueError::SpiffeIdRequired), "{shown:?}");
    }
}

#[test]
fn who_is_bound_to_a_spiffe_id_has_one_registered() {
    let mut registration = billing().registration;
    registration.binding = TokenBinding::SpiffeId;
    let refused = registration.check();
    assert_eq!(refused, Err(crate::client::InvalidRegistration::NoSpiffeId));
    registration.spiffe_ids = vec![spiffe_id("billing")];
    assert_eq!(registration.check(), Ok(()));
}

#[test]
fn every_error_has_a_reason_of_its_own() {
    let reasons: std::collections::BTreeSet<_> = IssueError::ALL.iter().map(|error| error.reason()).collect();
    assert_eq!(reasons.len(), IssueError::ALL.len());
}

const SCOPES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

proptest! {
    /// I-23: what is granted was asked for and is registered; and whatever is asked for and registered is granted.
    #[test]
    fn granted_is_what_is_asked_for_and_registered(
        registered in subsequence(SCOPES.to_vec(), 0..=6),
        wanted in subsequence(SCOPES.to_vec(), 1..=6),
    ) {
        let client = client(vec![grant_of("orders", &registered, &[])]);
        let answer = grant(&client, &request("orders", &wanted), &policy());
        if wanted.iter().all(|name| registered.contains(name)) {
            let granted = answer.expect("granted");
            prop_assert_eq!(names(&granted), wanted);
        } else {
            prop_assert_eq!(answer, Err(IssueError::InvalidScope));
        }
    }
}
