//! The ledger over a memory store, a failing one, and one that somebody tampered with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::feed::Held;
use countersign_core::jose::Algorithm;
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, TokenId};
use countersign_core::ports::Clock as _;
use countersign_core::revocation::{EXPIRY_STEP, RevokedSubject};
use countersign_core::trust::{Applied, TrustState, UpdateRules};
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::{Context, PinnedKeys};
use countersign_proto::sync::v1::sync_response::Message;
use countersign_wire::status::Failure;
use countersign_wire::trust::read_update;
use futures_util::StreamExt as _;

use super::*;
use crate::store::faulty::{Fault, FaultyStore};
use crate::store::memory::MemoryStore;
use crate::store::{read_all, revocations};
use crate::test_util::{Bench, START, client_id, in_turn, registration, said};

mod clients;
mod clocks;
mod doubt;
mod drills;
mod keys;
mod prolonging;
mod publishing;
mod recovering;
mod revoking;
mod tampering;

fn refused<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> Failure {
    let error = result.expect_err("is refused");
    assert!(matches!(error, LedgerError::Refused(_)), "{error:?}");
    error.failure()
}

fn token(text: &str) -> TokenId {
    TokenId::parse(text).expect("valid")
}

/// What the token `token_id` says, which ends at `expires_at`.
fn held(id: &ClientId) -> Hold {
    Hold::Tokens(RevokedSubject::Client(id.clone()))
}

fn claims(token_id: &str, expires_at: u64) -> Claims {
    Claims {
        issuer: "https://auth.example.org".to_owned(),
        subject: Subject {
            trust_domain: Bench::policy().trust_domain,
            client_id: client_id("orders"),
        },
        audiences: vec!["shop".to_owned()],
        client_id: client_id("orders"),
        expires_at: Timestamp::from_seconds(expires_at),
        issued_at: Timestamp::from_seconds(START),
        not_before: None,
        token_id: token(token_id),
        scopes: Vec::new(),
        roles: Vec::new(),
        confirmation: Confirmation::Unbound,
    }
}

#[tokio::test]
async fn an_empty_store_begins_with_one_key_that_signs_at_epoch_1() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let books = opened.ledger.books();
    assert_eq!((books.trust.epoch(), opened.shard >> 32), (1, 1));
    assert_eq!(books.ring.keys().len(), 1);
    let now = opened.ledger.timeline().now();
    assert!(books.ring.signing(now).is_some_and(|key| key.signer.is_some()));
    let pinned = PinnedKeys::read(opened.publishing_keys.as_bytes(), &AwsLc).expect("a key set");
    assert_eq!(pinned.key_ids().count(), 1);
}

#[tokio::test]
async fn a_restart_keeps_epoch_digest_keys_and_clients_and_takes_a_new_shard() {
    let bench = Bench::new();
    let first = bench.open().await;
    first
        .ledger
        .create_client(client_id("orders"), registration(Some("orders")), true)
        .await
        .expect("creates");
    first
        .ledger
        .prepare_key(Algorithm::EdDsa)
        .await
        .expect("prepares");
    first.ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    let before = first.ledger.books();
    first.ledger.close().await;

    bench.clock.advance(Duration::from_secs(60));
    let second = bench.open().await;
    let after = second.ledger.books();
    assert_eq!(after.trust.epoch(), 3);
    assert_eq!(after.trust.digest(), before.trust.digest());
    assert_eq!(after.clients.find("orders"), before.clients.find("orders"));
    let times = |books: &Books| books.ring.times().iter().cloned().collect::<BTreeMap<_, _>>();
    assert_eq!(times(&after), times(&before));
    assert!(after.ring.keys().iter().all(|key| key.signer.is_some()));
    assert_eq!((first.shard >> 32, second.shard >> 32), (1, 2));
    assert_eq!(second.publishing_keys, first.publishing_keys);
}

#[tokio::test]
async fn limits_hold() {
    let ledger = Bench::new().open().await.ledger;
    for n in 0..50 {
        ledger
            .create_client(client_id(&format!("c{n}")), registration(None), false)
            .await
            .expect("creates");
    }
    let more = ledger
        .create_client(client_id("more"), registration(None), false)
        .await;
    assert_eq!(refused(more), Failure::LimitReached);
    for n in 0..75 {
        ledger
            .revoke_token_id(token(&format!("1.{n}")))
            .await
            .expect("revokes");
    }
    assert_eq!(
        refused(ledger.revoke_token_id(token("2.1")).await),
        Failure::LimitReached
    );
    // Certificates leave room, too: they are kept for longer than anything else.
    let certificate = |n| RevokedSubject::Certificate(CertificateThumbprint::new([n; 32]));
    for n in 0..13 {
        ledger.revoke_all_of(certificate(n)).await.expect("revokes");
    }
    let one_more = ledger.revoke_all_of(certificate(13)).await;
    assert_eq!(refused(one_more), Failure::LimitReached);
    for n in 0..11 {
        ledger
            .disable_client(client_id(&format!("c{n}")))
            .await
            .expect("there is room for clients");
    }
    let one_more = ledger.revoke_client(client_id("c11")).await;
    assert_eq!(refused(one_more), Failure::LimitReached);
    let now = ledger.timeline().now();
    ledger
        .revoke_everything(now)
        .await
        .expect("there is room for one");
    assert_eq!(ledger.books().trust.revocations().len(), 100);
}

