//! What is revoked already and is revoked for longer: the entry lives until the last token that it can touch has ended.

use super::*;
use crate::key_set::KeyTimes;
use crate::names::Issuer;
use crate::test_util::{ToyHash, jwk, key_set};
use crate::trust::{Ahead, Change, Descent, TrustState, Update, UpdateContent, UpdateRules};

/// A token that every one of [`kinds`] is about.
fn concerned() -> Claims {
    Claims {
        confirmation: Confirmation::Certificate(CertificateThumbprint::new([1; 32])),
        ..claims("billing", "a.1", 0)
    }
}

fn kinds() -> [RevokedSubject; 6] {
    [
        token("a.1"),
        client("billing"),
        subject("client:td/billing"),
        audience("b"),
        certificate(1),
        RevokedSubject::Everything,
    ]
}

/// I-11, I-12: whatever it is about, and in whatever order the two are heard, the later end holds, and nothing is left of the
/// earlier one.
#[test]
fn an_entry_lives_through_the_later_of_two_ends() {
    for kind in kinds() {
        let [short, long] = [300, 900].map(|ends| entry(kind.clone(), 0, ends));
        assert!(!list(std::slice::from_ref(&short)).covers(&long), "{kind:?}");
        for both in [[short.clone(), long.clone()], [long.clone(), short]] {
            let both = list(&both);
            assert_eq!(both.digest(), list(std::slice::from_ref(&long)).digest());
            for (time, kept) in [(301, true), (900, true), (901, false)] {
                let left = both.pruned(after(time));
                assert_eq!(
                    (left.len(), left.check(&concerned()).is_err()),
                    (usize::from(kept), kept)
                );
            }
        }
    }
}

fn state(revoked: &[Revocation]) -> TrustState {
    let keys = Arc::new(key_set(&jwk(1), KeyTimes::default()));
    let issuer = Issuer::parse("https://authority.example").expect("an issuer");
    TrustState::new(issuer, 1, keys, list(revoked), &ToyHash)
}

/// I-10, I-11: the same told by deltas, the earlier end being pruned on the way.
#[test]
fn a_delta_that_prolongs_is_not_undone_by_the_pruning_of_the_first_end() {
    for kind in kinds() {
        let first = state(&[entry(kind.clone(), 0, 300)]);
        let longer = Change {
            revoked: list(&[entry(kind.clone(), 0, 900)]),
            ..Change::default()
        };
        let pruned = Change {
            prune_before: Some(after(301)),
            ..Change::default()
        };
        let last = first.next(&longer, &ToyHash).next(&pruned, &ToyHash);
        assert!(last.revocations().check(&concerned()).is_err(), "{kind:?}");
        // In one change: what is revoked in it outlives what is pruned in it.
        let together = Change {
            revoked: longer.revoked,
            ..pruned
        };
        let together = first.next(&together, &ToyHash);
        assert!(together.revocations().check(&concerned()).is_err(), "{kind:?}");
        assert_eq!(together.revocations().digest(), last.revocations().digest());
    }
}

/// I-09: a longer end that is heard ahead of the state in force holds, also when that state drops the entry.
#[test]
fn what_is_heard_ahead_prolongs_what_is_in_force() {
    let rules = UpdateRules {
        issuer: state(&[]).issuer().clone(),
        max_revocations: 10,
        max_revocation_life: Duration::from_secs(3600),
        leeway: Duration::from_secs(5),
    };
    for kind in kinds() {
        let current = state(&[entry(kind.clone(), 0, 300)]);
        // It follows on a state that was missed.
        let missed = Update {
            issuer: current.issuer().clone(),
            epoch: 3,
            state_digest: [0; 32],
            published_at: NOW,
            content: UpdateContent::Delta {
                base_epoch: 2,
                base_digest: [0; 32],
                change: Change {
                    revoked: list(&[entry(kind.clone(), 0, 900)]),
                    ..Change::default()
                },
            },
        };
        let mut ahead = Ahead::default();
        assert_eq!(rules.heed(&mut ahead, &current, &missed, &(NOW..=NOW)), 0);
        let pruned = Change {
            prune_before: Some(after(301)),
            ..Change::default()
        };
        let without = current.next(&pruned, &ToyHash);
        assert!(without.revocations().is_empty());
        let left = ahead.past(None, &without, &Descent::default(), after(301));
        let heeded = left.over(&without);
        assert!(heeded.revocations().check(&concerned()).is_err(), "{kind:?}");
        let later = ahead.past(None, &without, &Descent::default(), after(901));
        assert!(later.is_empty());
    }
}
