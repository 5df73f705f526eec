//! Connections to the services behind the sidecar, and to those that they call out to: HTTP/2 without TLS over loopback or a unix
//! socket, or with TLS to wherever they are.
//!
//! Calls share a connection until it has as many as servers commonly grant, then the next one is opened; so a service
//! full of long streams does not make short calls wait. Nor does a caller who does not read his answers: each call has its
//! own part of the connection's window. A service may let one call take all of *its* window, and stop reading that call;
//! therefore each caller's connection begins at another of ours, in turn, and only those that share one wait with it. Requests that
//! are here as a whole cannot do that, and are most: they go over a few connections of their own, for what shares a connection leaves
//! together, and each has memory of its own.
//!
//! A connection that is gone is replaced by the next call that needs it. Many calls in want of one connection make one
//! attempt, and all hear what came of it.
//!
//! A request that came as HTTP/1.1 goes on as HTTP/1.1, over connections of its own (`http1`).

mod http1;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use countersign_mtls::ClientTls;
use http::uri::Scheme;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use crate::server::Keepalive;
use http1::Pool;

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Any of these addresses, tried in order. All are loopback.
    Tcp(Vec<SocketAddr>),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addresses) => match addresses.first() {
                Some(address) => write!(f, "http://{address}"),
                None => f.write_str("http://"),
            },
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) enum Dial {
    /// On this machine.
    Plaintext(UpstreamAddress),
    /// Over a network, with our certificate.
    Tls {
        /// An `https` address.
        uri: String,
        /// Our certificate, and whom to expect.
        tls: Arc<ClientTls>,
        /// How it is found out whether it is still there.
        keepalive: Keepalive,
    },
}

impl Dial {
    /// How long a connection may take to come about.
    const fn patience(&self) -> Duration {
        match self {
            Self::Plaintext(_) => CONNECT_TIME,
            Self::Tls { .. } => REMOTE_CONNECT_TIME,
        }
    }

    async fn connect(&self) -> io::Result<http2::SendRequest<RequestBody>> {
        match self {
            Self::Plaintext(UpstreamAddress::Unix(path)) => handshake(UnixStream::connect(path).await?).await,
            Self::Plaintext(UpstreamAddress::Tcp(addresses)) => handshake(tcp(addresses).await?).await,
            Self::Tls { uri, tls, keepalive } => {
                let stream = tls.connect(uri, REMOTE_CONNECT_TIME).await;
                let stream = stream.map_err(io::Error::other)?;
                keepalive.by_system(stream.get_ref().0)?;
                handshake(stream).await
            }
        }
    }

    async fn connect_http1(&self) -> io::Result<http1::Sender> {
        match self {
            Self::Plaintext(UpstreamAddress::Unix(path)) => {
                http1::handshake(UnixStream::connect(path).await?).await
            }
            Self::Plaintext(UpstreamAddress::Tcp(addresses)) => http1::handshake(tcp(addresses).await?).await,
            Self::Tls { uri, tls, keepalive } => {
                let stream = tls.connect_http1(uri, REMOTE_CONNECT_TIME).await;
                let stream = stream.map_err(io::Error::other)?;
                keepalive.by_system(stream.get_ref().0)?;
                http1::handshake(stream).await
            }
        }
    }
}

async fn tcp(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addresses).await?;
    // With Nagle's algorithm a small call waits 40 ms.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext(address) => address.fmt(f),
            Self::Tls { uri, .. } => f.write_str(uri),
        }
    }
}

/// The calls that one connection takes. Servers grant about a hundred streams; what they do not grant waits inside.
const STREAMS: u32 = 100;

/// Connections for requests that are here as a whole, where there are at least twice as many.
const SHARED: usize = 8;

/// How long a connection may take to come about. The service is on this machine.
const CONNECT_TIME: Duration = Duration::from_secs(1);

/// The same for a name, a connection and a TLS handshake over a network.
const REMOTE_CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a failure to connect is taken for the answer, so that a service that is down is not asked by every call.
const FAILURE_HOLDS: Duration = Duration::from_millis(50);

/// What one stream may have under way before its caller takes it: what gRPC grants by default, and many times what
/// loopback carries in one round trip.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for all streams of a connection: no bound beside theirs, which together are the most that callers who do not read can have
/// under way through it. With less, streams that nobody reads would stop the others; or end them, for by this window the HTTP/2
/// library also tells how many small frames that wait to be read are an attack. A service is none.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// What one stream may have under way towards a slow service.
const SEND_BUFFER: usize = 64 * 1024;

/// Error details of services can be long.
const HEADER_LIST: usize = 64 * 1024;

/// Why the service did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// There is no connection to be had.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The last attempt failed a moment ago.
    #[error("could not connect a moment ago")]
    JustFailed,
    /// As many calls are under way as may be.
    #[error("too many calls are under way")]
    Full,
    /// The connection broke before the answer.
    #[error("the call was broken off")]
    Broken(#[source] hyper::Error),
}

