//! K11 to K25 on the pure core: what an update may do to the trust in force.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::{ClientId, Issuer, TokenId};
use countersign_core::revocation::{EXPIRY_STEP, Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{
    Applied, Change, Epoch, MAX_EPOCH_STEP, TrustState, Update, UpdateContent, UpdateRefused, UpdateRules,
};
use countersign_core::{Rejection, Timestamp};
use countersign_crypto::AwsLc;
use countersign_vectors::{Method, Peer, Role, Setting, cases};

fn setting() -> Setting {
    Setting::at(Timestamp::from_seconds(1_800_000_000))
}

fn rules(setting: &Setting) -> UpdateRules {
    UpdateRules {
        issuer: setting.issuer.clone(),
        max_revocations: 10,
        max_revocation_life: Duration::from_secs(3600 + 900),
        leeway: setting.leeway,
    }
}

/// The trust in force in these tests: the setting's, at epoch 5.
fn in_force(setting: &Setting) -> TrustState {
    setting.trust_state_at(5)
}

fn apply(setting: &Setting, current: Option<&TrustState>, update: &Update) -> Result<Applied, UpdateRefused> {
    let floor = current.map_or(0, TrustState::epoch);
    rules(setting).apply(current, floor, update, setting.now, &AwsLc)
}

fn advanced(answer: Result<Applied, UpdateRefused>) -> TrustState {
    match answer {
        Ok(Applied::Advanced(state)) => state,
        other => panic!("not advanced: {other:?}"),
    }
}

fn refused(answer: Result<Applied, UpdateRefused>) -> UpdateRefused {
    answer.expect_err("refused")
}

/// The honest delta that makes `change` to `base`.
fn delta(setting: &Setting, base: &TrustState, change: Change) -> Update {
    let next = base.next(&change, &AwsLc);
    Update {
        issuer: setting.issuer.clone(),
        epoch: next.epoch(),
        state_digest: *next.digest(),
        published_at: setting.now,
        content: UpdateContent::Delta {
            base_epoch: base.epoch(),
            base_digest: *base.digest(),
            change,
        },
    }
}

fn revoking(name: &str, expires_at: Timestamp) -> Change {
    Change {
        revoked: [Revocation {
            subject: RevokedSubject::Token(TokenId::parse(name).expect("a token id")),
            issued_before: Timestamp::default(),
            expires_at,
        }]
        .into(),
        ..Change::default()
    }
}

/// The honest snapshot of a state.
fn snapshot_of(setting: &Setting, state: &TrustState) -> Update {
    Update {
        issuer: setting.issuer.clone(),
        epoch: state.epoch(),
        state_digest: *state.digest(),
        published_at: setting.now,
        content: UpdateContent::Snapshot {
            key_set: Arc::new(KeySet::new(state.keys().keys().to_vec())),
            revocations: state.revocations().clone(),
            publishers: state.publishers(),
        },
    }
}

#[test]
fn an_honest_snapshot_and_delta_are_taken_over() {
    let setting = setting();
    let state = advanced(apply(&setting, None, &setting.snapshot(5)));
    assert_eq!(state.digest(), in_force(&setting).digest());
    let next = advanced(apply(
        &setting,
        Some(&state),
        &delta(&setting, &state, revoking("a.1", setting.after(60))),
    ));
    assert_eq!(next.epoch(), 6);
    assert_eq!(next.revocations().len(), setting.revocations().len() + 1);
}

#[test]
fn an_update_of_another_issuer_is_refused() {
    let setting = setting();
    let mut update = setting.snapshot(5);
    update.issuer = Issuer::parse("https://other.example.com").expect("an issuer");
    assert_eq!(refused(apply(&setting, None, &update)), UpdateRefused::Issuer);
}

/// K11: a set replaces the one before: a key that is not in it is gone at once.
#[test]
fn a_new_key_set_drops_what_it_does_not_name() {
    let setting = setting();
    let state = in_force(&setting);
    let keys = state.keys().keys().iter();
    let without_active = keys
        .filter(|key| key.jwk.key_id() != setting.key(Role::Active).key_id())
        .cloned();
    let change = Change {
        key_set: Some(Arc::new(KeySet::new(without_active.collect()))),
        ..Change::default()
    };
    let next = advanced(apply(&setting, Some(&state), &delta(&setting, &state, change)));
    let requirements = Method::Plain.requirements(&setting);
    let presented = countersign_core::verifying::Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let decide = |state: &TrustState| {
        let token = setting.good_token();
        let view = setting.view(state);
        countersign_core::verifying::verify(
            token.as_bytes(),
            Ok(view),
            &setting.expectations(),
            &presented,
            setting.now,
        )
        .map(|_| ())
    };
    assert_eq!(decide(&state), Ok(()));
    assert_eq!(decide(&next), Err(Rejection::KidUnknown));
}

/// K12: what is older is ignored, also when only the high-water mark on disk remembers (a restored cache).
#[test]
fn nothing_steps_back() {
    let setting = setting();
    let state = in_force(&setting);
    for epoch in [0, 1, 4] {
        let update = setting.snapshot(epoch);
        assert_eq!(
            refused(apply(&setting, Some(&state), &update)),
            UpdateRefused::Regressed,
            "{epoch}"
        );
    }
    let below_the_mark = rules(&setting).apply(None, 6, &setting.snapshot(5), setting.now, &AwsLc);
    assert_eq!(refused(below_the_mark), UpdateRefused::Regressed);
    let at_the_mark = rules(&setting).apply(None, 5, &setting.snapshot(5), setting.now, &AwsLc);
    assert_eq!(advanced(at_the_mark).epoch(), 5);
}

/// K13: the same epoch with other content is a fork.
#[test]
fn the_same_epoch_with_another_digest_is_a_fork() {
    let setting = setting();
    let state = in_force(&setting);
    let same = apply(&setting, Some(&state), &setting.snapshot(5));
    assert!(matches!(same, Ok(Applied::Confirmed)), "{same:?}");
    let older = setting.trust_state_at(4);
    let other = delta(&setting, &older, revoking("a.1", setting.after(60)));
    assert_eq!(other.epoch, 5);
    assert_eq!(
        refused(apply(&setting, Some(&state), &other)),
        UpdateRefused::Fork
    );
}

/// K14: a jump to an impossible epoch is refused, and leaves the mark where it was.
#[test]
fn a_jump_beyond_all_bounds_is_refused() {
    let setting = setting();
    let state = in_force(&setting);
    for epoch in [5 + MAX_EPOCH_STEP + 1, 1 << 63, Epoch::MAX] {
        let update = setting.snapshot(epoch);
        assert_eq!(
            refused(apply(&setting, Some(&state), &update)),
            UpdateRefused::Jump,
            "{epoch}"
        );
        assert_eq!(
            refused(apply(&setting, None, &update)),
            UpdateRefused::Jump,
            "{epoch}"
        );
    }
    let farthest = setting.snapshot(5 + MAX_EPOCH_STEP);
    assert_eq!(
        advanced(apply(&setting, Some(&state), &farthest)).epoch(),
        5 + MAX_EPOCH_STEP
    );
    assert_eq!(
        advanced(apply(&setting, Some(&state), &setting.snapshot(6))).epoch(),
        6
    );
}

/// K14: a jump is measured from the highest epoch that was ever in force. A verifier that starts with no state, or with an
/// older one, goes on from there, and its mark is as hard to push up as that of any other.
#[test]
fn a_jump_is_measured_from_the_high_water_mark() {
    let setting = setting();
    let state = in_force(&setting);
    let mark = 5 + 2 * MAX_EPOCH_STEP;
    for current in [None, Some(&state)] {
        let apply = |epoch: Epoch| {
            let update = setting.snapshot(epoch);
            rules(&setting).apply(current, mark, &update, setting.now, &AwsLc)
        };
        assert_eq!(advanced(apply(mark + 1)).epoch(), mark + 1);
        assert_eq!(
            advanced(apply(mark + MAX_EPOCH_STEP)).epoch(),
            mark + MAX_EPOCH_STEP
        );
        assert_eq!(refused(apply(mark + MAX_EPOCH_STEP + 1)), UpdateRefused::Jump);
    }
}

/// K18: a delta to a state that is not in force asks for a snapshot.
#[test]
fn a_delta_of_an_unknown_base_asks_for_a_snapshot() {
    let setting = setting();
    let state = in_force(&setting);
    let elsewhere = state.next(&revoking("a.1", setting.after(60)), &AwsLc);
    let update = delta(&setting, &elsewhere, revoking("a.2", setting.after(60)));
    let refusal = refused(apply(&setting, Some(&state), &update));
    assert_eq!(refusal, UpdateRefused::Base);
    assert!(refusal.wants_snapshot());
    assert_eq!(refused(apply(&setting, None, &update)), UpdateRefused::Base);
}

/// K19: the same delta twice is confirmed; one that came too early is refused until the one before it came.
#[test]
fn deltas_are_idempotent_and_ordered() {
    let setting = setting();
    let state = in_force(&setting);
    let first = delta(&setting, &state, revoking("a.1", setting.after(60)));
    let after_first = state.next(&revoking("a.1", setting.after(60)), &AwsLc);
    let second = delta(&setting, &after_first, revoking("a.2", setting.after(60)));
    assert_eq!(
        refused(apply(&setting, Some(&state), &second)),
        UpdateRefused::Base
    );
    let state = advanced(apply(&setting, Some(&state), &first));
    assert!(matches!(
        apply(&setting, Some(&state), &first),
        Ok(Applied::Confirmed)
    ));
    let state = advanced(apply(&setting, Some(&state), &second));
    assert_eq!(
        refused(apply(&setting, Some(&state), &first)),
        UpdateRefused::Regressed
    );
    assert_eq!(state.revocations().len(), setting.revocations().len() + 2);
}

/// A state that is not what the update says it is: the digest tells, and a snapshot is asked for.
#[test]
fn a_wrong_digest_is_refused() {
    let setting = setting();
    let state = in_force(&setting);
    let mut update = delta(&setting, &state, revoking("a.1", setting.after(60)));
    update.state_digest = [7; 32];
    let refusal = refused(apply(&setting, Some(&state), &update));
    assert_eq!(refusal, UpdateRefused::Digest);
    assert!(refusal.wants_snapshot());
    let mut snapshot = setting.snapshot(6);
    if let UpdateContent::Snapshot { revocations, .. } = &mut snapshot.content {
        let one_less = revocations.iter().skip(1).collect();
        *revocations = one_less;
    }
    let cold = refused(apply(&setting, None, &snapshot));
    assert_eq!(cold, UpdateRefused::Digest);
}

/// K22: an entry that claims to matter for years is refused, and the trust in force stays.
#[test]
fn a_revocation_that_lives_for_years_is_refused() {
    let setting = setting();
    let state = in_force(&setting);
    let longest = rules(&setting).max_revocation_life + setting.leeway;
    let latest = setting.now.saturating_add(longest);
    // The end of a token's entry is rounded up.
    let rounded = latest.as_seconds().next_multiple_of(EXPIRY_STEP.as_secs());
    let too_late = Timestamp::from_seconds(rounded + 1);
    let ten_years = setting.after(10 * 365 * 86_400);
    for expires_at in [too_late, ten_years, Timestamp::MAX] {
        let update = delta(&setting, &state, revoking("a.1", expires_at));
        assert_eq!(
            refused(apply(&setting, Some(&state), &update)),
            UpdateRefused::Revocation
        );
    }
    let update = delta(&setting, &state, revoking("a.1", latest));
    assert_eq!(advanced(apply(&setting, Some(&state), &update)).epoch(), 6);
    let unrounded = delta(&setting, &state, revoking("of-another-form", latest));
    assert_eq!(advanced(apply(&setting, Some(&state), &unrounded)).epoch(), 6);
    let later = latest.saturating_add(Duration::from_secs(1));
    let unrounded = delta(&setting, &state, revoking("of-another-form", later));
    assert_eq!(
        refused(apply(&setting, Some(&state), &unrounded)),
        UpdateRefused::Revocation
    );
}

/// A list over its bound is refused as a whole: a part of it would be another list.
#[test]
fn more_revocations_than_are_held_are_refused() {
    let setting = setting();
    let state = in_force(&setting);
    let many = |count: usize| {
        let entries = (0..count).map(|number| revoking(&format!("a.{number}"), setting.after(60)));
        Change {
            revoked: entries
                .flat_map(|change| change.revoked.iter().collect::<Vec<_>>())
                .collect(),
            ..Change::default()
        }
    };
    let room = 10 - setting.revocations().len();
    let fits = delta(&setting, &state, many(room));
    assert_eq!(
        advanced(apply(&setting, Some(&state), &fits)).revocations().len(),
        10
    );
    let too_many = delta(&setting, &state, many(room + 1));
    assert_eq!(
        refused(apply(&setting, Some(&state), &too_many)),
        UpdateRefused::TooLarge
    );
    let snapshot = snapshot_of(&setting, &state.next(&many(room + 1), &AwsLc));
    assert_eq!(refused(apply(&setting, None, &snapshot)), UpdateRefused::TooLarge);
}

/// K24: entries are dropped only when no token that they affect is still valid, by this clock too.
#[test]
fn nothing_is_unrevoked_by_pruning() {
    let setting = setting();
    let state = in_force(&setting);
    let prune = |time: Timestamp| {
        let change = Change {
            prune_before: Some(time),
            ..Change::default()
        };
        delta(&setting, &state, change)
    };
    let latest = setting.now.saturating_add(setting.leeway);
    assert_eq!(
        advanced(apply(&setting, Some(&state), &prune(latest)))
            .revocations()
            .len(),
        state.revocations().len()
    );
    for early in [
        latest.saturating_add(Duration::from_secs(1)),
        setting.after(7200),
        Timestamp::MAX,
    ] {
        assert_eq!(
            refused(apply(&setting, Some(&state), &prune(early))),
            UpdateRefused::Unrevoke
        );
    }
}

/// K24: nor by a snapshot of a restored authority, at however high an epoch. It heals by itself once the entries that it
/// lacks no longer matter.
#[test]
fn nothing_is_unrevoked_by_a_snapshot() {
    let setting = setting();
    let state = in_force(&setting);
    let kept = |revocation: &&Revocation| !matches!(revocation.subject, RevokedSubject::Client(_));
    let list: Vec<Revocation> = setting.revocations().iter().filter(kept).cloned().collect();
    let restored = |revocations: &[Revocation]| {
        let list = revocations.iter().cloned().collect();
        let keys = Arc::new(setting.key_set());
        let state = TrustState::new(setting.issuer.clone(), 100, keys, list, &AwsLc);
        snapshot_of(&setting, &state)
    };
    assert_eq!(
        refused(apply(&setting, Some(&state), &restored(&list))),
        UpdateRefused::Unrevoke
    );
    let lower: Vec<Revocation> = setting
        .revocations()
        .into_iter()
        .map(|entry| Revocation {
            issued_before: entry.issued_before.saturating_sub(Duration::from_secs(1)),
            ..entry
        })
        .collect();
    assert_eq!(
        refused(apply(&setting, Some(&state), &restored(&lower))),
        UpdateRefused::Unrevoke
    );
    let shorter: Vec<Revocation> = setting
        .revocations()
        .into_iter()
        .map(|entry| Revocation {
            expires_at: entry.expires_at.saturating_sub(Duration::from_secs(1)),
            ..entry
        })
        .collect();
    assert_eq!(
        refused(apply(&setting, Some(&state), &restored(&shorter))),
        UpdateRefused::Unrevoke
    );

    let all_ended = setting.now.saturating_add(setting.max_lifetime);
    let healed = rules(&setting).apply(Some(&state), 5, &restored(&list), all_ended, &AwsLc);
    assert_eq!(advanced(healed).epoch(), 100);
}

/// One of the setting's keys, with other times.
fn retimed(setting: &Setting, number: usize, times: KeyTimes) -> PublishedKey {
    PublishedKey {
        times,
        ..setting.key_set().keys().get(number).expect("is there").clone()
    }
}

/// D17, K24: a restored authority lacks revocations; its snapshot is taken over exactly when no token from before can be
/// accepted under its keys.
#[test]
fn an_authority_recovers_by_giving_up_every_key() {
    let setting = setting();
    let compromised = KeyTimes {
        prepared_at: setting.after(-1000),
        active_from: Some(setting.after(-1000)),
        compromised_at: Some(setting.now),
        ..KeyTimes::default()
    };
    let fresh = KeyTimes {
        prepared_at: setting.now,
        active_from: Some(setting.now),
        ..KeyTimes::default()
    };
    let in_use = KeyTimes {
        compromised_at: None,
        ..compromised
    };
    let old = |times| retimed(&setting, 0, times);
    let new = |times| retimed(&setting, 1, times);
    let state = TrustState::new(
        setting.issuer.clone(),
        5,
        Arc::new(KeySet::new(vec![old(in_use)])),
        setting.revocations().into_iter().collect(),
        &AwsLc,
    );
    let outcome = |keys: Vec<PublishedKey>| {
        let keys = Arc::new(KeySet::new(keys));
        let restored = TrustState::new(
            setting.issuer.clone(),
            100,
            keys,
            RevocationList::default(),
            &AwsLc,
        );
        apply(&setting, Some(&state), &snapshot_of(&setting, &restored)).map(|_| ())
    };
    assert_eq!(outcome(vec![old(compromised), new(fresh)]), Ok(()));
    assert_eq!(outcome(vec![new(fresh)]), Ok(()), "the old key is gone");
    let unrevoked = Err(UpdateRefused::Unrevoke);
    assert_eq!(outcome(vec![old(in_use), new(fresh)]), unrevoked);
    // Not even with a time that makes it look new.
    assert_eq!(outcome(vec![old(fresh)]), unrevoked);
    // A key as old as the one given up may have been given up itself and forgotten since.
    assert_eq!(outcome(vec![old(compromised), new(in_use)]), unrevoked);
}

/// K25: a revocation whose token has expired on the way changes no decision, and the epoch goes on.
#[test]
fn a_revocation_that_comes_too_late_still_advances_the_epoch() {
    let setting = setting();
    let state = in_force(&setting);
    let update = delta(&setting, &state, revoking("a.1", setting.after(-600)));
    let next = advanced(apply(&setting, Some(&state), &update));
    assert_eq!(next.epoch(), 6);
    let prune = Change {
        prune_before: Some(setting.now),
        ..Change::default()
    };
    let pruned = advanced(apply(&setting, Some(&next), &delta(&setting, &next, prune)));
    assert_eq!(pruned.revocations().len(), setting.revocations().len());
}

/// Refusing changes nothing: the state is a value, and the one in force is still there. The whole table answers the same
/// after a refused update as before.
#[test]
fn a_refused_update_leaves_every_answer_as_it_was() {
    let setting = setting();
    let state = setting.trust_state();
    let digest = *state.digest();
    assert!(apply(&setting, Some(&state), &setting.snapshot(0)).is_err());
    assert_eq!(state.digest(), &digest);
    let case = cases(&setting)
        .into_iter()
        .find(|case| case.id == "T87" && case.peer == Peer::Any)
        .expect("a revoked token");
    assert_eq!(case.decide(&setting).map(|_| ()), Err(Rejection::TokenRevoked));
}

/// A client's entries and another's do not touch each other.
#[test]
fn a_client_named_like_a_token_is_another_subject() {
    let setting = setting();
    let state = in_force(&setting);
    let change = Change {
        revoked: [Revocation {
            subject: RevokedSubject::Client(ClientId::parse("dead.beef").expect("a client id")),
            issued_before: setting.now,
            expires_at: setting.after(60),
        }]
        .into(),
        ..Change::default()
    };
    let next = advanced(apply(&setting, Some(&state), &delta(&setting, &state, change)));
    assert_eq!(next.revocations().len(), setting.revocations().len() + 1);
}
