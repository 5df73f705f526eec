//! The authority: issues tokens, rotates keys, revokes, and publishes all of it to the verifiers.

pub mod alarm;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod feed;
pub mod fleet;
pub mod keyring;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod registry;
pub mod store;
#[cfg(test)]
pub(crate) mod test_util;
pub mod timeline;
