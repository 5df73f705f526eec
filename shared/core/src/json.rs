//! JSON as a signed document must be read: one object, no member twice, bounded depth, no lone surrogates, nothing
//! before or after it.
//!
//! `serde_json` does the reading. What it is lax on by itself (the last of two equal members wins, unknown values are
//! skipped without a look inside) is decided here.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting read, counting the outer object.
pub const MAX_DEPTH: usize = 8;

/// The most members that one object may have. Access tokens have about a dozen.
pub const MAX_MEMBERS: usize = 64;

/// The text is no JSON object of the strict form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a strict JSON object")]
pub struct NotStrictJson;

/// The members of one object, in their order, each name once. Values are still text; their syntax is checked.
#[derive(Debug)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads `document`: UTF-8, exactly one object, JSON whitespace around it allowed.
    ///
    /// # Errors
    /// [`NotStrictJson`].
    pub fn read(document: &'a [u8]) -> Result<Self, NotStrictJson> {
        let text = std::str::from_utf8(document).map_err(|_invalid| NotStrictJson)?;
        if !is_shallow(text) {
            return Err(NotStrictJson);
        }
        serde_json::from_str(text).map_err(|_syntax| NotStrictJson)
    }

    /// The value of `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| *value)
    }

    /// Every member.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

/// The string that `value` is, if it is one.
#[must_use]
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// A string, borrowed from the document unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Checks a value that is not understood: no member twice at any depth, no lone surrogate, numbers in range.
///
/// # Errors
/// [`NotStrictJson`].
pub fn check(value: &RawValue) -> Result<(), NotStrictJson> {
    serde_json::from_str::<Checked>(value.get())
        .map(|_| ())
        .map_err(|_syntax| NotStrictJson)
}

/// Whether nesting stays within [`MAX_DEPTH`]. A scan without recursion, made before any parser sees the text.
fn is_shallow(text: &str) -> bool {
    // Most documents have not even that many brackets.
    if text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MAX_DEPTH {
        return true;
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
    }
    true
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Members)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::with_capacity(16);
        while let Some(Text(name)) = map.next_key()? {
            if members.len() == MAX_MEMBERS || members.iter().any(|(member, _)| *member == name) {
                return Err(de::Error::custom("a member twice, or too many"));
            }
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

/// A value of any shape that passed the checks of [`check`].
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if names.len() == MAX_MEMBERS || names.contains(&name) {
                return Err(de::Error::custom("a member twice, or too many"));
            }
            names.push(name);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
