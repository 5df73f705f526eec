//! A body in chunks (RFC 9112, section 7.1), without the extensions that nobody uses and that readers differ on.

use super::super::HEADER_LIST;
use super::Wrong;
use super::head::{field, follows};

/// The digits that a size may have. A chunk of 16^15 bytes is long enough.
const SIZE_DIGITS: usize = 15;

/// Where in a body.
#[derive(Debug)]
pub(super) enum Chunks {
    /// In a size of so many digits.
    Size { size: u64, digits: usize },
    /// At the line feed after a size.
    SizeEnd(u64),
    /// So many bytes before the end of a chunk.
    Data(u64),
    /// At the line end after a chunk, of which there is so much left.
    DataEnd(&'static [u8]),
    /// In the lines after the last chunk.
    Trailers(Vec<u8>),
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunks {
    /// Reads on by the first of `bytes`. Answers how many were read, and whether that was the end.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), Wrong> {
        let Some(byte) = bytes.first() else {
            return Ok((0, false));
        };
        let mut read = 1;
        match self {
            Self::Size { size, digits } => match char::from(*byte).to_digit(16) {
                Some(digit) if *digits < SIZE_DIGITS => {
                    *size = *size * 16 + u64::from(digit);
                    *digits += 1;
                }
                None if *byte == b'\r' && *digits > 0 => *self = Self::SizeEnd(*size),
                Some(_) | None => return Err(Wrong::Body),
            },
            Self::SizeEnd(size) if *byte == b'\n' => {
                *self = if *size == 0 {
                    Self::Trailers(Vec::new())
                } else {
                    Self::Data(*size)
                };
            }
            Self::Data(left) => {
                read = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
                if *left == 0 {
                    *self = Self::DataEnd(b"\r\n");
                }
            }
            Self::DataEnd([expected, rest @ ..]) if expected == byte => {
                *self = if rest.is_empty() {
                    Self::default()
                } else {
                    Self::DataEnd(rest)
                };
            }
            Self::Trailers(lines) => return Ok((1, trailer(lines, *byte)?)),
            Self::SizeEnd(_) | Self::DataEnd(_) => return Err(Wrong::Body),
        }
        Ok((read, false))
    }
}

/// Reads `byte` after those `lines`. Answers whether it was the last.
fn trailer(lines: &mut Vec<u8>, byte: u8) -> Result<bool, Wrong> {
    let is_end = lines.is_empty() && byte == b'\r';
    if lines.len() >= HEADER_LIST || !(is_end || follows(lines, byte)) {
        return Err(Wrong::Body);
    }
    lines.push(byte);
    if matches!(lines.as_slice(), b"\r\n") || lines.ends_with(b"\r\n\r\n") {
        return Ok(true);
    }
    let line = lines.strip_suffix(b"\r\n").map(|whole| {
        let begins = whole.iter().rposition(|byte| *byte == b'\n');
        whole.get(begins.map_or(0, |at| at + 1)..).unwrap_or_default()
    });
    match line {
        Some(line) if field(line).is_none() => Err(Wrong::Body),
        Some(_) | None => Ok(false),
    }
}
