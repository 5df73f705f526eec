//! The command line `countersign`.

use std::process::ExitCode;

use clap::Parser as _;
use countersign_cli::args::Cli;

fn main() -> ExitCode {
    countersign_mtls::install_default_provider();
    countersign_cli::run(Cli::parse())
}
