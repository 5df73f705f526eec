//! Getting tokens, and failing to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use countersign_core::Rejection;
use countersign_core::Timestamp;
use countersign_core::binding::{PeerCertificate, TokenBinding};
use countersign_core::claims::Confirmation;
use countersign_core::client::{Grant, Registration};
use countersign_core::jose::Algorithm;
use countersign_core::names::{Audience, CertificateThumbprint, Scope};
use countersign_core::ports::Clock as _;
use countersign_core::requirements::Requirements;
use countersign_core::spiffe::TrustDomain;
use countersign_core::verifying::{Expectations, Presentation, TrustView, VerifiedToken, verify};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::TimerClock;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::stage::{NOBODY, ORDERS, Setting, SlowStore, Stage, ask, reason, refusal};
use crate::alarm::Alarm;
use crate::limits::Rate;
use crate::store::memory::MemoryStore;
use crate::test_util::{Bench, START, client_id, in_turn, peer, registration, spiffe_id};

/// `orders` by certificate; `billing` by the secret returned.
async fn furnished(stage: &Stage) -> String {
    let ledger = &stage.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    let billing = ledger
        .create_client(client_id("billing"), registration(None), true)
        .await;
    let secret = billing.expect("creates").answer.1.expect("asked for");
    secret.secret.expose().to_owned()
}

fn expectations(stage: &Stage) -> Expectations {
    Expectations {
        issuer: stage.bench.issuer.clone(),
        trust_domain: TrustDomain::parse("example.org").expect("valid"),
        audience: Audience::parse("shop").expect("valid"),
        max_lifetime: Duration::from_secs(3600),
        leeway: Duration::from_secs(5),
        several_audiences: false,
    }
}

/// What a verifier that holds the current state says, when the holder of certificate `thumbprint` shows `token`.
fn judge(stage: &Stage, token: &str, thumbprint: u8, now: Timestamp) -> Result<VerifiedToken, Rejection> {
    judge_over(stage, token, &PeerCertificate::from([thumbprint; 32]), now)
}

fn judge_over(
    stage: &Stage,
    token: &str,
    certificate: &PeerCertificate,
    now: Timestamp,
) -> Result<VerifiedToken, Rejection> {
    let books = stage.opened.ledger.books();
    let view = TrustView::current(&books.trust);
    let presentation = Presentation {
        peer_certificate: Some(certificate),
        requirements: &Requirements::default(),
    };
    verify(
        token.as_bytes(),
        Ok(view),
        &expectations(stage),
        &presentation,
        now,
    )
}

/// I-21: every token passes the strict verifier.
#[tokio::test]
async fn a_client_with_a_certificate_gets_a_token_that_is_bound_to_it() {
    let stage = Stage::new().await;
    furnished(&stage).await;
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let issued = issued.expect("issues").into_inner();
    assert_eq!(
        (
            issued.token_type.as_str(),
            issued.expires_in,
            issued.audience.as_str()
        ),
        ("Bearer", 900, "shop")
    );
    assert_eq!(issued.scopes, ["read"]);
    let now = stage.bench.clock.now();
    let verified = judge(&stage, &issued.access_token, 1, now).expect("verifies");
    let claims = verified.claims();
    assert_eq!(claims.issuer, "https://auth.example.org");
    assert_eq!(claims.subject.to_string(), "client:example.org/orders");
    assert_eq!(claims.audiences, ["shop"]);
    assert_eq!((claims.issued_at, claims.not_before), (now, Some(now)));
    assert_eq!(claims.expires_at.since(now), Duration::from_secs(900));
    assert_eq!(claims.token_id.as_str(), format!("{:x}.0", stage.opened.shard));
    let bound = Confirmation::Certificate(CertificateThumbprint::new([1; 32]));
    assert_eq!(claims.confirmation, bound);
    // T85: nobody else can use it.
    assert_eq!(
        judge(&stage, &issued.access_token, 2, now).err(),
        Some(Rejection::CnfMismatch)
    );
}

/// What it gets with one certificate is good over its next one, and over no other workload's.
#[tokio::test]
async fn a_client_that_is_bound_to_its_spiffe_id_gets_a_token_that_outlives_its_certificate() {
    let stage = Stage::new().await;
    let registration = Registration {
        binding: TokenBinding::SpiffeId,
        ..registration(Some("orders"))
    };
    let created = stage
        .opened
        .ledger
        .create_client(client_id("orders"), registration, false);
    created.await.expect("creates");
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let token = issued.expect("issues").into_inner().access_token;
    let now = stage.bench.clock.now();
    let certificate = |number: u8, path: &str| PeerCertificate {
        spiffe_id: Some(spiffe_id(path)),
        ..PeerCertificate::from([number; 32])
    };
    for number in [1, 2] {
        let over = judge_over(&stage, &token, &certificate(number, "orders"), now);
        let bound = over.expect("verifies").claims().confirmation.clone();
        assert_eq!(bound, Confirmation::SpiffeId(spiffe_id("orders")));
    }
    let over_another = judge_over(&stage, &token, &certificate(1, "billing"), now);
    assert_eq!(over_another.err(), Some(Rejection::CnfMismatch));
}

