//! Any bytes are a trust update or are refused, before and after the rules by which a verifier takes it over.
#![no_main]

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::trust::{Applied, UpdateRules};
use countersign_crypto::AwsLc;
use countersign_wire::trust::{read_heartbeat, read_update, write_heartbeat, write_update};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(heartbeat) = read_heartbeat(payload) {
        let again = read_heartbeat(&write_heartbeat(&heartbeat)).expect("what we write, we read");
        assert_eq!(heartbeat, again);
    }
    let Ok(update) = read_update(payload, &AwsLc) else {
        return;
    };
    let written = write_update(&update);
    let again = read_update(&written, &AwsLc).expect("what we write, we read");
    assert_eq!(write_update(&again), written);

    let rules = UpdateRules {
        issuer: update.issuer.clone(),
        max_revocations: 1_000,
        max_revocation_life: Duration::from_secs(7_200),
        leeway: Duration::from_secs(5),
    };
    let now = Timestamp::from_seconds(1_800_000_000);
    if let Ok(Applied::Advanced(state)) = rules.apply(None, 0, &update, now, &AwsLc) {
        assert_eq!(
            (state.epoch(), *state.digest()),
            (update.epoch, update.state_digest)
        );
        let twice = rules.apply(Some(&state), state.epoch(), &update, now, &AwsLc);
        assert!(matches!(twice, Ok(Applied::Confirmed)));
    }
});
