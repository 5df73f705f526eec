use countersign_core::freshness::StalenessRules;
use countersign_core::key_set::KeyTimes;
use countersign_core::names::Scope;
use countersign_core::ports::Clock as _;
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::Data;
use countersign_core::verifier::ClockMark;
use countersign_core::{Claim, Timestamp};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::*;
use crate::test_util::*;

const MEBIBYTE: u64 = 1 << 20;

fn methods() -> MethodTable {
    let mut methods = MethodTable::new(Requirements::default());
    let scoped = Requirements {
        scopes: vec![Scope::parse("admin").expect("a scope")],
        ..Requirements::default()
    };
    let bound = Requirements {
        bound: true,
        ..Requirements::default()
    };
    methods
        .set("/a.A/Scoped", Access::Protected(scoped))
        .expect("a method");
    methods
        .set("/a.A/Bound", Access::Protected(bound))
        .expect("a method");
    for class in [ClassBudget::strict(), ClassBudget::tolerant()] {
        let path = format!("/a.A/{}", class.class);
        let asks = Requirements {
            class: Arc::new(class),
            ..Requirements::default()
        };
        methods.set(&path, Access::Protected(asks)).expect("a method");
    }
    methods.set("/a.A/Open", Access::Open).expect("a method");
    let observed = Access::Protected(Requirements::default());
    methods
        .set_in(Mode::Observe, "/a.A/Observed", observed)
        .expect("a method");
    methods
}

struct Fixture {
    clock: Arc<SetClock>,
    store: Arc<TrustStore>,
    issuer: TestIssuer,
    verifier: Verifier,
}

fn fixture() -> Fixture {
    remembering(TokenCache::new(MEBIBYTE))
}

/// With the usual memory, and with digests alone, as for tokens for whose whole there is no room.
fn fixtures() -> [Fixture; 2] {
    [fixture(), remembering(TokenCache::divided(0, MEBIBYTE))]
}

fn remembering(tokens: TokenCache) -> Fixture {
    let clock = SetClock::new();
    let store = empty_store(Arc::<SetClock>::clone(&clock));
    Fixture {
        verifier: verifier_with(&store, methods(), tokens, &mut Registry::default()),
        issuer: TestIssuer::new("one"),
        clock,
        store,
    }
}

fn ask(verifier: &Verifier, token: &str, path: &str) -> Result<(), Rejection> {
    ask_with(verifier, token, path, None)
}

/// Lets `token` pass until it is remembered in every way.
fn show(verifier: &Verifier, token: &str) {
    for time in 1..=3 {
        assert_eq!(ask(verifier, token, "/a.A/Do"), Ok(()), "for the {time}. time");
    }
}

fn ask_with(
    verifier: &Verifier,
    token: &str,
    path: &str,
    peer_certificate: Option<&PeerCertificate>,
) -> Result<(), Rejection> {
    let question = Question {
        token: Ok(token.as_bytes()),
        method: Some(MethodPath::parse(path).expect("a method")),
        peer_certificate,
    };
    verdict(verifier.decide(&question))
}

fn verdict(decision: Decision) -> Result<(), Rejection> {
    match decision.verdict {
        Ok(_) => Ok(()),
        Err(denied) => Err(denied.rejection),
    }
}

#[test]
fn a_good_token_passes_and_is_remembered_once_it_comes_again() {
    let it = fixture();
    trust(&it.store, it.issuer.state(7, []));
    let token = it.issuer.token(&claims("1.1"));
    for remembered in [0, 0, 1] {
        assert_eq!(it.verifier.tokens.len(), remembered);
        let decision = it.verifier.decide(&Question {
            token: Ok(token.as_bytes()),
            method: None,
            peer_certificate: None,
        });
        assert_eq!(decision.epoch, 7);
        let Ok(Admission::Token(admitted)) = decision.verdict else {
            panic!("{decision:?}");
        };
        assert_eq!(admitted.claims().token_id.as_str(), "1.1");
    }
}

