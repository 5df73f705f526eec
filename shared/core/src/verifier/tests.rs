//! The machines as such. Signatures, disks and streams are asked about where they are.

mod carrying;
mod clock;
mod held;
mod stream;

use std::sync::Arc;

use super::*;
use crate::key_set::KeyTimes;
use crate::names::Issuer;
use crate::revocation::RevocationList;
use crate::test_util::{NOW, ToyHash, jwk, key_set};
use crate::trust::{UpdateContent, UpdateRules};

const SECOND: Duration = Duration::from_secs(1);

/// The moment `seconds` after the tests begin, on a machine whose clocks are right.
fn after(seconds: u64) -> Moment {
    Moment {
        elapsed: Duration::from_secs(1000 + seconds),
        wall_millis: (NOW.as_seconds() + seconds) * 1000,
    }
}

fn issuer() -> Issuer {
    Issuer::parse("https://auth.example.org").expect("valid")
}

fn rules() -> UpdateRules {
    UpdateRules {
        issuer: issuer(),
        max_revocations: 1000,
        max_revocation_life: Duration::from_secs(7200),
        leeway: 5 * SECOND,
    }
}

/// The state of `epoch` with the key that is called `name`.
fn named_state(epoch: Epoch, name: u8) -> TrustState {
    let keys = Arc::new(key_set(&jwk(name), KeyTimes::default()));
    TrustState::new(issuer(), epoch, keys, RevocationList::default(), &ToyHash)
}

fn state(epoch: Epoch) -> TrustState {
    named_state(epoch, 1)
}

/// The update that leads to `state` from anywhere.
fn snapshot(state: &TrustState) -> Update {
    Update {
        issuer: issuer(),
        epoch: state.epoch(),
        state_digest: *state.digest(),
        published_at: NOW,
        content: UpdateContent::Snapshot {
            key_set: Arc::clone(state.keys()),
            revocations: RevocationList::default(),
            publishers: state.publishers(),
        },
    }
}

/// Nothing held, on a machine whose clocks are right.
fn nothing() -> HeldTrust {
    HeldTrust::new(rules(), VerifierClock::start(None, after(0)))
}

/// What the answer to a ping of `seconds` after the beginning grants.
const fn granted(seconds: u64) -> Grant {
    Grant {
        sent_at: Duration::from_secs(1000 + seconds),
        lease: Duration::from_secs(10),
    }
}
