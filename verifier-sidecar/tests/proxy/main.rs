//! The sidecar as a whole, in process: real sockets, real TLS, a real gRPC service behind it. Only the authority is absent:
//! trust is put in force directly.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail where they are wrong"
)]

mod access_log;
mod admin;
mod api;
mod apps;
mod binding;
mod bodies;
mod calls;
mod certificates;
mod command;
mod ext_authz;
mod forms;
mod hostile;
mod identity;
mod keepalive;
mod observing;
mod plain;
mod plain_apps;
mod renewing;
mod smuggling;
mod speaking;
mod staleness;
mod stopping;
mod support;
mod taking_over;
mod tokens;
mod tracing;
mod trusting;
mod web;
mod web_ends;
mod workers;