/// A token whose whole there is no room for is known by its digest, and says again what it said before.
#[test]
fn a_signature_is_checked_once_though_only_the_digest_is_remembered() {
    let it = fixture();
    trust(&it.store, it.issuer.state(1, []));
    let mut registry = Registry::default();
    let verifier = verifier_with(
        &it.store,
        methods(),
        TokenCache::divided(0, MEBIBYTE),
        &mut registry,
    );
    let token = it.issuer.token(&claims("1.1"));
    for _thrice in 0..3 {
        let decision = verifier.decide(&Question {
            token: Ok(token.as_bytes()),
            method: None,
            peer_certificate: None,
        });
        let Ok(Admission::Token(admitted)) = decision.verdict else {
            panic!("{decision:?}");
        };
        assert_eq!(admitted.claims(), &claims("1.1"));
    }
    assert!(verifier.tokens.is_empty());
    let mut text = String::new();
    encode(&mut text, &registry).expect("encodes");
    for line in [r#"{result="miss"} 1"#, r#"{result="hit"} 2"#] {
        let line = format!("token_cache_lookups_total{line}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

/// T91: what was good a moment ago is judged on what holds now.
#[test]
fn a_remembered_token_is_refused_once_revoked_or_expired() {
    for it in fixtures() {
        trust(&it.store, it.issuer.state(1, []));
        let (one, two) = (it.issuer.token(&claims("1.1")), it.issuer.token(&claims("1.2")));
        show(&it.verifier, &one);
        show(&it.verifier, &two);
        trust(&it.store, it.issuer.state(2, [revoke_token("1.1")]));
        assert_eq!(ask(&it.verifier, &one, "/a.A/Do"), Err(Rejection::TokenRevoked));
        show(&it.verifier, &two);
        trust(
            &it.store,
            it.issuer
                .state(3, [revoke_token("1.1"), revoke_client("orders", START)]),
        );
        assert_eq!(ask(&it.verifier, &two, "/a.A/Do"), Err(Rejection::ClientRevoked));
        let three = it.issuer.token(&Claims {
            issued_at: Timestamp::from_seconds(START + 1),
            ..claims("1.3")
        });
        it.clock.advance(Duration::from_secs(1));
        show(&it.verifier, &three);
        it.clock.advance(Duration::from_secs(899));
        confirm(&it.store, Duration::from_secs(10));
        assert_eq!(ask(&it.verifier, &three, "/a.A/Do"), Err(Rejection::TokenExpired));
    }
}

/// T52 on a remembered token: the key is withdrawn, so the memo is worth nothing.
#[test]
fn a_remembered_token_is_refused_once_its_key_is_compromised_or_gone() {
    for mut it in fixtures() {
        let other = TestIssuer::new("other").published_key();
        trust(&it.store, it.issuer.state(1, []));
        let token = it.issuer.token(&claims("1.1"));
        show(&it.verifier, &token);
        it.issuer.key_times.compromised_at = Some(Timestamp::from_seconds(START));
        trust(&it.store, it.issuer.state(2, []));
        assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Err(Rejection::KeyRevoked));
        trust(&it.store, trust_state(3, vec![other], []));
        assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Err(Rejection::KidUnknown));
    }
}

/// T89, T90: another token with the same `jti`, `kid` and `exp` is another token.
#[test]
fn a_forgery_of_a_remembered_token_is_not_recognized() {
    for it in fixtures() {
        trust(&it.store, it.issuer.state(1, []));
        let token = it.issuer.token(&claims("1.1"));
        show(&it.verifier, &token);
        let (input, signature) = token.rsplit_once('.').expect("three segments");
        let (header, _) = input.split_once('.').expect("three segments");
        let mut richer = claims("1.1");
        richer.scopes.push(Scope::parse("admin").expect("a scope"));
        let payload = countersign_core::jose::encode_segment(&serde_json::to_vec(&richer).expect("writes"));
        let forged = format!("{header}.{payload}.{signature}");
        assert_eq!(
            ask(&it.verifier, &forged, "/a.A/Scoped"),
            Err(Rejection::SigInvalid)
        );
        show(&it.verifier, &token);
        assert!(it.verifier.tokens.len() <= 1);
    }
}

/// T92: a refusal is not remembered.
#[test]
fn a_token_passes_as_soon_as_its_key_arrives() {
    let it = fixture();
    trust(&it.store, TestIssuer::new("other").state(1, []));
    let token = it.issuer.token(&claims("1.1"));
    assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Err(Rejection::KidUnknown));
    trust(&it.store, it.issuer.state(2, []));
    assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Ok(()));
}

