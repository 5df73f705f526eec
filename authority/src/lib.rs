//! The authority: issues tokens, rotates keys, revokes, and publishes all of it to the verifiers.

pub mod store;
