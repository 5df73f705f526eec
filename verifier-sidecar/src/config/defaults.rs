//! What holds where the operator says nothing, each with the reason for its value.

use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) use countersign_verifier::defaults::{LEEWAY, MAX_LIFETIME, MAX_REVOCATIONS, TOKEN_CACHE_BYTES};

use crate::agent::AgentLimits;
use crate::server::{Keepalive, Limits};

/// A missed minute is worth a look.
pub(super) const WARN_AFTER: Duration = Duration::from_secs(60);

/// No leeway is longer.
pub(super) const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// One carries tens of thousands of calls a second; few services have more, and it takes one core from them at most.
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
    keepalive: Keepalive {
        // Routers forget connections that are silent for some minutes.
        every: Duration::from_secs(30),
        patience: Duration::from_secs(10),
    },
};

/// More often, asking would be most of what idle connections do; more seldom, and it would be forgotten that there is one.
pub(super) const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);

/// Shorter than a pause for which a machine can hang, and everybody is gone; longer, and nobody notices.
pub(super) const KEEPALIVE_PATIENCE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);

pub(super) const AGENT: AgentLimits = AgentLimits {
    // A service calls a handful of others, each with a few sets of scopes.
    max_tokens: 64,
    // Jobs that run every hour find a token even if the authority is away then.
    idle: Duration::from_secs(60 * 60),
};

/// Each is asked for anew every few minutes, and takes a few KiB.
pub(super) const MAX_TOKENS: usize = 4096;
