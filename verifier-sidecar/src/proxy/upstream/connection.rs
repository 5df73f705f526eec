//! One connection to a service, what calls take of it, and the room for it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::super::body::RequestBody;
use super::{Dial, UpstreamError};

/// The calls that one connection takes, if the service grants as many, as most do. What it does not grant would wait inside.
const STREAMS: u32 = 100;

/// The most bytes that the small requests over a connection have together. Nobody's window for a connection is smaller
/// than 65,535 bytes (RFC 9113, section 6.9.2), and servers make room again once they have read half of it.
pub(super) const UNREAD: u32 = 65_535 / 2;

/// Calls of one connection that were ended by us, of which it is still known that what comes for them is no error: many times what
/// can be under way, so that callers who go away, however many at once, do not end a connection that others share.
const RESETS: usize = 1_024;

/// Small requests over a connection that have no answer yet. Some servers end a connection of which they find more than this reset
/// before they have looked at them, which is to say when they were busy for longer than callers wait.
pub(super) const UNANSWERED: u32 = 20;

/// How long one that was given up without an answer counts as under way.
pub(super) const GIVEN_UP_FOR: Duration = Duration::from_secs(1);

/// After so many calls that were ended by us a connection takes no further ones: some servers end it for twice as many within half a
/// minute.
pub(super) const MOST_ENDED: u32 = 100;

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
pub(super) const SEND_BUFFER: usize = 64 * 1024;

/// Error details of services can be long.
pub(super) const HEADER_LIST: usize = 64 * 1024;

/// What a call takes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    /// One of a small request with so many bytes.
    Small(u32),
    /// One that the service grants.
    Granted,
    /// One that waits in the connection until the service grants it.
    Waiting,
}

/// Room for one connection.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) connection: ArcSwapOption<Connection>,
    /// Held while connecting; when the last attempt failed.
    failed_at: Mutex<Option<Instant>>,
}

impl Slot {
    pub(super) fn open_connection(&self) -> Option<Arc<Connection>> {
        self.connection
            .load_full()
            .filter(|connection| connection.takes_calls())
    }

    /// A connection in place of none, or of one that takes no further calls, which goes on where no other comes about.
    pub(super) async fn connect(&self, dial: &Dial) -> Result<Arc<Connection>, UpstreamError> {
        let mut failed_at = self.failed_at.lock().await;
        // Whoever held the lock before may have done the work.
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        let before = self.connection.load_full();
        let before = before.filter(|connection| !connection.sender.is_closed());
        match self.dial(dial, &mut failed_at).await {
            Ok(connection) => {
                let connection = Arc::new(Connection {
                    before: before.map(|before| Weak::clone(&before.life)).unwrap_or_default(),
                    ..connection
                });
                self.connection.store(Some(Arc::clone(&connection)));
                Ok(connection)
            }
            Err(error) => before.ok_or(error),
        }
    }

    async fn dial(&self, dial: &Dial, failed_at: &mut Option<Instant>) -> Result<Connection, UpstreamError> {
        if failed_at.is_some_and(|at| at.elapsed() < FAILURE_HOLDS) {
            return Err(UpstreamError::JustFailed);
        }
        let attempt = timeout(dial.patience(), dial.connect()).await;
        match attempt.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(connection) => {
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

pub(super) struct Connection {
    pub(super) sender: http2::SendRequest<RequestBody>,
    /// Calls at once that the service grants.
    granted: Arc<AtomicUsize>,
    calls: Arc<AtomicU32>,
    /// Bytes of small requests, which the service may not have read.
    unread: Arc<AtomicU32>,
    /// Small requests that have no answer.
    unanswered: Arc<AtomicU32>,
    /// Calls that were ended by us.
    ended: Arc<AtomicU32>,
    /// There as long as anything works on it.
    life: Weak<()>,
    /// The life of the connection in the place of which this is.
    before: Weak<()>,
}

impl Connection {
    /// Whether it is there, and not to be replaced: which waits for the one before it, so that there are never more than two for one place.
    fn takes_calls(&self) -> bool {
        let has_before = self.before.strong_count() > 0;
        !self.sender.is_closed() && (!self.is_tired() || has_before)
    }

    fn is_tired(&self) -> bool {
        self.ended.load(Ordering::Relaxed) >= MOST_ENDED
    }

    /// A seat for one more call, if there is one.
    pub(super) fn reserve(&self, seat: Seat) -> Option<InFlight> {
        let granted = u32::try_from(self.granted.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let most = match seat {
            Seat::Small(_) | Seat::Granted => granted.min(STREAMS),
            // What is given up while it waits stays in memory until the service grants it.
            Seat::Waiting if self.is_tired() => 0,
            Seat::Waiting => STREAMS,
        };
        let call = Share::take(&self.calls, 1, most)?;
        let small = match seat {
            Seat::Small(bytes) => Some((
                Share::take(&self.unread, bytes, UNREAD)?,
                Share::take(&self.unanswered, 1, UNANSWERED)?,
            )),
            Seat::Granted | Seat::Waiting => None,
        };
        let (unread, unanswered) = small.unzip();
        Some(InFlight {
            call: Some(call),
            unread,
            unanswered,
            ended: Some(Arc::clone(&self.ended)),
            is_answered: false,
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("calls", &self.calls)
            .field("unread", &self.unread)
            .field("unanswered", &self.unanswered)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A call under way, on a connection that counts such.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    call: Option<Share>,
    unread: Option<Share>,
    unanswered: Option<Share>,
    ended: Option<Arc<AtomicU32>>,
    is_answered: bool,
}

impl InFlight {
    /// There is an answer, or there will be none.
    pub(super) fn answered(&mut self) {
        self.unanswered = None;
        self.is_answered = true;
    }

    /// The answer is not taken to its end.
    pub(crate) fn broken_off(&self) {
        if let Some(ended) = &self.ended {
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.is_answered || self.call.is_none() {
            return;
        }
        self.broken_off();
        let small = (self.call.take(), self.unread.take(), self.unanswered.take());
        // Where no runtime is left, no connection is.
        if let (true, Ok(runtime)) = (small.2.is_some(), Handle::try_current()) {
            runtime.spawn(async move {
                sleep(GIVEN_UP_FOR).await;
                drop(small);
            });
        }
    }
}

/// What is taken of something that there is only so much of, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<AtomicU32>,
    amount: u32,
}

impl Share {
    /// Takes `amount`, if no more than `most` is taken then.
    pub(super) fn take(of: &Arc<AtomicU32>, amount: u32, most: u32) -> Option<Self> {
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

pub(super) async fn handshake<T>(stream: T) -> io::Result<Connection>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let life = Arc::new(());
    let (sender, mut connection) = http2::Builder::new(Working(Arc::clone(&life)))
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
        unanswered: Arc::default(),
        ended: Arc::default(),
        life: Arc::downgrade(&life),
        before: Weak::new(),
    })
}

/// Spawns what works on one connection, which lives as long as any of that: also while it waits for a service that reads nothing.
#[derive(Clone)]
struct Working(Arc<()>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Working {
    fn execute(&self, work: F) {
        let life = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _ended = work.await;
            drop(life);
        });
    }
}