/// F43, I-15: without trust nothing passes but open methods, and with trust that is too old neither.
#[test]
fn without_trust_that_may_be_used_only_open_methods_pass() {
    for it in fixtures() {
        let token = it.issuer.token(&claims("1.1"));
        assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Err(Rejection::TrustCold));
        assert_eq!(ask(&it.verifier, &token, "/a.A/Open"), Ok(()));
        trust(&it.store, it.issuer.state(1, []));
        show(&it.verifier, &token);
        it.clock.advance(REFUSE_AFTER);
        // Remembered or new, the answer is the same.
        for token in [&token, &it.issuer.token(&claims("1.2"))] {
            assert_eq!(ask(&it.verifier, token, "/a.A/Do"), Err(Rejection::TrustStale));
        }
        assert_eq!(ask(&it.verifier, &token, "/a.A/Open"), Ok(()));
    }
}

/// I-14, F42: calls go on for the budget of their method's class after the lease, to the instant, for a token that is remembered
/// as for one that is new; who asks without a method is of the default class. The refusal says what is too old.
#[test]
fn each_class_goes_on_for_its_own_budget() {
    const MOMENT: Duration = Duration::from_millis(1);
    for it in fixtures() {
        trust(&it.store, it.issuer.state(1, []));
        // As after a restart: confirmed a moment ago, and no lease.
        let token = it.issuer.token(&claims("1.0"));
        assert_eq!(
            ask(&it.verifier, &token, "/a.A/strict"),
            Err(Rejection::TrustStale)
        );
        assert_eq!(ask(&it.verifier, &token, "/a.A/Do"), Ok(()));
        let lease = Duration::from_secs(10);
        confirm(&it.store, lease);
        let started = it.clock.elapsed();
        let day = Duration::from_secs(86_400);
        let mut remembered = it.issuer.token(&claims("1.1"));
        for (age, decides) in [
            (Duration::ZERO, [true, true, true]),
            (lease - MOMENT, [true, true, true]),
            (lease, [false, true, true]),
            (lease + REFUSE_AFTER - MOMENT, [false, true, true]),
            (lease + REFUSE_AFTER, [false, false, true]),
            (lease + day - MOMENT, [false, false, true]),
            (lease + day, [false, false, false]),
        ] {
            it.clock.advance(started + age - it.clock.elapsed());
            let fresh = fresh_token(&it);
            if age > lease + REFUSE_AFTER {
                remembered.clone_from(&fresh);
            }
            for (path, decides) in ["/a.A/strict", "/a.A/Do", "/a.A/tolerant"]
                .into_iter()
                .zip(decides)
            {
                let answer = if decides {
                    Ok(())
                } else {
                    Err(Rejection::TrustStale)
                };
                assert_eq!(ask(&it.verifier, &fresh, path), answer, "{path} at {age:?}");
                if age < Duration::from_secs(900) || !decides {
                    assert_eq!(ask(&it.verifier, &remembered, path), answer, "{path} at {age:?}");
                }
            }
            let question = Question {
                token: Ok(fresh.as_bytes()),
                method: None,
                peer_certificate: None,
            };
            let decision = it.verifier.decide(&question);
            let stale = decision.verdict.err().and_then(|denied| denied.stale);
            let expected = (!decides[1]).then(|| Stale {
                class: ClassBudget::normal().class,
                data: Data::Revocations,
                age: Some(age),
            });
            assert_eq!(stale, expected, "{age:?}");
        }
    }
}

/// A token that was issued just now, for an hour.
fn fresh_token(it: &Fixture) -> String {
    let now = it.clock.now();
    it.issuer.token(&Claims {
        issued_at: now,
        not_before: None,
        expires_at: now.saturating_add(Duration::from_secs(3600)),
        ..claims("1.2")
    })
}

