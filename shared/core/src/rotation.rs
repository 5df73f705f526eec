//! When a key is prepared, activated and dropped: one step at a time.
//!
//! The rotator asks [`next_step`] what to do, commits it, and asks again. A crash between two steps loses nothing, and
//! two rotators that race produce one winner and one conflict.
//!
//! Invariants, each relied on by verifiers:
//! - *published before signing*: in its turn, a key is activated no earlier than `propagation` after it was published. When
//!   nothing signs, the next key does so at once, and verifiers that have not heard of it refuse its tokens until they have;
//! - *outlives its tokens*: a retired key stays published until the last token under it has expired everywhere;
//! - *no resurrection*: a key that no longer signs never does again, and a `kid` is never used twice.

use std::time::Duration;

use crate::key_set::{KeySet, KeyState, KeyTimes};
use crate::names::KeyId;
use crate::planted::{Bug, planted};
use crate::time::Timestamp;

/// The times of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// How long a key signs. `None`: operators rotate.
    pub lifetime: Option<Duration>,
    /// How long a key is published before it may sign.
    pub propagation: Duration,
    /// How long a key stays published after it signed last: longest token lifetime and leeway.
    pub retention: Duration,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Make a key and publish it.
    Prepare,
    /// Let this prepared key sign.
    Activate(KeyId),
    /// Stop publishing this key.
    Drop(KeyId),
}

/// What rotation asks for at `now`, given the keys that are kept and can sign.
#[must_use]
pub fn next_step(
    keys: &[(KeyId, KeyTimes)],
    policy: &RotationPolicy,
    now: Timestamp,
) -> Option<RotationStep> {
    if let Some(drop) = next_drop(keys, policy, now) {
        return Some(drop);
    }
    let prepared = keys.iter().find(|(_, times)| is_standby(times));
    let signing = signing_until(keys, policy, now);
    match (signing, prepared) {
        // Nothing signs and nothing will: whatever is prepared signs at once, or nobody gets a token.
        (Signing::Nothing, Some((kid, _))) => Some(RotationStep::Activate(kid.clone())),
        (Signing::Nothing, None) => Some(RotationStep::Prepare),
        (Signing::Until(end), None) => {
            (now >= end.saturating_sub(policy.propagation)).then_some(RotationStep::Prepare)
        }
        (Signing::Until(end), Some((kid, times))) => {
            let published_long_enough = now >= times.prepared_at.saturating_add(policy.propagation);
            (now >= end && published_long_enough).then(|| RotationStep::Activate(kid.clone()))
        }
        (Signing::WithoutEnd, _) => None,
    }
}

/// Whether a key is prepared and not yet told to sign.
#[must_use]
pub const fn is_standby(times: &KeyTimes) -> bool {
    times.active_from.is_none() && times.compromised_at.is_none()
}

enum Signing {
    Nothing,
    Until(Timestamp),
    WithoutEnd,
}

/// Until when the key that signs now, or is told to sign soon, does.
fn signing_until(keys: &[(KeyId, KeyTimes)], policy: &RotationPolicy, now: Timestamp) -> Signing {
    let signs = |times: &KeyTimes| {
        times.active_from.is_some() && !matches!(times.state(now), KeyState::Retired | KeyState::Compromised)
    };
    let latest = keys
        .iter()
        .filter(|(_, times)| signs(times))
        .filter_map(|(_, times)| times.active_from)
        .max();
    match (latest, policy.lifetime) {
        (None, _) => Signing::Nothing,
        (Some(_), None) => Signing::WithoutEnd,
        (Some(active), Some(lifetime)) => Signing::Until(active.saturating_add(lifetime)),
    }
}

/// The next of `keys` to drop at `now`; also of keys that cannot sign.
#[must_use]
pub fn next_drop(
    keys: &[(KeyId, KeyTimes)],
    policy: &RotationPolicy,
    now: Timestamp,
) -> Option<RotationStep> {
    keys.iter()
        .find(|(_, times)| KeySet::gone_from(times, policy.retention).is_some_and(|gone| gone <= now))
        .map(|(kid, _)| RotationStep::Drop(kid.clone()))
}

/// The key that signs at `now`: of those whose time has come and that are not withdrawn, the one activated last.
#[must_use]
pub fn signing_key(keys: &[(KeyId, KeyTimes)], now: Timestamp) -> Option<&KeyId> {
    let now = if planted(Bug::RetiredKeySigns) {
        now.saturating_sub(Duration::from_secs(20))
    } else {
        now
    };
    keys.iter()
        .filter(|(_, times)| times.state(now) == KeyState::Active || withdrawn_and_signs(times))
        .max_by_key(|(_, times)| times.active_from)
        .map(|(kid, _)| kid)
}

fn withdrawn_and_signs(times: &KeyTimes) -> bool {
    let was_last = times.active_from.is_some() && times.retired_from.is_none();
    planted(Bug::CompromisedKeySigns) && was_last && times.compromised_at.is_some()
}

#[cfg(test)]
mod tests;
