//! The head of one request: every byte of it, and what it says of the body.

use super::super::HEADER_LIST;
use super::Wrong;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The next head.
    None,
    /// So many bytes.
    Sized(u64),
    /// Chunks.
    Chunked,
}

/// A head as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    read: Vec<u8>,
}

impl Head {
    /// Whether nothing of it has come.
    pub(super) const fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// Reads on, to its end at most. Answers how many bytes were read and, at the end, what follows.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Body>), Wrong> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.read.len() >= HEADER_LIST {
                return Err(Wrong::Long);
            }
            if !follows(&self.read, *byte) {
                return Err(Wrong::Head);
            }
            self.read.push(*byte);
            if self.read.ends_with(b"\r\n\r\n") {
                let body = body(&self.read).ok_or(Wrong::Head)?;
                return Ok((index.saturating_add(1), Some(body)));
            }
        }
        Ok((bytes.len(), None))
    }
}

/// Whether `byte` may come after `before` in lines that end in CRLF, and only there; that begin with no space, which would make
/// a line of two; and of which none is empty but the last.
pub(super) fn follows(before: &[u8], byte: u8) -> bool {
    match (before.last(), byte) {
        (Some(b'\r'), _) => byte == b'\n',
        (None | Some(b'\n'), b' ' | b'\t') | (None, b'\r') => false,
        (_, b'\r' | b'\t' | b' '..=b'~' | 0x80..) => true,
        _ => false,
    }
}

/// What follows the head `text`; nothing if that, or what is asked for, has two readings.
fn body(text: &[u8]) -> Option<Body> {
    let mut lines = text.strip_suffix(b"\r\n\r\n")?.split(|byte| *byte == b'\r');
    let version = version(lines.next()?)?;
    let (mut length, mut is_chunked) = (None, false);
    for line in lines {
        let (name, value) = field(line.strip_prefix(b"\n")?)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            // Also one that says the same twice.
            if length.is_some() {
                return None;
            }
            length = Some(number(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if is_chunked || version != b"HTTP/1.1" || !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            is_chunked = true;
        }
    }
    match (length, is_chunked) {
        (None | Some(0), false) => Some(Body::None),
        (Some(length), false) => Some(Body::Sized(length)),
        (None, true) => Some(Body::Chunked),
        // CL.TE, TE.CL.
        (Some(_), true) => None,
    }
}

/// The version in a request line: method, target and version with one space between each.
fn version(line: &[u8]) -> Option<&[u8]> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    let is_line = is_token(method)
        && !target.is_empty()
        && target.iter().all(is_plain)
        && matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        && parts.next().is_none();
    is_line.then_some(version)
}

/// The name and the value in a line.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    is_token(name).then(|| (name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}

/// Digits alone: no sign, no list, and few enough for a number.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let digits = is_number.then(|| std::str::from_utf8(text).ok())??;
    digits.parse().ok()
}
