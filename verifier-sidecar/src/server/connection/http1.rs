//! HTTP/1.1 of which no two readers make two different things.
//!
//! hyper reads more than it should here: it ends lines at a bare line feed, takes `Transfer-Encoding` beside `Content-Length`,
//! and the same length twice. Whoever forwards such a request before us may have seen its end elsewhere, and what he took for a
//! body would be a request to us (CL.TE, TE.CL). So every byte passes [`Strict`] first, which knows where messages end and lets
//! nothing pass of which that could be doubted. hyper answers 400 in its place, and the connection ends.

mod chunks;
mod head;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::writing::writes_through;
use super::{HEADER_LIST, SEND_BUFFER};
use chunks::Chunks;
use head::{Body, Head};

/// The limits of HTTP/1.1: those of HTTP/2, as far as there are such.
pub(super) fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `Strict` has the time of heads in its eye, and connections without a request are the vigil's.
        .header_read_timeout(None)
        .auto_date_header(false)
        .max_header_size(HEADER_LIST)
        .max_buf_size(SEND_BUFFER);
    builder
}

/// How long the head of a request may take from its first byte (G25).
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What no request has in its head, with the end of a head: whoever reads it knows that this is none, and need not wait for more.
const POISON: &[u8] = b"\0\r\n\r\n";

/// A stream of strict HTTP/1.1 requests.
#[derive(Debug)]
pub(super) struct Strict<T> {
    stream: T,
    phase: Phase,
    /// How long the next byte of a body may take to come.
    patience: Duration,
    /// When the wait for what is to come next is over.
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What comes next.
#[derive(Debug)]
enum Phase {
    Head(Head),
    /// So many bytes of a body.
    Sized(u64),
    Chunked(Chunks),
    /// Nothing but this: what came was refused.
    Refused(&'static [u8]),
}

/// What is wrong with what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It is no head of a request, or one with two readings.
    Head,
    /// It is longer than heads may be.
    Long,
    /// It is not the form that the head announced for the body.
    Body,
}

impl<T> Strict<T> {
    /// Lets requests of `stream` pass. In a body no byte may be waited for longer than `patience`.
    pub(super) fn new(stream: T, patience: Duration) -> Self {
        Self {
            stream,
            phase: Phase::Head(Head::default()),
            patience,
            until: None,
            timer: None,
        }
    }

    /// Reads on by the first of `bytes`. Answers how many were read, at least one.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Wrong> {
        let (read, next) = match &mut self.phase {
            Phase::Head(head) => match head.read(bytes)? {
                (read, None) => (read, None),
                (read, Some(Body::None)) => (read, Some(Phase::Head(Head::default()))),
                (read, Some(Body::Sized(length))) => (read, Some(Phase::Sized(length))),
                (read, Some(Body::Chunked)) => (read, Some(Phase::Chunked(Chunks::default()))),
            },
            Phase::Sized(left) => {
                let read = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
                (read, (*left == 0).then(|| Phase::Head(Head::default())))
            }
            Phase::Chunked(chunks) => {
                let (read, is_over) = chunks.read(bytes)?;
                (read, is_over.then(|| Phase::Head(Head::default())))
            }
            Phase::Refused(_) => return Err(Wrong::Body),
        };
        // A head has its time from its first byte to its last; in a body every byte begins it anew.
        if !matches!(self.phase, Phase::Head(_)) || next.is_some() {
            self.until = None;
        }
        if let Some(next) = next {
            self.phase = next;
        }
        Ok(read)
    }

    /// Looks at what came. Answers how many bytes of it pass, and what is wrong with the next.
    fn judge(&mut self, mut bytes: &[u8]) -> (usize, Option<Wrong>) {
        let all = bytes.len();
        while !bytes.is_empty() {
            match self.advance(bytes) {
                Ok(read) => bytes = bytes.get(read..).unwrap_or_default(),
                Err(wrong) => return (all.saturating_sub(bytes.len()), Some(wrong)),
            }
        }
        (all, None)
    }

    /// Ready when what is waited for has not come in time.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = match (&self.phase, self.until) {
            (_, Some(until)) => until,
            (Phase::Head(head), None) if head.is_empty() => return Poll::Pending,
            (Phase::Head(_), None) => Instant::now() + HEAD_TIME,
            (Phase::Sized(_) | Phase::Chunked(_), None) => Instant::now() + self.patience,
            (Phase::Refused(_), None) => return Poll::Pending,
        };
        self.until = Some(until);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Phase::Refused(left) = &mut self.phase {
            let (given, rest) = left.split_at(left.len().min(buffer.remaining()));
            buffer.put_slice(given);
            *left = rest;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => {
                return self.poll_time(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let came = buffer.filled().get(before..).unwrap_or_default();
        let (good, wrong) = self.judge(came);
        let Some(wrong) = wrong else {
            return Poll::Ready(Ok(()));
        };
        match wrong {
            // hyper says so itself.
            Wrong::Long => {
                self.phase = Phase::Refused(&[]);
                Poll::Ready(Ok(()))
            }
            Wrong::Head => {
                self.phase = Phase::Refused(POISON);
                // There is room for some of it: at least the byte that was wrong came.
                buffer.set_filled(before.saturating_add(good));
                self.poll_read(cx, buffer)
            }
            Wrong::Body => {
                self.phase = Phase::Refused(&[]);
                Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
            }
        }
    }
}

writes_through!(Strict);

#[cfg(test)]
mod tests;
