//! The decision: times at their boundaries, and the order of reasons.

mod binding;

use super::*;
use crate::claims::Subject;
use crate::issuing::sign_token;
use crate::names::{ClassName, ClientId, Scope, TokenId};
use crate::revocation::{Revocation, RevocationList, RevokedSubject};
use crate::staleness::ClassBudget;
use crate::test_util::{NOW, ToyHash, ToyKey, after, jwk, key_set};

fn expected() -> Expectations {
    Expectations {
        issuer: Issuer::parse("https://auth.example.com").expect("an issuer"),
        trust_domain: TrustDomain::parse("prod.example.com").expect("a trust domain"),
        audience: Audience::parse("orders").expect("an audience"),
        max_lifetime: Duration::from_secs(3600),
        leeway: Duration::from_secs(5),
        several_audiences: false,
    }
}

fn claims() -> Claims {
    Claims {
        issuer: "https://auth.example.com".to_owned(),
        subject: Subject {
            trust_domain: expected().trust_domain,
            client_id: ClientId::parse("billing").expect("a client id"),
        },
        audiences: vec!["orders".to_owned()],
        client_id: ClientId::parse("billing").expect("a client id"),
        expires_at: after(600),
        issued_at: after(-10),
        not_before: None,
        token_id: TokenId::parse("1.2").expect("a token id"),
        scopes: vec![Scope::parse("read").expect("a scope")],
        roles: Vec::new(),
        confirmation: Confirmation::Unbound,
    }
}

fn times() -> KeyTimes {
    KeyTimes {
        prepared_at: after(-9000),
        active_from: Some(after(-8000)),
        ..KeyTimes::default()
    }
}

fn state(times: KeyTimes, revocations: RevocationList) -> TrustState {
    let keys = Arc::new(key_set(&jwk(1), times));
    TrustState::new(expected().issuer, 1, keys, revocations, &ToyHash)
}

fn decide_with(claims: &Claims, state: &TrustState, requirements: &Requirements) -> Result<(), Rejection> {
    let key = jwk(1);
    let token = sign_token(claims, key.key_id(), &ToyKey::of(&key)).expect("signed");
    let view = TrustView::current(state);
    let presented = Presentation {
        peer_certificate: None,
        requirements,
    };
    verify(token.as_bytes(), Ok(view), &expected(), &presented, NOW).map(|_| ())
}

fn decide(claims: &Claims) -> Result<(), Rejection> {
    let state = state(times(), RevocationList::default());
    decide_with(claims, &state, &Requirements::default())
}

/// T70: on or after `exp` is too late; there is no leeway.
#[test]
fn a_token_ends_with_the_second_before_exp() {
    for (expires, answer) in [
        (-6, Err(Rejection::TokenExpired)),
        (-5, Err(Rejection::TokenExpired)),
        (-1, Err(Rejection::TokenExpired)),
        (0, Err(Rejection::TokenExpired)),
        (1, Ok(())),
        (6, Ok(())),
    ] {
        let claims = Claims {
            expires_at: after(expires),
            issued_at: after(-100),
            ..claims()
        };
        assert_eq!(decide(&claims), answer, "now {expires:+}");
    }
}

/// T74, T75: `nbf` and `iat` may be ahead by the leeway, and not by a second more.
#[test]
fn a_token_may_be_ahead_by_the_leeway() {
    for (ahead, early, future) in [
        (-1, Ok(()), Ok(())),
        (0, Ok(()), Ok(())),
        (1, Ok(()), Ok(())),
        (5, Ok(()), Ok(())),
        (6, Err(Rejection::TokenNotYetValid), Err(Rejection::IatInFuture)),
    ] {
        let not_before = Claims {
            not_before: Some(after(ahead)),
            ..claims()
        };
        assert_eq!(decide(&not_before), early, "nbf: now {ahead:+}");
        let issued_at = Claims {
            issued_at: after(ahead),
            not_before: Some(NOW),
            ..claims()
        };
        assert_eq!(decide(&issued_at), future, "iat: now {ahead:+}");
    }
}

/// T73: the longest lifetime is accepted, a second more is not.
#[test]
fn a_lifetime_has_a_ceiling() {
    for (lifetime, answer) in [(3600, Ok(())), (3601, Err(Rejection::LifetimeExcessive))] {
        let claims = Claims {
            expires_at: after(-10 + lifetime),
            ..claims()
        };
        assert_eq!(decide(&claims), answer, "{lifetime}");
    }
}

