//! What a token is, when it may be issued, and when it must be refused.
//!
//! Pure: no I/O, no async, no clock, no randomness, no cryptography. What the outside world provides comes in as a value
//! (`now`) or through a trait in [`ports`]. Everything that decides about a token is here, so that the authority, the
//! sidecar, the command line and the tests cannot disagree.
//!
//! The decision is [`verifying::verify`]; the state it is made on is [`trust::TrustState`]; every refusal is a
//! [`Rejection`] with a stable [`Rejection::reason`].

pub mod bearer;
pub mod binding;
pub mod claims;
pub mod client;
pub mod drill;
pub mod feed;
pub mod fleet;
pub mod freshness;
pub mod issuing;
pub mod jose;
pub mod json;
pub mod jwk;
pub mod key_set;
pub mod names;
pub mod planted;
pub mod ports;
pub mod publishers;
pub mod recovery;
mod rejection;
pub mod requirements;
pub mod revocation;
pub mod rotation;
pub mod spiffe;
pub mod staleness;
#[cfg(test)]
mod test_util;
pub mod text;
pub mod time;
pub mod trust;
pub mod verifier;
pub mod verifying;

pub use bearer::BearerToken;
pub use rejection::{Claim, Outcome, Rejection};
pub use time::Timestamp;
