//! The program `countersign-authority`.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_authority::commands::run(std::env::args_os())
}
