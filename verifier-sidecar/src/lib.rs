//! The verifier that stands beside a service.
//!
//! ```text
//!              authority                              callers
//!                  | signed epochs, heartbeats           | calls with tokens
//!                  v                                     v
//!   cache <--> sync --> trust --> verifier <--------- proxy -----> the service
//!  (on disk)           (in force)    ^
//!                                    '------ api (Verify API) <--- the service
//! ```
//!
//! - [`trust`], [`sync`] and [`cache`] keep what decisions are made on.
//! - [`verifier`] decides, the same for everybody who asks; [`token_cache`] spares it signatures.
//! - [`proxy`] stands before the service; the local API answers it; [`server`] serves both.
//! - [`config`] says how, [`app`] puts the parts together, [`commands`] is the command line.

mod api;
pub mod app;
pub mod cache;
pub mod commands;
pub mod config;
pub mod identity;
pub mod key_uses;
pub mod metrics;
pub mod proxy;
mod refusal_log;
pub mod server;
pub mod sync;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod token_cache;
pub mod trust;
pub mod verifier;
