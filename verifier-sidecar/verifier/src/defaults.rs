//! What holds where nobody says otherwise, each with the reason for its value.

use std::time::Duration;

use countersign_core::names::Issuer;
use countersign_core::trust::UpdateRules;

/// The longest life of a token: the ceiling of every authority.
pub const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Clocks that are kept by NTP differ by less.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// The longest that a revocation may claim to matter: longer than an authority keeps any.
pub const MAX_REVOCATION_LIFE: Duration = countersign_wire::MAX_REVOCATION_LIFE;

/// As many as an authority can have: up to 25 bytes of memory for each single token.
pub const MAX_REVOCATIONS: usize = countersign_wire::MAX_REVOCATIONS;

/// About 750 whole tokens, more than are valid for one service at most places, and digests of 10,000.
pub const TOKEN_CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// The rules by which trust of `issuer` is taken over.
#[must_use]
pub const fn rules(issuer: Issuer) -> UpdateRules {
    UpdateRules {
        issuer,
        max_revocations: MAX_REVOCATIONS,
        max_revocation_life: MAX_REVOCATION_LIFE,
        leeway: LEEWAY,
    }
}
