//! The command line `countersign`.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_mtls::install_default_provider();
    countersign_cli::main()
}
