//! The answer of a service, until it ends or must.

use std::pin::Pin;
use std::task::{Context, Poll};

use countersign_verifier::verifier::Denied;
use countersign_wire::status::{self, Disclosure};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};

/// Comes when a call must not go on, with why.
pub(crate) type Over = BoxFuture<'static, Denied>;

/// The body of an answer. When the caller's token is no longer good it ends with the status that says so, and the service's own body
/// is dropped.
pub struct GuardedBody<B> {
    state: State<B>,
    disclosure: Disclosure,
}

enum State<B> {
    Open(Pin<Box<B>>, Option<Over>),
    Ended,
}

impl<B> std::fmt::Debug for GuardedBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_open = matches!(self.state, State::Open(..));
        f.debug_struct("GuardedBody")
            .field("is_open", &is_open)
            .finish_non_exhaustive()
    }
}

/// Nothing: the status is in the headers.
impl<B> Default for GuardedBody<B> {
    fn default() -> Self {
        Self {
            state: State::Ended,
            disclosure: Disclosure::Coarse,
        }
    }
}

impl<B> GuardedBody<B> {
    pub(crate) fn new(body: B, over: Option<Over>, disclosure: Disclosure) -> Self {
        Self {
            state: State::Open(Box::pin(body), over),
            disclosure,
        }
    }
}

impl<B: Body> Body for GuardedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let disclosure = self.disclosure;
        let State::Open(body, over) = &mut self.state else {
            return Poll::Ready(None);
        };
        // First the end: a service that always has something to send does not get round it.
        let denied = over.as_mut().map(|over| over.poll_unpin(cx));
        if let Some(Poll::Ready(denied)) = denied {
            self.state = State::Ended;
            let trailers = status::trailers(&denied.status(disclosure));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open(body, _) => body.is_end_stream(),
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open(body, _) => body.size_hint(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}
