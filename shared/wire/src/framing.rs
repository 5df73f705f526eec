//! gRPC's framing, for messages that are encoded once and sent on many streams.
//!
//! The gRPC library encodes every message of every stream into a buffer of its own. A trust snapshot has megabytes, and a
//! thousand verifiers may ask for it at one time. So it is framed here, once, and each stream sends pieces of the same bytes:
//! what a stream costs does not depend on how large the message is, nor on how slowly its reader takes it.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic_prost::ProstCodec;

use crate::{MAX_REQUEST_LENGTH, status};

/// What one piece of a message has at most. A stream that is not read holds on to a few.
const PIECE: usize = 64 * 1024;

/// What one piece of an answer has at most. The HTTP/2 library writes what is longer by itself, in a system call for each, and shorter
/// pieces of many answers together.
const SHORT_PIECE: usize = 255;

/// A flag and the length before each message.
pub(crate) const PREFIX: usize = 5;

/// `message` as it stands in a stream.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(length, &mut bytes);
    // A buffer that grows has room.
    let _has_room = message.encode(&mut bytes);
    bytes.freeze()
}

/// Writes what stands before a message of this length.
pub(crate) fn put_prefix(length: usize, bytes: &mut impl BufMut) {
    bytes.put_u8(0);
    // No message of ours comes near 4 GiB; one that did would be refused by its length.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// The message in the `body` of a request, if there is exactly one, not compressed and of `most` bytes at most.
pub async fn message<M, B>(body: B, most: usize) -> Option<M>
where
    M: Message + Default,
    B: http_body::Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let body = Limited::new(body, PREFIX + most).collect().await;
    M::decode(unframed(body.ok()?.to_bytes())?).ok()
}

/// The message in `bytes`. Shares their memory.
fn unframed(mut bytes: Bytes) -> Option<Bytes> {
    let [0, length @ ..] = *bytes.first_chunk::<PREFIX>()? else {
        return None;
    };
    bytes.advance(PREFIX);
    let is_whole = usize::try_from(u32::from_be_bytes(length)) == Ok(bytes.len());
    is_whole.then_some(bytes)
}

/// What is kept ready for the messages of a request: most are shorter, longer ones get more. A stream that is open for its
/// verifier's whole life keeps this all the time, and there are thousands; the library's default is 8 KiB.
const READY: usize = 256;

/// The messages in the body of a request, each of the length that the authority reads at most.
#[must_use]
pub fn requests<M: Message + Default + 'static>(body: Body) -> Streaming<M> {
    // Nothing is written with it.
    let unused = 0;
    let decoder = ProstCodec::<M, M>::raw_decoder(BufferSettings::new(READY, unused));
    Streaming::new_request(decoder, body, None, Some(MAX_REQUEST_LENGTH))
}

/// The response that sends framed `messages` as they come, and the status at their end.
#[must_use]
pub fn response<S>(messages: S) -> Response<Body>
where
    S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
{
    sent(Sending {
        messages,
        rest: Bytes::new(),
        piece: PIECE,
        ended: false,
    })
}

/// The response that sends one framed message, one of many answers that are short and leave together.
#[must_use]
pub fn answer(message: Bytes) -> Response<Body> {
    sent(Sending {
        messages: stream::empty(),
        rest: message,
        piece: SHORT_PIECE,
        ended: false,
    })
}

fn sent<S>(body: Sending<S>) -> Response<Body>
where
    S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
{
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// A body that sends messages in pieces.
struct Sending<S> {
    messages: S,
    /// What is left of the message that is being sent.
    rest: Bytes,
    /// The most that is sent at once.
    piece: usize,
    ended: bool,
}

impl<S: Stream<Item = Result<Bytes, Status>> + Unpin> http_body::Body for Sending<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.rest.is_empty() {
            let next = ready!(Pin::new(&mut self.messages).poll_next(context));
            match next.transpose() {
                Ok(Some(message)) => self.rest = message,
                Ok(None) => return self.end(&status::ok()),
                Err(status) => return self.end(&status),
            }
        }
        let length = self.rest.len().min(self.piece);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<S> Sending<S> {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(status)))))
    }
}

#[cfg(test)]
mod tests {
    use countersign_proto::sync::v1::{Pong, SyncRequest, SyncResponse, sync_response};
    use futures_util::{FutureExt as _, StreamExt as _};
    use http_body::Body as _;
    use tonic::codec::Codec as _;

    use super::*;
    use crate::status::Failure;

