//! Commits of which nobody knows, writers that are not alone, and callers that are gone.

use super::*;

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