/// With a secret, or with a certificate that is registered by its thumbprint: it is told that it has to come otherwise.
#[tokio::test]
async fn a_client_that_is_bound_to_its_spiffe_id_gets_no_token_without_it() {
    let stage = Stage::new().await;
    let registration = Registration {
        binding: TokenBinding::SpiffeId,
        thumbprints: vec![CertificateThumbprint::new([77; 32])],
        ..registration(Some("orders"))
    };
    let created = stage
        .opened
        .ledger
        .create_client(client_id("orders"), registration, true);
    let secret = created.await.expect("creates").answer.1.expect("asked for");
    let by_secret = IssueTokenRequest {
        client_id: "orders".to_owned(),
        client_secret: secret.secret.expose().to_owned(),
        ..ask()
    };
    for (spiffe_id, thumbprint, request) in [
        (Some(NOBODY), 1, by_secret.clone()),
        // Its own certificate does not make up for it: it did not authenticate with that.
        (Some(ORDERS), 1, by_secret),
        (None, 77, ask()),
        (Some("spiffe://elsewhere.org/orders"), 77, ask()),
    ] {
        let connection = stage.connect_as(peer(spiffe_id, thumbprint, START * 2)).await;
        let refused = TokenServiceClient::new(connection).issue_token(request).await;
        let told = (Code::Unauthenticated, "SPIFFE_ID_REQUIRED".to_owned());
        assert_eq!(refusal(refused), told, "{spiffe_id:?}");
    }
}

#[tokio::test]
async fn a_client_with_a_secret_gets_a_token_that_is_not_bound_by_fields_or_by_basic() {
    let stage = Stage::new().await;
    let secret = furnished(&stage).await;
    let mut tokens = stage.tokens(NOBODY).await;
    let by_fields = IssueTokenRequest {
        client_id: "billing".to_owned(),
        client_secret: secret.clone(),
        ..ask()
    };
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("billing:{secret}"));
    let mut by_basic = Request::new(ask());
    let header = format!("Basic {basic}").parse().expect("ASCII");
    by_basic.metadata_mut().insert("authorization", header);
    let mut ids = BTreeSet::new();
    for request in [Request::new(by_fields), by_basic] {
        let issued = tokens.issue_token(request).await.expect("issues").into_inner();
        let verified =
            judge(&stage, &issued.access_token, 9, stage.bench.clock.now()).expect("verifies for anybody");
        assert_eq!(verified.claims().confirmation, Confirmation::Unbound);
        assert!(ids.insert(verified.claims().token_id.clone()), "I-22");
    }
}

/// I-22: not even over a restart.
#[tokio::test]
async fn token_identifiers_are_never_given_twice() {
    let bench = Bench::new();
    let (mut ids, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let stage = Stage::with(Setting {
            bench: bench.clone(),
            ..Setting::default()
        })
        .await;
        if ids.is_empty() {
            furnished(&stage).await;
        }
        let mut tokens = stage.tokens(ORDERS).await;
        for _ in 0..2 {
            let issued = tokens.issue_token(ask()).await.expect("issues").into_inner();
            let verified = judge(&stage, &issued.access_token, 1, bench.clock.now()).expect("verifies");
            ids.push(verified.claims().token_id.as_str().to_owned());
        }
        expected.extend((0..2).map(|sequence| format!("{:x}.{sequence}", stage.opened.shard)));
    }
    assert_eq!(ids, expected);
    assert_ne!(ids[0], ids[2]);
}

