//! Where connections come from: TLS, with client certificates or where they are optional; plaintext on loopback; or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_mtls::{
    ListenerStats, Moving, PeerIdentity, PlainListener, PlainStream, Seat, ServerTls, Spread, TlsListener,
    TlsStream, Worker,
};
use countersign_wire::status::Disclosure;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{ACCEPT_PAUSE, Limits};

/// The kind of unix sockets.
const UNIX: &str = "unix";

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The kind of listener that it has come to.
    pub(crate) listener: &'static str,
    /// From where, when there are addresses.
    pub(crate) remote: Option<SocketAddr>,
    /// With which certificate, when one was shown and verified.
    pub(crate) identity: Option<Arc<PeerIdentity>>,
}

impl Peer {
    /// The certificate that proves at `now` who is there. An open connection may be older than its certificate.
    pub(crate) fn certificate(&self, now: Timestamp) -> Option<PeerCertificate> {
        self.identity
            .as_ref()
            .filter(|identity| !identity.is_expired(now))
            .map(|identity| identity.certificate())
    }
}

/// How much those are told who are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disclosures {
    /// Whoever has shown a certificate.
    pub known: Disclosure,
    /// Everybody else.
    pub unknown: Disclosure,
}

impl Disclosures {
    /// What is `said` of all; of nobody: everything to whoever is known, the class to anybody.
    #[must_use]
    pub fn unless_said(said: Option<bool>) -> Self {
        let precise = |precise| {
            if precise {
                Disclosure::Precise
            } else {
                Disclosure::Coarse
            }
        };
        Self {
            known: precise(said.unwrap_or(true)),
            unknown: precise(said.unwrap_or(false)),
        }
    }

    /// How much `peer` is told.
    pub(crate) const fn to(self, peer: &Peer) -> Disclosure {
        match peer.identity {
            Some(_) => self.known,
            None => self.unknown,
        }
    }
}

/// Accepted connections that wait for their worker. It takes them at once unless it is starved.
const QUEUE: usize = 64;

/// What one worker has of a bound listener.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TLS. Whether the peer had to show a certificate is the configuration's.
    Tls(TlsListener),
    /// TCP without TLS.
    Plaintext(PlainListener),
    /// A unix socket.
    Unix(UnixSocket),
}

impl Listener {
    /// Listens with TLS on `address`, for each of `workers`.
    pub(crate) async fn tls(
        workers: &[Worker],
        address: SocketAddr,
        tls: Arc<ServerTls>,
        limits: Limits,
    ) -> io::Result<Vec<Self>> {
        let listeners = TlsListener::bind_for(workers, address, tls, accepting(limits)).await?;
        Ok(listeners.into_iter().map(Self::Tls).collect())
    }

    /// Listens without TLS on `address`, for each of `workers`.
    pub(crate) async fn plaintext(
        workers: &[Worker],
        address: SocketAddr,
        limits: Limits,
    ) -> io::Result<Vec<Self>> {
        let listeners = PlainListener::bind_plain_for(workers, address, accepting(limits)).await?;
        Ok(listeners.into_iter().map(Self::Plaintext).collect())
    }

    /// Listens on a unix socket that only this user can reach, for each of `workers`.
    pub(crate) fn unix(workers: &[Worker], path: &Path, limits: Limits) -> io::Result<Vec<Self>> {
        let sockets = UnixSocket::bind(workers, path, limits.connections)?;
        Ok(sockets.into_iter().map(Self::Unix).collect())
    }

    /// The address with the port that the system chose; none for unix sockets.
    pub(crate) const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tls(listener) => Some(listener.local_addr()),
            Self::Plaintext(listener) => Some(listener.local_addr()),
            Self::Unix(_) => None,
        }
    }

    /// What it counted, if it counts.
    pub(crate) fn stats(&self) -> Option<Arc<ListenerStats>> {
        match self {
            Self::Tls(listener) => Some(listener.stats()),
            Self::Plaintext(listener) => Some(listener.stats()),
            Self::Unix(_) => None,
        }
    }

    /// The kind, for logs and metrics.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::Plaintext(_) => "plaintext",
            Self::Unix(_) => UNIX,
        }
    }

    /// The next connection. Handshakes are over when it is returned, and at the cap of connections none is.
    pub(crate) async fn accept(&mut self) -> io::Result<(Stream, Peer)> {
        let (stream, peer) = match self {
            Self::Unix(socket) => return socket.accept().await,
            Self::Tls(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Stream::Tls(Box::new(stream)), peer)
            }
            Self::Plaintext(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Stream::Tcp(stream), peer)
            }
        };
        let peer = Peer {
            listener: self.kind(),
            remote: Some(peer.remote),
            identity: peer.identity,
        };
        Ok((stream, peer))
    }
}

