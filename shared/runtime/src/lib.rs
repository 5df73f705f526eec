//! What every process of ours needs from the world: clock, signals, waiting, configuration files, telemetry, admin port.
//!
//! Nothing here knows what a token is. This is the one crate that reads the system's clocks, and with the configuration
//! module of [`telemetry`] the one that reads the environment. Behaviour depends on neither time zone nor locale.

pub mod admin_http;
pub mod backoff;
pub mod busy;
mod clock;
pub mod config;
mod error_chain;
mod executor;
pub mod exit;
pub mod metrics;
pub mod panics;
mod shutdown;
pub mod telemetry;
pub mod trace_context;
mod workers;

pub use clock::SystemClock;
#[cfg(any(test, feature = "test-util"))]
pub use clock::TimerClock;
pub use error_chain::ErrorChain;
pub use executor::build;
pub use shutdown::{GraceExceeded, Shutdown};
pub use workers::{WorkerPanicked, Workers};
