//! Clocks that were wrong, and what an operator does about the time that they left behind.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::KeyState;
use countersign_core::revocation::RevokedSubject;

use super::*;
use crate::test_util::{Bench, Logs, START, client_id, in_turn, registration};

const YEAR: u64 = 365 * 86_400;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// A start by a clock that is ahead signs nothing and commits nothing, so nothing has to wait for it afterwards.
#[tokio::test]
async fn a_start_by_a_clock_that_is_ahead_leaves_no_trace() {
    let bench = Bench::new();
    bench.open().await.ledger.close().await;
    bench.clock.set(START + YEAR);
    bench.open().await.ledger.close().await;
    bench.clock.set(START + 60);
    let ledger = bench.open().await.ledger;
    assert_eq!(ledger.timeline().for_signing(), Ok(at(START + 60)));
    assert_eq!(bench.alarms(Alarm::ClockBehind), 0);
}

/// X08: what was signed is known after a restart, to the minute; what only could have been is not.
#[tokio::test]
async fn the_time_of_signatures_is_kept_over_a_restart() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    bench.clock.set(START + 7200);
    ledger.timeline().can_sign().expect("could sign");
    ledger.keep_time().await.expect("has nothing to keep");
    let revision = bench.store.revision().await.expect("reads");
    assert_eq!(revision, 2, "made and opened");
    ledger.timeline().for_signing().expect("signs");
    ledger.keep_time().await.expect("keeps");
    bench.clock.set(START + 7200 + 59);
    ledger.timeline().for_signing().expect("signs");
    ledger.keep_time().await.expect("has nothing to keep");
    let books = ledger.books();
    assert_eq!((books.committed_at, books.trust.epoch()), (at(START + 7200), 1));
    assert_eq!(bench.store.revision().await.expect("reads"), revision + 1);
    ledger.close().await;
    bench.clock.set(START + 10);
    let ledger = bench.open().await.ledger;
    assert!(ledger.timeline().for_signing().is_err());
}

fn certificate() -> RevokedSubject {
    RevokedSubject::Certificate(CertificateThumbprint::new([7; 32]))
}

/// An authority whose clock was a year ahead while it rotated, revoked and committed. Its last change was at the time given.
async fn after_a_year_ahead(bench: &Bench) -> u64 {
    let ledger = bench.open().await.ledger;
    for name in ["orders", "billing"] {
        ledger
            .create_client(client_id(name), registration(None), false)
            .await
            .expect("creates");
    }
    ledger.revoke_client(client_id("billing")).await.expect("revokes");
    bench.clock.set(START + YEAR);
    ledger.prepare_key(Algorithm::Es256).await.expect("prepares");
    ledger.activate_key(None, in_turn(2)).await.expect("activates");
    ledger.revoke_client(client_id("billing")).await.expect("revokes");
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    ledger.revoke_all_of(certificate()).await.expect("revokes");
    ledger.close().await;
    START + YEAR
}

/// X08: nothing is signed, also after restarts, and the way out is told.
#[tokio::test]
async fn a_change_by_a_clock_that_is_ahead_stops_signing_and_says_how_to_go_on() {
    let bench = Bench::new();
    let ahead = after_a_year_ahead(&bench).await;
    bench.clock.set(START + 60);
    for wrong in [None, Some(at(ahead - 1)), Some(at(START + 60))] {
        let mut opening = bench.opening();
        opening.accepted_time = wrong;
        let logs = Logs::default();
        let captured = logs.capture();
        let ledger = open(opening).await.expect("opens").ledger;
        drop(captured);
        assert!(
            logs.text().contains(&format!("--accept-clock {ahead}")),
            "{}",
            logs.text()
        );
        assert!(ledger.timeline().for_signing().is_err(), "{wrong:?}");
        assert!(
            ledger
                .books()
                .ring
                .keys()
                .iter()
                .all(|key| key.times().compromised_at.is_none())
        );
    }
}

/// X08, I-11: the operator's override goes on at once, in an audited step, and no token of before is accepted after it.
#[tokio::test]
async fn an_accepted_clock_signs_again_and_un_revokes_nothing() {
    let bench = Bench::new();
    let ahead = after_a_year_ahead(&bench).await;
    let now = START + 60;
    bench.clock.set(now);
    let mut opening = bench.opening();
    opening.accepted_time = Some(at(ahead));
    let logs = Logs::default();
    let captured = logs.capture();
    let ledger = open(opening.clone()).await.expect("opens").ledger;
    drop(captured);
    let audited = |line: &&str| line.contains("accept_clock") && line.contains(&ahead.to_string());
    assert_eq!(logs.text().lines().filter(audited).count(), 1, "{}", logs.text());

    assert_eq!(ledger.timeline().for_signing(), Ok(at(now)));
    let books = ledger.books();
    let signing = books.ring.signing(at(now)).expect("signs").key_id().clone();
    for key in books.ring.keys() {
        let fate = if *key.key_id() == signing {
            KeyState::Active
        } else {
            KeyState::Compromised
        };
        for time in [now, ahead, ahead + 10] {
            assert_eq!(key.times().state(at(time)), fate);
        }
    }
    // Verifiers take the list, and find nothing un-revoked in it.
    assert_eq!(books.trust.epoch(), 8);
    let list = books.trust.revocations();
    let mut others = list.iter().filter(|entry| entry.subject != certificate());
    assert!(others.all(|entry| entry.expires_at <= at(now + 3600 + 5 + 900 + 300)));
    let certificate = list.find(&certificate());
    let times = certificate.map(|entry| (entry.issued_before, entry.expires_at));
    assert_eq!(times, Some((at(now), at(now + 24 * 3600))));
    let billing = list.find(&RevokedSubject::Client(client_id("billing")));
    assert_eq!(billing.map(|entry| entry.issued_before), Some(at(now)));
    assert_eq!(list.len(), 3);

    // What has no keys left is dropped when the time of any token is over.
    ledger.close().await;
    bench.clock.advance(Duration::from_secs(3606));
    let again = open(opening).await.expect("opens").ledger;
    assert_eq!(again.books().trust.digest(), books.trust.digest(), "once");
    for key in books.ring.keys().iter().filter(|key| *key.key_id() != signing) {
        let dropped = again.drop_key(key.key_id().clone(), Duration::from_secs(3605));
        dropped.await.expect("is gone");
    }
}

/// A token of one opening never has the name of a token of another, also when a backup was restored in between.
#[tokio::test]
async fn a_restored_backup_gives_out_other_identifiers() {
    let bench = Bench::new();
    bench.open().await.ledger.close().await;
    let backup = read_all(bench.store.as_ref(), "").await.expect("reads");
    let first = bench.open().await.shard;
    let mut restored = Bench::new();
    let mut commit = store::Commit::default();
    for record in backup {
        commit.put(record.name, record.value);
    }
    restored.store.commit(commit).await.expect("restores");
    restored.clock = Arc::clone(&bench.clock);
    let second = restored.open().await.shard;
    assert_eq!(first >> 32, second >> 32);
    assert_ne!(first, second);
}
