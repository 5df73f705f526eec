//! The command line `countersign` under another name, for the tests of this package to start and kill.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_mtls::install_default_provider();
    countersign_cli::main()
}
