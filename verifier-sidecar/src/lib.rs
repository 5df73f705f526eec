//! The verifier in a process of its own, beside a service in any language.
//!
//! ```text
//!   authority                               callers
//!       | signed epochs, heartbeats            | calls with tokens
//!       v                                      v
//!   countersign_verifier <----------------- proxy -----> the service
//!       ^            ^
//!       |            '-- api (Verify API) <------------- the service
//!       '--------------- agent (tokens for its calls) <--'
//! ```
//!
//! - `countersign_verifier` holds the trust and decides, the same for everybody who asks.
//! - [`proxy`] stands before the service; the local API answers it; [`server`] serves both.
//! - [`ext_authz`] answers Envoy about requests that Envoy holds back.
//! - [`agent`] gets and keeps tokens for the service's own calls; [`outbound`] adds them to calls.
//! - [`config`] says how, [`app`] puts the parts together, [`commands`] is the command line.

pub mod access_log;
pub mod agent;
mod api;
pub mod app;
pub mod commands;
pub mod config;
pub mod ext_authz;
pub mod metrics;
mod observations;
pub mod outbound;
pub mod proxy;
mod refusal_log;
pub mod routes;
pub mod server;
