//! TOML into a type, with all that is wrong and not only the first of it.
//!
//! serde stops at the first error. So the entry that an error points at is reported, cut out, and the rest is read
//! again, until it reads or only the absence of something is wrong. A field that is missing because it was cut out is no
//! news.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::Complaints;
use super::lines::{Lines, join, line_at};

/// Nobody reads more complaints than this in one go, and each costs one more reading.
const MAX_COMPLAINTS: usize = 50;

/// Reads the text of a configuration file; `path` is only its name in complaints.
///
/// # Errors
/// [`Complaints`], with everything that is wrong with it.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<(T, Complaints), Complaints> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    let mut complaints = Complaints::with_lines(path, Lines::of(table.get_ref(), text));
    for error in errors.iter().take(MAX_COMPLAINTS) {
        let line = error.span().map(|span| line_at(text, span.start));
        complaints.push_at(line, None, one_line(error));
    }
    if !errors.is_empty() {
        complaints.into_result(())?;
        return Err(Complaints::of(path));
    }
    let mut removed = HashSet::new();
    for _ in 0..MAX_COMPLAINTS {
        let error = match T::deserialize(Deserializer::from(table.clone())) {
            Ok(value) if complaints.is_empty() => return Ok((value, complaints)),
            Ok(_) => break,
            Err(error) => error,
        };
        let missing = missing_field(&error);
        let whole = table.span();
        let span = error.span().filter(|span| *span != whole);
        let cut = span.clone().and_then(|span| cut(table.get_mut(), "", &span));
        if !missing.is_some_and(|name| removed.contains(name)) {
            let line = error
                .span()
                .map(|span| line_at(text, span.start))
                .filter(|_| cut.is_some());
            complaints.push_at(line, cut.clone(), one_line(&error));
        }
        let Some(path) = cut else { break };
        removed.insert(path.rsplit('.').next().unwrap_or_default().to_owned());
    }
    complaints.into_result(())?;
    Err(Complaints::of(path))
}

fn one_line(error: &Error) -> String {
    error.message().trim().replace('\n', "; ")
}

fn missing_field(error: &Error) -> Option<&str> {
    error.message().strip_prefix("missing field `")?.split('`').next()
}

/// Removes the innermost entry that `span` lies in, and gives its path without indices.
fn cut(table: &mut DeTable<'_>, prefix: &str, span: &Range<usize>) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let path = join(prefix, key.get_ref());
        if let Some(inner) = cut_within(value, &path, span) {
            return Some(inner);
        }
        if lies_in(span, &key.span()) || lies_in(span, &value.span()) {
            found = Some((key.clone(), path));
            break;
        }
    }
    let (key, path) = found?;
    table.remove(&key);
    Some(path)
}

fn cut_within(value: &mut Spanned<DeValue<'_>>, path: &str, span: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => cut(table, path, span),
        DeValue::Array(elements) => {
            if let Some(inner) = elements
                .iter_mut()
                .find_map(|element| cut_within(element, path, span))
            {
                return Some(inner);
            }
            let at = elements
                .iter()
                .position(|element| lies_in(span, &element.span()))?;
            let left = std::mem::replace(elements, DeArray::new())
                .into_iter()
                .enumerate()
                .filter(|(index, _)| *index != at);
            left.for_each(|(_, element)| elements.push(element));
            Some(path.to_owned())
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

const fn lies_in(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && outer.start < outer.end
}
