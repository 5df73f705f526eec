//! What a process has in memory that is its own.

use std::fs;

use crate::Failure;
use crate::measure::float;

/// In bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory(pub(super) f64);

impl Memory {
    /// What `process` has now and shares with nobody.
    pub(super) fn of(process: u32) -> Result<Self, Failure> {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let [clean, dirty] = ["Private_Clean:", "Private_Dirty:"].map(|name| kibibytes(&rollup, name));
        Ok(Self((clean? + dirty?) * 1024.0))
    }

    /// The most that `process` has had, what it shares included.
    pub(super) fn peak_of(process: u32) -> Result<Self, Failure> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self(kibibytes(&status, "VmHWM:")? * 1024.0))
    }

    pub(super) fn mebibytes(self) -> f64 {
        self.0 / (1024.0 * 1024.0)
    }
}

fn kibibytes(text: &str, name: &str) -> Result<f64, Failure> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number: u64 = number.ok_or("the kernel does not tell of memory")?.parse()?;
    Ok(float(number))
}
