//! Which protocol a caller speaks, by the first bytes that he sends: HTTP/2 begins with its preface and HTTP/1.1 cannot.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::vigil::PREFACE_LENGTH;
use super::writing::writes_through;

/// The first bytes of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; PREFACE_LENGTH] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads no further than until it is certain.
#[derive(Debug)]
pub(super) struct Look<T> {
    stream: Option<T>,
    read: Vec<u8>,
    over: bool,
}

impl<T> Look<T> {
    pub(super) const fn new(stream: T) -> Self {
        Self {
            stream: Some(stream),
            read: Vec::new(),
            over: false,
        }
    }

    /// Looks no longer.
    pub(super) const fn give_up(&mut self) {
        self.over = true;
    }

    fn seen(&self) -> Option<Protocol> {
        if self.read == PREFACE {
            Some(Protocol::Http2)
        } else if PREFACE.starts_with(&self.read) {
            None
        } else {
            Some(Protocol::Http1)
        }
    }
}

impl<T: AsyncRead + Unpin> Future for Look<T> {
    type Output = io::Result<(Protocol, Begun<T>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if this.over {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            if let Some(protocol) = this.seen()
                && let Some(stream) = this.stream.take()
            {
                let begun = Begun {
                    stream,
                    unread: std::mem::take(&mut this.read),
                };
                return Poll::Ready(Ok((protocol, begun)));
            }
            let Some(stream) = &mut this.stream else {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            };
            let mut room = [0; PREFACE_LENGTH];
            let left = PREFACE_LENGTH.saturating_sub(this.read.len());
            let mut buffer = ReadBuf::new(room.get_mut(..left).unwrap_or_default());
            ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.read.extend_from_slice(buffer.filled());
        }
    }
}

/// A stream of which the first bytes were read already.
#[derive(Debug)]
pub(super) struct Begun<T> {
    stream: T,
    unread: Vec<u8>,
}

impl<T> Begun<T> {
    /// A stream of which nothing was read.
    pub(super) const fn untouched(stream: T) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let given = buffer.remaining().min(self.unread.len());
        let rest = self.unread.split_off(given);
        buffer.put_slice(&self.unread);
        self.unread = rest;
        Poll::Ready(Ok(()))
    }
}

writes_through!(Begun);
