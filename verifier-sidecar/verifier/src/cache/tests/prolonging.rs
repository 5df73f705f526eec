//! What is revoked already and is revoked for longer, on disk.

use countersign_core::Timestamp;
use countersign_core::names::{CertificateThumbprint, ClientId};
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::trust;

use super::*;
use crate::sync::scripted::revocation;

fn subjects() -> [RevokedSubject; 3] {
    [
        revocation("1.1").subject,
        RevokedSubject::Client(ClientId::parse("orders").unwrap()),
        RevokedSubject::Certificate(CertificateThumbprint::new([7; 32])),
    ]
}

/// Every one of [`subjects`], until so long after the beginning.
fn until(seconds: u64) -> trust::Change {
    let revoked = subjects().map(|subject| Revocation {
        subject,
        issued_before: Timestamp::from_seconds(START),
        expires_at: Timestamp::from_seconds(START + seconds),
    });
    trust::Change {
        revoked: revoked.into(),
        ..trust::Change::default()
    }
}

/// Everything that ends before so long after the beginning is dropped.
fn pruned(seconds: u64) -> trust::Change {
    trust::Change {
        prune_before: Some(Timestamp::from_seconds(START + seconds)),
        ..trust::Change::default()
    }
}

async fn save(desk: &mut Desk, change: trust::Change) {
    let opened = desk.open().await;
    let delta = desk.authority.publish(change);
    let saved = opened
        .cache
        .save_delta(&delta, desk.reached(), &desk.publishers)
        .await;
    assert!(saved.durable);
    assert!(opened.cache.close().await);
}

/// How many of [`subjects`] are revoked after a restart.
async fn held(desk: &Desk) -> usize {
    let opened = desk.open().await;
    let state = trust(&opened).0;
    assert_eq!(state.digest(), desk.authority.state.digest());
    let held = |subject: &RevokedSubject| state.revocations().find(subject).is_some();
    let held = subjects().iter().filter(|subject| held(subject)).count();
    assert_eq!(state.revocations().len(), 42 + held);
    assert!(opened.cache.close().await);
    held
}

/// I-09, I-11: over restarts after every step, from the log and from a snapshot, a revocation lives until its later end.
#[tokio::test]
async fn what_was_revoked_for_longer_is_held_for_longer_after_a_restart() {
    for from_snapshot in [false, true] {
        let mut desk = Desk::filled().await;
        save(&mut desk, until(300)).await;
        save(&mut desk, until(900)).await;
        if from_snapshot {
            let opened = desk.open().await;
            assert!(desk.save_snapshot(&opened.cache).await.durable);
            assert!(opened.cache.close().await);
        }
        for (time, expected) in [(301, 3), (900, 3), (901, 0)] {
            // Nothing is dropped that could matter by the clock here.
            desk.clock.set_millis((START + time + 60) * 1000);
            save(&mut desk, pruned(time)).await;
            assert_eq!(
                held(&desk).await,
                expected,
                "at {time}, snapshot: {from_snapshot}"
            );
        }
    }
}
