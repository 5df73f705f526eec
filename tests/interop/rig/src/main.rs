//! What the scripts in tests/interop cannot do from a shell: step a clock and compare every answer with a table, time the ends
//! of streams, stand between sidecars and their authority as a bad network, and know what each of many calls must come to.
//!
//! Everything that is tested here is a process of its own and the real one. A line on stdout is one check, `ok` or `FAIL`, as
//! the scripts print them; anything that cannot be set up is a panic.
#![expect(
    clippy::expect_used,
    reason = "a test program: what cannot be set up must fail loudly"
)]

mod burst;
mod calling;
mod clock;
mod loss;
mod relay;
mod report;
mod schedule;
mod soak;
mod streams;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::report::Report;

/// The part of tests/interop that is no shell script.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Steps a sidecar's clock through the table of docs/staleness.md.
    Table(clock::Arguments),
    /// Opens streams, revokes their tokens one after another, and times their ends.
    Streams(streams::Arguments),
    /// Opens one stream and says when and how it ended.
    Hold(streams::HoldArguments),
    /// Makes many calls at once, and counts what they come to.
    Burst(burst::Arguments),
    /// Makes calls while the network between sidecars and authority is bad.
    Loss(loss::Arguments),
    /// Makes calls for long while everything happens that may, and knows what each must come to.
    Soak(soak::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    countersign_mtls::install_default_provider();
    let mut report = Report::default();
    match Arguments::parse().what {
        What::Table(arguments) => clock::run(&arguments, &mut report).await,
        What::Streams(arguments) => streams::run(&arguments, &mut report).await,
        What::Hold(arguments) => streams::hold(&arguments).await,
        What::Burst(arguments) => burst::run(&arguments).await,
        What::Loss(arguments) => loss::run(arguments, &mut report).await,
        What::Soak(arguments) => soak::run(&arguments, &mut report).await,
    }
    report.exit_code()
}
