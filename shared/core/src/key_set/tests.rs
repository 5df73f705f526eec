//! The states of keys at their boundaries.

use super::*;
use crate::test_util::{NOW, ToyHash, after, jwk, key_set};

fn times() -> KeyTimes {
    KeyTimes {
        accepted_from: None,
        prepared_at: after(-100),
        active_from: Some(after(-50)),
        retired_from: Some(after(50)),
        compromised_at: None,
    }
}

#[test]
fn a_state_begins_at_its_second() {
    let times = times();
    for (now, state) in [
        (after(-51), KeyState::Prepared),
        (after(-50), KeyState::Active),
        (after(49), KeyState::Active),
        (after(50), KeyState::Retired),
    ] {
        assert_eq!(times.state(now), state, "{now}");
    }
}

/// T52: compromise counts at once, whatever the clock of who reads it says.
#[test]
fn a_compromised_key_is_compromised_at_any_time() {
    let times = KeyTimes {
        compromised_at: Some(after(1000)),
        ..times()
    };
    for now in [Timestamp::default(), NOW, Timestamp::MAX] {
        assert_eq!(times.state(now), KeyState::Compromised);
    }
}

#[test]
fn times_follow_each_other() {
    assert!(times().are_ordered());
    let same = KeyTimes {
        accepted_from: None,
        prepared_at: NOW,
        active_from: Some(NOW),
        retired_from: Some(NOW),
        compromised_at: None,
    };
    assert!(same.are_ordered());
    let active_before_prepared = KeyTimes {
        active_from: Some(after(-101)),
        ..times()
    };
    let retired_before_active = KeyTimes {
        retired_from: Some(after(-51)),
        ..times()
    };
    let retired_without_active = KeyTimes {
        active_from: None,
        ..times()
    };
    for wrong in [
        active_before_prepared,
        retired_before_active,
        retired_without_active,
    ] {
        assert!(!wrong.are_ordered(), "{wrong:?}");
    }
}

/// T50: the end of a key is the end of its last token.
#[test]
fn a_key_is_gone_after_its_retention() {
    let hour = Duration::from_secs(3600);
    assert_eq!(KeySet::gone_from(&times(), hour), Some(after(3650)));
    let never_active = KeyTimes {
        active_from: None,
        retired_from: None,
        compromised_at: Some(NOW),
        ..times()
    };
    assert_eq!(KeySet::gone_from(&never_active, hour), Some(after(3600)));
    let active = KeyTimes {
        retired_from: None,
        ..times()
    };
    assert_eq!(KeySet::gone_from(&active, hour), None);
    assert_eq!(KeySet::gone_from(&times(), Duration::MAX), Some(Timestamp::MAX));
}

#[test]
fn the_digest_covers_every_time() {
    let digest = |times: KeyTimes| key_set(&jwk(1), times).digest(&ToyHash);
    let base = digest(times());
    assert_eq!(base, digest(times()));
    let changed = [
        KeyTimes {
            prepared_at: after(-99),
            ..times()
        },
        KeyTimes {
            active_from: Some(after(-49)),
            ..times()
        },
        KeyTimes {
            active_from: None,
            ..times()
        },
        KeyTimes {
            retired_from: Some(after(51)),
            ..times()
        },
        KeyTimes {
            retired_from: None,
            ..times()
        },
        KeyTimes {
            compromised_at: Some(NOW),
            ..times()
        },
    ];
    for times in changed {
        assert_ne!(digest(times), base, "{times:?}");
    }
    assert_ne!(key_set(&jwk(2), times()).digest(&ToyHash), base);
}

#[test]
fn a_key_is_found_by_its_kid_only() {
    let set = key_set(&jwk(1), times());
    assert!(set.find(jwk(1).key_id()).is_some());
    assert!(set.find(jwk(2).key_id()).is_none());
    assert!(KeySet::default().find(jwk(1).key_id()).is_none());
}
