//! Configuration files: bounded TOML, strict values, and every complaint at once with its line.
//!
//! A file becomes a `File` type of its reader (serde, `deny_unknown_fields`). What serde can find wrong is collected
//! here, error after error; what only the reader can judge (this key against that one) is added by the reader to the same
//! [`Complaints`], which know the line of each key.
//!
//! ```
//! # use countersign_runtime::config::{self, Period};
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct File { token_lifetime: Period, ceiling: Period }
//!
//! let text = "token_lifetime = \"2h\"\nceiling = \"1h\"\n";
//! let (file, mut complaints) = config::parse::<File>("authority.toml".as_ref(), text).unwrap();
//! if file.token_lifetime > file.ceiling {
//!     complaints.push("token_lifetime", "is over `ceiling`");
//! }
//! let refused = complaints.into_result(()).unwrap_err();
//! assert_eq!(refused.to_string(), "authority.toml:1: `token_lifetime`: is over `ceiling`");
//! ```

mod complaints;
mod duration;
pub mod environment;
mod lines;
mod reader;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use complaints::{Complaint, Complaints};
pub use duration::{InvalidDuration, MAX_DURATION, Period, PeriodOrZero, Written, parse_duration};
pub use reader::parse;

/// The largest configuration file that is read.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Reads a configuration file.
///
/// # Errors
/// [`Complaints`], with everything that is wrong with it.
pub fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T, Complaints> {
    read(path).map(|(file, _no_complaints)| file)
}

/// Reads a configuration file, and gives the [`Complaints`] (none yet) for what only the caller can judge.
///
/// # Errors
/// [`Complaints`], with everything that is wrong with it.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Complaints), Complaints> {
    match read_text(path) {
        Ok(text) => parse(path, &text),
        Err(problem) => {
            let mut complaints = Complaints::of(path);
            complaints.push_general(problem);
            Err(complaints)
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    // Without it, opening a pipe waits for somebody to write.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = File::options().read(true).custom_flags(nonblocking).open(path);
    let file = opened.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is no regular file".to_owned());
    }
    let mut content = Vec::new();
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut content);
    let length = read.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("is over {MAX_BYTES} bytes"));
    }
    String::from_utf8(content).map_err(|_content| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests;
