//! The authority as it is deployed: real certificates, real sockets, a real store; and its program.
#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

mod commands;
mod deployment;
mod life;
mod taking_over;
