//! What was checked, a line each.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Writes a line on stdout, at once.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("somebody reads");
}

/// What was checked so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    /// One check, with what was measured.
    pub(crate) fn check(&mut self, holds: bool, what: &str) {
        self.failed |= !holds;
        say(&format!("{}  {what}", if holds { "ok  " } else { "FAIL" }));
    }

    /// Success, if every check held.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// Milliseconds with one decimal.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The median and the greatest.
pub(crate) fn spread(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}