/// G34 to G37, G39: nothing partial, nothing unregistered, no wildcards.
#[tokio::test]
async fn what_may_not_be_had_is_refused_whole() {
    let stage = Stage::new().await;
    furnished(&stage).await;
    let mut tokens = stage.tokens(ORDERS).await;
    type Change = fn(&mut IssueTokenRequest);
    let cases: [(Change, &str); 12] = [
        (|r| r.grant_type = "password".to_owned(), "UNSUPPORTED_GRANT_TYPE"),
        (|r| r.grant_type.clear(), "UNSUPPORTED_GRANT_TYPE"),
        (
            |r| r.scopes = vec!["read".to_owned(), "admin".to_owned()],
            "INVALID_SCOPE",
        ),
        (|r| r.scopes = vec![String::new()], "INVALID_SCOPE"),
        (|r| r.scopes = vec!["*".to_owned()], "INVALID_SCOPE"),
        (|r| r.scopes = vec!["read write".to_owned()], "INVALID_SCOPE"),
        (|r| r.audience = "bank".to_owned(), "INVALID_TARGET"),
        (|r| r.audience = "*".to_owned(), "INVALID_TARGET"),
        (|r| r.audience = "shop#x".to_owned(), "INVALID_TARGET"),
        (|r| r.lifetime_seconds = Some(0), "INVALID_REQUEST"),
        (|r| r.lifetime_seconds = Some(-1), "INVALID_REQUEST"),
        (|r| r.lifetime_seconds = Some(i64::MIN), "INVALID_REQUEST"),
    ];
    for (change, expected) in cases {
        let mut request = ask();
        change(&mut request);
        let refused = refusal(tokens.issue_token(request.clone()).await);
        assert_eq!(
            refused,
            (Code::InvalidArgument, expected.to_owned()),
            "{request:?}"
        );
    }
    // Over the ceiling is the ceiling, and said so.
    let long = IssueTokenRequest {
        lifetime_seconds: Some(i64::MAX),
        scopes: vec!["write".to_owned(), "read".to_owned()],
        ..ask()
    };
    let issued = tokens.issue_token(long).await.expect("issues").into_inner();
    assert_eq!(issued.expires_in, 3600);
    assert_eq!(issued.scopes, ["read", "write"]);
}

/// G38, G40: unknown, stopped, deleted, wrong secret, wrong certificate: byte for byte the same answer.
#[tokio::test]
async fn failed_authentications_cannot_be_told_apart() {
    let stage = Stage::new().await;
    let secret = furnished(&stage).await;
    let ledger = &stage.opened.ledger;
    let mut secrets = Vec::new();
    for name in ["stopped", "gone"] {
        let made = ledger
            .create_client(client_id(name), registration(None), true)
            .await;
        let made = made.expect("creates").answer.1.expect("asked for");
        secrets.push(made.secret.expose().to_owned());
    }
    ledger
        .disable_client(client_id("stopped"))
        .await
        .expect("disables");
    ledger.delete_client(client_id("gone")).await.expect("deletes");

    let shown = |client_id: &str, client_secret: &str| IssueTokenRequest {
        client_id: client_id.to_owned(),
        client_secret: client_secret.to_owned(),
        ..ask()
    };
    let mut answers = BTreeSet::new();
    for (spiffe_id, request) in [
        (NOBODY, ask()),
        (NOBODY, shown("orders", "")),
        (NOBODY, shown("unknown", &secret)),
        (NOBODY, shown("billing", "wrong")),
        (NOBODY, shown("stopped", &secrets[0])),
        (NOBODY, shown("gone", &secrets[1])),
        (ORDERS, shown("billing", "")),
        (ORDERS, shown("billing", &secret)),
    ] {
        let mut tokens = stage.tokens(spiffe_id).await;
        let status = tokens.issue_token(request).await.expect_err("is refused");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "INVALID_CLIENT")
        );
        answers.insert((status.message().to_owned(), status.details().to_vec()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing() {
    let stage = Stage::new().await;
    furnished(&stage).await;
    let channel = stage.connect_as(peer(Some(ORDERS), 1, START - 1)).await;
    let mut tokens = TokenServiceClient::new(channel);
    let refused = refusal(tokens.issue_token(ask()).await);
    assert_eq!(refused, (Code::Unauthenticated, "NO_IDENTITY".to_owned()));
}

/// G43: one client's limit is its own, and says when to come back.
#[tokio::test]
async fn a_client_over_its_rate_is_told_when_to_come_back() {
    let stage = Stage::with(Setting {
        tokens: Rate::new(1, 2),
        ..Setting::default()
    })
    .await;
    let secret = furnished(&stage).await;
    let mut tokens = stage.tokens(ORDERS).await;
    for _ in 0..2 {
        tokens.issue_token(ask()).await.expect("issues");
    }
    let status = tokens.issue_token(ask()).await.expect_err("is refused");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "RATE_LIMITED")
    );
    let retry = status.get_details_retry_info().expect("says when").retry_delay;
    assert!(
        retry.is_some_and(|delay| delay <= Duration::from_secs(1)),
        "{retry:?}"
    );
    let other = IssueTokenRequest {
        client_id: "billing".to_owned(),
        client_secret: secret,
        ..ask()
    };
    let mut others = stage.tokens(NOBODY).await;
    others.issue_token(other).await.expect("issues for another");
    stage.bench.clock.advance(Duration::from_secs(1));
    tokens.issue_token(ask()).await.expect("issues again");
}

