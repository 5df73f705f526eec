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

mod clocks;
mod drills;
mod keys;
mod prolonging;
mod publishing;
mod recovering;
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

/// F38, I-08: the client is stopped and its tokens are revoked in one commit and one epoch.
#[tokio::test]
async fn disabling_a_client_revokes_its_tokens_in_the_same_step() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    let revision = bench.store.revision().await.expect("reads");
    let done = ledger.disable_client(id.clone()).await.expect("disables");
    assert_eq!(bench.store.revision().await.expect("reads"), revision + 1);
    assert_eq!(done.books.trust.epoch(), 2);
    assert!(done.books.clients.find("orders").expect("is there").disabled);
    let entry = done
        .books
        .trust
        .revocations()
        .find(&RevokedSubject::Client(id.clone()))
        .expect("is revoked");
    assert_eq!(entry.issued_before.as_seconds(), START);
    assert_eq!(entry.expires_at.as_seconds(), START + 3600 + 5 + 900);

    ledger.enable_client(id.clone()).await.expect("enables");
    let books = ledger.books();
    assert!(!books.clients.find("orders").expect("is there").disabled);
    assert_eq!(books.trust.revocations().len(), 1, "nothing is un-revoked");
    ledger.enable_client(id).await.expect("does nothing");
    assert_eq!(books.trust.epoch(), 2);
}

#[tokio::test]
async fn a_deleted_client_leaves_its_identifier_taken_and_its_certificate_free() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("orders");
    let create = |name: &str| ledger.create_client(client_id(name), registration(Some("orders")), false);
    create("orders").await.expect("creates");
    assert_eq!(refused(create("orders").await), Failure::ClientExists);
    assert_eq!(refused(create("other").await), Failure::IdentityTaken);
    ledger.delete_client(id.clone()).await.expect("deletes");
    assert_eq!(refused(create("orders").await), Failure::ClientExists);
    assert_eq!(
        refused(ledger.delete_client(id.clone()).await),
        Failure::ClientUnknown
    );
    assert_eq!(
        refused(ledger.enable_client(id.clone()).await),
        Failure::ClientUnknown
    );
    assert_eq!(refused(ledger.add_secret(id).await), Failure::ClientUnknown);
    create("other").await.expect("the certificate is free");
    assert_eq!(ledger.books().clients.after(None).count(), 1);
}

#[tokio::test]
async fn secrets_overlap_by_two_at_most() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("billing");
    let (_, first) = ledger
        .create_client(id.clone(), registration(None), true)
        .await
        .expect("creates")
        .answer;
    let first = first.expect("asked for");
    let (second, _) = ledger.add_secret(id.clone()).await.expect("adds").answer;
    assert_eq!(
        refused(ledger.add_secret(id.clone()).await),
        Failure::TooManySecrets
    );
    let valid = |secret: &NewSecret| {
        let books = ledger.books();
        let client = books.clients.find("billing").expect("is there");
        let hashes: Vec<[u8; 32]> = client.secrets.iter().map(|secret| secret.hash).collect();
        ledger
            .hasher()
            .matches(secret.secret.expose().as_bytes(), &hashes)
    };
    assert!(valid(&first) && valid(&second));
    ledger
        .retire_secret(id.clone(), first.secret_id.clone())
        .await
        .expect("retires");
    assert!(!valid(&first) && valid(&second));
    let again = ledger.retire_secret(id, first.secret_id.clone()).await;
    assert_eq!(refused(again), Failure::SecretUnknown);
}

#[tokio::test]
async fn an_update_from_an_old_version_loses() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    let update = |version| ledger.update_client(id.clone(), version, registration(Some("orders")));
    assert_eq!(update(1).await.expect("updates").answer.version, 2);
    assert_eq!(refused(update(1).await), Failure::VersionMoved);
    assert_eq!(ledger.books().trust.epoch(), 1, "verifiers need not hear of it");
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
    for n in 0..24 {
        ledger
            .disable_client(client_id(&format!("c{n}")))
            .await
            .expect("there is room for clients");
    }
    let one_more = ledger.revoke_client(client_id("c24")).await;
    assert_eq!(refused(one_more), Failure::LimitReached);
    let now = ledger.timeline().now();
    ledger
        .revoke_everything(now)
        .await
        .expect("there is room for one");
    assert_eq!(ledger.books().trust.revocations().len(), 100);
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

#[tokio::test]
async fn revoking_twice_is_no_error_and_no_epoch() {
    let ledger = Bench::new().open().await.ledger;
    let first = ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    assert_eq!((first.answer, first.books.trust.epoch()), (Revoked::Now, 2));
    let second = ledger.revoke_token_id(token("1.1")).await.expect("is done");
    assert_eq!((second.answer, second.books.trust.epoch()), (Revoked::Already, 2));
    let unknown = ledger.revoke_client(client_id("nobody")).await;
    assert_eq!(refused(unknown), Failure::ClientUnknown);
    let now = ledger.timeline().now();
    let later = now.saturating_add(Duration::from_secs(100));
    let all = ledger.revoke_everything(later).await.expect("revokes");
    let entry = all.books.trust.revocations().find(&RevokedSubject::Everything);
    assert_eq!(entry.map(|entry| entry.issued_before), Some(now), "never ahead");
}

