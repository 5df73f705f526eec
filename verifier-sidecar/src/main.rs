//! `countersign-sidecar --config FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_sidecar::commands::run(std::env::args_os())
}