/// Who asks without a method is of the default class, whichever that is.
#[test]
fn a_question_without_a_method_is_of_the_default_class() {
    let it = fixture();
    let strict = Arc::new(ClassBudget::strict());
    let staleness = StalenessRules {
        default_class: Arc::clone(&strict),
        classes: vec![strict],
        ..StalenessRules::default()
    };
    let rules = it.store.snapshot().rules().clone();
    let store = TrustStore::new(rules, Arc::new(staleness), Arc::<SetClock>::clone(&it.clock));
    let store = Arc::new(store);
    trust(&store, it.issuer.state(1, []));
    let verifier = verifier(&store, methods(), MEBIBYTE);
    let token = it.issuer.token(&claims("1.1"));
    let question = Question {
        token: Ok(token.as_bytes()),
        method: None,
        peer_certificate: None,
    };
    assert_eq!(verdict(verifier.decide(&question)), Err(Rejection::TrustStale));
    confirm(&store, Duration::from_secs(10));
    assert_eq!(verdict(verifier.decide(&question)), Ok(()));
}

/// I-17, X04: without the time nothing is decided, whatever the trust; the form of a token still comes first.
#[test]
fn without_the_time_nothing_is_decided() {
    for it in fixtures() {
        trust(&it.store, it.issuer.state(1, []));
        let token = it.issuer.token(&claims("1.1"));
        show(&it.verifier, &token);
        it.store.resume_clock(&ClockMark {
            moment: it.store.moment(),
            time_millis: (START + 86_400) * 1000,
            boot: None,
            heard: false,
        });
        // Remembered or new, the answer is the same.
        for token in [&token, &it.issuer.token(&claims("1.2"))] {
            assert_eq!(ask(&it.verifier, token, "/a.A/Do"), Err(Rejection::VerifierClock));
        }
        // In its place in the order: after the form of the token, before its key.
        assert_eq!(
            ask(&it.verifier, "a.b", "/a.A/Do"),
            Err(Rejection::TokenMalformed)
        );
        let stranger = TestIssuer::new("other").token(&claims("1.3"));
        assert_eq!(
            ask(&it.verifier, &stranger, "/a.A/Do"),
            Err(Rejection::VerifierClock)
        );
        assert_eq!(ask(&it.verifier, &token, "/a.A/Open"), Ok(()));
        assert!(!it.store.status().decides());
    }
}

/// T85, T86, T94: what the method asks for, of remembered tokens too.
#[test]
fn methods_ask_for_scopes_and_certificates() {
    for it in fixtures() {
        trust(&it.store, it.issuer.state(1, []));
        let certificate = |number: u8, id: &str| PeerCertificate {
            spiffe_id: Some(SpiffeId::parse(id).expect("a SPIFFE ID")),
            ..PeerCertificate::from([number; 32])
        };
        let ours = &certificate(1, "spiffe://prod.example.com/orders");
        let renewed = &certificate(3, "spiffe://prod.example.com/orders");
        let theirs = &certificate(2, "spiffe://prod.example.com/billing");
        let spiffe_id = ours.spiffe_id.clone().expect("it has one");
        let (loose, bound, outliving) = (
            it.issuer.token(&claims("1.1")),
            it.issuer.token(&bound_claims("1.2", ours.thumbprint)),
            it.issuer.token(&claims_bound_to("1.3", spiffe_id)),
        );
        for _thrice in 0..3 {
            let ask = |token, path, certificate| ask_with(&it.verifier, token, path, certificate);
            assert_eq!(ask(&bound, "/a.A/Bound", Some(ours)), Ok(()));
            assert_eq!(ask(&bound, "/a.A/Do", Some(ours)), Ok(()));
            assert_eq!(ask(&bound, "/a.A/Do", Some(theirs)), Err(Rejection::CnfMismatch));
            assert_eq!(ask(&bound, "/a.A/Do", None), Err(Rejection::CnfMismatch));
            assert_eq!(ask(&bound, "/a.A/Do", Some(renewed)), Err(Rejection::CnfMismatch));
            for shown in [ours, renewed] {
                assert_eq!(ask(&outliving, "/a.A/Bound", Some(shown)), Ok(()));
            }
            for shown in [Some(theirs), None] {
                assert_eq!(ask(&outliving, "/a.A/Do", shown), Err(Rejection::CnfMismatch));
            }
            assert_eq!(ask(&loose, "/a.A/Bound", Some(ours)), Err(Rejection::CnfMissing));
            assert_eq!(
                ask(&loose, "/a.A/Scoped", None),
                Err(Rejection::ScopeInsufficient)
            );
        }
    }
}

