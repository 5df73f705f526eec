//! Rotation: each step at its boundary, and the invariants whatever happens in whatever order.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::test_util::{NOW, after, jwk};

const POLICY: RotationPolicy = RotationPolicy {
    lifetime: Some(Duration::from_secs(1000)),
    propagation: Duration::from_secs(100),
    retention: Duration::from_secs(300),
};

fn kid(name: u8) -> KeyId {
    jwk(name).key_id().clone()
}

fn prepared(at: i64) -> KeyTimes {
    KeyTimes {
        prepared_at: after(at),
        ..KeyTimes::default()
    }
}

fn active(from: i64) -> KeyTimes {
    KeyTimes {
        active_from: Some(after(from)),
        ..prepared(from)
    }
}

fn retired(from: i64) -> KeyTimes {
    KeyTimes {
        retired_from: Some(after(from)),
        ..active(from - 500)
    }
}

fn step(keys: &[(KeyId, KeyTimes)], now: Timestamp) -> Option<RotationStep> {
    next_step(keys, &POLICY, now)
}

#[test]
fn a_new_authority_prepares_a_key_and_lets_it_sign_at_once() {
    assert_eq!(step(&[], NOW), Some(RotationStep::Prepare));
    let keys = [(kid(1), prepared(0))];
    assert_eq!(step(&keys, NOW), Some(RotationStep::Activate(kid(1))));
    assert_eq!(step(&[(kid(1), active(0))], NOW), None);
}

#[test]
fn a_successor_is_prepared_when_propagation_is_left_of_the_lifetime() {
    let keys = [(kid(1), active(0))];
    assert_eq!(step(&keys, after(899)), None);
    assert_eq!(step(&keys, after(900)), Some(RotationStep::Prepare));
}

#[test]
fn a_successor_signs_when_the_lifetime_ends_and_it_was_published_long_enough() {
    let in_time = [(kid(1), active(0)), (kid(2), prepared(900))];
    assert_eq!(step(&in_time, after(999)), None);
    assert_eq!(step(&in_time, after(1000)), Some(RotationStep::Activate(kid(2))));
    // INVARIANT (published before signing): also when the authority was down and the lifetime has long ended.
    let late = [(kid(1), active(0)), (kid(2), prepared(5000))];
    assert_eq!(step(&late, after(5099)), None);
    assert_eq!(step(&late, after(5100)), Some(RotationStep::Activate(kid(2))));
}

#[test]
fn a_retired_key_is_dropped_when_its_last_token_has_ended() {
    let keys = [(kid(1), retired(0)), (kid(2), active(0))];
    assert_eq!(step(&keys, after(299)), None);
    assert_eq!(step(&keys, after(300)), Some(RotationStep::Drop(kid(1))));
}

#[test]
fn an_activation_announced_for_later_is_not_made_twice() {
    let mut old = active(-1000);
    old.retired_from = Some(after(2));
    let mut new = prepared(-100);
    new.active_from = Some(after(2));
    let keys = [(kid(1), old), (kid(2), new)];
    assert_eq!(step(&keys, NOW), None);
    assert_eq!(signing_key(&keys, after(1)), Some(&kid(1)));
    assert_eq!(signing_key(&keys, after(2)), Some(&kid(2)));
}

#[test]
fn without_a_lifetime_only_operators_rotate() {
    let policy = RotationPolicy {
        lifetime: None,
        ..POLICY
    };
    let keys = [(kid(1), active(0)), (kid(2), prepared(0))];
    assert_eq!(next_step(&keys, &policy, after(1_000_000)), None);
    assert_eq!(next_step(&[], &policy, NOW), Some(RotationStep::Prepare));
}

