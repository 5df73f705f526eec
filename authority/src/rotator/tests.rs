//! Keys follow each other by themselves, and one signs at any moment.

use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::names::KeyId;

use super::*;
use crate::store::Commit;
use crate::store::keys::{self, SIGNERS};
use crate::test_util::{Bench, Logs, START, in_turn, introduction, verifier_key};

fn policy() -> RotationPolicy {
    RotationPolicy {
        lifetime: Some(Duration::from_secs(1000)),
        propagation: Duration::from_secs(100),
        retention: Duration::from_secs(300),
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

async fn rotator(bench: &Bench) -> Rotator {
    Rotator {
        ledger: bench.open().await.ledger,
        fleet: bench.fleet.clone(),
        policy: policy(),
        keys: KeyPolicy {
            algorithm: Algorithm::Es256,
            activation_lead: Duration::from_secs(2),
        },
        metrics: Arc::clone(&bench.metrics),
    }
}

/// I-01, I-02, I-04: over many rotations something always signs, nothing signs before it was published for long enough,
/// and nothing is dropped while a token of it lives.
#[tokio::test]
async fn keys_follow_each_other_without_a_gap() {
    let bench = Bench::new();
    let rotator = rotator(&bench).await;
    let ledger = rotator.ledger.clone();
    let mut last_signed: std::collections::BTreeMap<_, Timestamp> = std::collections::BTreeMap::new();
    for _ in 0..500 {
        assert_eq!(rotator.catch_up(None).await, None);
        let now = ledger.timeline().now();
        let books = ledger.books();
        let signing = books.ring.signing(now).expect("something signs");
        let times = *signing.times();
        let first = last_signed.is_empty();
        last_signed.insert(signing.key_id().clone(), now);
        let active = times.active_from.expect("is active");
        assert!(
            first || active.since(times.prepared_at) >= policy().propagation || last_signed.len() == 1,
            "published before signing"
        );
        for (key_id, signed) in &last_signed {
            let lives = now.since(*signed) < policy().retention;
            assert!(!lives || books.ring.find(key_id).is_some(), "outlives its tokens");
        }
        assert!(books.ring.keys().len() <= 3);
        bench.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(last_signed.len(), 5, "one each thousand seconds");
}

/// F01 to F06: whatever was done before a crash is taken up after it.
#[tokio::test]
async fn a_restart_between_two_steps_loses_nothing() {
    let bench = Bench::new();
    let first = rotator(&bench).await;
    let old = first.ledger.books().ring.keys()[0].key_id().clone();
    bench.clock.advance(Duration::from_secs(900));
    first.catch_up(None).await;
    let standby = first
        .ledger
        .books()
        .ring
        .standby()
        .expect("is prepared")
        .key_id()
        .clone();
    let second = rotator(&bench).await;
    assert_eq!(second.catch_up(None).await, None);
    bench.clock.advance(Duration::from_secs(100));
    second.catch_up(None).await;
    let third = rotator(&bench).await;
    third.catch_up(None).await;
    bench.clock.advance(third.keys.activation_lead);
    let now = third.ledger.timeline().now();
    let books = third.ledger.books();
    assert_eq!(books.ring.signing(now).map(RingKeyId::id), Some(standby));
    assert!(books.ring.find(&old).is_some());
    bench.clock.advance(Duration::from_secs(300));
    third.catch_up(None).await;
    assert!(third.ledger.books().ring.find(&old).is_none());
}

/// D13: a prepared key whose private half is gone is nobody to wait for, and nor is one that would sign.
#[tokio::test]
async fn keys_without_their_private_half_do_not_hold_up_rotation() {
    let bench = Bench::new();
    let first = rotator(&bench).await.ledger;
    let signing = first.books().ring.keys()[0].key_id().clone();
    let standby = first
        .prepare_key(Algorithm::Es256)
        .await
        .expect("prepares")
        .answer;
    first.close().await;
    lose_private_half(&bench, &standby).await;
    let second = rotator(&bench).await;
    bench.clock.advance(Duration::from_secs(900));
    for _ in 0..102 {
        assert_eq!(second.catch_up(None).await, None);
        bench.clock.advance(Duration::from_secs(1));
    }
    let now = second.ledger.timeline().now();
    let successor = second.ledger.books().ring.signing(now).map(RingKeyId::id);
    assert!(successor.is_some() && successor != Some(standby) && successor != Some(signing));

    second.ledger.close().await;
    lose_private_half(&bench, &successor.expect("signs")).await;
    let third = rotator(&bench).await;
    assert_eq!(third.catch_up(None).await, None);
    bench.clock.advance(third.keys.activation_lead);
    let now = third.ledger.timeline().now();
    assert!(third.ledger.books().ring.signing(now).is_some());
}

async fn lose_private_half(bench: &Bench, key_id: &KeyId) {
    let mut commit = Commit::default();
    commit.put(keys::name(SIGNERS, key_id), b"garbage".to_vec());
    bench.store.commit(commit).await.expect("tampers");
}

/// F11, I-01, I-37: a key signs when every verifier that may decide holds it on disk, or has stopped; unless nothing signs.
#[tokio::test]
async fn a_key_waits_for_who_may_decide_without_it() {
    let bench = Bench::new();
    let rotator = rotator(&bench).await;
    let old = rotator.ledger.books().ring.keys()[0].key_id().clone();
    let far = bench
        .fleet
        .join(verifier_key("far"), introduction("1"), at(START))
        .expect("joins");
    far.acknowledged(1, true, at(START));
    bench.fleet.told(&bench.fleet.to_tell());
    bench.clock.advance(Duration::from_secs(900));
    rotator.catch_up(None).await;
    assert!(rotator.ledger.books().ring.standby().is_some());
    // Granted while the epoch before was current, and cut off then.
    bench.fleet.advance(1);
    assert!(far.grant().is_some());
    bench.fleet.advance(2);
    drop(far);

    let waits = || rotator.ledger.books().ring.standby().is_some();
    bench.clock.advance(Duration::from_secs(500));
    assert_eq!(rotator.catch_up(None).await, None, "that it waits is no failure");
    assert!(waits());
    // Its longest budget is a day.
    bench.clock.advance(Duration::from_secs(24 * 3600 - 500));
    rotator.catch_up(None).await;
    assert!(waits());
    bench.clock.advance(Duration::from_secs(60));
    rotator.catch_up(None).await;
    assert!(!waits(), "it has stopped");

    bench.clock.advance(Duration::from_secs(60));
    let successor = rotator.ledger.books().ring.keys()[1].key_id().clone();
    rotator.ledger.close().await;
    for key_id in [&old, &successor] {
        lose_private_half(&bench, key_id).await;
    }
    let restarted = self::rotator(&bench).await;
    bench
        .fleet
        .join(verifier_key("near"), introduction("2"), at(START))
        .expect("joins");
    restarted.catch_up(None).await;
    bench.clock.advance(restarted.keys.activation_lead);
    let now = restarted.ledger.timeline().now();
    let signing = restarted.ledger.books().ring.signing(now).is_some();
    assert!(signing, "nobody waits when nothing signs");
}

#[tokio::test]
async fn an_operator_who_was_quicker_is_no_failure() {
    let bench = Bench::new();
    let rotator = rotator(&bench).await;
    let key_id = rotator.ledger.prepare_key(Algorithm::Es256).await;
    let key_id = key_id.expect("prepares").answer;
    assert!(rotator.make(&RotationStep::Prepare, false).await);
    let activate = RotationStep::Activate(key_id.clone());
    rotator
        .ledger
        .activate_key(Some(key_id), in_turn(2))
        .await
        .expect("activates");
    let logs = Logs::default();
    let captured = logs.capture();
    assert!(rotator.make(&activate, false).await);
    drop(captured);
    assert_eq!(logs.text(), "", "nothing was done, nothing went wrong");
}

trait RingKeyId {
    fn id(self) -> KeyId;
}

impl RingKeyId for &crate::keyring::RingKey {
    fn id(self) -> KeyId {
        self.key_id().clone()
    }
}
