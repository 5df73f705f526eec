//! What holds where the operator says nothing, each with the reason for its value.

use std::time::Duration;

use crate::server::Limits;

/// A missed minute is worth a look.
pub(super) const WARN_AFTER: Duration = Duration::from_secs(60);

/// The ceiling of every authority.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Clocks that are kept by NTP differ by less.
pub(super) const LEEWAY: Duration = Duration::from_secs(5);

/// No leeway is longer.
pub(super) const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// The longest that a revocation may claim to matter. The authority keeps one for a token's life, a staleness budget and
/// slack; a day is more than any sensible sum of those, and far less than what an attacker would need to fill memory for
/// good (K22).
pub(super) const MAX_REVOCATION_LIFE: Duration = Duration::from_secs(25 * 60 * 60);

/// As many as an authority can have: up to 25 bytes of memory for each single token.
pub(super) const MAX_REVOCATIONS: usize = countersign_wire::MAX_REVOCATIONS;

/// About two thousand tokens: more than have valid tokens for one service at most places.
pub(super) const TOKEN_CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// One, on a runtime of its own, carries more than several that share work.
pub(super) const WORKERS: usize = 1;

/// No machine that this stands on has more.
pub(super) const MAX_WORKERS: usize = 256;

/// Nobody waits longer than a day. Also what makes every deadline a time that can be computed.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// 6,400 calls under way, 100 on each.
pub(super) const UPSTREAM_CONNECTIONS: usize = 64;

pub(super) const LIMITS: Limits = Limits {
    // One for each pod that calls, and then some; about 20 KiB each when idle.
    connections: 1024,
    // Should the service read none of them, they take 16 MiB.
    streams: 256,
    idle: Duration::from_secs(5 * 60),
    // Certificates of workloads are often as short-lived as an hour.
    age: Duration::from_secs(30 * 60),
    // Kubernetes kills after 30 s.
    drain: Duration::from_secs(10),
};
