//! Programs in processes of their own, which are killed when they are no longer wanted, and what any process costs.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;

/// A program in a process of its own. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program(process::Child);

impl Program {
    /// Starts it; what it says goes to the end of `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let log = OpenOptions::new().append(true).create(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let id = Pid::from_raw(self.id().try_into()?).ok_or("the process has no id")?;
        Ok(kill_process(id, signal)?)
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        Ok(scheduled(self.id())?.ran)
    }

    /// What it has in memory.
    pub(crate) fn resident(&self) -> Result<Resident, Failure> {
        resident(self.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ended = self.kill();
    }
}

/// What a process has had of the processors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scheduled {
    /// How long its threads have run. What other processes do at the same time counts for little in it.
    pub(crate) ran: Duration,
    /// How long they could have run, and something else did.
    pub(crate) waited: Duration,
}

impl Scheduled {
    /// Of two processes.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            ran: self.ran + other.ran,
            waited: self.waited + other.waited,
        }
    }

    /// Since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// What the threads of a process have had of the processors.
pub(crate) fn scheduled(process: u32) -> Result<Scheduled, Failure> {
    let mut scheduled = Scheduled::default();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended since.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let mut nanos = text.split_whitespace().map(str::parse);
        let mut next = || nanos.next().unwrap_or(Ok(0)).map(Duration::from_nanos);
        scheduled.ran += next()?;
        scheduled.waited += next()?;
    }
    Ok(scheduled)
}

/// What a process has in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// All of it, in bytes.
    pub(crate) all: u64,
    /// What is not a part of files, such as the heap.
    pub(crate) anonymous: u64,
}

/// What a process has in memory now.
pub(crate) fn resident(process: u32) -> Result<Resident, Failure> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    Ok(Resident {
        all: bytes(&text, "Rss:")?,
        anonymous: bytes(&text, "Anonymous:")?,
    })
}

/// What a process has in memory, by what it is a part of, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) all: u64,
    /// What is in no file, such as the heap.
    pub(crate) anonymous: u64,
    /// What is read from files, such as the program.
    pub(crate) file: u64,
}

impl Memory {
    /// Of one process, now.
    pub(crate) fn of(process: u32) -> Result<Self, Failure> {
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self {
            all: bytes(&text, "VmRSS:")?,
            anonymous: bytes(&text, "RssAnon:")?,
            file: bytes(&text, "RssFile:")?,
        })
    }

    /// Of two processes.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            all: self.all + other.all,
            anonymous: self.anonymous + other.anonymous,
            file: self.file + other.file,
        }
    }

    /// The more of each.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            anonymous: self.anonymous.max(other.anonymous),
            file: self.file.max(other.file),
        }
    }
}

/// The most that a process has had in memory, in bytes, since `forget_most_resident`.
pub(crate) fn most_resident(process: u32) -> Result<u64, Failure> {
    bytes(&fs::read_to_string(format!("/proc/{process}/status"))?, "VmHWM:")
}

/// From here on counts what the process has in memory then.
pub(crate) fn forget_most_resident(process: u32) -> Result<(), Failure> {
    Ok(fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// The line of `text` that begins with `name`, which is in kibibytes.
fn bytes(text: &str, name: &str) -> Result<u64, Failure> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: u64 = kibibytes.ok_or_else(|| format!("{name} is not told"))?.parse()?;
    Ok(kibibytes * 1024)
}