fn accepting(limits: Limits) -> countersign_mtls::Limits {
    let usual = countersign_mtls::Limits::default();
    countersign_mtls::Limits {
        connections: limits.connections,
        handshakes: usual.handshakes.min(limits.connections),
        ..usual
    }
}

/// What one worker has of a unix socket that is listened on. The socket's file is removed with the last of them.
///
/// INVARIANT: the file goes before the socket is closed, or a successor that finds nobody there loses the one it has put in its place. The
/// socket is closed when all arrivals are, so the file stands before them.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    _file: Arc<SocketFile>,
    arrivals: mpsc::Receiver<Arrival>,
}

/// A connection that was accepted, and its place under the cap.
type Arrival = (Moving<UnixStream>, Place);

/// The place of a connection among all that are allowed, and among those of its worker.
type Place = (OwnedSemaphorePermit, Seat);

impl UnixSocket {
    /// Listens at `path` with mode 0600 (G49). A socket that a dead process left there is replaced.
    fn bind(workers: &[Worker], path: &Path, connections: usize) -> io::Result<Vec<Self>> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Made under another name and then moved, so that there is no moment at which it has other permissions.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        remove_socket(&new)?;
        let listener = UnixListener::bind(&new)?;
        let moved = std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .and_then(|()| remove_socket(path))
            .and_then(|()| std::fs::rename(&new, path));
        if let Err(error) = moved {
            remove_socket(&new)?;
            return Err(error);
        }
        let file = Arc::new(SocketFile(path.to_owned()));
        let (workers, ends) = Spread::over(workers, QUEUE);
        tokio::spawn(accept_for(workers, listener, connections));
        let socket = |arrivals| Self {
            arrivals,
            _file: Arc::clone(&file),
        };
        Ok(ends.into_iter().map(socket).collect())
    }

    async fn accept(&mut self) -> io::Result<(Stream, Peer)> {
        let arrival = self.arrivals.recv().await;
        let (stream, place) = arrival.ok_or(io::ErrorKind::BrokenPipe)?;
        let peer = Peer {
            listener: UNIX,
            remote: None,
            identity: None,
        };
        Ok((
            Stream::Unix {
                stream: stream.arrive()?,
                _place: place,
            },
            peer,
        ))
    }
}

/// Accepts from `listener` until no worker takes more. At the cap none is accepted; a worker that stands still gets no more than have room.
async fn accept_for(workers: Spread<Arrival>, listener: UnixListener, connections: usize) {
    let places = Arc::new(Semaphore::new(connections));
    let accepting = async {
        // Nobody closes the places.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _unnamed)) => stream,
                Err(error) => {
                    tracing::warn!(listener = UNIX, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(room) = workers.room().await else {
                return;
            };
            let worker = room.worker();
            let arrival = (Moving::to(worker, stream), (place, worker.seat()));
            room.fill(arrival);
        }
    };
    tokio::select! {
        () = workers.closed() => {}
        () = accepting => {}
    }
}

/// The file of a unix socket, until it is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = remove_socket(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove the socket");
        }
    }
}

/// Removes the socket at `path`, if there is anything. What is no socket is not ours to remove.
fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// An accepted connection. Its place under the cap is free again when it is dropped.
#[derive(Debug)]
pub(crate) enum Stream {
    Tls(Box<TlsStream>),
    Tcp(PlainStream),
    Unix { stream: UnixStream, _place: Place },
}

impl Stream {
    /// Whether it is certain that HTTP/2 is spoken.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_http2(),
            Self::Tcp(_) | Self::Unix { .. } => false,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix { stream, .. } => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
