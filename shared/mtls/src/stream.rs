//! An accepted connection: its bytes, who is at the other end, and its place among the connections allowed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::ports::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use crate::identity::PeerIdentity;
use crate::listener::Seat;
use crate::provider::ALPN;

/// How often a connection looks whether its peer's certificate has expired. With the tolerance of no second, a
/// connection is cut at most this long after the certificate's last second.
const EXPIRY_CHECK: Duration = Duration::from_secs(15);

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address.
    pub remote: SocketAddr,
    /// Who it is; none where clients show no certificate.
    pub identity: Option<Arc<PeerIdentity>>,
}

impl Peer {
    /// Whether the certificate that the peer showed has expired since. Ask it for each request: connections are cut
    /// only some seconds later.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.identity
            .as_ref()
            .is_some_and(|identity| identity.is_expired(now))
    }
}

/// A connection after a finished handshake.
pub type TlsStream = Accepted<tokio_rustls::server::TlsStream<TcpStream>>;

/// A connection without TLS.
pub type PlainStream = Accepted<TcpStream>;

/// An accepted connection. Its place among the connections allowed is free again when it is dropped.
///
/// It ends with an error when the peer says nothing at first, and soon after the peer's certificate has expired.
pub struct Accepted<S> {
    io: S,
    peer: Peer,
    guard: Guard,
    _place: Place,
}

/// The place of a connection among all that are allowed, and among those of its worker.
pub(crate) type Place = (OwnedSemaphorePermit, Seat);

impl<S> Accepted<S> {
    /// `silence` is how long the peer may say nothing at first.
    pub(crate) fn new(
        io: S,
        peer: Peer,
        clock: Option<Arc<dyn Clock>>,
        silence: Duration,
        place: Place,
    ) -> Self {
        let not_after = peer.identity.as_ref().map(|identity| identity.not_after);
        let guard = Guard {
            timer: Some(Box::pin(tokio::time::sleep(silence))),
            heard: false,
            expiry: clock.zip(not_after),
        };
        Self {
            io,
            peer,
            guard,
            _place: place,
        }
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl TlsStream {
    /// Whether HTTP/2 was agreed on in the handshake. Its server speaks first.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.io.get_ref().1.alpn_protocol() == Some(ALPN)
    }
}

/// Ends the wait for bytes that should not be waited for. Asked only when there is nothing to read.
struct Guard {
    timer: Option<Pin<Box<Sleep>>>,
    heard: bool,
    expiry: Option<(Arc<dyn Clock>, Timestamp)>,
}

impl Guard {
    /// The peer said its first bytes: from now on only the certificate's expiry counts.
    fn heard(&mut self) {
        if self.heard {
            return;
        }
        self.heard = true;
        match &self.expiry {
            None => self.timer = None,
            Some((clock, not_after)) => {
                let left = not_after.since(clock.now()) + Duration::from_secs(1);
                self.set(left.min(EXPIRY_CHECK));
            }
        }
    }

    fn set(&mut self, after: Duration) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + after);
        }
    }

    /// Ready when the connection has to end, and why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let Some(timer) = &mut self.timer else {
                return Poll::Pending;
            };
            ready!(timer.as_mut().poll(cx));
            if !self.heard {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing"));
            }
            match &self.expiry {
                Some((clock, not_after)) if clock.now() <= *not_after => self.set(EXPIRY_CHECK),
                Some(_) | None => {
                    let text = "the peer's certificate has expired";
                    return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                self.guard.heard();
                Poll::Ready(result)
            }
            Poll::Pending => self.guard.poll(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<S> Connected for Accepted<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S> fmt::Debug for Accepted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
