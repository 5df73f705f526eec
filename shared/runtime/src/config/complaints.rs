//! Everything that is wrong with one configuration, each with its line.

use std::fmt;
use std::path::{Path, PathBuf};

use super::lines::Lines;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The line, from 1, where known.
    pub line: Option<usize>,
    /// The key, dotted, where it is about one.
    pub key: Option<String>,
    /// What is wrong with it.
    pub text: String,
}

/// All that is wrong with one configuration file. As text, one line for each.
#[derive(Clone, Debug)]
pub struct Complaints {
    path: PathBuf,
    lines: Lines,
    all: Vec<Complaint>,
}

impl Complaints {
    /// No complaints about `path` yet, whose keys and lines are not known.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self::with_lines(path, Lines::default())
    }

    pub(super) fn with_lines(path: &Path, lines: Lines) -> Self {
        Self {
            path: path.to_owned(),
            lines,
            all: Vec::new(),
        }
    }

    /// Complains about the value of `key`, such as `listeners.0.address`: the first of `[[listeners]]`.
    pub fn push(&mut self, key: &str, text: impl fmt::Display) {
        let line = self.lines.of_key(key);
        self.add(Complaint {
            line,
            key: Some(key.to_owned()),
            text: text.to_string(),
        });
    }

    /// Complains about the file as a whole.
    pub fn push_general(&mut self, text: impl fmt::Display) {
        self.add(Complaint {
            line: None,
            key: None,
            text: text.to_string(),
        });
    }

    /// The value of `result`, or none and its error as a complaint about `key`.
    pub fn accept<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(key, error)).ok()
    }

    pub(super) fn push_at(&mut self, line: Option<usize>, key: Option<String>, text: String) {
        self.add(Complaint { line, key, text });
    }

    fn add(&mut self, complaint: Complaint) {
        if !self.all.contains(&complaint) {
            self.all.push(complaint);
        }
    }

    /// `value`, when there is nothing to complain about.
    ///
    /// # Errors
    /// These complaints, in the order of the file.
    pub fn into_result<T>(mut self, value: T) -> Result<T, Self> {
        if self.all.is_empty() {
            return Ok(value);
        }
        self.all
            .sort_by_key(|complaint| complaint.line.unwrap_or(usize::MAX));
        Err(self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The complaints.
    pub fn iter(&self) -> impl Iterator<Item = &Complaint> {
        self.all.iter()
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.all.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(line) = complaint.line {
                write!(f, "{line}:")?;
            }
            if let Some(key) = &complaint.key {
                write!(f, " `{key}`:")?;
            }
            write!(f, " {}", complaint.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}