#[tokio::test]
async fn who_fails_again_and_again_is_not_listened_to() {
    let stage = Stage::new().await;
    let secret = furnished(&stage).await;
    let mut tokens = stage.tokens(NOBODY).await;
    let with = |secret: &str| IssueTokenRequest {
        client_id: "billing".to_owned(),
        client_secret: secret.to_owned(),
        ..ask()
    };
    let mut refused = 0;
    loop {
        let status = tokens.issue_token(with("wrong")).await.expect_err("is refused");
        if status.code() == Code::ResourceExhausted {
            break;
        }
        refused += 1;
        assert!(refused < 100, "ends some time");
    }
    let right = refusal(tokens.issue_token(with(&secret)).await);
    assert_eq!(right.1, "RATE_LIMITED");
    stage.bench.clock.advance(Duration::from_secs(1));
    tokens.issue_token(with(&secret)).await.expect("issues again");
}

/// X08: nothing is signed from ahead of the clock.
#[tokio::test]
async fn a_clock_that_went_back_stops_issuing_until_it_has_caught_up() {
    let stage = Stage::new().await;
    furnished(&stage).await;
    let mut tokens = stage.tokens(ORDERS).await;
    tokens.issue_token(ask()).await.expect("issues");
    stage.bench.clock.set(START - 5);
    let issued = tokens.issue_token(ask()).await.expect("issues within the leeway");
    let now = Timestamp::from_seconds(START);
    let token = issued.into_inner().access_token;
    let verified = judge(&stage, &token, 1, now).expect("verifies");
    assert_eq!(verified.claims().issued_at, now, "`iat` never decreases");
    stage.bench.clock.set(START - 6);
    let refused = tokens.issue_token(ask()).await.expect_err("is refused");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "CLOCK_BEHIND")
    );
    assert!(refused.get_details_retry_info().is_some(), "may be repeated");
    assert_eq!(stage.bench.alarms(Alarm::ClockBehind), 1);
    stage.bench.clock.set(START);
    tokens.issue_token(ask()).await.expect("issues again");
}

/// A token that no verifier would look at is not issued.
#[tokio::test]
async fn a_token_over_the_size_limit_is_refused() {
    let stage = Stage::new().await;
    let mut large = registration(Some("large"));
    let scopes: Vec<Scope> = (0..128)
        .map(|n| Scope::parse(&format!("{n:0>100}")).expect("valid"))
        .collect();
    large.grants = vec![Grant {
        audience: Audience::parse("shop").expect("valid"),
        scopes: scopes.clone(),
        default_scopes: scopes,
    }];
    let ledger = &stage.opened.ledger;
    ledger
        .create_client(client_id("large"), large, false)
        .await
        .expect("creates");
    let mut tokens = stage.tokens("spiffe://example.org/large").await;
    assert_eq!(refusal(tokens.issue_token(ask()).await).1, "INVALID_SCOPE");
}

/// A client whose tokens were revoked this very second is not given one that is born revoked: it waits for the next second.
#[tokio::test(start_paused = true)]
async fn no_token_is_born_revoked() {
    let clock = TimerClock::starting_at(Timestamp::from_seconds(START));
    let stage = Stage::with(Setting {
        clock: Some(Arc::new(clock.clone())),
        ..Setting::default()
    })
    .await;
    furnished(&stage).await;
    let mut tokens = stage.tokens(ORDERS).await;
    let before = tokens.issue_token(ask()).await.expect("issues").into_inner();
    stage
        .opened
        .ledger
        .revoke_client(client_id("orders"))
        .await
        .expect("revokes");
    let revoked_at = clock.now();
    let after = tokens.issue_token(ask()).await.expect("issues").into_inner();
    let refused = judge(&stage, &before.access_token, 1, clock.now());
    assert_eq!(refused.err(), Some(Rejection::ClientRevoked));
    let verified = judge(&stage, &after.access_token, 1, clock.now()).expect("verifies");
    assert!(verified.claims().issued_at > revoked_at);
}

