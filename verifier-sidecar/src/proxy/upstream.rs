//! Connections to the services behind the sidecar, and to those that they call out to: HTTP/2 without TLS over loopback or a unix
//! socket, or with TLS to wherever they are.
//!
//! Calls share a connection until it has as many as servers commonly grant, then the next one is opened; so a service
//! full of long streams does not make short calls wait. Nor does a caller who does not read his answers: each call has its
//! own part of the connection's window. A service may let one call take all of *its* window, and stop reading that call;
//! therefore each caller's connection begins at another of ours, in turn, and only those that share one wait with it. Small requests
//! that are here as a whole are most, and go over a few connections of their own, for what shares a connection leaves together, and
//! each has memory of its own. Over one of these goes no more at a time than any service lets through unread, so that nothing waits.
//!
//! A connection that is gone is replaced by the next call that needs it. Many calls in want of one connection make one
//! attempt, and all hear what came of it.
//!
//! A request that came as HTTP/1.1 goes on as HTTP/1.1, over connections of its own (`http1`).

mod http1;

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
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

    async fn connect(&self) -> io::Result<Connection> {
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

/// The calls that one connection takes, if the service grants as many, as most do. What it does not grant would wait inside.
const STREAMS: u32 = 100;

/// Connections for small requests that are here as a whole, where there are at least twice as many.
const SHARED: usize = 8;

/// The most bytes of a small request.
const SMALL: u32 = 4 * 1024;

/// The most that the calls over a connection for such requests have together in theirs. Nobody's window for a connection is smaller
/// than 65,535 bytes (RFC 9113, section 6.9.2), and servers make room again once they have read half of it.
const UNREAD: u32 = 65_535 / 2;

/// Calls of one connection that were ended by us, of which it is still known that what comes for them is no error: many times what
/// can be under way, so that callers who go away, however many at once, do not end a connection that others share.
const RESETS: usize = 1_024;

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
    /// For small requests that are here as a whole, if there are enough.
    shared: Box<[Slot]>,
    /// For all others, and for what those have no room for.
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
        let shared = if connections < 2 * SHARED { 0 } else { SHARED };
        let slots = |many: usize| (0..many).map(|_| Slot::default()).collect();
        Self {
            name: dial.to_string().into(),
            dial,
            shared: slots(shared),
            slots: slots(connections.saturating_sub(shared).max(1)),
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
            return Ok((response, InFlight::default()));
        }
        let whole = request.body_mut().body.whole().await;
        let small = whole.and_then(|bytes| u32::try_from(bytes).ok().filter(|bytes| *bytes <= SMALL));
        let mut may_repeat = true;
        loop {
            let (mut sender, in_flight) = self.connection(lane, small).await?;
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

    /// A connection with a place for one more call, which is one of so many bytes if it is `small`.
    async fn connection(
        &self,
        lane: Lane,
        small: Option<u32>,
    ) -> Result<(http2::SendRequest<RequestBody>, InFlight), UpstreamError> {
        for (slot, bytes) in self.places(lane, small) {
            let found = match slot.open_connection() {
                Some(connection) => connection,
                None => slot.connect(&self.dial).await?,
            };
            if let Some(in_flight) = found.reserve(bytes) {
                return Ok((found.sender.clone(), in_flight));
            }
        }
        Err(UpstreamError::Full)
    }

    /// Where to look for one, in order, and what the call takes there of what is unread.
    fn places(&self, lane: Lane, small: Option<u32>) -> impl Iterator<Item = (&Slot, u32)> {
        let shared = small.map(|bytes| lane.through(&self.shared).map(move |slot| (slot, bytes)));
        let own = lane.through(&self.slots).map(|slot| (slot, 0));
        shared.into_iter().flatten().chain(own)
    }
}

impl Lane {
    /// All of `slots`, from that of this lane.
    fn through(self, slots: &[Slot]) -> impl Iterator<Item = &Slot> {
        let first = self.0.checked_rem(slots.len()).unwrap_or(0);
        let (before, from) = slots.split_at(first);
        from.iter().chain(before)
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
            Ok(connection) => {
                let connection = Arc::new(connection);
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
    /// Calls at once that the service grants.
    granted: Arc<AtomicUsize>,
    calls: Arc<AtomicU32>,
    /// Bytes of small requests, which the service may not have read.
    unread: Arc<AtomicU32>,
}

impl Connection {
    /// A place for one more call, with so many bytes, if there is one.
    fn reserve(&self, bytes: u32) -> Option<InFlight> {
        let granted = u32::try_from(self.granted.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Some(InFlight {
            // One may wait, so that a service that grants none for a while is waited for.
            _call: Some(Share::take(&self.calls, 1, granted.clamp(1, STREAMS))?),
            _unread: Some(Share::take(&self.unread, bytes, UNREAD)?),
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("calls", &self.calls)
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

/// A call under way, on a connection that counts such.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    _call: Option<Share>,
    _unread: Option<Share>,
}

/// What is taken of something that there is only so much of, until it is dropped.
#[derive(Debug)]
struct Share {
    of: Arc<AtomicU32>,
    amount: u32,
}

impl Share {
    /// Takes `amount`, if no more than `most` is taken then.
    fn take(of: &Arc<AtomicU32>, amount: u32, most: u32) -> Option<Self> {
        let more = |taken: u32| taken.checked_add(amount).filter(|taken| *taken <= most);
        of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self {
            of: Arc::clone(of),
            amount,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

async fn handshake<T>(stream: T) -> io::Result<Connection>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(HEADER_LIST).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(RESETS)
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let granted = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let grants = Arc::clone(&granted);
    tokio::spawn(async move {
        let ended = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            grants.store(connection.current_max_send_streams(), Ordering::Relaxed);
            ended
        });
        // Calls over it hear of the error themselves.
        if let Err(error) = ended.await {
            tracing::debug!(%error, "the connection to the service broke");
        }
    });
    Ok(Connection {
        sender,
        granted,
        calls: Arc::default(),
        unread: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(connections: usize) -> Upstream {
        let nowhere = UpstreamAddress::Tcp(Vec::new());
        Upstream::dialling(Dial::Plaintext(nowhere), connections)
    }

    /// Where `small` calls and others look, by what they take there.
    fn places(upstream: &Upstream, lane: usize, small: Option<u32>) -> Vec<u32> {
        let places = upstream.places(Lane(lane), small);
        places.map(|(_slot, bytes)| bytes).collect()
    }

    #[test]
    fn what_may_stop_a_connection_goes_over_none_for_small_requests() {
        let upstream = upstream(20);
        for lane in 0..40 {
            let others: Vec<_> = upstream.places(Lane(lane), None).collect();
            assert_eq!(others.len(), 12, "{lane}");
            for (slot, _) in others {
                assert!(!upstream.shared.iter().any(|shared| std::ptr::eq(shared, slot)));
            }
            let small = places(&upstream, lane, Some(7));
            assert_eq!(small, [[7; 8].as_slice(), &[0; 12]].concat(), "{lane}");
        }
    }

    #[test]
    fn callers_begin_at_one_after_the_other() {
        let upstream = upstream(20);
        let first = |lane: Lane| upstream.places(lane, None).next().map(|(slot, _)| slot);
        for n in 0..40 {
            let begins = first(upstream.lane());
            let expected = upstream.slots.get(n % 12);
            assert!(
                begins.zip(expected).is_some_and(|(a, b)| std::ptr::eq(a, b)),
                "{n}"
            );
        }
    }

    #[test]
    fn few_connections_are_for_all_requests() {
        for connections in [1, 2, 15] {
            let upstream = upstream(connections);
            assert_eq!(places(&upstream, 3, Some(7)), vec![0; connections]);
        }
    }

    #[test]
    fn no_more_goes_unread_than_every_service_lets_through() {
        let unread = Arc::default();
        let largest: Vec<_> = (0..10)
            .map_while(|_| Share::take(&unread, SMALL, UNREAD))
            .collect();
        assert_eq!(largest.len(), 7);
        assert!(Share::take(&unread, 0, UNREAD).is_some());
        drop(largest);
        assert_eq!(unread.load(Ordering::Relaxed), 0);
    }
}