/// Of those that are not single tokens, too, certificates leave half to clients.
#[test]
fn certificates_leave_room_for_clients() {
    let policy = LedgerPolicy {
        max_revocations: countersign_wire::MAX_REVOCATIONS,
        ..Bench::policy()
    };
    let until =
        |subject| revocation_plans::until(Timestamp::from_seconds(START), subject, policy.certificate_life);
    let certificate = |n: u16| {
        let mut sha256 = [7; 32];
        sha256[..2].copy_from_slice(&n.to_be_bytes());
        until(RevokedSubject::Certificate(CertificateThumbprint::new(sha256)))
    };
    let mut list: RevocationList = (0..50_000).map(certificate).collect();
    let (one_more, client) = (
        certificate(50_000),
        until(RevokedSubject::Client(client_id("orders"))),
    );
    assert!(policy.has_room(&list, &RevocationList::from([certificate(0)])));
    list.add(one_more.clone());
    assert!(!policy.has_room(&list, &RevocationList::from([one_more])));
    list.add(client.clone());
    assert!(policy.has_room(&list, &RevocationList::from([client])));
}

/// Nor do clients take what is for certificates: only these are counted against those.
#[test]
fn disabled_clients_do_not_stop_anybody_from_revoking_a_certificate() {
    let policy = LedgerPolicy {
        max_revocations: countersign_wire::MAX_REVOCATIONS,
        ..Bench::policy()
    };
    let until =
        |subject| revocation_plans::until(Timestamp::from_seconds(START), subject, policy.certificate_life);
    let client = |n: u32| until(RevokedSubject::Client(client_id(&format!("c{n}"))));
    let certificate = |n| until(RevokedSubject::Certificate(CertificateThumbprint::new([n; 32])));
    let mut list: RevocationList = (0..99_997).map(client).collect();
    for n in 1..=2 {
        list.add(certificate(n));
        assert!(
            policy.has_room(&list, &RevocationList::from([certificate(n)])),
            "{n}"
        );
    }
    // The last place of all is for one that ends everything.
    list.add(certificate(3));
    assert!(!policy.has_room(&list, &RevocationList::from([certificate(3)])));
    let everything = until(RevokedSubject::Everything);
    assert!(policy.has_room(&list, &RevocationList::from([everything])));

    // Also where single tokens have all that they may have.
    let policy = LedgerPolicy {
        max_revocations: 100,
        ..policy
    };
    let tokens = (0..75).map(|n| until(RevokedSubject::Token(token(&format!("1.{n:x}")))));
    let mut list: RevocationList = tokens.chain((0..20).map(client)).collect();
    list.add(certificate(1));
    assert_eq!((list.len(), list.others_len()), (96, 21));
    assert!(policy.has_room(&list, &RevocationList::from([certificate(1)])));
}

/// A limit below what is held refuses more, and nothing else.
#[tokio::test]
async fn a_limit_that_was_lowered_stops_neither_rotation_nor_pruning() {
    let bench = Bench::new();
    let first = bench.open().await.ledger;
    for n in 0..20 {
        first
            .revoke_token_id(token(&format!("1.{n}")))
            .await
            .expect("revokes");
    }
    first.close().await;
    let mut opening = bench.opening();
    opening.policy.max_revocations = 10;
    let ledger = open(opening).await.expect("opens").ledger;
    ledger
        .create_client(client_id("orders"), registration(None), false)
        .await
        .expect("creates");
    ledger.prepare_key(Algorithm::Es256).await.expect("prepares");
    assert_eq!(
        refused(ledger.revoke_token_id(token("2.1")).await),
        Failure::LimitReached
    );
    bench.clock.advance(Duration::from_secs(10_000));
    assert_eq!(ledger.prune(5).await.expect("prunes").answer, 20);
    ledger.revoke_token_id(token("2.1")).await.expect("revokes");
}

/// I-10: a verifier that applies what the feed sends holds the same state, by digest, after every epoch.
#[tokio::test]
async fn deltas_from_the_feed_lead_a_verifier_to_the_same_digest() {
    let bench = Bench::new();
    let Opened {
        ledger,
        feed,
        publishing_keys,
        ..
    } = bench.open().await;
    let pinned = PinnedKeys::read(publishing_keys.as_bytes(), &AwsLc).expect("a key set");
    let mut stream = feed.join(&Held::default()).await.expect("joins").subscription;

    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    ledger.prepare_key(Algorithm::EdDsa).await.expect("prepares");
    ledger.activate_key(None, in_turn(2)).await.expect("activates");
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    ledger.disable_client(id).await.expect("disables");
    let now = ledger.timeline().now();
    ledger.revoke_everything(now).await.expect("revokes");
    bench.clock.advance(Duration::from_secs(10_000));
    ledger.prune(100).await.expect("prunes");

    let rules = UpdateRules {
        issuer: bench.issuer.clone(),
        max_revocations: 1000,
        max_revocation_life: Duration::from_secs(3600 + 5 + 900),
        leeway: Duration::from_secs(5),
    };
    let mut held: Option<TrustState> = None;
    while held.as_ref().map(TrustState::epoch) != Some(ledger.books().trust.epoch()) {
        let message = stream.next().await.expect("more").expect("goes on");
        let Message::Update(signed) = said(&message) else {
            panic!("an update")
        };
        pinned
            .verify(
                &signed.key_id,
                Context::Update,
                &signed.payload,
                &signed.signature,
            )
            .expect("is signed");
        let update = read_update(&signed.payload, &AwsLc).expect("reads");
        // A clock that is behind refuses nothing of it either (K24).
        let now = bench.clock.now().saturating_sub(Duration::from_secs(60));
        match rules
            .apply(held.as_ref(), 0, &update, now, &AwsLc)
            .expect("applies")
        {
            Applied::Advanced(next) => held = Some(next),
            Applied::Confirmed => panic!("nothing is sent twice"),
        }
    }
    let held = held.expect("holds something");
    assert_eq!(held.epoch(), 7);
    assert_eq!(held.digest(), ledger.books().trust.digest());
    assert!(held.revocations().is_empty());
}
