//! What is revoked already and is revoked again: the record lives until the last token that it can touch has ended.

use super::*;

const LIFE: u64 = 3600 + 5 + 900;

const DAY: u64 = 24 * 3600;

fn entry(ledger: &Ledger, subject: &RevokedSubject) -> Option<(u64, u64)> {
    let books = ledger.books();
    let entry = books.trust.revocations().find(subject)?;
    Some((entry.issued_before.as_seconds(), entry.expires_at.as_seconds()))
}

/// Whether the record of `subject` is there, in the books and after a restart, once everything was pruned that can be by then.
async fn is_kept_at(bench: &Bench, seconds: u64, subject: &RevokedSubject) -> bool {
    bench.clock.set(seconds);
    let ledger = bench.open().await.ledger;
    ledger.prune(100).await.expect("prunes");
    let kept = entry(&ledger, subject).is_some();
    ledger.close().await;
    let again = bench.open().await.ledger;
    assert_eq!(entry(&again, subject).is_some(), kept);
    kept
}

/// I-11, I-12: the second revocation of a client, a subject, an audience or a certificate touches tokens that were issued after
/// the first. It makes an epoch of its own, moves both times of the record, and leaves one record. That of a certificate lives for a
/// day, because it is about tokens that are issued later, too.
#[tokio::test]
async fn a_second_revocation_of_all_of_a_kind_outlives_the_first() {
    let id = client_id("orders");
    let subjects = [
        (RevokedSubject::Client(id.clone()), LIFE),
        (RevokedSubject::Subject(claims("1.1", START).subject), LIFE),
        (
            RevokedSubject::Audience(Audience::parse("shop").expect("an audience")),
            LIFE,
        ),
        (
            RevokedSubject::Certificate(CertificateThumbprint::new([7; 32])),
            DAY,
        ),
    ];
    for (subject, life) in subjects {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        for (revoked_at, epoch) in [(START, 2), (START + 1000, 3)] {
            bench.clock.set(revoked_at);
            let done = ledger.revoke_all_of(subject.clone()).await.expect("revokes");
            assert_eq!((done.answer, done.books.trust.epoch()), (Revoked::Now, epoch));
            assert_eq!(entry(&ledger, &subject), Some((revoked_at, revoked_at + life)));
        }
        ledger.close().await;
        let records = read_all(bench.store.as_ref(), revocations::PREFIX).await;
        assert_eq!(records.expect("reads").len(), 1);
        let between = START + life + 61;
        assert!(is_kept_at(&bench, between, &subject).await, "{subject:?}");
        let last = START + 1000 + life + 60;
        assert!(is_kept_at(&bench, last, &subject).await, "{subject:?}");
        assert!(!is_kept_at(&bench, last + 1, &subject).await, "{subject:?}");
    }
}

/// I-11, I-12: a client that is stopped again after it was let go again, and everything up to a time.
#[tokio::test]
async fn a_client_that_is_stopped_again_is_revoked_for_longer() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let id = client_id("orders");
    let created = ledger.create_client(id.clone(), registration(None), false).await;
    created.expect("creates");
    for stopped_at in [START, START + 1000] {
        bench.clock.set(stopped_at);
        ledger.disable_client(id.clone()).await.expect("disables");
        let subject = RevokedSubject::Client(id.clone());
        assert_eq!(entry(&ledger, &subject), Some((stopped_at, stopped_at + LIFE)));
        ledger.enable_client(id.clone()).await.expect("enables");
        let early = Timestamp::from_seconds(START - 500);
        ledger.revoke_everything(early).await.expect("revokes");
        let held = entry(&ledger, &RevokedSubject::Everything);
        assert_eq!(held, Some((START - 500, stopped_at + LIFE)));
    }
}

/// I-09, I-11: a `jti` may be revoked before its token is issued, by a slip or by a thief who counts. When it is revoked again, the
/// token is one that may end later than the first record does.
#[tokio::test]
async fn a_token_that_is_revoked_again_by_its_identifier_stays_revoked_for_its_whole_life() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let subject = RevokedSubject::Token(token("1.1"));
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    // The token is issued now, for an hour.
    let issued_at = START + LIFE - 60;
    bench.clock.set(issued_at);
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    ledger.close().await;
    let ends = issued_at + 3600;
    assert!(is_kept_at(&bench, ends + 5 + 900, &subject).await);
}

/// Shown whole or named: the second way shortens nothing of the first, and there is one record.
#[tokio::test]
async fn a_token_that_is_revoked_both_ways_is_kept_until_its_end() {
    let ends = START + 3000;
    for by_claims_first in [true, false] {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        let subject = RevokedSubject::Token(token("1.1"));
        for by_claims in [by_claims_first, !by_claims_first] {
            let revoked = if by_claims {
                ledger.revoke_token(&claims("1.1", ends)).await
            } else {
                ledger.revoke_token_id(token("1.1")).await
            };
            revoked.expect("revokes");
        }
        ledger.close().await;
        let records = read_all(bench.store.as_ref(), revocations::PREFIX).await;
        assert_eq!(records.expect("reads").len(), 1, "it is moved, not kept twice");
        let is_kept = is_kept_at(&bench, ends + 5 + 900, &subject).await;
        assert!(is_kept, "{by_claims_first}");
    }
}
