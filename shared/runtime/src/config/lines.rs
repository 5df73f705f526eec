//! On which line each key of a TOML file is.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

/// The lines of the keys, by dotted path; elements of arrays by their index.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(HashMap<String, usize>);

impl Lines {
    pub(super) fn of(table: &DeTable<'_>, text: &str) -> Self {
        let mut lines = Self::default();
        lines.add_table("", table, text);
        lines
    }

    /// The line of `key`, or of the nearest table around it that the file has.
    pub(super) fn of_key(&self, key: &str) -> Option<usize> {
        let mut path = key;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>, text: &str) {
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            self.add(&path, key.span().start, value.get_ref(), text);
        }
    }

    fn add(&mut self, path: &str, offset: usize, value: &DeValue<'_>, text: &str) {
        self.0.insert(path.to_owned(), line_at(text, offset));
        if let Some(table) = value.as_table() {
            self.add_table(path, table, text);
        }
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            let path = join(path, &index.to_string());
            self.add(&path, element.span().start, element.get_ref(), text);
        }
    }
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// The line, from 1, of the byte at `offset`.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
