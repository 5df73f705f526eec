//! The access log: where it goes, and how much of what went well it tells.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Checker;
use crate::access_log::{AccessLogConfig, AccessLogTarget};

/// The section `[access_log]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    path: PathBuf,
    #[serde(default)]
    sample: f64,
}

impl Checker {
    pub(super) fn access_log(&mut self, file: &File) -> AccessLogConfig {
        if !(0.0..=1.0).contains(&file.sample) {
            self.complaints
                .push("access_log.sample", "is not between 0 and 1");
        }
        let target = if file.path == Path::new("-") {
            AccessLogTarget::Stdout
        } else {
            AccessLogTarget::File(self.path(&file.path))
        };
        AccessLogConfig {
            target,
            sample: file.sample,
        }
    }
}
