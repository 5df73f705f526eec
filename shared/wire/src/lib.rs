//! The border between the wire contracts and the core's values: the only crate that sees both.
//!
//! Generated types stop here. Everything that comes in is parsed into a core type or refused with the field named;
//! everything that goes out is written from one. [`status`] is the only place where a gRPC status is made.

pub mod admin;
pub mod encoding;
pub mod framing;
pub mod reflection;
pub mod status;
pub mod token;
pub mod trust;
pub mod verify;

use countersign_core::Timestamp;

/// The largest request that the authority's unary services read, in bytes.
pub const MAX_REQUEST_LENGTH: usize = 64 * 1024;

/// The largest message that a verifier reads from the trust stream, in bytes: a snapshot with half a million revocations.
pub const MAX_UPDATE_LENGTH: usize = 32 * 1024 * 1024;

/// The time as `google.protobuf.Timestamp`.
#[must_use]
pub fn write_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.to_wire(),
        nanos: 0,
    }
}

/// The time of a `google.protobuf.Timestamp`, whole seconds of it; nothing for times before 1970 or out of range.
#[must_use]
pub fn read_time(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::from_wire(time.seconds)
}