#[test]
fn a_compromised_key_neither_signs_nor_stands_by() {
    let withdrawn = KeyTimes {
        compromised_at: Some(NOW),
        ..active(-10)
    };
    let keys = [(kid(1), withdrawn), (kid(2), prepared(-1))];
    assert_eq!(signing_key(&keys, NOW), None);
    assert_eq!(step(&keys, NOW), Some(RotationStep::Activate(kid(2))));
    let no_standby = KeyTimes {
        compromised_at: Some(NOW),
        ..prepared(-10)
    };
    assert!(!is_standby(&no_standby));
    assert_eq!(step(&[(kid(1), no_standby)], NOW), Some(RotationStep::Prepare));
}

/// What may happen between two looks at the clock.
#[derive(Clone, Debug)]
enum Event {
    /// The rotator makes the next step.
    Tick,
    /// The rotator crashes before its step, or another one was faster.
    Nothing,
    /// An operator prepares a key.
    Prepare,
    /// An operator activates the standby, for so many seconds ahead.
    Activate(u64),
    /// An operator declares the signing key compromised.
    Compromise,
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        8 => Just(Event::Tick),
        2 => Just(Event::Nothing),
        1 => Just(Event::Prepare),
        1 => (0_u64..5).prop_map(Event::Activate),
        1 => Just(Event::Compromise),
    ];
    vec((0_u64..400, event), 1..120)
}

/// An authority's key ring, kept as the rules of this module want it.
#[derive(Default)]
struct Ring {
    keys: Vec<(KeyId, KeyTimes)>,
    ever: Vec<KeyId>,
    made: u8,
}

impl Ring {
    fn prepare(&mut self, now: Timestamp) {
        if self.keys.len() < 8 && self.made < u8::MAX {
            self.made += 1;
            let times = KeyTimes {
                prepared_at: now,
                ..KeyTimes::default()
            };
            assert!(!self.ever.contains(&kid(self.made)), "a kid is used twice");
            self.ever.push(kid(self.made));
            self.keys.push((kid(self.made), times));
        }
    }

    /// The new key signs from then on, every other until then.
    fn activate(&mut self, kid: &KeyId, from: Timestamp) {
        for (other, times) in &mut self.keys {
            let ends = times.active_from.is_some() && times.retired_from.is_none_or(|ended| ended > from);
            if other == kid {
                times.active_from = Some(from);
            } else if ends {
                times.retired_from = Some(from.max(times.active_from.unwrap_or_default()));
            }
        }
    }

    fn standby(&self) -> Option<KeyId> {
        let standby = self.keys.iter().find(|(_, times)| is_standby(times));
        standby.map(|(kid, _)| kid.clone())
    }

    fn make(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Nothing => {}
            Event::Prepare => self.prepare(now),
            Event::Activate(lead) => {
                if let Some(kid) = self.standby() {
                    self.activate(&kid, now.saturating_add(Duration::from_secs(*lead)));
                }
            }
            Event::Compromise => {
                let Some(kid) = signing_key(&self.keys, now).cloned() else {
                    return;
                };
                for (_, times) in self.keys.iter_mut().filter(|(other, _)| *other == kid) {
                    times.compromised_at = Some(now);
                }
            }
            Event::Tick => match next_step(&self.keys, &POLICY, now) {
                Some(RotationStep::Prepare) => self.prepare(now),
                Some(RotationStep::Activate(kid)) => self.activate(&kid, now),
                Some(RotationStep::Drop(kid)) => self.keys.retain(|(other, _)| *other != kid),
                None => {}
            },
        }
    }
}

/// A token: its key, when it was issued, when it ends.
type Token = (KeyId, Timestamp, Timestamp);

/// INVARIANT (outlives its tokens): the key of every token that is still valid is published, believed for the second in
/// which the token was issued, and not gone; unless it was compromised.
fn outlives_its_tokens(ring: &Ring, tokens: &[Token], now: Timestamp) -> Result<(), TestCaseError> {
    for (kid, issued_at, _) in tokens.iter().filter(|(_, _, ends)| *ends > now) {
        let times = ring
            .keys
            .iter()
            .find(|(other, _)| other == kid)
            .map(|(_, times)| *times);
        let times = times.ok_or_else(|| TestCaseError::fail("the key of a valid token is gone"))?;
        if times.compromised_at.is_none() {
            prop_assert!(times.active_from.is_some_and(|from| from <= *issued_at));
            let gone = KeySet::gone_from(&times, POLICY.retention);
            prop_assert!(gone.is_none_or(|gone| gone > now));
        }
    }
    Ok(())
}

