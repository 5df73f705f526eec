//! The two bodies of a call, passed on frame by frame as they come. Nothing is collected; a slow reader slows its writer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_verifier::identity::IdentityHeaders;
use countersign_wire::status::Failure;
use futures_util::FutureExt as _;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tracing::Span;

use super::answer::Told;
use super::headers;
use super::hop;
use super::lifetime::Over;
use super::request::Face;
use super::respond::{Refusal, code_in, status_trailers};
use super::upstream::InFlight;
use super::web::Framing;
use crate::metrics::ActiveCall;

/// Why the rest of a request or of an answer does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// The caller went away.
    #[error("the caller went away")]
    Caller(#[source] hyper::Error),
    /// The service broke it off.
    #[error("the service broke the answer off")]
    Service(#[source] hyper::Error),
    /// The call must not go on.
    #[error("the call is over: {0}")]
    Over(&'static str),
}

/// What a body gives next.
type Next = Option<Result<Frame<Bytes>, hyper::Error>>;

/// A request's body as it comes, counted where its call is told of.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) incoming: Incoming,
    /// What was read ahead of it.
    ahead: Option<Next>,
    /// To ask for its first frame is to ask its caller to go on (RFC 9110, section 10.1.1), so that is for whoever takes it.
    came_as_http1: bool,
    received: Option<Arc<AtomicU64>>,
}

impl Counted {
    /// A body of a request that came by `version`.
    pub(crate) fn new(incoming: Incoming, version: Version, received: Option<Arc<AtomicU64>>) -> Self {
        Self {
            incoming,
            ahead: None,
            came_as_http1: version == Version::HTTP_11,
            received,
        }
    }

    /// How many bytes it has, if all of it is here already, as a unary call's usually is: its headers and its one message come
    /// together. Reads one frame ahead for that, and does not wait.
    pub(crate) async fn whole(&mut self) -> Option<usize> {
        if self.ahead.is_none() && !self.incoming.is_end_stream() {
            if self.came_as_http1 {
                return None;
            }
            let next = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.incoming).poll_frame(cx))).await;
            if let Poll::Ready(next) = next {
                self.ahead = Some(next);
            }
        }
        let bytes = match &self.ahead {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            Some(Some(Err(_))) => return None,
            Some(None) => return Some(0),
            None => 0,
        };
        self.incoming.is_end_stream().then_some(bytes)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self.ahead.take() {
            Some(next) => Poll::Ready(next),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.ahead {
            None => self.incoming.is_end_stream(),
            Some(next) => next.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let Some(Some(Ok(frame))) = &self.ahead else {
            return rest;
        };
        let ahead = frame.data_ref().map_or(0, Bytes::len);
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        rest.exact().map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(rest.saturating_add(ahead))
        })
    }

    fn count(&self, frame: &Frame<Bytes>) {
        if let (Some(received), Some(data)) = (&self.received, frame.data_ref()) {
            received.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// What the caller sends, less what trailers may not carry, until the call is over.
#[derive(Debug)]
pub(crate) struct RequestBody {
    pub(crate) body: Counted,
    pub(crate) over: Over,
    /// What callers may not say of themselves.
    pub(crate) identity_headers: Arc<IdentityHeaders>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = self.body.poll_next(cx);
        // Here too, for the answer's side is not asked while its reader is slow; but not where this was all there is.
        let is_last = frame.is_ready() && self.body.incoming.is_end_stream();
        if !is_last && let Poll::Ready(refusal) = self.over.poll_unpin(cx) {
            return Poll::Ready(Some(Err(BrokenOff::Over(refusal.reason()))));
        }
        frame.map_err(BrokenOff::Caller).map_ok(|mut frame| {
            self.body.count(&frame);
            if let Some(trailers) = frame.trailers_mut() {
                headers::prepare_trailers(trailers, &self.identity_headers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the caller is sent.
#[derive(Debug, Default)]
pub(crate) enum ResponseBody {
    /// Nothing: the status is in the headers.
    #[default]
    Empty,
    /// What the service answers.
    Relayed(Box<Relayed>),
    /// What is answered here.
    Ours(tonic::body::Body),
    /// The same, as a whole.
    Text(Bytes),
}

/// The service's answer, until it ends or must.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) incoming: Incoming,
    pub(crate) over: Over,
    /// How the caller is told if it must end early.
    pub(crate) told: Told,
    /// Where it is, if it is of gRPC-Web.
    pub(crate) framing: Option<Framing>,
    /// Whether its last frame was ours, which says why it ends.
    pub(crate) is_over: bool,
    /// What it counts as if it ends well and does not say how the call went.
    pub(crate) without_status: Option<&'static str>,
    pub(crate) call: ActiveCall,
    pub(crate) in_flight: InFlight,
    /// The call's span lasts as long as the call.
    pub(crate) _span: Span,
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if !self.incoming.is_end_stream() {
            self.in_flight.broken_off();
        }
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        // A service that always has something to send does not get round its end.
        if !matches!(frame, Poll::Ready(None))
            && let Poll::Ready(refusal) = self.over.poll_unpin(cx)
        {
            return Poll::Ready(Some(self.break_off(&refusal, BrokenOff::Over(refusal.reason()))));
        }
        match frame {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.pass(frame)))),
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "the service broke a call off");
                self.call.upstream_failed();
                let refusal = Failure::UpstreamUnavailable.into();
                Poll::Ready(Some(self.break_off(&refusal, BrokenOff::Service(error))))
            }
        }
    }

    /// Takes note of `frame`, and gives what of it goes on.
    fn pass(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        // gRPC comes over HTTP/2 alone, which takes in none that have any of it.
        if self.told.face != Face::Grpc
            && let Some(trailers) = frame.trailers_mut()
        {
            hop::strip_trailers(trailers);
        }
        if let Some(data) = frame.data_ref() {
            self.call.sent(data.len());
            if let Some(framing) = &mut self.framing {
                framing.pass(data);
            }
        }
        if let Some(code) = frame.trailers_ref().and_then(code_in) {
            self.call.ended_with(code);
        } else if frame.is_trailers() || self.is_whole() {
            self.ended();
        }
        frame
    }

    /// Whether everything has come of an answer that has no trailers: nobody asks for its end then.
    fn is_whole(&self) -> bool {
        self.told.face != Face::Grpc && self.incoming.is_end_stream()
    }

    /// Takes note that the answer is whole.
    pub(super) fn ended(&mut self) {
        match self.without_status {
            Some(name) => self.call.ended_with(name),
            None => self.call.ended_without_status(),
        }
    }

    /// Ends an answer that has begun. gRPC has a way to say why, and so has gRPC-Web between two messages. Elsewhere it must not look
    /// whole: the connection or its stream ends in the midst of it.
    fn break_off(&mut self, refusal: &Refusal, broken: BrokenOff) -> Result<Frame<Bytes>, BrokenOff> {
        self.call.ended_for(refusal.reason(), refusal.code());
        let trailers = || refusal.trailers(self.told.disclosure);
        match self.told.face {
            Face::Grpc => Ok(Frame::trailers(trailers())),
            Face::GrpcWeb => {
                let framing = self.framing.take();
                let end = framing
                    .and_then(|framing| framing.end(&trailers()))
                    .ok_or(broken)?;
                self.call.sent(end.len());
                self.is_over = true;
                Ok(Frame::data(end))
            }
            Face::Http => Err(broken),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
            Self::Ours(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                frame
                    .map(|frame| Ok(frame.unwrap_or_else(|status| Frame::trailers(status_trailers(&status)))))
            }),
            Self::Text(text) => {
                let text = std::mem::take(text);
                *self = Self::Empty;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
        };
        let ends = match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                frame.is_trailers() || matches!(&*self, Self::Relayed(relayed) if relayed.is_over)
            }
            Poll::Ready(Some(Err(_)) | None) => true,
            Poll::Pending => false,
        };
        if ends {
            // Lets go of the stream to the service, which is reset if it has not ended.
            *self = Self::Empty;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
            Self::Ours(body) => body.is_end_stream(),
            Self::Text(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
            Self::Ours(body) => body.size_hint(),
            Self::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
        }
    }
}
