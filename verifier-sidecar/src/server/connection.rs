//! One connection's life: HTTP/2 with limits, and a watch that ends it when nothing comes of it.
//!
//! hyper waits for ever for a preface and for a first request (G25). The watch does not: it looks at what has happened on
//! the connection and says when to look again, when to wind up (no new calls, those open go on) and when to cut.

mod vigil;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::listener::{Peer, Stream};
use super::{Limits, Serve};
use crate::metrics::OpenConnection;
use vigil::{Activity, Busy, End, Step, Vigil, Watched};

/// The largest header list read. RFC 9113 leaves it to us; a token of the largest size and usual headers fit.
const HEADER_LIST: u32 = 16 * 1024;

/// What one stream may have under way before the service takes it: what gRPC grants by default.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for all streams of a connection. With less, calls that the service does not read would stop the others. It is
/// also the most memory that one caller can take by sending what is not read.
fn connection_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(LARGEST_WINDOW)
}

/// The largest there is (RFC 9113, section 6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// What one stream may have under way towards a slow caller.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that the peer opened and reset before we saw them, at once (Rapid Reset, G19).
const PENDING_RESETS: usize = 20;

/// Streams that we had to reset for the peer's errors, at once (`MadeYouReset`, CVE-2025-8671, G20).
const LOCAL_RESETS: usize = 128;

/// How often a peer must show that it is there, and how soon.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A connection that was accepted, with everything that bounds it.
pub(crate) struct Connection {
    /// Who is at the other end.
    pub(crate) peer: Arc<Peer>,
    /// What it is granted.
    pub(crate) limits: Limits,
    /// How long its certificate is valid, if it has one.
    pub(crate) valid_for: Option<Duration>,
    /// Counts it.
    pub(crate) open: OpenConnection,
    /// Called for when the process is about to stop.
    pub(crate) drain: CancellationToken,
}

impl Connection {
    /// Serves `stream` until it ends.
    pub(crate) async fn run<S: Serve>(mut self, stream: Stream, service: S) {
        let activity = Arc::new(Activity::new());
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
        let (calls, peer) = (Arc::clone(&activity), self.peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = calls.call();
            let (service, peer) = (service.clone(), Arc::clone(&peer));
            async move {
                let response = service.call(request, peer).await;
                Ok::<_, Infallible>(response.map(|inner| Tracked { inner, _busy: busy }))
            }
        });
        let connection = protocol(self.limits).serve_connection(io, service);
        let vigil = Vigil::new(self.limits, self.valid_for);
        let end = watch(connection, &activity, vigil, self.drain).await;
        self.open.ends(end.name());
    }
}

fn protocol(limits: Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(limits.streams))
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    builder
}

/// A connection that can be wound up.
trait WindUp: Future<Output = Result<(), hyper::Error>> {
    /// No new calls; those open go on.
    fn wind_up(self: Pin<&mut Self>);
}

impl<S, B> WindUp for http2::Connection<TokioIo<Watched<Stream>>, S, TokioExecutor>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn watch(
    connection: impl WindUp,
    activity: &Activity,
    mut vigil: Vigil,
    drain: CancellationToken,
) -> End {
    let mut connection = pin!(connection);
    loop {
        let look_again = match vigil.step(&activity.seen()) {
            Step::Wait(until) => until,
            Step::WindUp => {
                connection.as_mut().wind_up();
                continue;
            }
            Step::Cut(end) => return end,
        };
        tokio::select! {
            ended = connection.as_mut() => {
                return vigil.end(ended.is_ok());
            }
            () = drain.cancelled(), if !vigil.is_winding_up() => {
                connection.as_mut().wind_up();
                vigil.drain(&activity.seen());
            }
            () = sleep_until(activity.at(look_again)) => {}
        }
    }
}

/// A body that keeps its call counted as active until it is sent or dropped.
struct Tracked<B> {
    inner: B,
    _busy: Busy,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
