//! The processes that are looked at: what they use, and one that is stopped and started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// Clock ticks in a second, as /proc counts processor time. It is so on every architecture that Linux has now.
const TICKS: u64 = 100;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Resident, in KiB.
    pub(super) memory: u32,
    /// Open descriptors.
    pub(super) descriptors: usize,
    /// Processor time since its start.
    pub(super) processor: Duration,
}

impl Usage {
    /// Of the process with this id. None, if there is no such process now.
    pub(super) fn of(id: u32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{id}"));
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = memory.trim().strip_suffix(" kB")?.parse().ok()?;
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // The name of the program, in brackets, may have spaces in it. After it, the 12th and 13th field.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Self {
            memory,
            descriptors: fs::read_dir(folder.join("fd")).ok()?.count(),
            processor: Duration::from_millis(ticks * 1000 / TICKS),
        })
    }
}

/// The sizes of all files below a folder, in KiB.
pub(super) fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    // Files come and go meanwhile.
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len() / 1024,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Starts a sidecar, in a process that ends with the value.
pub(super) fn start_sidecar(countersign: &Path, folder: &Path, name: &str) -> Child {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join(format!("{name}.log")))
        .expect("a place for the log");
    Command::new(countersign)
        .args(["run", "sidecar", "--config"])
        .arg(folder.join(format!("{name}.toml")))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("one file"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("the sidecar starts")
}

/// Memory over time.
#[derive(Debug, Default)]
pub(super) struct Course(Vec<(f64, f64)>);

impl Course {
    /// So many KiB at this time.
    pub(super) fn add(&mut self, at: Duration, memory: u32) {
        let point = (at.as_secs_f64() / 3600.0, f64::from(memory) / 1024.0);
        self.0.push(point);
    }

    /// By how many MiB an hour it grows, by least squares over what came after `since`. None of less than three points.
    pub(super) fn slope(&self, since: Duration) -> Option<f64> {
        let since = since.as_secs_f64() / 3600.0;
        let points: Vec<_> = self.0.iter().filter(|(at, _)| *at >= since).collect();
        let count = f64::from(u32::try_from(points.len()).ok()?);
        if count < 3.0 {
            return None;
        }
        let mean = |sum: f64| sum / count;
        let at = mean(points.iter().map(|(at, _)| at).sum());
        let memory = mean(points.iter().map(|(_, memory)| memory).sum());
        let covariance: f64 = points.iter().map(|(x, y)| (x - at) * (y - memory)).sum();
        let variance: f64 = points.iter().map(|(x, _)| (x - at).powi(2)).sum();
        Some(covariance / variance)
    }

    /// The most, in MiB.
    pub(super) fn most(&self) -> f64 {
        self.0.iter().map(|(_, memory)| *memory).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_tells_how_fast_it_rises_after_the_beginning() {
        let mut course = Course::default();
        course.add(Duration::ZERO, 0);
        for minute in 10..20_u32 {
            let at = Duration::from_secs(u64::from(minute) * 60);
            // One MiB a minute.
            course.add(at, minute * 1024);
        }
        let slope = course.slope(Duration::from_secs(600));
        assert!(slope.is_some_and(|slope| (slope - 60.0).abs() < 0.001));
        assert_eq!(course.slope(Duration::from_secs(1100)), None);
    }

    #[test]
    fn this_process_uses_memory_and_descriptors() {
        let usage = Usage::of(std::process::id());
        assert!(usage.is_some_and(|usage| usage.memory > 0 && usage.descriptors > 2));
    }
}
