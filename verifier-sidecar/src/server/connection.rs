//! One connection's life: HTTP/2, or HTTP/1.1 where that is served, with limits, and a watch that ends it when nothing comes of
//! it.
//!
//! hyper waits for ever for a preface and for a first request (G25). The watch does not: it looks at what has happened on
//! the connection and says when to look again, when to wind up (no new calls, those open go on) and when to cut.

mod beginning;
mod http1;
mod vigil;
mod writing;

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
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::listener::{Peer, Stream};
use super::{Limits, Protocols, Serve};
use crate::metrics::OpenConnection;
use beginning::{Begun, Look, Protocol};
use http1::Strict;
use vigil::{Activity, Busy, End, Step, Vigil, Watched};

/// The largest header list read. RFC 9113 leaves it to us; a token of the largest size and usual headers fit.
const HEADER_LIST: usize = 16 * 1024;

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
        let mut watch = Watch {
            vigil: Vigil::new(self.limits, self.valid_for),
            activity: Arc::clone(&activity),
            drain: self.drain,
        };
        // Over TLS callers may wait for the first word of HTTP/2, which is the server's.
        let is_http2 = service.protocols() == Protocols::Http2 || stream.is_http2();
        let stream = Watched::new(stream, Arc::clone(&activity));
        let begun = if is_http2 {
            Ok(Ok((Protocol::Http2, Begun::untouched(stream))))
        } else {
            watch.over(Look::new(stream)).await
        };
        let peer = self.peer;
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = activity.call();
            let (service, peer) = (service.clone(), Arc::clone(&peer));
            // In a box, because hyper and tokio move it about before it runs, and it is thousands of bytes.
            Box::pin(async move {
                let response = service.call(request, peer).await;
                Ok::<_, Infallible>(response.map(|inner| Tracked { inner, _busy: busy }))
            })
        });
        let ended = match begun {
            Ok(Ok((Protocol::Http2, stream))) => {
                let serving = protocol(self.limits).serve_connection(TokioIo::new(stream), service);
                watch.over(serving).await.map(|ended| ended.is_ok())
            }
            Ok(Ok((Protocol::Http1, stream))) => {
                let stream = Strict::new(stream, self.limits.idle);
                let serving = http1::protocol().serve_connection(TokioIo::new(stream), service);
                watch.over(serving).await.map(|ended| ended.is_ok())
            }
            Ok(Err(_never_began)) => Ok(false),
            Err(cut) => Err(cut),
        };
        let end = ended.map_or_else(|cut| cut, |well| watch.vigil.end(well));
        self.open.ends(end.name());
    }
}

fn protocol(limits: Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(HEADER_LIST).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(limits.streams))
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(limits.keepalive.every)
        .keep_alive_timeout(limits.keepalive.patience);
    builder
}

/// A connection, or the beginning of one, that can be wound up.
trait WindUp: Future {
    /// No new calls; those open go on.
    fn wind_up(self: Pin<&mut Self>);
}

impl<T: AsyncRead + Unpin> WindUp for Look<T> {
    fn wind_up(mut self: Pin<&mut Self>) {
        self.give_up();
    }
}

impl<T, S, B> WindUp for http2::Connection<TokioIo<T>, S, TokioExecutor>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<T, S, B> WindUp for hyper::server::conn::http1::Connection<TokioIo<T>, S>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sees to it that a connection ends.
struct Watch {
    vigil: Vigil,
    activity: Arc<Activity>,
    drain: CancellationToken,
}

impl Watch {
    /// What becomes of `connection`, or why it was cut.
    async fn over<C: WindUp>(&mut self, connection: C) -> Result<C::Output, End> {
        let mut connection = pin!(connection);
        loop {
            let look_again = match self.vigil.step(&self.activity.seen()) {
                Step::Wait(until) => until,
                Step::WindUp => {
                    connection.as_mut().wind_up();
                    continue;
                }
                Step::Cut(end) => return Err(end),
            };
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended),
                () = self.drain.cancelled(), if !self.vigil.is_winding_up() => {
                    connection.as_mut().wind_up();
                    self.vigil.drain(&self.activity.seen());
                }
                () = sleep_until(self.activity.at(look_again)) => {}
            }
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
