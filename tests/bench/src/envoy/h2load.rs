//! nghttp2's h2load, which calls, and what it saw.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Failure;
use crate::load::PATH;
use crate::measure::Samples;

/// How calls come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Connections.
    pub(crate) connections: u32,
    /// Calls at one time on each.
    pub(crate) streams: u32,
    /// Bytes in the message of a call.
    pub(crate) message: usize,
    /// Calls in a round.
    pub(crate) calls: u32,
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first call's start to the last one's end.
    pub(crate) lasted: Duration,
    /// How long each took.
    pub(crate) latency: Samples,
}

/// The program, and a folder for what it reads and writes.
#[derive(Debug)]
pub(crate) struct H2load<'a> {
    pub(crate) program: &'a Path,
    pub(crate) folder: &'a Path,
}

impl H2load<'_> {
    /// Calls `address` with `token`.
    pub(crate) fn call(&self, load: Load, address: SocketAddr, token: &str) -> Result<Outcome, Failure> {
        let log = self.folder.join("h2load.tsv");
        let body = self.body(load.message)?;
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let said = Command::new(self.program)
            .args(["--threads", "1"])
            .args(["--requests", &load.calls.to_string()])
            .args(["--clients", &load.connections.to_string()])
            .args(["--max-concurrent-streams", &load.streams.to_string()])
            .arg("--data")
            .arg(body)
            .arg("--log-file")
            .arg(&log)
            .args(["--header", "content-type: application/grpc"])
            .args(["--header", "te: trailers"])
            .args(["--header", &format!("authorization: Bearer {token}")])
            .arg(format!("http://{address}{PATH}"))
            .output()?;
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            return Err(format!("h2load: {}: {why}", said.status).into());
        }
        read(&fs::read_to_string(log)?, load.calls)
    }

    /// A file with one message, framed as gRPC does.
    fn body(&self, message: usize) -> Result<PathBuf, Failure> {
        let path = self.folder.join(format!("message-{message}"));
        if !path.exists() {
            fs::write(&path, framed(message)?)?;
        }
        Ok(path)
    }
}

/// A message of so many bytes, with its prefix.
fn framed(message: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message)?.to_be_bytes());
    bytes.resize(bytes.len() + message, b'x');
    Ok(bytes)
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
