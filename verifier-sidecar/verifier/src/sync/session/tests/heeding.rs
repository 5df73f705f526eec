//! What is taken back by updates that cannot be taken over.

use countersign_core::claims::Claims;
use countersign_core::key_set::KeySet;
use countersign_core::{Rejection, Timestamp};
use countersign_proto::trust::v1 as wire;
use prost::Message as _;

use countersign_core::publishers::FIRST_GENERATION;

use super::*;

/// The claims of a token that lives for as long as any.
fn token(token_id: &str) -> Claims {
    let (issued, expires) = (START, START + 3600);
    let payload = format!(
        r#"{{"iss":"https://auth.example.com","sub":"client:td/orders","aud":"b","client_id":"orders",
        "exp":{expires},"iat":{issued},"jti":"{token_id}"}}"#,
    );
    Claims::read(payload.as_bytes()).unwrap()
}

impl Stage {
    /// What the list that is decided on says about a token.
    fn revoked(&self, token_id: &str) -> bool {
        let current = self.trust.current();
        let view = current.view(self.clock.elapsed()).unwrap();
        view.state.revocations().check(&token(token_id)) == Err(Rejection::TokenRevoked)
    }

    fn set_aside(&self, reason: &'static str) -> u64 {
        let counted = &self.metrics.revocations_set_aside;
        counted
            .get_or_create(&super::super::super::Reason { reason })
            .get()
    }

    /// `delta` with its first revocation spoiled, signed by the authority all the same.
    fn spoiled(&self, delta: &Signed, spoil: impl FnOnce(&mut wire::Revocation)) -> Signed {
        let mut update = wire::EpochUpdate::decode(delta.payload.as_ref()).unwrap();
        let revocations = match update.content.as_mut().unwrap() {
            wire::epoch_update::Content::Delta(delta) => &mut delta.revoked,
            wire::epoch_update::Content::Snapshot(snapshot) => &mut snapshot.revocations,
        };
        spoil(&mut revocations[0]);
        self.authority.sign(Context::Update, update.encode_to_vec())
    }
}

type Spoil = fn(&mut wire::Revocation);

const DECADE: i64 = 10 * 365 * 86_400;

/// K22: an entry that is none, or that claims to matter for ten years, is refused and counted; the others are heeded at
/// once; a snapshot is asked for.
#[test]
fn a_malformed_revocation_does_not_keep_the_others_out() {
    let spoils: [(&str, Spoil); 4] = [
        ("malformed", |entry| {
            entry.subject = Some(wire::revocation::Subject::TokenId("a b".to_owned()));
        }),
        ("malformed", |entry| entry.subject = None),
        ("malformed", |entry| entry.expires_at = -1),
        ("overlong", |entry| entry.expires_at += DECADE),
    ];
    for (reason, spoil) in spoils {
        let mut stage = Stage::in_force();
        let delta = stage.authority.revoke_many("t", 3);
        let spoiled = stage.spoiled(&delta, spoil);
        assert_eq!(nacks(&stage.update(spoiled)), [(2, "revocation_malformed", true)]);
        assert!(stage.revoked("t1") && stage.revoked("t2"), "{reason}");
        assert!(!stage.revoked("u1"));
        assert_eq!(stage.set_aside(reason), 1);
        assert_eq!(stage.trust.epoch(), 1, "what cannot be confirmed is not in force");
        assert_eq!(stage.trust.status().revocations, 0);
        assert_eq!(stage.saved.len(), 1);
        // The token is refused although its entry claims too much.
        assert_eq!(stage.revoked("t0"), reason == "overlong");
    }
}

/// K22: an authority that goes on listing what is no revocation is asked for snapshots ever more rarely. Its later
/// revocations are heeded, nothing confirms the state in force, and at the end of the budget nothing is decided. Once it
/// is mended, so is the verifier.
#[test]
fn a_revocation_that_stays_malformed_ends_closed_and_not_in_a_loop() {
    let spoil = |entry: &mut wire::Revocation| entry.subject = None;
    let mut stage = Stage::in_force();
    let first = stage.authority.revoke("t");
    let first = stage.spoiled(&first, spoil);
    stage.update(first);
    let later = stage.authority.revoke("u");
    assert_eq!(acks(&stage.update(later)), []);
    assert!(stage.revoked("u"), "a revocation behind the gap is not lost");

    let (mut asked, begin) = (1, stage.clock.elapsed());
    while stage.trust.status().decides() {
        if nacks(&stage.pong()).iter().any(|(_, _, resync)| *resync) {
            asked += 1;
            let snapshot = stage.authority.snapshot();
            let snapshot = stage.spoiled(&snapshot, spoil);
            stage.update(snapshot);
        }
    }
    let lasted = stage.clock.elapsed() - begin;
    assert!(lasted <= LEASE + REFUSE_AFTER, "{lasted:?}");
    assert!((3..12).contains(&asked), "{asked}");
    assert!(stage.revoked("u"));

    let snapshot = stage.authority.snapshot();
    stage.update(snapshot);
    stage.pong();
    assert!(stage.is_current() && stage.trust.status().decides());
    assert!(stage.revoked("t") && stage.revoked("u"));
}

