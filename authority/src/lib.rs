//! The authority: issues tokens, rotates keys, revokes, and publishes all of it to the verifiers.
//!
//! ```text
//!   service/*  decode, decide, encode          feed ---> trust streams of the verifiers
//!       |                                        ^
//!       v                                        | publish, after it is durable
//!   ledger  the single writer: trust state, key ring, clients, in one immutable value (`Books`)
//!       |                                        ^
//!       v                                        | rotator, revoker: loops that ask the core what is due
//!   store   redb; records sealed under a key-encryption key
//! ```
//!
//! Issuing reads the books and never the store. `app` puts everything together; `commands` is the program.

pub mod alarm;
pub mod app;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod commands;
pub mod config;
pub mod driller;
pub mod drills;
pub mod feed;
pub mod fleet;
pub mod keyring;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod publishing;
pub mod registrar;
pub mod registry;
pub mod revoker;
pub mod roster;
pub mod rotator;
pub mod server;
pub mod service;
pub mod store;
#[cfg(test)]
pub(crate) mod test_util;
pub mod timeline;
pub mod upkeep;