/// A client that is revoked again and again is told to come back, and not that something is wrong with the keys.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_revoked_all_the_time_is_told_to_come_back() {
    let clock = TimerClock::starting_at(Timestamp::from_seconds(START));
    let stage = Stage::with(Setting {
        clock: Some(Arc::new(clock)),
        ..Setting::default()
    })
    .await;
    furnished(&stage).await;
    let ledger = stage.opened.ledger.clone();
    let revoking = tokio::spawn(async move {
        loop {
            ledger.revoke_client(client_id("orders")).await.expect("revokes");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut tokens = stage.tokens(ORDERS).await;
    let refused = tokens.issue_token(ask()).await.expect_err("is refused");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "RATE_LIMITED")
    );
    let wait = refused
        .get_details_retry_info()
        .expect("is told when")
        .retry_delay;
    assert_eq!(wait, Some(Duration::from_secs(1)));
    revoking.abort();
}

/// F38, I-08: whatever a client was issued while it was being stopped, is refused once that is acknowledged.
#[tokio::test(start_paused = true)]
async fn no_token_slips_through_while_its_client_is_being_stopped() {
    let clock = TimerClock::starting_at(Timestamp::from_seconds(START));
    // Commits take longer than the second that a watermark covers.
    let store = SlowStore(MemoryStore::default(), Duration::from_millis(2500));
    let stage = Stage::with(Setting {
        bench: Bench::over(Arc::new(store)),
        clock: Some(Arc::new(clock.clone())),
        ..Setting::default()
    })
    .await;
    furnished(&stage).await;
    let mut tokens = stage.tokens(ORDERS).await;
    let ledger = stage.opened.ledger.clone();
    let stopping = tokio::spawn(async move { ledger.disable_client(client_id("orders")).await });
    let mut issued = Vec::new();
    while !stopping.is_finished() {
        if let Ok(token) = tokens.issue_token(ask()).await {
            issued.push(token.into_inner().access_token);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stopping.await.expect("runs").expect("disables");
    assert_eq!(refusal(tokens.issue_token(ask()).await).1, "INVALID_CLIENT");
    for token in &issued {
        let refused = judge(&stage, token, 1, clock.now());
        assert_eq!(refused.err(), Some(Rejection::ClientRevoked));
    }
}

/// T51: a key signs on until the store has it that another does. What it signs meanwhile is accepted.
#[tokio::test(start_paused = true)]
async fn a_slow_store_spoils_no_token_of_the_key_that_it_retires() {
    let clock = TimerClock::starting_at(Timestamp::from_seconds(START));
    // Over the lead, and within the leeway behind it.
    let store = SlowStore(MemoryStore::default(), Duration::from_secs(6));
    let stage = Stage::with(Setting {
        bench: Bench::over(Arc::new(store)),
        clock: Some(Arc::new(clock.clone())),
        ..Setting::default()
    })
    .await;
    furnished(&stage).await;
    let ledger = stage.opened.ledger.clone();
    ledger.prepare_key(Algorithm::Es256).await.expect("prepares");
    let mut tokens = stage.tokens(ORDERS).await;
    let activating = tokio::spawn(async move { ledger.activate_key(None, in_turn(2)).await });
    let mut issued = Vec::new();
    while !activating.is_finished() || issued.len() < 80 {
        let token = tokens.issue_token(ask()).await.expect("issues");
        issued.push(token.into_inner().access_token);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    activating.await.expect("runs").expect("activates");
    let judged = |token: &String| judge(&stage, token, 1, clock.now());
    let keys: BTreeSet<String> = issued
        .iter()
        .map(|token| judged(token).expect("verifies").key_id().to_string())
        .collect();
    assert_eq!(keys.len(), 2, "one after the other");
}

/// H11: neither the token nor the secret nor what was wrongly shown is in any log line.
#[tokio::test]
async fn nothing_secret_is_logged() {
    let logs = crate::test_util::Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let secret = furnished(&stage).await;
    let mut tokens = stage.tokens(NOBODY).await;
    let with = |client_id: &str, secret: &str| IssueTokenRequest {
        client_id: client_id.to_owned(),
        client_secret: secret.to_owned(),
        ..ask()
    };
    let issued = tokens.issue_token(with("billing", &secret)).await;
    let token = issued.expect("issues").into_inner().access_token;
    for request in [
        with("billing", "canary-wrong-secret"),
        with("canary-wrong-secret\n", "x"),
        with(&token, "x"),
        with("unknown", "canary-wrong-secret"),
    ] {
        tokens.issue_token(request).await.expect_err("is refused");
    }
    let text = logs.text();
    assert_eq!(text.matches("issue_token").count(), 4, "{text}");
    assert!(
        text.contains("secret_wrong") && text.contains("client_unknown"),
        "{text}"
    );
    for canary in ["canary", secret.as_str(), token.as_str()] {
        assert!(!text.contains(canary), "{canary}: {text}");
    }
}
