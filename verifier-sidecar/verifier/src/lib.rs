//! What verifies tokens in a process, as a sidecar does it beside one.
//!
//! ```text
//!              authority
//!                  | signed epochs, heartbeats
//!                  v
//!   cache <--> sync --> trust --> verifier <-- whoever has to decide on a call
//!  (on disk)           (in force)
//! ```
//!
//! - [`trust`], [`sync`] and [`cache`] keep what decisions are made on; [`source`] puts the three together.
//! - [`verifier`] decides, the same for everybody who asks; [`token_cache`] spares it signatures.
//! - [`watch`] looks at a long call again, and [`renewal`] brings it newer tokens; [`identity`] is what a service is told of its caller.

pub mod cache;
pub mod defaults;
pub mod identity;
pub mod key_uses;
pub mod metrics;
pub mod renewal;
pub mod source;
pub mod sync;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod token_cache;
pub mod trust;
pub mod verifier;
pub mod watch;