/// T70, T95 at the boundary of this crate: the expectations are this sidecar's.
#[test]
fn tokens_for_others_are_refused() {
    let it = fixture();
    trust(&it.store, it.issuer.state(1, []));
    let mut elsewhere = claims("1.1");
    elsewhere.audiences = vec!["billing".to_owned()];
    assert_eq!(
        ask(&it.verifier, &it.issuer.token(&elsewhere), "/a.A/Do"),
        Err(Rejection::AudMismatch)
    );
    let mut stranger = claims("1.2");
    stranger.issuer = "https://evil.example.com".to_owned();
    assert_eq!(
        ask(&it.verifier, &it.issuer.token(&stranger), "/a.A/Do"),
        Err(Rejection::IssMismatch)
    );
    let mut foreign = claims("1.3");
    foreign.subject.trust_domain = countersign_core::spiffe::TrustDomain::parse("evil").expect("a domain");
    assert_eq!(
        ask(&it.verifier, &it.issuer.token(&foreign), "/a.A/Do"),
        Err(Rejection::ClaimMalformed(Claim::Sub))
    );
    assert!(it.verifier.tokens.is_empty(), "what is refused takes no room");
    let digest = Digest::of(it.issuer.token(&elsewhere).as_bytes());
    assert!(!it.verifier.tokens.knows(&digest), "not even for a digest");
}

async fn ask_patiently(verifier: &Verifier, token: &str) -> Result<(), Rejection> {
    let question = Question {
        token: Ok(token.as_bytes()),
        method: None,
        peer_certificate: None,
    };
    verdict(verifier.decide_patiently(&question).await)
}

/// K16: the first token of a new key may come before the key.
#[tokio::test(start_paused = true)]
async fn a_token_ahead_of_the_trust_stream_waits_for_it() {
    let it = fixture();
    trust(&it.store, TestIssuer::new("other").state(1, []));
    let token = it.issuer.token(&claims("1.1"));
    let arrival = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        trust(&it.store, it.issuer.state(2, []));
    };
    let (verdict, ()) = tokio::join!(ask_patiently(&it.verifier, &token), arrival);
    assert_eq!(verdict, Ok(()));
}

