//! The framing of gRPC-Web, followed in an answer that passes, to know where trailers of ours may stand: between two messages.
//!
//! A body of gRPC-Web is a row of frames, each of a byte of flags, a length and so many bytes; the last has the trailers (gRPC-Web,
//! "Protocol differences vs gRPC over HTTP2"). In the text form all of it is base64, which may be padded after any byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

/// What of the flags says that a frame has the trailers.
const TRAILERS: u8 = 0x80;

/// What goes before what a frame has: flags and a length.
const PREFIX: u8 = 5;

/// Characters of base64 that stand for bytes of their own.
const QUAD: usize = 4;

/// Where an answer of gRPC-Web is.
#[derive(Debug)]
pub(crate) struct Framing {
    place: Place,
    /// In the text form, characters that do not stand for bytes yet.
    text: Option<Vec<u8>>,
}

/// Where its bytes are.
#[derive(Debug)]
enum Place {
    /// So far in what goes before a frame; at nothing of it, one may begin.
    Prefix { read: u8, flags: u8, length: u32 },
    /// So many bytes before the end of a message.
    Message { left: u32 },
    /// Where nothing of ours can follow: the service has begun its own trailers, or writes what nobody can read.
    Beyond,
}

impl Place {
    const BETWEEN: Self = Self::Prefix {
        read: 0,
        flags: 0,
        length: 0,
    };

    const fn is_between(&self) -> bool {
        matches!(self, Self::Prefix { read: 0, .. })
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self {
                Self::Prefix { read, flags, length } => {
                    if *read == 0 {
                        *flags = *first;
                    } else {
                        *length = *length << 8 | u32::from(*first);
                    }
                    *read += 1;
                    bytes = rest;
                    if *read == PREFIX {
                        *self = Self::after_prefix(*flags, *length);
                    }
                }
                Self::Message { left } => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.split_at(part).1;
                    *left = left.saturating_sub(u32::try_from(part).unwrap_or(u32::MAX));
                    if *left == 0 {
                        *self = Self::BETWEEN;
                    }
                }
                Self::Beyond => return,
            }
        }
    }

    const fn after_prefix(flags: u8, length: u32) -> Self {
        if flags & TRAILERS != 0 {
            Self::Beyond
        } else if length == 0 {
            Self::BETWEEN
        } else {
            Self::Message { left: length }
        }
    }
}

impl Framing {
    /// The framing of an answer with these headers. None where nothing can be added to it: it is not of gRPC-Web, is compressed as a
    /// whole, says how long it is, or has its status already.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let is_fixed = [CONTENT_ENCODING, CONTENT_LENGTH]
            .iter()
            .any(|name| headers.contains_key(name));
        if is_fixed || headers.contains_key("grpc-status") {
            return None;
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(only), None) = (types.next(), types.next()) else {
            return None;
        };
        let rest = only.as_bytes().strip_prefix(b"application/grpc-web")?;
        let (is_text, rest) = match rest.strip_prefix(b"-text") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        matches!(rest.first(), None | Some(b'+' | b';')).then(|| Self {
            place: Place::BETWEEN,
            text: is_text.then(|| Vec::with_capacity(QUAD)),
        })
    }

    /// Takes note of the next part of the answer.
    pub(crate) fn pass(&mut self, mut part: &[u8]) {
        let Some(begun) = &mut self.text else {
            return self.place.pass(part);
        };
        if !begun.is_empty() {
            let (missing, rest) = part.split_at(part.len().min(QUAD - begun.len()));
            begun.extend_from_slice(missing);
            part = rest;
            if begun.len() < QUAD {
                return;
            }
            pass_quad(&mut self.place, begun);
            begun.clear();
        }
        let quads = part.chunks_exact(QUAD);
        begun.extend_from_slice(quads.remainder());
        for quad in quads {
            pass_quad(&mut self.place, quad);
        }
    }

    /// The frame that ends the answer with `trailers`, in the form that the answer has. None where no frame can stand.
    pub(crate) fn end(&self, trailers: &HeaderMap) -> Option<Bytes> {
        let is_between = self.place.is_between() && self.text.as_ref().is_none_or(Vec::is_empty);
        if !is_between {
            return None;
        }
        let mut lines = Vec::new();
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        let length = u32::try_from(lines.len()).ok()?;
        let frame = [&[TRAILERS], &length.to_be_bytes()[..], &lines].concat();
        Some(match self.text {
            Some(_) => STANDARD.encode(frame).into(),
            None => frame.into(),
        })
    }
}

