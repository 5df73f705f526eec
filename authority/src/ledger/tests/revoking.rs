//! What is taken back, kept and forgotten.

use super::*;

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
