//! K01 to K10: every key set gets its answer; K11: a set replaces the one before.

use countersign_core::Timestamp;
use countersign_core::jwk::{KeySetError, write_set};
use countersign_core::key_set::{KeySet, KeyTimes};
use countersign_crypto::AwsLc;
use countersign_vectors::key_sets::cases;
use countersign_vectors::{Role, Setting};

fn setting() -> Setting {
    Setting::at(Timestamp::from_seconds(1_800_000_000))
}

#[test]
fn every_key_set_gets_its_answer() {
    let mut wrong = Vec::new();
    for case in cases(&setting()) {
        let answer = case.decide();
        if answer != case.expected {
            wrong.push(format!(
                "{} {}: {answer:?} for {:?}",
                case.id, case.name, case.expected
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// K07: a key without a state, a state without a key, or times out of order refuse the set.
#[test]
fn states_match_keys_one_to_one() {
    let setting = setting();
    let (one, two) = (setting.key(Role::Active), setting.key(Role::Second));
    let jwks = write_set([&one.jwk, &two.jwk]);
    let times = setting.key_times(Role::Active).expect("published");
    let read = |times: &[_]| KeySet::read(jwks.as_bytes(), times, &AwsLc).map(|set| set.keys().len());
    let of = |key: &countersign_vectors::TestKey, times: KeyTimes| (key.key_id().clone(), times);
    assert_eq!(read(&[of(one, times), of(two, times)]), Ok(2));
    assert_eq!(read(&[of(one, times)]), Err(KeySetError::Status));
    assert_eq!(read(&[of(one, times), of(one, times)]), Err(KeySetError::Status));
    let stranger = setting.key(Role::Stranger);
    assert_eq!(
        read(&[of(one, times), of(stranger, times)]),
        Err(KeySetError::Status)
    );
    let before_published = KeyTimes {
        active_from: Some(Timestamp::from_seconds(1)),
        ..times
    };
    assert_eq!(
        read(&[of(one, times), of(two, before_published)]),
        Err(KeySetError::Status)
    );
    let never_active = KeyTimes {
        active_from: None,
        retired_from: Some(setting.now),
        ..times
    };
    assert_eq!(
        read(&[of(one, times), of(two, never_active)]),
        Err(KeySetError::Status)
    );
}

/// What is written is read back the same, whatever the order of the keys.
#[test]
fn a_set_that_is_written_is_read_back() {
    let setting = setting();
    let set = setting.key_set();
    let times: Vec<_> = set
        .keys()
        .iter()
        .rev()
        .map(|key| (key.jwk.key_id().clone(), key.times))
        .collect();
    let read = KeySet::read(set.to_jwks().as_bytes(), &times, &AwsLc).expect("acceptable");
    assert_eq!(read.digest(&AwsLc), set.digest(&AwsLc));
    let reversed = KeySet::new(set.keys().iter().rev().cloned().collect());
    assert_eq!(reversed.digest(&AwsLc), set.digest(&AwsLc));
}
