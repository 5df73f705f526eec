//! Drills across crashes, and in a store that somebody changed.

use countersign_core::drill::{Aborted, Drill, DrillEnd, DrillOutcome};
use countersign_core::jose::Algorithm;
use countersign_core::names::KeyId;
use countersign_wire::status::Failure;

use super::*;
use crate::store::Commit;
use crate::store::drills::PREFIX;
use crate::store::keys::{KEYS, SIGNERS};

fn new_drill() -> NewDrill {
    NewDrill {
        started_by: "spiffe://example.org/operator/anna".to_owned(),
        reason: "quarterly".to_owned(),
    }
}

async fn begin(ledger: &Ledger) -> Drill {
    let begun = ledger.begin_drill(new_drill(), Algorithm::Es256).await;
    begun.expect("begins").answer
}

fn complete() -> DrillEnd {
    DrillEnd {
        outcome: DrillOutcome::Complete,
        at: Timestamp::from_seconds(START),
        measured: None,
        aborted: None,
    }
}

fn aborted() -> Aborted {
    Aborted {
        by: "spiffe://example.org/operator/bert".to_owned(),
        reason: "wrong day".to_owned(),
    }
}

fn is_published(books: &Books, key_id: &KeyId) -> bool {
    books.key_set().find(key_id).is_some()
}

/// The private half of a shadow is nowhere, and the public half makes no difference to anybody who signs or prepares.
#[tokio::test]
async fn a_shadow_is_published_without_a_private_half_and_is_no_prepared_key() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let drill = begin(&ledger).await;
    let books = ledger.books();
    assert!(is_published(&books, &drill.key_id));
    assert!(books.ring.standby().is_none());
    let records = |prefix| read_all(bench.store.as_ref(), prefix);
    assert_eq!(records(KEYS).await.expect("reads").len(), 2);
    assert_eq!(records(SIGNERS).await.expect("reads").len(), 1);
    let again = ledger.begin_drill(new_drill(), Algorithm::Es256).await;
    assert_eq!(refused(again), Failure::DrillRunning);
    assert_eq!(
        refused(ledger.withdraw_shadow(2, None).await),
        Failure::DrillUnknown
    );
    assert_eq!(
        refused(ledger.end_drill(2, complete()).await),
        Failure::DrillUnknown
    );
    let prepared = ledger.prepare_key(Algorithm::Es256).await;
    let prepared = prepared.expect("a shadow is in nobody's way").answer;
    let activated = ledger.activate_key(None, in_turn(0)).await.expect("activates");
    assert_eq!(activated.answer, prepared);
}

/// F01 to F06 for a drill: whatever was done before a crash, the next start takes the shadow out of the set and says that the
/// drill was interrupted, once.
#[tokio::test]
async fn a_crash_at_any_step_ends_the_drill_at_the_next_start() {
    for step in ["published", "withdrawn", "ended"] {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        let drill = begin(&ledger).await;
        if step != "published" {
            ledger.withdraw_shadow(drill.id, None).await.expect("withdraws");
        }
        if step == "ended" {
            ledger.end_drill(drill.id, complete()).await.expect("ends");
        }
        let before = ledger.books();
        drop(ledger);

        let again = bench.open().await.ledger;
        let books = again.books();
        let expected = if step == "ended" {
            (DrillOutcome::Complete, before.trust.epoch())
        } else {
            (DrillOutcome::Interrupted, before.trust.epoch() + 1)
        };
        let found = books.drills.find(drill.id).expect("is recorded");
        let outcome = found.end.as_ref().expect("has ended").outcome;
        assert_eq!((outcome, books.trust.epoch()), expected, "{step}");
        assert_eq!(found.withdrawn.is_some(), step != "published");
        assert!(!is_published(&books, &drill.key_id), "{step}");
        assert_eq!(books.ring.keys().len(), 1);
        let third = bench.open().await.ledger;
        assert_eq!(third.books().trust.epoch(), books.trust.epoch(), "{step}: once");
        assert_eq!(begin(&third).await.id, 2, "{step}: another one can begin");
    }
}

