//! Cryptography for core's ports, on one provider: aws-lc-rs.
//!
//! - [`AwsLc`] hashes, draws random bytes and makes public keys ready ([`countersign_core::ports`]).
//! - [`SigningKey`] signs tokens and trust updates.
//! - [`Envelope`] seals what a store keeps; [`SecretHasher`] makes and checks client secrets.
//! - [`publishing`] signs and verifies what an authority publishes to its verifiers.
//!
//! `p256` generates P-256 keys and checks points; `jsonwebtoken` verifies RS256 and EdDSA signatures. Neither judges a
//! token: that is core's work, and `jsonwebtoken` reads the clock and is lax on claims.

mod digest;
mod envelope;
mod keys;
pub mod publishing;
mod secrets;
#[cfg(feature = "test-util")]
pub mod test_util;
mod verify;
mod weak;

pub use digest::AwsLc;
pub use envelope::{Envelope, EnvelopeError};
pub use keys::{KeyError, SigningKey};
pub use secrets::{ClientSecret, SecretHasher};
