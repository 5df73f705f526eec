//! A message of protobuf, written field by field into the very bytes that are sent.
//!
//! The library for protobuf writes values that hold copies of all that they say. An answer to Envoy says some thirty names and texts
//! that lie ready elsewhere, and copies of them would cost more than the decision.

use bytes::{BufMut as _, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{encode_length_delimiter, length_delimiter_len};

use crate::framing;

/// A message that is being written.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// The message that `write` writes, as it stands in a stream of gRPC. There is room for `usual` bytes from the beginning.
    #[must_use]
    pub fn framed(usual: usize, write: impl FnOnce(&mut Self)) -> Bytes {
        let mut message = Self(Vec::with_capacity(usual));
        message.0.extend_from_slice(&[0; framing::PREFIX]);
        write(&mut message);
        let length = message.0.len() - framing::PREFIX;
        if let Some(mut prefix) = message.0.get_mut(..framing::PREFIX) {
            framing::put_prefix(length, &mut prefix);
        }
        message.0.into()
    }

    /// Writes a text, or any bytes, as field `tag`.
    pub fn text(&mut self, tag: u32, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        encode_varint(length, &mut self.0);
        self.0.extend_from_slice(text);
    }

    /// Writes a number, or one of an enumeration, as field `tag`.
    pub fn number(&mut self, tag: u32, number: u32) {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(number.into(), &mut self.0);
    }

    /// Writes a floating point number as field `tag`.
    pub fn double(&mut self, tag: u32, number: f64) {
        encode_key(tag, WireType::SixtyFourBit, &mut self.0);
        self.0.put_f64_le(number);
    }

    /// Writes the message that `write` writes as field `tag`.
    pub fn message(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        let start = self.0.len();
        write(self);
        // How long it is stands before it, and is known only now.
        let length = self.0.len() - start;
        let room = std::iter::repeat_n(0, length_delimiter_len(length));
        drop(self.0.splice(start..start, room));
        if let Some(mut room) = self.0.get_mut(start..) {
            // It has the room that was just made.
            let _fits = encode_length_delimiter(length, &mut room);
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_proto::google::rpc::Status;
    use prost::Message as _;
    use prost_types::value::Kind;
    use prost_types::{Any, Struct, Value};

    use super::*;

    /// Whatever the lengths; but the library leaves out what is empty.
    #[test]
    fn messages_are_written_as_the_library_writes_them() {
        for length in [0, 1, 100, 127, 128, 300, 16_383, 16_384, 100_000] {
            let text = "x".repeat(length);
            let status = Status {
                code: 16,
                message: text.clone(),
                details: vec![Any {
                    type_url: "a".to_owned(),
                    value: text.clone().into_bytes(),
                }],
            };
            let written = Writer::framed(64, |message| {
                message.number(1, 16);
                message.text(2, &text);
                message.message(3, |any| {
                    any.text(1, "a");
                    any.text(2, &text);
                });
            });
            let read = Status::decode(&written[framing::PREFIX..]);
            assert_eq!(read.as_ref(), Ok(&status), "{length}");
            if length > 0 {
                assert_eq!(written, framing::framed(&status), "{length}");
            }
        }
    }

    #[test]
    fn values_are_written_as_the_library_reads_them() {
        let written = Writer::framed(0, |message| {
            message.message(1, |entry| {
                entry.text(1, "epoch");
                entry.message(2, |value| value.double(2, 7.5));
            });
        });
        let read = Struct::decode(&written[framing::PREFIX..]).expect("reads");
        let value = Value {
            kind: Some(Kind::NumberValue(7.5)),
        };
        assert_eq!(read.fields, [("epoch".to_owned(), value)].into());
    }
}