/// The next start has ended it already; and what an operator has ended stays so.
#[tokio::test]
async fn a_drill_is_aborted_by_an_operator_or_interrupted_by_a_crash_and_never_both() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let lost = begin(&ledger).await;
    drop(ledger);
    let ledger = bench.open().await.ledger;
    for named in [None, Some(lost.id)] {
        let aborted = ledger.abort_drill(named, aborted()).await;
        assert_eq!(refused(aborted), Failure::DrillNotRunning);
    }
    let running = begin(&ledger).await;
    let done = ledger.abort_drill(Some(running.id), aborted()).await;
    let ended = done.expect("is aborted").answer;
    let epoch = ledger.books().trust.epoch();
    // Whoever carries it out comes too late.
    for late in [
        ledger.withdraw_shadow(running.id, None).await,
        ledger.end_drill(running.id, complete()).await,
    ] {
        assert_eq!(late.expect("finds it ended").answer, ended);
    }
    drop(ledger);
    let books = bench.open().await.ledger.books();
    assert_eq!(books.trust.epoch(), epoch, "nothing was left to do");
    assert_eq!(books.drills.find(running.id).map(AsRef::as_ref), Some(&ended));
    let outcome = |id| books.drills.find(id).and_then(|drill| drill.end.clone());
    let outcome = |id| outcome(id).map(|end| (end.outcome, end.aborted));
    assert_eq!(outcome(1), Some((DrillOutcome::Interrupted, None)));
    assert_eq!(outcome(2), Some((DrillOutcome::Aborted, Some(aborted()))));
}

/// F27: whether a commit in doubt was made or not, no shadow is left behind.
#[tokio::test]
async fn a_commit_in_doubt_leaves_no_shadow_behind() {
    for fault in [Fault::Before, Fault::After] {
        for commits in 0..3 {
            let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
            let bench = Bench::over(Arc::<FaultyStore>::clone(&store));
            let ledger = bench.open().await.ledger;
            store.fail_commit(commits, fault);
            store.fail_reads(false);
            let begun = ledger.begin_drill(new_drill(), Algorithm::Es256).await;
            if begun.is_ok() && ledger.withdraw_shadow(1, None).await.is_ok() {
                let _either_way = ledger.end_drill(1, complete()).await;
            }
            drop(ledger);
            let books = bench.open().await.ledger.books();
            assert_eq!(books.ring.keys().len(), 1, "{commits} {fault:?}");
            assert!(books.drills.running().is_none());
        }
    }
}

/// A start that cannot end the drill does not begin to issue: the next one does both.
#[tokio::test]
async fn a_crash_while_a_drill_is_being_ended_is_ended_by_the_next_start() {
    for fault in [Fault::Before, Fault::After] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
        let bench = Bench::over(Arc::<FaultyStore>::clone(&store));
        begin(&bench.open().await.ledger).await;
        store.fail_commit(0, fault);
        open(bench.opening()).await.expect_err("the store fails");
        let books = bench.open().await.ledger.books();
        assert_eq!(
            (books.ring.keys().len(), books.trust.epoch()),
            (1, 3),
            "{fault:?}"
        );
        assert!(books.drills.running().is_none());
    }
}

/// D10: a record of a drill that is missing, changed or brought back is found at start.
#[tokio::test]
async fn the_history_cannot_be_changed_behind_the_authoritys_back() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let running = begin(&ledger).await;
    let records = || read_all(bench.store.as_ref(), PREFIX);
    let earlier = records().await.expect("reads").remove(0);
    ledger.withdraw_shadow(running.id, None).await.expect("withdraws");
    ledger.end_drill(running.id, complete()).await.expect("ends");
    ledger.close().await;
    let whole = records().await.expect("reads").remove(0);
    let later = String::from_utf8(whole.value.clone()).expect("text");
    let changed = later.replace("quarterly", "whatever!").into_bytes();
    assert_ne!(changed, whole.value);
    for value in [None, Some(changed), Some(earlier.value)] {
        let mut commit = Commit::default();
        match value {
            Some(value) => commit.put(whole.name.clone(), value),
            None => commit.delete(whole.name.clone()),
        }
        bench.store.commit(commit).await.expect("tampers");
        let error = open(bench.opening()).await.expect_err("is found");
        assert!(matches!(error, StartError::DrillsMismatch), "{error:?}");
    }
    let mut commit = Commit::default();
    commit.put(whole.name, whole.value);
    bench.store.commit(commit).await.expect("mends");
    bench.open().await;
}
