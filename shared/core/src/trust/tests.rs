//! What a snapshot may not take back.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::key_set::KeyTimes;
use crate::test_util::{NOW, ToyHash, after, jwk, key_set};

fn snapshot(epoch: Epoch, times: KeyTimes) -> (TrustState, Update) {
    let issuer = Issuer::parse("https://authority.example").unwrap();
    let keys = Arc::new(key_set(&jwk(1), times));
    let revocations = RevocationList::default();
    let state = TrustState::new(
        issuer.clone(),
        epoch,
        Arc::clone(&keys),
        revocations.clone(),
        &ToyHash,
    );
    let update = Update {
        issuer,
        epoch,
        state_digest: *state.digest(),
        published_at: NOW,
        content: UpdateContent::Snapshot {
            key_set: keys,
            revocations,
            publishers: state.publishers(),
        },
    };
    (state, update)
}

/// F30, I-09: a restored authority that has caught up in numbers does not know that a key was withdrawn.
#[test]
fn a_withdrawn_key_does_not_come_back_with_a_later_snapshot() {
    let good = KeyTimes {
        prepared_at: after(-100),
        active_from: Some(after(-90)),
        ..KeyTimes::default()
    };
    let withdrawn = KeyTimes {
        compromised_at: Some(after(-10)),
        ..good
    };
    let rules = UpdateRules {
        issuer: Issuer::parse("https://authority.example").unwrap(),
        max_revocations: 10,
        max_revocation_life: Duration::from_secs(3600),
        leeway: Duration::from_secs(5),
    };
    let (current, _) = snapshot(4, withdrawn);
    let apply = |times| rules.apply(Some(&current), 4, &snapshot(10, times).1, NOW, &ToyHash);
    assert_eq!(apply(good).unwrap_err(), UpdateRefused::Unrevoke);
    assert!(matches!(apply(withdrawn), Ok(Applied::Advanced(_))));
}