/// INVARIANT (no resurrection): times are set once, except that an announced end may move; a key that is gone stays gone.
fn nothing_comes_back(
    before: &[(KeyId, KeyTimes)],
    ring: &Ring,
    now: Timestamp,
) -> Result<(), TestCaseError> {
    for (kid, old) in before {
        let Some((_, new)) = ring.keys.iter().find(|(other, _)| other == kid) else {
            continue;
        };
        prop_assert_eq!(new.prepared_at, old.prepared_at);
        prop_assert!(old.active_from.is_none() || new.active_from == old.active_from);
        prop_assert!(old.compromised_at.is_none() || new.compromised_at == old.compromised_at);
        let order = |state: KeyState| match state {
            KeyState::Prepared => 0,
            KeyState::Active => 1,
            KeyState::Retired => 2,
            KeyState::Compromised => 3,
        };
        prop_assert!(order(new.state(now)) >= order(old.state(now)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_invariants_hold_under_arbitrary_ticks(events in events()) {
        let mut ring = Ring::default();
        let mut now = NOW;
        let mut tokens: Vec<Token> = Vec::new();
        let mut has_signed = false;
        for (pause, event) in events {
            now = now.saturating_add(Duration::from_secs(pause));
            let before = ring.keys.clone();
            ring.make(&event, now);
            nothing_comes_back(&before, &ring, now)?;
            let known = ring.keys.iter().filter(|(kid, _)| !before.iter().any(|(other, _)| other == kid));
            for (_, times) in known {
                prop_assert_eq!(times.state(now), KeyState::Prepared, "a key is first published, then it signs");
            }
            if let Some(kid) = signing_key(&ring.keys, now) {
                // One signer: of several active keys, the one activated last.
                let (_, times) = ring.keys.iter().find(|(other, _)| other == kid).expect("published");
                let active = ring.keys.iter().filter(|(_, times)| times.state(now) == KeyState::Active);
                prop_assert!(active.clone().all(|(_, other)| other.active_from <= times.active_from));
                tokens.push((kid.clone(), now, now.saturating_add(Duration::from_secs(290))));
                has_signed = true;
            }
            outlives_its_tokens(&ring, &tokens, now)?;
        }
        // Left alone, the rotator always comes to a key that signs.
        for _ in 0..20 {
            now = now.saturating_add(Duration::from_secs(1));
            ring.make(&Event::Tick, now);
        }
        prop_assert!(has_signed || signing_key(&ring.keys, now).is_some());
        now = now.saturating_add(Duration::from_secs(10));
        prop_assert!(signing_key(&ring.keys, now).is_some());
    }

    /// With nobody but the rotator, ticking every so often, there is never a moment without a signing key once there was
    /// one, and each key is published for the propagation time before it signs, but the first.
    #[test]
    fn a_rotator_by_itself_never_leaves_a_gap(pauses in vec(1_u64..90, 50..200)) {
        let mut ring = Ring::default();
        let mut now = NOW;
        for _ in 0..3 {
            ring.make(&Event::Tick, now);
        }
        for pause in pauses {
            now = now.saturating_add(Duration::from_secs(pause));
            for _ in 0..4 {
                ring.make(&Event::Tick, now);
            }
            let signing = signing_key(&ring.keys, now).expect("a key signs");
            let (_, times) = ring.keys.iter().find(|(kid, _)| kid == signing).expect("published");
            let published_for = times.active_from.expect("active").since(times.prepared_at);
            prop_assert!(*signing == kid(1) || published_for >= POLICY.propagation);
            prop_assert!(ring.keys.len() <= 3, "old keys are dropped");
        }
    }
}
