//! Keys follow each other by themselves, and one signs at any moment.

use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;

use super::*;
use crate::test_util::Bench;

fn policy() -> RotationPolicy {
    RotationPolicy {
        lifetime: Some(Duration::from_secs(1000)),
        propagation: Duration::from_secs(100),
        retention: Duration::from_secs(300),
    }
}

async fn rotator(bench: &Bench) -> Rotator {
    Rotator {
        ledger: bench.open().await.ledger,
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

trait RingKeyId {
    fn id(self) -> countersign_core::names::KeyId;
}

impl RingKeyId for &crate::keyring::RingKey {
    fn id(self) -> countersign_core::names::KeyId {
        self.key_id().clone()
    }
}
