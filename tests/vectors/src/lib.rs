//! Hostile inputs and the answer that each must get: the tables T (tokens) and K (key sets) of the assurance catalogue.
//!
//! - [`cases`] makes every token case for a [`Setting`]: whose keys, which clock, issuer and audience. The tests beside this
//!   crate run the table on the pure core; integration tests send the very same table to a sidecar's Verify API and proxy.
//! - [`key_sets`] has the key sets that must be refused.
//! - [`workshop`] makes tokens that no honest signer makes; [`forgery`] makes the signatures.
//! - [`coverage`] says which ids the tables hold, and where the others are covered.
//!
//! To replay the table on a running verifier: make a [`Setting`] for its clock, issuer, audience and peer certificate,
//! publish [`Setting::snapshot`] to it, configure one method for each [`Method`], send each case that is
//! [sendable](Case::is_sendable), and compare with [`Case::expected`]. Cases whose answer changes within a second are marked
//! [`Case::frozen_clock`].
#![expect(
    clippy::expect_used,
    reason = "a test library: a table that cannot be built must fail loudly"
)]

mod case;
mod cases;
pub mod coverage;
pub mod forgery;
pub mod key_sets;
mod setting;
pub mod workshop;

pub use case::{Case, Expected, Method, Peer};
pub use cases::cases;
pub use setting::{REVOKED_TOKEN, Role, Setting, TestKey, WATERMARKED_CLIENT};
