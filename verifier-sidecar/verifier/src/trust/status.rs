//! What there is to tell about the trust in force.

use std::time::Duration;

use countersign_core::freshness::{Freshness, StalenessRules};
use countersign_core::staleness::StalenessBudget;
use countersign_core::trust::{Epoch, StateDigest};
use countersign_core::verifier::{Confirmations, HeldTrust, InForce, Moment, TrustAlarm};

/// What there is to tell about the trust in force, for status answers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustStatus {
    /// The epoch. Zero: nothing is in force.
    pub epoch: Epoch,
    /// The digest of the state at that epoch.
    pub digest: StateDigest,
    /// Time since the authority confirmed it. Nothing when it never did.
    pub age: Option<Duration>,
    /// How long ago the lease on it ended: zero while it lasts. Nothing when it was never confirmed, or its lifetime has ended.
    pub overdue: Option<Duration>,
    /// How long the lease on it still lasts.
    pub lease_left: Duration,
    /// What that means. Nothing when nothing is in force.
    pub freshness: Option<Freshness>,
    /// Whether it is known what time it is. Nothing is decided without.
    pub time_known: bool,
    /// How much the wall clock is ahead of the time that decisions go by, in milliseconds; negative when it is behind.
    pub wall_ahead_millis: i64,
    default_budget: StalenessBudget,
    confirmations: Confirmations,
    elapsed: Duration,
    /// Keys in force.
    pub keys: usize,
    /// Revocations in force.
    pub revocations: usize,
    /// The highest epoch that was ever in force here.
    pub floor: Epoch,
    /// What is wrong with the authority, if anything.
    pub alarm: Option<TrustAlarm>,
}

impl TrustStatus {
    /// What there is to tell about `held`, `now`.
    pub(super) fn of(held: &HeldTrust, staleness: &StalenessRules, now: Moment) -> Self {
        let elapsed = now.elapsed;
        let trust = held.in_force();
        let confirmations = trust.map(InForce::confirmations).unwrap_or_default();
        let overdue = confirmations.overdue(elapsed);
        let id = held.id();
        Self {
            epoch: id.epoch,
            digest: id.digest,
            age: confirmations.age(elapsed),
            overdue,
            lease_left: confirmations.lease_left(elapsed),
            freshness: trust.map(|_| staleness.freshness(overdue)),
            time_known: held.now(elapsed).is_ok(),
            wall_ahead_millis: held.clock().wall_ahead_millis(now),
            default_budget: staleness.default_class.budget,
            confirmations,
            elapsed,
            keys: trust.map_or(0, |trust| trust.state.keys().keys().len()),
            revocations: trust.map_or(0, |trust| trust.state.revocations().len()),
            floor: held.floor().epoch,
            alarm: held.alarm(),
        }
    }

    /// `fresh`, `stale`, `expired`, or `cold` when nothing is in force.
    #[must_use]
    pub fn freshness_name(&self) -> &'static str {
        self.freshness.map_or("cold", Freshness::name)
    }

    /// Whether calls of the default class are decided now rather than refused for want of trust.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.decides_within(&self.default_budget)
    }

    /// The same for calls of a class of this `budget`.
    #[must_use]
    pub fn decides_within(&self, budget: &StalenessBudget) -> bool {
        self.time_known && budget.too_old(self.overdue).is_none()
    }

    /// Time until calls of the default class are refused if the authority stays away. Nothing when nothing is in force.
    #[must_use]
    pub fn refuses_in(&self) -> Option<Duration> {
        self.refuses_within(&self.default_budget)
    }

    /// The same for calls of a class of this `budget`.
    #[must_use]
    pub fn refuses_within(&self, budget: &StalenessBudget) -> Option<Duration> {
        self.freshness
            .map(|_| self.confirmations.refuses_in(budget, self.elapsed))
    }
}
