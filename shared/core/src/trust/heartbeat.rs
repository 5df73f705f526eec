//! What the authority says in between: which state is its current one.

use std::time::Duration;

use super::{Epoch, StateDigest, TrustState};
use crate::names::Issuer;

/// A statement that a state was the authority's current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The issuer.
    pub issuer: Issuer,
    /// The current epoch.
    pub epoch: Epoch,
    /// Its digest.
    pub state_digest: StateDigest,
    /// The authority's clock, in milliseconds since 1970.
    pub authority_time_millis: u64,
    /// Grows with every heartbeat that the authority signs.
    pub sequence: u64,
    /// Revocations in the state.
    pub revocation_count: u64,
    /// When, by the authority's clock in milliseconds since 1970, nothing is decided on it any more, whatever the budgets. In trust
    /// files only.
    pub expires_at_millis: Option<u64>,
}

impl Heartbeat {
    /// That `trust` is the current state.
    #[must_use]
    pub fn of(trust: &TrustState, authority_time_millis: u64, sequence: u64) -> Self {
        Self {
            issuer: trust.issuer().clone(),
            epoch: trust.epoch(),
            state_digest: *trust.digest(),
            authority_time_millis,
            sequence,
            revocation_count: u64::try_from(trust.revocations().len()).unwrap_or(u64::MAX),
            expires_at_millis: None,
        }
    }

    /// How old it may become.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        let lifetime = self.expires_at_millis?.saturating_sub(self.authority_time_millis);
        Some(Duration::from_millis(lifetime))
    }
}
