//! The border between the wire contracts and the core's values: the only crate that sees both.
//!
//! Generated types stop here. Everything that comes in is parsed into a core type or refused with the field named;
//! everything that goes out is written from one. [`status`] is the only place where a gRPC status is made.

pub mod admin;
pub mod encoding;
pub mod framing;
pub mod protobuf;
pub mod publishers;
pub mod reflection;
pub mod status;
pub mod token;
pub mod trust;
pub mod trust_file;
pub mod verify;

use std::time::Duration;

use countersign_core::Timestamp;

/// The largest request that the authority's unary services read, in bytes.
pub const MAX_REQUEST_LENGTH: usize = 64 * 1024;

/// The largest message that a verifier reads from the trust stream, in bytes: a snapshot with [`MAX_REVOCATIONS`].
pub const MAX_UPDATE_LENGTH: usize = 32 * 1024 * 1024;

/// The most revocations that an update may have, and that anybody keeps. As they are usually spread, single tokens take two
/// to three bytes each in a snapshot and about 25 of a verifier's memory.
pub const MAX_REVOCATIONS: usize = 2_000_000;

/// The most revocations that are not single tokens. Each takes at most 280 bytes in a snapshot, so that these and all
/// single tokens together stay under [`MAX_UPDATE_LENGTH`].
pub const MAX_NAMED_REVOCATIONS: usize = 100_000;

/// The longest that a revocation may claim to matter, by the clock of who reads it. The authority keeps one for the life of a
/// token and slack, and one of a certificate for a day; this is more than any sensible sum of those, and far less than what an
/// attacker would need to fill memory for good (K22).
pub const MAX_REVOCATION_LIFE: Duration = Duration::from_secs(25 * 60 * 60);

/// The time as `google.protobuf.Timestamp`.
#[must_use]
pub fn write_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.to_wire(),
        nanos: 0,
    }
}

/// The length of time as `google.protobuf.Duration`: the longest that there is, for what is longer.
#[must_use]
pub fn write_duration(duration: Duration) -> prost_types::Duration {
    const LONGEST: prost_types::Duration = prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    };
    prost_types::Duration::try_from(duration).unwrap_or(LONGEST)
}

/// The length of time of a `google.protobuf.Duration`; nothing for negative ones.
#[must_use]
pub fn read_duration(duration: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*duration).ok()
}

/// The time of a `google.protobuf.Timestamp`, whole seconds of it; nothing for times before 1970 or out of range.
#[must_use]
pub fn read_time(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::from_wire(time.seconds)
}