/// I-11: an entry is forgotten only when its time has come, also by a clock that is a minute behind, and pruning makes an
/// epoch only then.
#[tokio::test]
async fn pruning_forgets_what_has_expired_and_nothing_else() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    bench.clock.advance(EXPIRY_STEP);
    ledger.revoke_token_id(token("1.2")).await.expect("revokes");
    let books = ledger.books();
    let first = books
        .trust
        .revocations()
        .find(&RevokedSubject::Token(token("1.1")));
    let ends = first.expect("is revoked").expires_at;
    assert!(
        ends.as_seconds() >= START + 3600 + 5 + 900,
        "not before its tokens have ended"
    );
    bench.clock.set(ends.as_seconds() + 60);
    assert_eq!(ledger.prune(10).await.expect("prunes").answer, 0);
    assert_eq!(ledger.books().trust.epoch(), 3);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(ledger.prune(10).await.expect("prunes").answer, 1);
    let books = ledger.books();
    assert_eq!(books.trust.epoch(), 4);
    let kept: Vec<_> = books
        .trust
        .revocations()
        .iter()
        .map(|entry| entry.subject)
        .collect();
    assert_eq!(kept, [RevokedSubject::Token(token("1.2"))]);
    let left = read_all(bench.store.as_ref(), revocations::PREFIX).await;
    assert_eq!(left.expect("reads").len(), 1, "nor is it in the store");
    bench.open().await;
}

/// I-11, X08: a clock that was ahead for a moment leaves time ahead, and shortens the life of no revocation.
#[tokio::test]
async fn a_step_of_the_clock_that_was_taken_back_un_revokes_nothing() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    bench.clock.set(START + 7200);
    ledger.timeline().now();
    bench.clock.set(START);
    assert_eq!(ledger.timeline().now().as_seconds(), START + 7200);
    assert_eq!(ledger.prune(10).await.expect("prunes").answer, 0);
    assert_eq!(ledger.books().trust.revocations().len(), 1);
    // Nor does it make a token expired that is not.
    let living = claims("1.2", START + 1800);
    let done = ledger.revoke_token(&living).await.expect("revokes");
    assert_eq!(done.answer, Revoked::Now);
}

/// D10, I-13: every kind is there again after a restart; and a token that is revoked for longer is moved, not kept twice.
#[tokio::test]
async fn every_kind_of_revocation_survives_a_restart() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let brief = claims("1.1", START + 60);
    ledger.revoke_token(&brief).await.expect("revokes");
    ledger
        .revoke_token(&claims("1.100001", START + 60))
        .await
        .expect("revokes, in another chunk");
    let longer = claims("1.1", START + 1800);
    ledger.revoke_token(&longer).await.expect("revokes for longer");
    let trust_domain = ledger.policy().trust_domain.clone();
    let long = format!("client:{trust_domain}/{}", "c".repeat(64));
    let subjects = [
        RevokedSubject::Subject(Subject::parse(&long).expect("a subject")),
        RevokedSubject::Audience(Audience::parse(&"a/b".repeat(85)).expect("an audience")),
        RevokedSubject::Certificate(CertificateThumbprint::new([7; 32])),
    ];
    for subject in subjects {
        let done = ledger.revoke_all_of(subject.clone()).await.expect("revokes");
        assert_eq!(done.answer, Revoked::Now, "{subject:?}");
        let again = ledger.revoke_all_of(subject).await.expect("is done");
        assert_eq!(again.answer, Revoked::Already);
    }
    let now = ledger.timeline().now();
    ledger.revoke_everything(now).await.expect("revokes");
    let books = ledger.books();
    ledger.close().await;
    let records = read_all(bench.store.as_ref(), revocations::PREFIX).await;
    assert_eq!(records.expect("reads").len(), 6, "two chunks and four others");
    let again = bench.open().await.ledger.books();
    assert_eq!(again.trust.digest(), books.trust.digest());
    let held: Vec<_> = again.trust.revocations().iter().collect();
    assert_eq!(held, books.trust.revocations().iter().collect::<Vec<_>>());
    assert_eq!(held.len(), 6);
}

/// F35: a record for each chunk, not for each token.
#[tokio::test]
async fn many_tokens_are_few_records() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    for n in 0..50 {
        ledger
            .revoke_token_id(token(&format!("1.{n:x}")))
            .await
            .expect("revokes");
    }
    let records = read_all(bench.store.as_ref(), revocations::PREFIX)
        .await
        .expect("reads");
    assert_eq!(records.len(), 1);
    assert_eq!(bench.open().await.ledger.books().trust.revocations().len(), 50);
}

