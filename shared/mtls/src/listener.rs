//! Accepting connections: bounded in number and in time, and not to be stopped by any one of them.
//!
//! One task accepts. Each handshake is a task of its own with a deadline, and only finished connections reach the server,
//! through a bounded queue in which each has its place before its handshake begins. At a limit accepting pauses, so that
//! further connections wait in the kernel's backlog. Errors of the listening socket (no free descriptors, a peer gone
//! before it was accepted) are waited out: they never end the loop (RUSTSEC-2024-0376).

mod accept;
mod log_budget;
mod workers;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::server::ServerTls;
use crate::stats::ListenerStats;
use crate::stream::{Accepted, Peer};
use accept::{AcceptLoop, Handshake, NoHandshake, TlsHandshake};
pub use workers::{Moving, Room, Seat, Socket, Spread, Worker};

/// What a listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those in their handshake included.
    pub connections: usize,
    /// Handshakes at one time. Each costs a signature and some 100 KiB at worst. Of several workers each has its share of them, the connections
    /// that wait for it included.
    pub handshakes: usize,
    /// How long a handshake may take, and how long a new peer may say nothing after it.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Ten thousand verifiers on one authority, and then some.
            connections: 16_384,
            // At 10 s each in the worst case, slow peers cannot hold back more than this many.
            handshakes: 512,
            // Three retransmissions on a bad link.
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Finished connections of one listening socket: all of them, or those of one worker. The socket is closed when the last of its listeners
/// is dropped.
pub struct Listener<S> {
    finished: mpsc::Receiver<Accepted<S>>,
    local_addr: SocketAddr,
    stats: Arc<ListenerStats>,
}

/// Connections with a finished TLS handshake.
pub type TlsListener = Listener<tokio_rustls::server::TlsStream<TcpStream>>;

/// Connections without TLS, under the same limits. Only for addresses that nobody else can reach.
pub type PlainListener = Listener<TcpStream>;

impl TlsListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, tls: Arc<ServerTls>, limits: Limits) -> io::Result<Self> {
        Self::over(tokio::net::TcpListener::bind(address).await?, tls, limits)
    }

    /// Accepts from a socket that listens already.
    ///
    /// # Errors
    /// When the socket has no local address.
    pub fn over(socket: tokio::net::TcpListener, tls: Arc<ServerTls>, limits: Limits) -> io::Result<Self> {
        Self::start(socket, TlsHandshake(tls), limits)
    }

    /// Listens on `address` for all of `workers`: one listener for each, in their order. The limits are for all of them together.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind_for(
        workers: &[Worker],
        address: SocketAddr,
        tls: Arc<ServerTls>,
        limits: Limits,
    ) -> io::Result<Vec<Self>> {
        let socket = tokio::net::TcpListener::bind(address).await?;
        Self::start_for(workers, socket, TlsHandshake(tls), limits)
    }
}

impl PlainListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind_plain(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        Self::start(tokio::net::TcpListener::bind(address).await?, NoHandshake, limits)
    }

    /// Listens on `address` for all of `workers`: one listener for each, in their order. The limits are for all of them together.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind_plain_for(
        workers: &[Worker],
        address: SocketAddr,
        limits: Limits,
    ) -> io::Result<Vec<Self>> {
        let socket = tokio::net::TcpListener::bind(address).await?;
        Self::start_for(workers, socket, NoHandshake, limits)
    }
}

impl<S: Send + 'static> Listener<S> {
    fn start(
        socket: tokio::net::TcpListener,
        handshake: impl Handshake<Io = S>,
        limits: Limits,
    ) -> io::Result<Self> {
        let here = Worker::new(Handle::current());
        let mut listeners = Self::start_for(&[here], socket, handshake, limits)?;
        listeners.pop().ok_or_else(closed)
    }

    fn start_for(
        workers: &[Worker],
        socket: tokio::net::TcpListener,
        handshake: impl Handshake<Io = S>,
        limits: Limits,
    ) -> io::Result<Vec<Self>> {
        let local_addr = socket.local_addr()?;
        let stats = Arc::new(ListenerStats::default());
        // INVARIANT (none stops the others): in their handshake, or finished and not taken, are at one worker no more than its share.
        let share = limits.handshakes.div_ceil(workers.len().max(1)).max(1);
        let (workers, ends) = Spread::over(workers, share);
        let accepting = AcceptLoop::new(socket, handshake, limits, Arc::clone(&stats), workers);
        tokio::spawn(accepting.run());
        let listener = |finished| Self {
            finished,
            local_addr,
            stats: Arc::clone(&stats),
        };
        Ok(ends.into_iter().map(listener).collect())
    }
}

impl<S> Listener<S> {
    /// Where it listens, with the port that the system chose for port 0.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it counted. Lives on after the listener.
    #[must_use]
    pub fn stats(&self) -> Arc<ListenerStats> {
        Arc::clone(&self.stats)
    }

    /// The next finished connection and who is at its other end. Safe to cancel.
    ///
    /// # Errors
    /// Only when the runtime is shutting down; errors of single connections are counted and logged.
    pub async fn accept(&mut self) -> io::Result<(Accepted<S>, Peer)> {
        let stream = self.finished.recv().await.ok_or_else(closed)?;
        let peer = stream.peer().clone();
        Ok((stream, peer))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the listener has stopped")
}

/// The connections, for tonic's `serve_with_incoming`. Handlers find the [`Peer`] in the extensions.
impl<S> Stream for Listener<S> {
    type Item = io::Result<Accepted<S>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.finished.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

impl<S> fmt::Debug for Listener<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}
