//! The processes of an environment: started from this very binary, watched, and stopped with it.
//!
//! Each child holds the other end of a pipe of ours. When we are gone, however that came, the pipe ends and the child
//! stops by itself, so no orphan stays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::Stop;
use crate::failure::{Exit, Failure};
use crate::files::cannot;
use crate::output::Output;
use crate::probe::{Readiness, readiness};
use crate::progress::Waiting;

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Authority,
    Demo,
    Sidecar,
}

impl Role {
    const ALL: [Self; 3] = [Self::Authority, Self::Demo, Self::Sidecar];

    /// Its name on the command line, in messages, and of its log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Demo => "demo",
            Self::Sidecar => "sidecar",
        }
    }
}

/// A child ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) role: Role,
    /// For people.
    pub(super) how: String,
}

#[derive(Debug)]
struct Running {
    role: Role,
    child: Child,
    pid: u32,
}

/// The children.
#[derive(Debug)]
pub(super) struct Children {
    folder: PathBuf,
    running: Vec<Running>,
}

/// How often a child is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// How long children may take to stop by themselves.
const GRACE: Duration = Duration::from_secs(12);

impl Children {
    /// None yet; their logs go below `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            running: Vec::new(),
        }
    }

    /// Starts a child.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(&mut self, role: Role, arguments: &[OsString]) -> Result<(), Failure> {
        let doing = format!("cannot start the {}", role.name());
        let path = log(&self.folder, role);
        let file = new_log(&path).map_err(|error| cannot("write", &path, &error))?;
        let second = file.try_clone().map_err(|error| cannot("write", &path, &error))?;
        let ourselves = ourselves().map_err(|error| Failure::because(&doing, &error))?;
        let child = Command::new(image(&ourselves))
            .arg0(&ourselves)
            .args(["run", "--with-parent", role.name()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(second)
            // Ctrl-C is for us to pass on: in order, and with time to end.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::because(&doing, &error))?;
        let pid = child.id().ok_or_else(|| Failure::new(Exit::Failure, doing))?;
        self.running.push(Running { role, child, pid });
        Ok(())
    }

    /// The process id of a child.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn pid(&self, role: Role) -> Result<u32, Failure> {
        let found = self.running.iter().find(|running| running.role == role);
        found
            .map(|running| running.pid)
            .ok_or_else(|| self.broken(role, "has ended"))
    }

    /// Waits until the child says on its admin port that it is ready.
    ///
    /// # Errors
    /// When it ends first, or takes too long.
    pub(super) async fn ready(
        &mut self,
        role: Role,
        admin: &str,
        deadline: Instant,
        output: Output,
    ) -> Result<(), Failure> {
        self.until(role, deadline, output, async || match readiness(admin).await {
            Readiness::Ready => None,
            Readiness::NotReady(why) | Readiness::Unreachable(why) => Some(why),
        })
        .await
    }

    /// Waits until the child takes connections.
    ///
    /// # Errors
    /// When it ends first, or takes too long.
    pub(super) async fn listening(
        &mut self,
        role: Role,
        address: &str,
        deadline: Instant,
        output: Output,
    ) -> Result<(), Failure> {
        let connect = async || {
            tokio::net::TcpStream::connect(address)
                .await
                .err()
                .map(|error| error.to_string())
        };
        self.until(role, deadline, output, connect).await
    }

    async fn until(
        &mut self,
        role: Role,
        deadline: Instant,
        output: Output,
        obstacle: impl AsyncFn() -> Option<String>,
    ) -> Result<(), Failure> {
        let mut waiting = Waiting::new(output, deadline.saturating_duration_since(Instant::now()));
        loop {
            if let Some(ended) = self.take_ended() {
                return Err(self.broken(ended.role, &ended.how));
            }
            let Some(why) = obstacle().await else {
                return Ok(());
            };
            if !waiting.again(POLL, &format!("the {} starts", role.name())).await {
                return Err(self.broken(role, &format!("is not ready in time: {why}")));
            }
        }
    }

    /// Why the environment does not start, with what the child has to say about it.
    fn broken(&self, role: Role, how: &str) -> Failure {
        let path = log(&self.folder, role);
        let said = last_lines(&path);
        let said = if said.is_empty() {
            String::new()
        } else {
            format!("\n{said}")
        };
        Failure::new(Exit::Failure, format!("the {} {how}{said}", role.name())).next(format!(
            "see `{}`; `countersign dev --reset` starts afresh",
            path.display()
        ))
    }

    fn take_ended(&mut self) -> Option<Ended> {
        let ended = self.running.iter_mut().enumerate().find_map(|(index, running)| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((index, status))
        });
        let (index, status) = ended?;
        let running = self.running.remove(index);
        Some(Ended {
            role: running.role,
            how: how_ended(status),
        })
    }

    /// Waits until a child ends.
    pub(super) async fn next_end(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.take_ended() {
                return ended;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops every child: kindly, and then not. A second wish to stop takes the kindness away.
    pub(super) async fn stop(mut self, stop: &mut Stop, output: Output) {
        // The sidecar first, so that it does not report an authority that goes away in order.
        for role in Role::ALL.into_iter().rev() {
            for running in self.running.iter().filter(|running| running.role == role) {
                signal(running.pid, Signal::TERM);
            }
        }
        let mut waiting = Waiting::new(output, GRACE);
        while !self.running.is_empty() {
            if self.take_ended().is_some() {
                continue;
            }
            let patient = tokio::select! {
                again = waiting.again(POLL, "stopping") => again,
                () = stop.requested() => false,
            };
            if !patient {
                break;
            }
        }
        for mut running in self.running {
            output.warn(&format!(
                "the {} does not stop, and is killed",
                running.role.name()
            ));
            if let Err(error) = running.child.kill().await {
                output.warn(&format!("it cannot be killed: {error}"));
            }
        }
    }
}

/// The path that this program was started from, for people. Once the file there was removed or built anew, Linux adds a
/// remark to it.
pub(super) fn ourselves() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let remarked = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let stripped = remarked.map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
    // What is there is no remark.
    Ok(stripped.filter(|_| !path.exists()).unwrap_or(path))
}

