//! The explanation against the decision: they must agree on every token.

use countersign_core::claims::Subject;
use countersign_core::jose::{Algorithm, access_token_header, encode_segment};
use countersign_core::jwk::write_set;
use countersign_core::key_set::KeyTimes;
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, Issuer, TokenId};
use countersign_core::ports::Signer as _;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::trust::TrustState;
use countersign_core::verifying::TrustView;
use countersign_crypto::{AwsLc, SigningKey};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn spiffe_id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://dev.test/{name}")).expect("a SPIFFE ID")
}

struct Setting {
    key: SigningKey,
    trust: Trust,
    wanted: Wanted,
}

fn setting() -> Setting {
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let times = KeyTimes {
        prepared_at: NOW.saturating_sub(60 * MINUTE),
        active_from: Some(NOW.saturating_sub(50 * MINUTE)),
        ..KeyTimes::default()
    };
    let wanted = Wanted {
        expected: Expectations {
            issuer: Issuer::parse("https://dev.test").expect("an issuer"),
            trust_domain: TrustDomain::parse("dev.test").expect("a domain"),
            audience: Audience::parse("demo").expect("an audience"),
            max_lifetime: 60 * MINUTE,
            leeway: Duration::from_secs(5),
            several_audiences: false,
        },
        asks_issuer: true,
        asks_trust_domain: true,
        asks_audience: true,
        requirements: Requirements {
            scopes: vec![Scope::parse("demo.call").expect("a scope")],
            ..Requirements::default()
        },
        certificate: Some(PeerCertificate {
            thumbprint: CertificateThumbprint::new([1; 32]),
            spiffe_id: Some(spiffe_id("orders")),
        }),
    };
    Setting {
        trust: trust(&key, times),
        key,
        wanted,
    }
}

fn trust(key: &SigningKey, times: KeyTimes) -> Trust {
    let kid = key.jwk().key_id().clone();
    let jwks = write_set([key.jwk()]);
    Trust {
        keys: KeySet::read(jwks.as_bytes(), &[(kid, times)], &AwsLc).expect("keys"),
        revocations: Some(RevocationList::default()),
        source: "a test".to_owned(),
    }
}

fn claims() -> Claims {
    Claims {
        issuer: "https://dev.test".to_owned(),
        subject: Subject {
            trust_domain: TrustDomain::parse("dev.test").expect("a domain"),
            client_id: ClientId::parse("orders").expect("a client"),
        },
        audiences: vec!["demo".to_owned()],
        client_id: ClientId::parse("orders").expect("a client"),
        expires_at: NOW.saturating_add(10 * MINUTE),
        issued_at: NOW.saturating_sub(5 * MINUTE),
        not_before: None,
        token_id: TokenId::parse("1.0").expect("an id"),
        scopes: vec![Scope::parse("demo.call").expect("a scope")],
        roles: Vec::new(),
        confirmation: Confirmation::Unbound,
    }
}

fn signed(key: &SigningKey, header: &str, payload: &str) -> String {
    let input = format!(
        "{}.{}",
        encode_segment(header.as_bytes()),
        encode_segment(payload.as_bytes())
    );
    let signature = key.sign(input.as_bytes()).expect("signed");
    format!("{input}.{}", encode_segment(&signature))
}

fn payload(claims: &Claims) -> String {
    serde_json::to_string(claims).expect("writes")
}

fn token(key: &SigningKey, claims: &Claims) -> String {
    let header = access_token_header(key.algorithm(), key.jwk().key_id());
    signed(key, &header, &payload(claims))
}

/// The step that fails first, after asserting that the decision itself gives the same reason.
fn first_failure(token: &str, setting: &Setting) -> Option<Step> {
    let report = explain(token.as_bytes(), &setting.trust, &setting.wanted, NOW);
    let state = TrustState::new(
        setting.wanted.expected.issuer.clone(),
        1,
        setting.trust.keys.clone().into(),
        setting.trust.revocations.clone().unwrap_or_default(),
        &AwsLc,
    );
    let view = TrustView::current(&state);
    let presentation = Presentation {
        peer_certificate: setting.wanted.certificate.as_ref(),
        requirements: &setting.wanted.requirements,
    };
    let decided = verifying::verify(
        token.as_bytes(),
        Ok(view),
        &setting.wanted.expected,
        &presentation,
        NOW,
    );
    assert_eq!(report.reason(), decided.err().map(Rejection::reason));
    let steps: Vec<Step> = report.checks.iter().map(|check| check.check).collect();
    assert_eq!(steps, Step::ALL, "every step, once, in order");
    let failed = report.checks.iter().find(|check| check.result == Outcome::Fail);
    failed.map(|check| check.check)
}

#[test]
fn a_good_token_passes_every_check() {
    let setting = setting();
    let token = token(&setting.key, &claims());
    assert_eq!(first_failure(&token, &setting), None);
    let report = explain(token.as_bytes(), &setting.trust, &setting.wanted, NOW);
    assert!(
        report.checks.iter().all(|check| check.result == Outcome::Pass),
        "{report:?}"
    );
}

