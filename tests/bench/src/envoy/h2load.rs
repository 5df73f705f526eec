//! nghttp2's h2load, which calls, and what it saw.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Failure;
use crate::load::{Load, Outcome};
use crate::measure::Samples;

/// The program, and a folder for what it reads and writes.
#[derive(Debug)]
pub(crate) struct H2load<'a> {
    pub(crate) program: &'a Path,
    pub(crate) folder: &'a Path,
}

/// What every call of a load asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'a str,
    /// Shown, if there is one.
    pub(crate) token: Option<&'a str>,
    /// The message, framed.
    pub(crate) body: &'a [u8],
}

impl H2load<'_> {
    /// Makes the calls of `load`.
    pub(crate) fn call(&self, load: Load, asked: Asked<'_>) -> Result<Outcome, Failure> {
        let [log, body] = ["h2load.tsv", "message"].map(|name| self.folder.join(name));
        fs::write(&body, asked.body)?;
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let mut command = Command::new(self.program);
        command
            .args(["--threads", "1"])
            .args(["--requests", &load.calls.to_string()])
            .args(["--clients", &load.connections.to_string()])
            .args(["--max-concurrent-streams", &load.streams.to_string()])
            .arg("--data")
            .arg(body)
            .arg("--log-file")
            .arg(&log)
            .args(["--header", "content-type: application/grpc"])
            .args(["--header", "te: trailers"]);
        if let Some(token) = asked.token {
            command.args(["--header", &format!("authorization: Bearer {token}")]);
        }
        let said = command
            .arg(format!("http://{}{}", asked.address, asked.path))
            .output()?;
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            return Err(format!("h2load: {}: {why}", said.status).into());
        }
        read(&fs::read_to_string(log)?, load.calls)
    }
}

/// h2load's log: for each call when it began, in microseconds of the wall clock, its status, and how many microseconds it took.
fn read(log: &str, calls: u32) -> Result<Outcome, Failure> {
    let mut latency = Samples::default();
    let (mut first, mut last) = (u64::MAX, 0);
    for line in log.lines() {
        let mut columns = line.split('\t');
        let mut column = || columns.next().ok_or("h2load's log lacks a column");
        let (begun, status, took): (u64, _, u64) = (column()?.parse()?, column()?, column()?.parse()?);
        if status != "200" {
            return Err(format!("a call ended with {status}").into());
        }
        first = first.min(begun);
        last = last.max(begun + took);
        latency.push(Duration::from_micros(took));
    }
    if latency.len() != usize::try_from(calls)? {
        return Err(format!("{} of {calls} calls ended", latency.len()).into());
    }
    Ok(Outcome {
        lasted: Duration::from_micros(last.saturating_sub(first)),
        latency,
    })
}