/// T51, I-01: a token from before its key was to sign was not made by the authority.
#[test]
fn a_token_is_not_older_than_its_key() {
    for (active, answer) in [(-11, Ok(())), (-10, Ok(())), (-9, Err(Rejection::KeyNotActive))] {
        let times = KeyTimes {
            active_from: Some(after(active)),
            ..times()
        };
        let state = state(times, RevocationList::default());
        assert_eq!(
            decide_with(&claims(), &state, &Requirements::default()),
            answer,
            "{active}"
        );
    }
}

/// T51: a token from after its key had signed its last was made by whoever has got hold of the key since. The leeway is for
/// an authority whose store takes long to retire a key.
#[test]
fn a_token_is_not_younger_than_its_key() {
    for (retired, answer) in [
        (-9, Ok(())),
        (-10, Ok(())),
        (-14, Ok(())),
        (-15, Err(Rejection::KeyNotActive)),
        (-100, Err(Rejection::KeyNotActive)),
    ] {
        let times = KeyTimes {
            retired_from: Some(after(retired)),
            ..times()
        };
        let state = state(times, RevocationList::default());
        assert_eq!(
            decide_with(&claims(), &state, &Requirements::default()),
            answer,
            "{retired}"
        );
    }
}

/// The order of the decision: of everything that is wrong at once, the first is told. Each step mends one thing.
#[test]
fn the_first_reason_wins() {
    let everything = RevocationList::from([Revocation {
        subject: RevokedSubject::Everything,
        issued_before: NOW,
        expires_at: after(3600),
    }]);
    let strict = Requirements {
        scopes: vec![Scope::parse("write").expect("a scope")],
        bound: true,
        ..Requirements::default()
    };
    let not_active = KeyTimes {
        active_from: Some(after(100)),
        ..times()
    };
    let compromised = KeyTimes {
        compromised_at: Some(NOW),
        ..not_active
    };
    let mut claims = Claims {
        issuer: "https://other.example.com".to_owned(),
        audiences: vec!["stock".to_owned()],
        issued_at: after(-100),
        expires_at: after(-10),
        ..claims()
    };
    let mut trust = state(compromised, everything.clone());
    let decide = |claims: &Claims, trust: &TrustState, requirements: &Requirements| {
        decide_with(claims, trust, requirements).expect_err("refused")
    };
    assert_eq!(decide(&claims, &trust, &strict), Rejection::KeyRevoked);
    trust = state(not_active, everything.clone());
    assert_eq!(decide(&claims, &trust, &strict), Rejection::KeyNotActive);
    trust = state(times(), everything);
    assert_eq!(decide(&claims, &trust, &strict), Rejection::IssMismatch);
    claims.issuer = expected().issuer.as_str().to_owned();
    assert_eq!(decide(&claims, &trust, &strict), Rejection::AudMismatch);
    claims.audiences = vec!["orders".to_owned()];
    assert_eq!(decide(&claims, &trust, &strict), Rejection::TokenExpired);
    claims.expires_at = after(10);
    assert_eq!(decide(&claims, &trust, &strict), Rejection::TokenRevoked);
    trust = state(times(), RevocationList::default());
    assert_eq!(decide(&claims, &trust, &strict), Rejection::CnfMissing);
    let unbound = Requirements {
        bound: false,
        ..strict
    };
    assert_eq!(decide(&claims, &trust, &unbound), Rejection::ScopeInsufficient);
    assert_eq!(decide_with(&claims, &trust, &Requirements::default()), Ok(()));
}

/// The payload is not read before its signature is verified, and nothing is verified without trust, or without the time.
#[test]
fn form_comes_first_then_trust_then_the_signature() {
    let trust = state(times(), RevocationList::default());
    let authenticate = |token: &str, view| {
        authenticate(token.as_bytes(), view, &StalenessBudget::NORMAL).expect_err("refused")
    };
    let header = crate::jose::access_token_header(crate::jose::Algorithm::Es256, jwk(1).key_id());
    let header = crate::jose::encode_segment(header.as_bytes());
    let garbage = format!("{header}.AAAA.AAAA");
    let current = TrustView::current(&trust);
    for none in [Rejection::TrustCold, Rejection::VerifierClock] {
        assert_eq!(authenticate("a.b", Err(none)), Rejection::TokenMalformed);
        assert_eq!(authenticate(&garbage, Err(none)), none);
    }
    let unconfirmed = TrustView {
        overdue: None,
        ..current
    };
    assert_eq!(authenticate("a.b", Ok(unconfirmed)), Rejection::TokenMalformed);
    assert_eq!(authenticate(&garbage, Ok(unconfirmed)), Rejection::TrustStale);
    assert_eq!(authenticate(&garbage, Ok(current)), Rejection::SigInvalid);
}

