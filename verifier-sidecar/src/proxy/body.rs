//! The two bodies of a call, passed on frame by frame as they come. Nothing is collected; a slow reader slows its writer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_verifier::identity::IdentityHeaders;
use countersign_wire::status::{Disclosure, Failure};
use futures_util::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tracing::Span;

use super::headers;
use super::lifetime::Over;
use super::respond::{Refusal, code_in};
use super::upstream::InFlight;
use crate::metrics::ActiveCall;

/// Why the rest of a request does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// The caller went away.
    #[error("the caller went away")]
    Caller(#[source] hyper::Error),
    /// The call must not go on.
    #[error("the call is over: {0}")]
    Over(&'static str),
}

/// What the caller sends, less what trailers may not carry, until the call is over.
#[derive(Debug)]
pub(crate) struct RequestBody {
    pub(crate) incoming: Incoming,
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
        // Here too: the answer's side is not asked while its reader is slow.
        if let Poll::Ready(refusal) = self.over.poll_unpin(cx) {
            return Poll::Ready(Some(Err(BrokenOff::Over(refusal.reason()))));
        }
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        frame.map_err(BrokenOff::Caller).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                headers::prepare_trailers(trailers, &self.identity_headers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
}

/// The service's answer, until it ends or must.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) incoming: Incoming,
    pub(crate) over: Over,
    pub(crate) disclosure: Disclosure,
    pub(crate) call: ActiveCall,
    pub(crate) _in_flight: InFlight,
    /// The call's span lasts as long as the call.
    pub(crate) _span: Span,
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        // First the end: a service that always has something to send does not get round it.
        if let Poll::Ready(refusal) = self.over.poll_unpin(cx) {
            return Poll::Ready(Some(self.end(&refusal)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.call.ended_without_status();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.call.ended_with(code);
                }
                Poll::Ready(Some(frame))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "the service broke a call off");
                Poll::Ready(Some(self.end(&Failure::UpstreamUnavailable.into())))
            }
        }
    }

    fn end(&mut self, refusal: &Refusal) -> Frame<Bytes> {
        self.call.ended_with(refusal.code());
        Frame::trailers(refusal.trailers(self.disclosure))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self::Relayed(relayed) = &mut *self else {
            return Poll::Ready(None);
        };
        let frame = relayed.poll_frame(cx);
        let ends = match &frame {
            Poll::Ready(Some(frame)) => frame.is_trailers(),
            Poll::Ready(None) => true,
            Poll::Pending => false,
        };
        if ends {
            // Lets go of the stream to the service, which is reset if it has not ended.
            *self = Self::Empty;
        }
        frame.map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}