#[test]
fn each_claim_fails_its_own_check_and_the_decision_agrees() {
    let setting = setting();
    type Change = fn(&mut Claims);
    let table: [(Step, Change); 9] = [
        (Step::Issuer, |claims| {
            claims.issuer = "https://other.test".to_owned()
        }),
        (Step::Issuer, |claims| {
            claims.subject.trust_domain = TrustDomain::parse("other.test").expect("a domain");
        }),
        (Step::Audience, |claims| {
            claims.audiences = vec!["other".to_owned()]
        }),
        (Step::Time, |claims| claims.expires_at = NOW),
        (Step::Time, |claims| claims.issued_at = NOW.saturating_add(MINUTE)),
        (Step::Time, |claims| {
            claims.expires_at = NOW.saturating_add(120 * MINUTE)
        }),
        (Step::Binding, |claims| {
            claims.confirmation = Confirmation::Certificate(CertificateThumbprint::new([2; 32]));
        }),
        (Step::Binding, |claims| {
            claims.confirmation = Confirmation::SpiffeId(spiffe_id("billing"));
        }),
        (Step::Scopes, |claims| claims.scopes.clear()),
    ];
    for (step, change) in table {
        let mut claims = claims();
        change(&mut claims);
        assert_eq!(first_failure(&token(&setting.key, &claims), &setting), Some(step));
    }
}

#[test]
fn form_header_key_and_signature_are_told_apart() {
    let setting = setting();
    let good = token(&setting.key, &claims());
    let other = SigningKey::generate(Algorithm::Es256).expect("a key");
    let kid = setting.key.jwk().key_id().clone();
    let header = |json: &str| signed(&setting.key, json, &payload(&claims()));
    let own = access_token_header(Algorithm::Es256, &kid);
    let table = [
        (Step::Form, "not a token".to_owned()),
        (Step::Form, String::new()),
        (Step::Form, format!("{good}.x")),
        (Step::Header, header(r#"{"alg":"none","typ":"at+jwt","kid":"x"}"#)),
        (Step::Header, header(r#"{"alg":"ES256","typ":"JWT","kid":"x"}"#)),
        (Step::Key, token(&other, &claims())),
        (Step::Key, header(&own.replace("ES256", "EdDSA"))),
        (Step::Signature, signed(&other, &own, &payload(&claims()))),
        (
            Step::Claims,
            signed(&setting.key, &own, r#"{"iss":"https://dev.test"}"#),
        ),
    ];
    for (step, token) in table {
        assert_eq!(first_failure(&token, &setting), Some(step), "{token}");
    }
}

#[test]
fn keys_and_revocations_refuse_at_their_own_step() {
    let mut setting = setting();
    let good = token(&setting.key, &claims());
    let list = setting.trust.revocations.take().expect("a list");
    let entry = |subject| Revocation {
        subject,
        issued_before: NOW,
        expires_at: NOW.saturating_add(60 * MINUTE),
    };
    let client = ClientId::parse("orders").expect("a client");
    for subject in [RevokedSubject::Client(client), RevokedSubject::Everything] {
        setting.trust.revocations = Some(list.with(entry(subject)));
        assert_eq!(first_failure(&good, &setting), Some(Step::Revocation));
    }
    setting.trust.revocations = Some(list);
    let compromised = KeyTimes {
        active_from: Some(Timestamp::default()),
        compromised_at: Some(NOW),
        ..KeyTimes::default()
    };
    let not_yet = KeyTimes {
        active_from: Some(NOW),
        ..KeyTimes::default()
    };
    for times in [compromised, not_yet] {
        setting.trust = trust(&setting.key, times);
        assert_eq!(first_failure(&good, &setting), Some(Step::Key));
    }
}

#[test]
fn what_is_not_asked_or_not_known_is_skipped_and_not_passed() {
    let mut setting = setting();
    setting.trust.revocations = None;
    setting.wanted.asks_issuer = false;
    setting.wanted.asks_trust_domain = false;
    setting.wanted.asks_audience = false;
    setting.wanted.requirements.scopes.clear();
    setting.wanted.certificate = None;
    let mut claims = claims();
    claims.issuer = "https://other.test".to_owned();
    claims.confirmation = Confirmation::Certificate(CertificateThumbprint::new([2; 32]));
    let token = token(&setting.key, &claims);
    let report = explain(token.as_bytes(), &setting.trust, &setting.wanted, NOW);
    let skipped = report
        .checks
        .iter()
        .filter(|check| check.result == Outcome::Skipped);
    let skipped: Vec<Step> = skipped.map(|check| check.check).collect();
    assert_eq!(
        skipped,
        [
            Step::Issuer,
            Step::Audience,
            Step::Revocation,
            Step::Binding,
            Step::Scopes
        ]
    );
    assert_eq!(report.reason(), None);
    assert!(
        report
            .render(Paint::plain())
            .starts_with("good, as far as it was checked")
    );
}

#[test]
fn the_signature_is_never_shown() {
    let setting = setting();
    let token = token(&setting.key, &claims());
    let signature = token.rsplit('.').next().expect("a signature");
    let tampered = token.replace(signature, &signature.chars().rev().collect::<String>());
    for token in [token.as_str(), tampered.as_str()] {
        let report = explain(token.as_bytes(), &setting.trust, &setting.wanted, NOW);
        let shown = token.rsplit('.').next().expect("a signature");
        let json = serde_json::to_string(&report).expect("JSON");
        for text in [report.render(Paint::plain()), json] {
            assert!(!text.contains(shown) && !text.contains(token));
            assert!(text.contains("client:dev.test/orders"), "the claims are: {text}");
        }
    }
}

#[test]
fn claims_that_nobody_signed_are_shown_as_such() {
    let setting = setting();
    let other = SigningKey::generate(Algorithm::Es256).expect("a key");
    let report = explain(
        token(&other, &claims()).as_bytes(),
        &setting.trust,
        &setting.wanted,
        NOW,
    );
    assert!(!report.signature_verified);
    assert!(report.render(Paint::plain()).contains("claims (not verified"));
    let last = report.checks.last().expect("checks");
    assert_eq!((last.check, last.result), (Step::Scopes, Outcome::Skipped));
}