/// Of a token that is known only the signature is not checked again: its form, the trust, its key and its claims are. Whether it is
/// known is asked only when all that comes before the signature is in order.
#[test]
fn what_is_known_spares_the_signature_alone() {
    let authenticate = |token: &str, trust: &TrustState, is_known: bool| {
        let mut asked = false;
        let authenticated = authenticate_known(
            token.as_bytes(),
            Ok(TrustView::current(trust)),
            &StalenessBudget::NORMAL,
            || {
                asked = true;
                is_known
            },
        );
        let said = authenticated.map(|(_, authentic)| authentic.claims().clone());
        (said, asked)
    };
    let key = jwk(1);
    let token = sign_token(&claims(), key.key_id(), &ToyKey::of(&key)).expect("signed");
    let said = Claims {
        not_before: Some(claims().issued_at),
        ..claims()
    };
    let (input, _) = token.rsplit_once('.').expect("three segments");
    let unsigned = format!("{input}.AAAA");
    let (header, _) = input.split_once('.').expect("three segments");
    let empty = format!("{header}.{}.AAAA", crate::jose::encode_segment(b"{}"));
    let trust = state(times(), RevocationList::default());
    assert_eq!(authenticate(&token, &trust, false), (Ok(said.clone()), true));
    assert_eq!(
        authenticate(&unsigned, &trust, false),
        (Err(Rejection::SigInvalid), true)
    );
    assert_eq!(authenticate(&unsigned, &trust, true), (Ok(said), true));
    assert_eq!(
        authenticate(&empty, &trust, true),
        (Err(Rejection::ClaimMissing(Claim::Iss)), true)
    );
    let compromised = KeyTimes {
        compromised_at: Some(NOW),
        ..times()
    };
    let withdrawn = state(compromised, RevocationList::default());
    let other = Arc::new(key_set(&jwk(2), times()));
    let unknown = TrustState::new(expected().issuer, 1, other, RevocationList::default(), &ToyHash);
    for (token, trust, rejection) in [
        ("a.b", &trust, Rejection::TokenMalformed),
        (token.as_str(), &withdrawn, Rejection::KeyRevoked),
        (token.as_str(), &unknown, Rejection::KidUnknown),
    ] {
        assert_eq!(authenticate(token, trust, true), (Err(rejection), false));
    }
}

/// I-14, F42: each class decides for its own time after the end of the lease; at the bound it no longer does, and what the
/// authority never confirmed decides nothing. The same in both halves of the decision.
#[test]
fn each_class_refuses_from_the_end_of_its_budget_on() {
    const MINUTE: Duration = Duration::from_secs(60);
    const TICK: Duration = Duration::from_nanos(1);
    let keys_first = ClassBudget {
        class: ClassName::parse("keys-first").expect("a class"),
        budget: StalenessBudget {
            revocations: 20 * MINUTE,
            keys: 10 * MINUTE,
        },
    };
    let classes = [
        ClassBudget::strict(),
        keys_first,
        ClassBudget::normal(),
        ClassBudget::tolerant(),
    ];
    let day = 24 * 60 * MINUTE;
    for (overdue, decides) in [
        (Some(Duration::ZERO), [true, true, true, true]),
        (Some(TICK), [false, true, true, true]),
        (Some(10 * MINUTE - TICK), [false, true, true, true]),
        (Some(10 * MINUTE), [false, false, true, true]),
        (Some(15 * MINUTE - TICK), [false, false, true, true]),
        (Some(15 * MINUTE), [false, false, false, true]),
        (Some(day - TICK), [false, false, false, true]),
        (Some(day), [false, false, false, false]),
        (Some(Duration::MAX), [false, false, false, false]),
        (None, [false, false, false, false]),
    ] {
        for (class, decides) in classes.iter().zip(decides) {
            let answer = if decides {
                Ok(())
            } else {
                Err(Rejection::TrustStale)
            };
            assert_eq!(
                decide_overdue(overdue, class),
                [answer; 2],
                "{class:?} {overdue:?}"
            );
        }
    }
}

/// What [`authenticate`] and [`judge`] say to a good token, each by itself.
fn decide_overdue(overdue: Option<Duration>, class: &ClassBudget) -> [Result<(), Rejection>; 2] {
    let state = state(times(), RevocationList::default());
    let current = TrustView::current(&state);
    let view = TrustView { overdue, ..current };
    let requirements = Requirements {
        class: Arc::new(class.clone()),
        ..Requirements::default()
    };
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let key = jwk(1);
    let token = sign_token(&claims(), key.key_id(), &ToyKey::of(&key)).expect("signed");
    let (_, authentic) = authenticate(token.as_bytes(), Ok(current), &class.budget).expect("authentic");
    [
        authenticate(token.as_bytes(), Ok(view), &class.budget).map(|_| ()),
        judge(authentic, view, &expected(), &presented, NOW).map(|_| ()),
    ]
}
