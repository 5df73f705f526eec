//! Servers under load are processes of their own, so that what they cost can be read off their process clock.
//!
//! A child is this very binary under `serve`. It writes one line, `ready ADDRESS [TOKEN]`, and then answers each line it
//! reads with the CPU time that it has used, in nanoseconds, and the calls that it has answered, if it counts them. When
//! its input ends, so does it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{Failure, cores};

/// A running server, seen from the parent.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// A token that it accepts, if it looks at tokens.
    pub(crate) token: Option<String>,
}

impl Child {
    /// Starts `role` and waits until it serves. What it logs goes to `log`.
    pub(crate) fn start(role: &str, arguments: &[String], log: Option<File>) -> Result<Self, Failure> {
        Self::start_as(&mut Command::new(std::env::current_exe()?), role, arguments, log)
    }

    /// The same on one core.
    pub(crate) fn start_on(core: usize, role: &str, arguments: &[String]) -> Result<Self, Failure> {
        let mut command = cores::on(core, std::env::current_exe()?);
        Self::start_as(&mut command, role, arguments, None)
    }

    fn start_as(
        command: &mut Command,
        role: &str,
        arguments: &[String],
        log: Option<File>,
    ) -> Result<Self, Failure> {
        let mut process = command
            .args(["serve", role])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
            .spawn()?;
        let commands = process.stdin.take();
        let output = process.stdout.take().ok_or("the child has no output")?;
        let mut answers = BufReader::new(output);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        if words.next() != Some("ready") {
            return Err(format!("{role} did not start: {line}").into());
        }
        let address = words.next().ok_or("the child names no address")?.parse()?;
        Ok(Self {
            process,
            commands,
            answers,
            address,
            token: words.next().map(str::to_owned),
        })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&mut self) -> Result<Duration, Failure> {
        Ok(Duration::from_nanos(self.ask(0)?))
    }

    /// The calls that it has answered.
    pub(crate) fn calls(&mut self) -> Result<u64, Failure> {
        self.ask(1)
    }

    /// One of the numbers that it tells.
    fn ask(&mut self, number: usize) -> Result<u64, Failure> {
        let commands = self.commands.as_mut().ok_or("the child has no input")?;
        commands.write_all(b"how much\n")?;
        commands.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let number = line.split_whitespace().nth(number);
        Ok(number.ok_or("the child does not answer")?.parse()?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input is the order to stop; what it then does is of no interest any more.
        drop(self.commands.take());
        let _stopped = self.process.wait();
    }
}

/// In the child: says that it serves, and answers until there is nobody to answer to.
pub(crate) fn report(address: SocketAddr, token: Option<&str>) -> Result<(), Failure> {
    report_counting(address, token, &AtomicU64::default())
}

/// The same, when `calls` counts the calls that are answered.
pub(crate) fn report_counting(
    address: SocketAddr,
    token: Option<&str>,
    calls: &AtomicU64,
) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "ready {address} {}", token.unwrap_or_default())?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::new(used.tv_sec.try_into()?, used.tv_nsec.try_into()?);
        writeln!(output, "{} {}", used.as_nanos(), calls.load(Ordering::Relaxed))?;
        output.flush()?;
    }
    Ok(())
}