/// The service behind the sidecar.
#[derive(Debug)]
pub(crate) struct Upstream {
    name: Arc<str>,
    dial: Dial,
    slots: Box<[Slot]>,
    next_lane: AtomicUsize,
    http1: Pool,
}

/// Where one caller's calls look for a connection first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane(usize);

impl Upstream {
    /// The service that is connected to in this way, over at most so many connections. None is opened before the first call.
    pub(crate) fn dialling(dial: Dial, connections: usize) -> Self {
        Self {
            name: dial.to_string().into(),
            dial,
            slots: (0..connections.max(1)).map(|_| Slot::default()).collect(),
            next_lane: AtomicUsize::new(0),
            http1: Pool::default(),
        }
    }

    /// The scheme of what is asked of it.
    pub(crate) fn scheme(&self) -> Scheme {
        match self.dial {
            Dial::Plaintext(_) => Scheme::HTTP,
            Dial::Tls { .. } => Scheme::HTTPS,
        }
    }

    /// Where it is, for people.
    pub(crate) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The lane of the next caller.
    pub(crate) fn lane(&self) -> Lane {
        Lane(self.next_lane.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes `request` on, by the protocol of its version. The call counts as under way until the second value is dropped.
    pub(crate) async fn call(
        &self,
        lane: Lane,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, InFlight), UpstreamError> {
        if request.version() == Version::HTTP_11 {
            let response = self.http1.call(&self.dial, request).await?;
            return Ok((response, InFlight(None)));
        }
        let first = self.begins(lane, request.body_mut().body.is_whole().await);
        let mut may_repeat = true;
        loop {
            let (mut sender, in_flight) = self.connection(first).await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, in_flight)),
                Err(mut failed) => match failed.take_message() {
                    // The connection was closing. Nothing of the request has left, so it may go over another.
                    Some(unsent) if may_repeat => {
                        request = unsent;
                        may_repeat = false;
                    }
                    Some(_) | None => return Err(UpstreamError::Broken(failed.into_error())),
                },
            }
        }
    }

    /// Where a request looks for a connection first.
    const fn begins(&self, Lane(lane): Lane, is_whole: bool) -> usize {
        let all = self.slots.len();
        if all < 2 * SHARED {
            lane % all
        } else if is_whole {
            lane % SHARED
        } else {
            SHARED + lane % (all - SHARED)
        }
    }

    async fn connection(
        &self,
        first: usize,
    ) -> Result<(http2::SendRequest<RequestBody>, InFlight), UpstreamError> {
        for slot in self.slots.iter().cycle().skip(first).take(self.slots.len()) {
            let found = match slot.open_connection() {
                Some(connection) => connection,
                None => slot.connect(&self.dial).await?,
            };
            if let Some(in_flight) = found.reserve() {
                return Ok((found.sender.clone(), in_flight));
            }
        }
        Err(UpstreamError::Full)
    }
}

/// Room for one connection.
#[derive(Debug, Default)]
struct Slot {
    connection: ArcSwapOption<Connection>,
    /// Held while connecting; when the last attempt failed.
    failed_at: Mutex<Option<Instant>>,
}

impl Slot {
    fn open_connection(&self) -> Option<Arc<Connection>> {
        self.connection
            .load_full()
            .filter(|connection| !connection.sender.is_closed())
    }

    async fn connect(&self, dial: &Dial) -> Result<Arc<Connection>, UpstreamError> {
        let mut failed_at = self.failed_at.lock().await;
        // Whoever held the lock before may have done the work.
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        if failed_at.is_some_and(|at| at.elapsed() < FAILURE_HOLDS) {
            return Err(UpstreamError::JustFailed);
        }
        let attempt = timeout(dial.patience(), dial.connect()).await;
        match attempt.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(sender) => {
                let connection = Arc::new(Connection {
                    sender,
                    streams: Arc::default(),
                });
                self.connection.store(Some(Arc::clone(&connection)));
                *failed_at = None;
                Ok(connection)
            }
            Err(error) => {
                if failed_at.is_none() {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(service = %dial, error, "cannot connect to a service");
                }
                *failed_at = Some(Instant::now());
                Err(UpstreamError::Connect(error))
            }
        }
    }
}

struct Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicU32>,
}

impl Connection {
    /// A place for one more call, if there is one.
    fn reserve(&self) -> Option<InFlight> {
        let one_more = |streams: u32| (streams < STREAMS).then_some(streams + 1);
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| InFlight(Some(Arc::clone(&self.streams))))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// A call under way, on a connection that counts such.
#[derive(Debug)]
pub(crate) struct InFlight(Option<Arc<AtomicU32>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(streams) = &self.0 {
            streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn handshake<T>(stream: T) -> io::Result<http2::SendRequest<RequestBody>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(HEADER_LIST).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Calls over it hear of the error themselves.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the service broke");
        }
    });
    Ok(sender)
}
