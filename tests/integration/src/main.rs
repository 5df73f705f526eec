//! The command line `countersign` under another name, for the tests of this package to start and kill.

use std::process::ExitCode;

use clap::Parser as _;
use countersign_cli::args::Cli;

fn main() -> ExitCode {
    countersign_mtls::install_default_provider();
    countersign_cli::run(Cli::parse())
}