/// K16 for a key that is there and not active yet.
#[tokio::test(start_paused = true)]
async fn a_token_ahead_of_an_activation_waits_for_it() {
    let mut it = fixture();
    let active = it.issuer.key_times;
    it.issuer.key_times = KeyTimes {
        active_from: None,
        ..active
    };
    trust(&it.store, it.issuer.state(1, []));
    let token = it.issuer.token(&claims("1.1"));
    it.issuer.key_times = active;
    let arrival = async { trust(&it.store, it.issuer.state(2, [])) };
    let (verdict, ()) = tokio::join!(ask_patiently(&it.verifier, &token), arrival);
    assert_eq!(verdict, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_short_and_for_nothing_else() {
    let it = fixture();
    trust(&it.store, TestIssuer::new("other").state(1, []));
    let start = tokio::time::Instant::now();
    assert_eq!(
        ask_patiently(&it.verifier, "x").await,
        Err(Rejection::TokenMalformed)
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    let token = it.issuer.token(&claims("1.1"));
    assert_eq!(
        ask_patiently(&it.verifier, &token).await,
        Err(Rejection::KidUnknown)
    );
    assert!((LONGEST_WAIT..LONGEST_WAIT * 2).contains(&start.elapsed()));
}

/// Whoever is only observed is not held up, or calls with short deadlines would fail where none is to be refused.
#[tokio::test(start_paused = true)]
async fn what_is_only_observed_does_not_wait() {
    let it = fixture();
    trust(&it.store, TestIssuer::new("other").state(1, []));
    let token = it.issuer.token(&claims("1.1"));
    let question = Question {
        token: Ok(token.as_bytes()),
        method: Some(MethodPath::parse("/a.A/Observed").expect("a path")),
        peer_certificate: None,
    };
    let start = tokio::time::Instant::now();
    let decision = it.verifier.decide_patiently(&question).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let observed = decision.observed.expect("would be refused").denied.rejection;
    assert_eq!(observed, Rejection::KidUnknown);
}

/// K15: a flood of invented keys waits in a bounded number, and good tokens do not wait with it.
#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_waits_in_a_bounded_number() {
    let it = fixture();
    trust(&it.store, it.issuer.state(1, []));
    let invented = TestIssuer::new("invented").token(&claims("1.1"));
    let flood =
        futures_util::future::join_all((0..MOST_WAITING * 4).map(|_| ask_patiently(&it.verifier, &invented)));
    let start = tokio::time::Instant::now();
    let good = it.issuer.token(&claims("1.2"));
    let good = async {
        let verdict = ask_patiently(&it.verifier, &good).await;
        (verdict, start.elapsed())
    };
    let (refused, (verdict, waited)) = tokio::join!(flood, good);
    assert!(
        refused
            .iter()
            .all(|verdict| *verdict == Err(Rejection::KidUnknown))
    );
    assert_eq!((verdict, waited), (Ok(()), Duration::ZERO));
    // Had they waited one after the other, it would have been four times as long.
    assert!(start.elapsed() < LONGEST_WAIT * 2);
    assert_eq!(it.verifier.waiting.available_permits(), MOST_WAITING);
}

/// One thing that happens to a pair of verifiers.
#[derive(Clone, Debug)]
enum Event {
    Ask(usize, usize),
    Revoke(usize),
    RevokeClient(u64),
    Compromise,
    Pass(u64),
    Confirm,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_usize..6, 0_usize..3).prop_map(|(token, path)| Event::Ask(token, path)),
        1 => (0_usize..6).prop_map(Event::Revoke),
        1 => (0_u64..900).prop_map(Event::RevokeClient),
        1 => Just(Event::Compromise),
        2 => (0_u64..400).prop_map(Event::Pass),
        2 => Just(Event::Confirm),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I-19: with the memory of tokens as without it, whatever happens in between.
    #[test]
    fn the_memory_of_tokens_changes_no_verdict(events in prop::collection::vec(event(), 1..60)) {
        let mut it = fixture();
        let digests = TokenCache::divided(0, MEBIBYTE);
        let digests = verifier_with(&it.store, methods(), digests, &mut Registry::default());
        let without = verifier(&it.store, methods(), 0);
        let mut tokens: Vec<String> = (0..5).map(|n| it.issuer.token(&claims(&format!("1.{n}")))).collect();
        tokens.push(TestIssuer::new("stranger").token(&claims("1.9")));
        let mut epoch = 1;
        let mut revoked = Vec::new();
        trust(&it.store, it.issuer.state(epoch, []));
        for event in events {
            match event {
                Event::Ask(token, path) => {
                    let path = ["/a.A/Do", "/a.A/Scoped", "/a.A/Bound"][path];
                    let verdict = ask(&without, &tokens[token], path);
                    prop_assert_eq!(ask(&it.verifier, &tokens[token], path), verdict);
                    prop_assert_eq!(ask(&digests, &tokens[token], path), verdict);
                    continue;
                }
                Event::Pass(seconds) => {
                    it.clock.advance(Duration::from_secs(seconds));
                    continue;
                }
                Event::Confirm => {
                    confirm(&it.store, Duration::from_secs(10));
                    continue;
                }
                Event::Revoke(token) => revoked.push(revoke_token(&format!("1.{token}"))),
                Event::RevokeClient(after) => revoked.push(revoke_client("orders", START + after)),
                Event::Compromise => it.issuer.key_times.compromised_at = Some(it.clock.now()),
            }
            epoch += 1;
            it.store.install(it.issuer.state(epoch, revoked.clone())).expect("installed");
        }
    }
}