    fn message(length: usize) -> Bytes {
        let pong = Pong {
            ping_sequence: 7,
            heartbeat: Some(countersign_proto::trust::v1::Signed {
                payload: vec![1; length].into(),
                ..Default::default()
            }),
            ..Pong::default()
        };
        framed(&SyncResponse {
            message: Some(sync_response::Message::Pong(pong)),
        })
    }

    fn frames(messages: Vec<Result<Bytes, Status>>) -> Vec<Frame<Bytes>> {
        frames_of(response(stream::iter(messages)))
    }

    fn frames_of(response: Response<Body>) -> Vec<Frame<Bytes>> {
        let mut body = response.into_body();
        let next = || {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            frame
                .now_or_never()
                .expect("is there")
                .map(|frame| frame.expect("goes on"))
        };
        std::iter::from_fn(next).collect()
    }

    /// The gRPC library reads what is written here.
    #[test]
    fn messages_are_framed_as_the_library_reads_them() {
        let sent = [0, 1, 100_000].map(message);
        let frames = frames(sent.iter().cloned().map(Ok).collect());
        let pieces = frames.iter().filter_map(Frame::data_ref);
        assert!(
            pieces
                .clone()
                .all(|piece| !piece.is_empty() && piece.len() <= PIECE)
        );
        let body = http_body_util::Full::new(Bytes::from(pieces.cloned().collect::<Vec<_>>().concat()));
        let decoder = ProstCodec::<SyncRequest, SyncResponse>::default().decoder();
        let read = Streaming::new_request(decoder, body, None, Some(1 << 20));
        let read = read.map(|message| framed(&message.expect("reads")));
        let read: Vec<Bytes> = read.collect().now_or_never().expect("is there");
        assert_eq!(read, sent);
        let trailers = frames.last().and_then(Frame::trailers_ref).expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    }

    /// G16: nothing that is not one message is taken for one.
    #[test]
    fn one_message_alone_is_read_back() {
        let framed = message(100);
        let one = |bytes: &[u8]| unframed(Bytes::copy_from_slice(bytes));
        assert_eq!(one(&framed).as_deref(), framed.get(PREFIX..));
        assert_eq!(one(&[0; PREFIX]).as_deref(), Some(&[][..]));
        let (short, more) = (&framed[..framed.len() - 1], [&framed[..], &[0]].concat());
        let [compressed, unknown] = [1, 2].map(|flag| [&[flag][..], &framed[1..]].concat());
        let twice = [&framed[..], &framed[..]].concat();
        for bytes in [
            &[][..],
            &[0; PREFIX - 1],
            &[0, 0xff, 0xff, 0xff, 0xff],
            short,
            &more,
            &compressed,
            &unknown,
            &twice,
        ] {
            assert_eq!(one(bytes), None, "{} bytes", bytes.len());
        }
    }

    /// I-30: what many are sent is in memory once.
    #[test]
    fn streams_send_the_same_bytes() {
        let message = message(3 * PIECE);
        let place = |frames: Vec<Frame<Bytes>>| {
            let pieces = frames.into_iter().filter_map(|frame| frame.into_data().ok());
            pieces.map(|piece| piece.as_ptr()).collect::<Vec<_>>()
        };
        let one = place(frames(vec![Ok(message.clone())]));
        let other = place(frames(vec![Ok(message.clone())]));
        assert_eq!((one.len(), &one), (4, &other));
        assert_eq!(one[0], message.as_ptr());
    }

    /// None is so long that the HTTP/2 library would write it by itself, and all of them are the message.
    #[test]
    fn an_answer_is_sent_in_short_pieces() {
        let message = message(600);
        let frames = frames_of(answer(message.clone()));
        let pieces: Vec<_> = frames.iter().filter_map(Frame::data_ref).collect();
        assert!(pieces.iter().all(|piece| (1..256).contains(&piece.len())));
        assert_eq!((pieces.len(), pieces.len() + 1), (3, frames.len()));
        let whole: Vec<u8> = pieces.into_iter().flatten().copied().collect();
        assert_eq!(whole, message);
        let trailers = frames.last().and_then(Frame::trailers_ref).expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[test]
    fn a_stream_ends_with_its_status() {
        let frames = frames(vec![Ok(message(1)), Err(status::failed(Failure::Draining))]);
        let trailers = frames.last().and_then(Frame::trailers_ref).expect("trailers");
        assert_eq!(trailers["grpc-status"], "14");
        assert!(trailers.contains_key(Status::GRPC_STATUS_DETAILS));
        assert_eq!(frames.len(), 2);
    }
}
