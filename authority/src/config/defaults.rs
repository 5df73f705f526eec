//! What holds where the operator says nothing, each with the reason for its value; and the bounds of what may be said.

use std::time::Duration;

use countersign_core::jose::Algorithm;
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;

use crate::limits::Rate;
use crate::server::ServerLimits;

/// Every platform verifies it, and its signatures are short.
pub(super) const ALGORITHM: Algorithm = Algorithm::Es256;

/// Long enough that a rotation is rare, short enough that it is no event.
pub(super) const KEY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The staleness budget of verifiers: one that has not heard of a key by then no longer decides.
pub(super) const PROPAGATION: Duration = Duration::from_secs(15 * 60);

/// Updates reach connected verifiers in milliseconds; times are whole seconds, and a second may be about to end.
pub(super) const ACTIVATION_LEAD: Duration = Duration::from_secs(2);

/// Longer, and an operator who wants a key to sign would think that it does.
pub(super) const MAX_ACTIVATION_LEAD: Duration = Duration::from_secs(60);

/// As many keys as are ever published at a time while one retires after the other (`MAX_KEYS` of the ledger), and room for
/// operators to rotate.
pub(super) const MAX_KEYS_IN_RETENTION: u32 = 16;

/// Long enough to ride out a short outage, short enough to forget about.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The ceiling of every authority: verifiers refuse longer lives by default.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Clocks that are kept by NTP differ by less.
pub(super) const LEEWAY: Duration = Duration::from_secs(5);

/// No leeway is longer.
pub(super) const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// Three answers in a row may be lost. A method with a budget of zero is refused no later than this after a verifier is cut off.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// Twice the time after which verifiers usually ping again: with less, one lost answer would end a lease.
pub(super) const LEAST_LEASE: Duration = Duration::from_secs(4);

/// Longer, and it would say little that an operator can wait for.
pub(super) const MAX_LEASE: Duration = Duration::from_secs(60);

/// The staleness budget of verifiers: one that is cut off hears of a revocation before it is forgotten, or decides nothing.
pub(super) const REVOCATION_SLACK: Duration = Duration::from_secs(15 * 60);

/// Verifiers take no revocation that claims to matter for over a day.
pub(super) const MAX_REVOCATION_SLACK: Duration = Duration::from_secs(23 * 60 * 60);

/// Certificates of workloads live for an hour or a day. One that lives longer has to be revoked again.
pub(super) const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Verifiers refuse what claims to matter for longer, and their clocks may be behind.
pub(super) const MAX_CERTIFICATE_LIFE: Duration =
    countersign_wire::MAX_REVOCATION_LIFE.saturating_sub(MAX_CLOCK_DIFFERENCE);

/// As many as one snapshot can carry: single tokens take two to three bytes each in it.
pub(super) const MAX_REVOCATIONS: usize = countersign_wire::MAX_REVOCATIONS;

/// Fewer, and the quarter that is kept for clients would hold next to none.
pub(super) const LEAST_REVOCATIONS: usize = 100;

/// A client that fetches anew at a third of a token's life asks some times an hour, for each of its processes.
pub(super) const TOKENS: Rate = Rate::new(100, 200);

/// Each is some hundred bytes in memory.
pub(super) const MAX_CLIENTS: usize = 100_000;

/// No machine that this stands on has more.
pub(super) const MAX_WORKERS: usize = 256;

pub(super) const LIMITS: ServerLimits = ServerLimits {
    // Ten thousand verifiers, and clients that keep their connection.
    connections: 16_384,
    // Token requests take microseconds; a hundred at once on one connection is a lot.
    streams: 128,
    verifiers: 12_000,
    // The one in use, and the one that replaces it.
    streams_per_verifier: 2,
    // A commit takes milliseconds. Who waits longer has gone.
    timeout: Duration::from_secs(10),
    // Certificates of workloads are often as short-lived as an hour.
    connection_age: Duration::from_secs(30 * 60),
    // Kubernetes kills after 30 s.
    drain: Duration::from_secs(10),
};