#[tokio::test]
async fn a_lot_of_expired_revocations_is_forgotten_in_slices() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    for n in 0..10 {
        ledger
            .revoke_token_id(token(&format!("1.{n}")))
            .await
            .expect("revokes");
        bench.clock.advance(EXPIRY_STEP);
    }
    bench.clock.advance(Duration::from_secs(10_000));
    let mut slices = Vec::new();
    while let n @ 1.. = ledger.prune(4).await.expect("prunes").answer {
        slices.push(n);
    }
    assert_eq!(slices, [4, 4, 2]);
    assert!(ledger.books().trust.revocations().is_empty());
}

/// F27: the answer to a commit was lost. What the store has decides, and the caller is told the truth.
#[tokio::test]
async fn a_commit_in_doubt_is_settled_by_what_the_store_has() {
    for (fault, made) in [(Fault::After, true), (Fault::Before, false)] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
        let bench = Bench::over(Arc::<FaultyStore>::clone(&store));
        let ledger = bench.open().await.ledger;
        store.fail_commit(0, fault);
        let result = ledger.revoke_token_id(token("1.1")).await;
        assert_eq!(result.is_ok(), made, "{fault:?}");
        assert_eq!(ledger.books().trust.revocations().len(), usize::from(made));
        ledger.revoke_token_id(token("1.2")).await.expect("goes on");
        let digest = *ledger.books().trust.digest();
        assert_eq!(bench.open().await.ledger.books().trust.digest(), &digest);
    }
}

/// F27, F54: while nobody knows, nothing is decided, and the client concerned gets no token.
#[tokio::test]
async fn while_a_commit_is_in_doubt_nothing_else_is_committed() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let bench = Bench::over(Arc::<FaultyStore>::clone(&store));
    let ledger = bench.open().await.ledger;
    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    store.fail_commit(0, Fault::After);
    store.fail_reads(true);
    let result = ledger.disable_client(id.clone()).await;
    assert!(matches!(
        result,
        Err(LedgerError::Store(StoreError::Unavailable(_)))
    ));
    assert_eq!(ledger.books().hold, held(&id), "its tokens wait");
    assert!(ledger.revoke_token_id(token("1.1")).await.is_err());
    assert_eq!(ledger.books().trust.epoch(), 1);
    assert_eq!(bench.alarms(Alarm::CommitInDoubt), 1);

    store.fail_reads(false);
    ledger.revoke_token_id(token("1.1")).await.expect("goes on");
    let books = ledger.books();
    assert!(books.clients.find("orders").expect("is there").disabled);
    assert_eq!((books.trust.epoch(), &books.hold), (3, &Hold::Nobody));
}

/// F27: nobody has to change anything for a client to be let go.
#[tokio::test]
async fn a_client_in_doubt_is_let_go_when_the_store_is_back() {
    for (fault, disabled) in [(Fault::After, true), (Fault::Before, false)] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
        let bench = Bench::over(Arc::<FaultyStore>::clone(&store));
        let ledger = bench.open().await.ledger;
        let id = client_id("orders");
        ledger
            .create_client(id.clone(), registration(None), false)
            .await
            .expect("creates");
        store.fail_commit(0, fault);
        store.fail_reads(true);
        ledger.disable_client(id.clone()).await.expect_err("is in doubt");
        ledger.settle().await.expect_err("nobody knows");
        assert_eq!(ledger.books().hold, held(&id));
        store.fail_reads(false);
        ledger.settle().await.expect("settles");
        let books = ledger.books();
        assert_eq!(books.hold, Hold::Nobody);
        assert_eq!(books.clients.find("orders").expect("is there").disabled, disabled);
    }
}

/// I-02: whoever does not hold the head writes nothing.
#[tokio::test]
async fn a_second_writer_loses_and_is_told() {
    let bench = Bench::new();
    let first = bench.open().await.ledger;
    let second = bench.open().await.ledger;
    let result = first.revoke_token_id(token("1.1")).await;
    assert!(matches!(result, Err(LedgerError::Store(StoreError::Conflict))));
    assert_eq!(first.books().trust.epoch(), 1);
    second.revoke_token_id(token("1.1")).await.expect("revokes");
    assert_eq!(bench.alarms(Alarm::StoreContested), 1);
}

#[tokio::test]
async fn a_mutation_whose_caller_has_gone_is_finished() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    {
        // G30: polled once, then dropped.
        let mutation = std::pin::pin!(ledger.revoke_token_id(token("1.1")));
        assert!(futures_util::poll!(mutation).is_pending());
    }
    ledger.close().await;
    assert_eq!(ledger.books().trust.epoch(), 2);
    let refused_now = ledger.revoke_token_id(token("1.2")).await;
    assert_eq!(refused(refused_now), Failure::StoreUnavailable);
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
