//! What a process tells whoever started it by its exit code (`sysexits.h` where it has a number).

use std::process::ExitCode;

/// All went well, or it was asked to stop and did.
pub const SUCCESS: u8 = 0;
/// The start or the command failed.
pub const FAILURE: u8 = 1;
/// The arguments or the configuration are wrong: trying again without changing them is useless (`EX_USAGE`).
pub const CONFIG: u8 = 64;

/// The exit code of a number.
#[must_use]
pub fn code(number: u8) -> ExitCode {
    ExitCode::from(number)
}
