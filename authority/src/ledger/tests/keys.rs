//! The life of keys.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::KeyState;
use countersign_wire::status::Failure;

use super::*;
use crate::test_util::{Bench, START, in_turn};

fn states(books: &Books, now: u64) -> Vec<KeyState> {
    let now = Timestamp::from_seconds(now);
    let keys = books.ring.keys().iter();
    keys.map(|key| key.times().state(now)).collect()
}

/// I-02: the old key signs until the new one does, and there is one signer at any moment.
#[tokio::test]
async fn activation_hands_over_at_one_moment() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let prepared = ledger
        .prepare_key(Algorithm::Es256)
        .await
        .expect("prepares")
        .answer;
    assert_eq!(
        refused(ledger.prepare_key(Algorithm::Es256).await),
        Failure::KeyAlreadyPrepared
    );
    let done = ledger.activate_key(None, in_turn(2)).await.expect("activates");
    assert_eq!(done.answer, prepared);
    use KeyState::{Active, Prepared, Retired};
    assert_eq!(states(&done.books, START + 1), [Active, Prepared]);
    assert_eq!(states(&done.books, START + 2), [Retired, Active]);
    let again = ledger.activate_key(Some(prepared.clone()), in_turn(0)).await;
    assert_eq!(refused(again), Failure::KeyNotPrepared);
    assert_eq!(
        refused(ledger.retire_key(prepared.clone()).await),
        Failure::KeyNotRetirable
    );
    let retention = Duration::from_secs(3605);
    let old = done.books.ring.keys()[0].key_id().clone();
    bench.clock.advance(Duration::from_secs(2 + 3604));
    assert_eq!(
        refused(ledger.drop_key(old.clone(), retention).await),
        Failure::KeyNotRetirable
    );
    bench.clock.advance(Duration::from_secs(1));
    ledger.drop_key(old, retention).await.expect("drops");
    assert_eq!(
        read_all(bench.store.as_ref(), "signers/")
            .await
            .expect("reads")
            .len(),
        1,
        "the private half goes too"
    );
}

/// F13, I-05: the compromised key is out at once, and something signs at once.
#[tokio::test]
async fn after_a_compromise_the_standby_signs_at_once_or_a_new_key() {
    let ledger = Bench::new().open().await.ledger;
    let first = ledger.books().ring.keys()[0].key_id().clone();
    let compromise = |key| ledger.compromise_key(key, Algorithm::Es256);
    let done = compromise(first.clone()).await.expect("compromises");
    let second = done.answer.signing.expect("a new key signs");
    assert_ne!(second, first);
    use KeyState::{Active, Compromised};
    assert_eq!(states(&done.books, START), [Compromised, Active]);
    assert_eq!(refused(compromise(first).await), Failure::KeyCompromised);

    let third = ledger
        .prepare_key(Algorithm::Es256)
        .await
        .expect("prepares")
        .answer;
    let done = compromise(second).await.expect("compromises");
    assert_eq!(done.answer.signing, Some(third));
    assert_eq!(states(&done.books, START), [Compromised, Compromised, Active]);
}

#[tokio::test]
async fn a_compromise_between_announcement_and_activation_leaves_a_signer() {
    // The signing key is compromised while its successor is announced: the successor signs at once.
    let ledger = Bench::new().open().await.ledger;
    let first = ledger.books().ring.keys()[0].key_id().clone();
    let second = ledger
        .prepare_key(Algorithm::Es256)
        .await
        .expect("prepares")
        .answer;

    ledger.activate_key(None, in_turn(10)).await.expect("activates");
    let done = ledger
        .compromise_key(first, Algorithm::Es256)
        .await
        .expect("compromises");
    assert_eq!(done.answer.signing, Some(second.clone()));

    // The announced successor is compromised: the old key signs until then, and another from then on.
    let third = ledger
        .prepare_key(Algorithm::Es256)
        .await
        .expect("prepares")
        .answer;
    ledger.activate_key(None, in_turn(10)).await.expect("activates");
    let done = ledger
        .compromise_key(third, Algorithm::Es256)
        .await
        .expect("compromises");
    assert_eq!(done.answer.signing, Some(second));
    use KeyState::{Active, Compromised, Prepared, Retired};
    assert_eq!(
        states(&done.books, START),
        [Compromised, Active, Compromised, Prepared]
    );
    assert_eq!(
        states(&done.books, START + 10),
        [Compromised, Retired, Compromised, Active]
    );
}