fn pass_quad(place: &mut Place, quad: &[u8]) {
    let mut bytes = [0; 3];
    let decoded = STANDARD.decode_slice(quad, &mut bytes).ok();
    match decoded.and_then(|length| bytes.get(..length)) {
        Some(bytes) => place.pass(bytes),
        None => *place = Place::Beyond,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const BINARY: &str = "application/grpc-web+proto";
    const TEXT: &str = "application/grpc-web-text";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        fields.collect()
    }

    fn of(content_type: &'static str) -> Framing {
        Framing::of(&headers(&[("content-type", content_type)])).expect("gRPC-Web")
    }

    fn can_end(framing: &Framing) -> bool {
        framing.end(&HeaderMap::new()).is_some()
    }

    /// Two messages, the second of nothing, and a third.
    const MESSAGES: &[u8] = b"\x00\0\0\0\x04abcd\x01\0\0\0\0\x00\0\0\x01\x01";

    /// After how many bytes of them, of less than the third, a frame may begin.
    const ENDS: [usize; 3] = [0, 9, 14];

    /// However the bytes come: a frame may begin after a whole message and nowhere else.
    #[test]
    fn trailers_stand_between_messages_alone() {
        for step in 1..=MESSAGES.len() {
            let mut framing = of(BINARY);
            let mut passed = 0;
            for part in MESSAGES.chunks(step) {
                assert_eq!(can_end(&framing), ENDS.contains(&passed), "{passed} of {step}");
                framing.pass(part);
                passed += part.len();
            }
            assert!(!can_end(&framing), "in the third");
            // Its 257 bytes.
            framing.pass(&[0x80; 256]);
            assert!(!can_end(&framing));
            framing.pass(&[0x80]);
            assert!(can_end(&framing));
        }
    }

    /// The same in text, whether a service pads each message, each few bytes, or nothing.
    #[test]
    fn text_is_followed_however_it_is_padded() {
        for padded in 1..=MESSAGES.len() {
            let text: String = MESSAGES
                .chunks(padded)
                .map(|part| STANDARD.encode(part))
                .collect();
            for step in 1..=8 {
                let mut framing = of(TEXT);
                let mut found = vec![0];
                let mut passed = 0;
                for part in text.as_bytes().chunks(step) {
                    framing.pass(part);
                    passed += part.len();
                    if can_end(&framing) {
                        found.push(passed);
                    }
                }
                for at in found {
                    let whole = &text.as_bytes()[..at];
                    let quads = whole.chunks(QUAD);
                    let bytes: Vec<u8> = quads
                        .flat_map(|quad| STANDARD.decode(quad).expect("whole"))
                        .collect();
                    assert!(ENDS.contains(&bytes.len()), "{padded} {step}: {}", bytes.len());
                }
            }
        }
        // Each message by itself, as it is usual: at the end of each.
        let mut framing = of(TEXT);
        for message in [&MESSAGES[..9], &MESSAGES[9..14]] {
            framing.pass(STANDARD.encode(message).as_bytes());
            assert!(can_end(&framing));
        }
        framing.pass(b"A");
        assert!(!can_end(&framing), "in a quad");
    }

    #[test]
    fn nothing_follows_the_services_own_trailers_nor_what_is_unreadable() {
        let mut framing = of(BINARY);
        framing.pass(b"\x81\0\0\0\0");
        framing.pass(&[]);
        assert!(!can_end(&framing));
        framing.pass(MESSAGES);
        assert!(!can_end(&framing));
        for unreadable in [&b"AAAA\nAAAA"[..], b"====", b"AA=A", b"\xff\xff\xff\xff"] {
            let mut framing = of(TEXT);
            framing.pass(unreadable);
            framing.pass(b"AAAAAAA=");
            assert!(!can_end(&framing), "{unreadable:?}");
        }
    }

    #[test]
    fn answers_that_cannot_be_added_to_are_left_alone() {
        for (fields, expected) in [
            (&[("content-type", "application/grpc-web")][..], true),
            (&[("content-type", "application/grpc-web-text+proto")], true),
            (&[("content-type", "application/grpc-web; charset=utf-8")], true),
            (&[("content-type", "application/grpc-webb")], false),
            (&[("content-type", "application/grpc")], false),
            (&[("content-type", "text/html")], false),
            (&[], false),
            (&[("content-type", BINARY), ("content-length", "17")], false),
            (&[("content-type", BINARY), ("content-encoding", "gzip")], false),
            (&[("content-type", BINARY), ("grpc-status", "5")], false),
        ] {
            assert_eq!(Framing::of(&headers(fields)).is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_frame_is_the_trailers_as_lines() {
        let trailers = headers(&[("grpc-status", "16"), ("grpc-message", "a%20b")]);
        let frame = of(BINARY).end(&trailers).expect("a frame");
        let (prefix, lines) = frame.split_at(5);
        assert_eq!(prefix, [0x80, 0, 0, 0, 36]);
        assert_eq!(lines, b"grpc-status:16\r\ngrpc-message:a%20b\r\n");
        let text = of(TEXT).end(&trailers).expect("a frame");
        assert_eq!(STANDARD.decode(text).expect("base64"), frame);
    }
}
