//! What waits to be sent on one stream: bounded, and emptied at once when the stream is ended.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::feed::MAX_DELTAS;
use countersign_core::publishers::MAX_LINKS;
use countersign_wire::status::Failure;
use tokio_util::sync::CancellationToken;

/// Room for every delta and link that is kept, the snapshot before them, and some pongs.
const CAPACITY: usize = MAX_DELTAS + MAX_LINKS + 64;

/// Why the authority ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did not take its updates (F78).
    TooSlow,
    /// The authority is about to stop.
    Draining,
    /// An update could not be signed.
    Unpublished,
    /// It broke the protocol.
    Misbehaved,
    /// Nothing was heard of it.
    Silent,
    /// It is time to verify its certificate anew.
    Aged,
    /// The verifier ended it.
    ByVerifier,
    /// The verifier has opened another.
    Superseded,
}

impl Ended {
    /// The stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Draining => "draining",
            Self::Unpublished => "unpublished",
            Self::Misbehaved => "misbehaved",
            Self::Silent => "silent",
            Self::Aged => "aged",
            Self::ByVerifier => "by_verifier",
            Self::Superseded => "superseded",
        }
    }

    /// What the verifier is told, if anything is wrong.
    #[must_use]
    pub const fn failure(self) -> Option<Failure> {
        match self {
            Self::TooSlow | Self::Silent => Some(Failure::StreamTooSlow),
            Self::Draining | Self::Aged => Some(Failure::Draining),
            Self::Unpublished => Some(Failure::Internal),
            Self::Misbehaved => Some(Failure::LimitReached),
            Self::ByVerifier => None,
            Self::Superseded => Some(Failure::StreamSuperseded),
        }
    }
}

/// The queue of one stream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Cancelled when the stream has ended, for whoever reads its other half.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Bytes, Duration)>,
    ended: Option<Ended>,
    waker: Option<Waker>,
}

impl Queue {
    /// Puts a message at the end. False when there is no room.
    pub(super) fn push(&self, message: Bytes, now: Duration) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() || state.waiting.len() >= CAPACITY {
            return false;
        }
        state.waiting.push_back((message, now));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Throws away what waits; the stream ends with `ended`.
    pub(super) fn end(&self, ended: Ended) {
        let mut state = self.lock();
        state.waiting = VecDeque::new();
        state.ended.get_or_insert(ended);
        let waker = state.waker.take();
        drop(state);
        self.over.cancel();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next message, or why there will be none.
    pub(super) fn poll_next(&self, context: &Context<'_>) -> Poll<Result<Bytes, Ended>> {
        let mut state = self.lock();
        if let Some(ended) = state.ended {
            return Poll::Ready(Err(ended));
        }
        match state.waiting.pop_front() {
            Some((message, _)) => Poll::Ready(Ok(message)),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until the stream is ended.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// For how long the oldest message has been waiting.
    pub(super) fn waits_since(&self, now: Duration) -> Duration {
        let state = self.lock();
        let oldest = state.waiting.front();
        oldest.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