/// What is executed to start a part. On Linux the very program that runs now, also when its file was removed or built anew
/// since, so that the parts of a run are of one build.
fn image(ourselves: &Path) -> &Path {
    if cfg!(target_os = "linux") {
        Path::new("/proc/self/exe")
    } else {
        ourselves
    }
}

/// The log of a child in an environment's folder.
pub(super) fn log(folder: &Path, role: Role) -> PathBuf {
    folder.join("logs").join(format!("{}.log", role.name()))
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It fails for a process that is gone, and then there is nothing to stop. We have not waited for it yet, so the id is not
    // anybody else's.
    let _gone = pid.map(|pid| kill_process(pid, signal));
}

/// A log of this run; that of the run before is kept beside it.
fn new_log(path: &Path) -> std::io::Result<File> {
    if path.exists() {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::create(path)
}

fn how_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => "has stopped".to_owned(),
        (Some(code), _) => format!("has failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "has ended".to_owned(),
    }
}

/// How much of a log is shown.
const TAIL: u64 = 4096;

/// The last lines of a log, for a message.
fn last_lines(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    // No log is no reason to hide what is known already.
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
    last.iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_and_not_all_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.log");
        assert_eq!(last_lines(&path), "");
        let lines: Vec<String> = (0..5000).map(|line| format!("line {line}")).collect();
        fs::write(&path, lines.join("\n")).expect("written");
        let shown = last_lines(&path);
        assert_eq!(shown.lines().count(), 8);
        assert!(shown.ends_with("line 4999"));
    }

    #[test]
    fn the_log_of_the_run_before_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.log");
        fs::write(&path, "before").expect("written");
        new_log(&path).expect("a log");
        assert_eq!(fs::read_to_string(&path).expect("there"), "");
        assert_eq!(
            fs::read_to_string(folder.path().join("x.log.1")).expect("there"),
            "before"
        );
    }

    #[test]
    fn how_a_child_ended_is_told_in_words() {
        use std::os::unix::process::ExitStatusExt as _;
        for (raw, expected) in [
            (0, "has stopped"),
            (64 << 8, "has failed with exit code 64"),
            (9, "was killed by signal 9"),
        ] {
            assert_eq!(how_ended(ExitStatus::from_raw(raw)), expected);
        }
    }
}