/// K19, K22: what was heeded outlives states that do not have it yet, and a state that never gets it; not its own expiry.
#[test]
fn what_was_heeded_is_kept_until_a_state_has_it_or_it_has_expired() {
    let mut stage = Stage::in_force();
    let missed = stage.authority.revoke("a");
    let ahead = stage.authority.revoke("b");
    stage.update(ahead.clone());
    assert!(stage.revoked("b") && !stage.revoked("a"));
    stage.update(missed);
    assert_eq!(stage.trust.epoch(), 2);
    assert!(stage.revoked("b"), "epoch 2 does not have it");
    stage.update(ahead);
    assert_eq!(stage.trust.status().revocations, 2);
    assert!(stage.revoked("b"));

    // Heard of once, and in no state ever after.
    let spoiled = stage.authority.revoke_many("t", 2);
    let spoiled = stage.spoiled(&spoiled, |entry| entry.subject = None);
    stage.update(spoiled);
    stage.authority.state = stage.trust.snapshot().in_force().unwrap().state.clone();
    for name in ["c", "d"] {
        let delta = stage.authority.revoke(name);
        stage.update(delta);
        assert!(stage.is_current());
        assert!(stage.revoked("t1"));
    }
    stage.clock.advance(3661 * SECOND);
    let delta = stage.authority.revoke("e");
    stage.update(delta);
    assert!(!stage.revoked("t1"), "no token that it names is valid any more");
}

/// T52 over a gap: the compromise of a key is heeded, and nothing else of the set that tells of it.
#[test]
fn a_compromised_key_is_withdrawn_though_its_update_cannot_be_taken_over() {
    let mut stage = Stage::in_force();
    stage.authority.revoke("lost");
    let one = stage.authority.state.keys().keys()[0].clone();
    let mut compromised = one.clone();
    compromised.times.compromised_at = Some(Timestamp::from_seconds(START));
    let two = key_set("two").keys()[0].clone();
    let delta = stage.authority.publish(Change {
        key_set: Some(Arc::new(KeySet::new(vec![compromised, two.clone()]))),
        ..Change::default()
    });
    assert_eq!(nacks(&stage.update(delta)), [(3, "update_base", true)]);
    let current = stage.trust.current();
    let view = current.view(stage.clock.elapsed()).unwrap();
    let found = view.state.keys().find(one.jwk.key_id()).unwrap();
    assert!(found.times.compromised_at.is_some());
    assert!(view.state.keys().find(two.jwk.key_id()).is_none());
}

/// Only what is signed, ours and later is heeded, and nothing of an authority that contradicts itself.
#[test]
fn nothing_is_heeded_of_what_is_refused_for_good() {
    let mut stage = Stage::in_force();
    stage.authority.revoke("lost");
    let delta = stage.authority.revoke("t");
    let mut damaged = delta.clone();
    damaged.payload = flipped(&delta.payload, 10);
    stage.update(damaged);
    let foreign = ScriptedAuthority::new().sign(Context::Update, delta.payload.clone());
    stage.update(foreign);
    let mut of_another = stage.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(stage.authority.state.keys()),
        revocations: [revocation("t")].into(),
        publishers: FIRST_GENERATION,
    });
    of_another.issuer = countersign_core::names::Issuer::parse("https://other.example.com").unwrap();
    let of_another = stage.authority.sign_update(&of_another);
    stage.update(of_another);
    let mut impossible = stage.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(stage.authority.state.keys()),
        revocations: [revocation("t")].into(),
        publishers: FIRST_GENERATION,
    });
    impossible.epoch = u64::MAX;
    let impossible = stage.authority.sign_update(&impossible);
    stage.update(impossible);
    assert!(!stage.revoked("t"));
    stage.update(delta);
    assert!(stage.revoked("t"));
}

/// K25: a revocation whose token has expired on the way is counted and decides nothing; the epoch goes on, and the digest
/// stays the authority's until it drops the entry.
#[test]
fn a_revocation_that_came_too_late_is_counted() {
    let mut stage = Stage::in_force();
    let delta = stage.authority.revoke("late");
    stage.clock.advance(3661 * SECOND);
    assert_eq!(acks(&stage.update(delta)), [(2, true)]);
    assert_eq!(stage.set_aside("expired"), 1);
    assert!(stage.is_current());
    let prune = stage.authority.publish(Change {
        prune_before: Some(Timestamp::from_seconds(START + 3601)),
        ..Change::default()
    });
    stage.update(prune);
    assert!(stage.is_current());
    assert_eq!(stage.trust.status().revocations, 0);
}

/// Memory is bounded for what is heeded, too.
#[test]
fn no_more_is_heeded_than_may_be_held() {
    let clock = TestClock::new();
    let mut rules = crate::sync::scripted::rules();
    rules.max_revocations = 10;
    let trust = Arc::new(TrustStore::new(
        rules,
        Arc::default(),
        Arc::<TestClock>::clone(&clock),
    ));
    let mut stage = Stage::with(clock, trust, ScriptedAuthority::new(), Beginning::default());
    let snapshot = stage.authority.snapshot();
    stage.update(snapshot);
    stage.authority.revoke("lost");
    let many = stage.authority.revoke_many("t", 100);
    stage.update(many);
    let heeded = (0..100).filter(|n| stage.revoked(&format!("t{n}"))).count();
    assert_eq!(heeded, 10);
}
