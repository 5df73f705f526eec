//! One verifier's stream: how it begins, what it may acknowledge, and how it ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_core::ports::SigningFailed;
use countersign_core::trust::{Epoch, StateDigest, TrustState, Update, UpdateContent};
use countersign_proto::sync::v1::{Pong, SyncResponse, sync_response};
use countersign_wire::framing::framed;

use super::queue::Queue;
use super::{Ended, Feed, Frame, State, Stream};
use crate::alarm::Alarm;
use crate::fleet::StreamId;

/// Why a verifier is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// It holds an epoch that was never reached here (G45).
    Ahead,
    /// The authority is about to stop.
    Draining,
    /// No update can be signed.
    Unpublished,
}

/// An acknowledgement that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckRefused {
    /// This stream was not sent that epoch, or not with that digest (G47).
    NotSent,
    /// The stream has ended.
    Ended,
}

/// A stream that has begun.
#[derive(Debug)]
pub struct Joined {
    /// What is sent on it.
    pub subscription: Subscription,
    /// Whether the state that the verifier said to hold is one of ours.
    pub holds: bool,
}

/// The messages for one verifier, framed, as a stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct Subscription {
    feed: Feed,
    id: StreamId,
    queue: Arc<Queue>,
}

impl Feed {
    /// Begins a stream with a verifier that holds `epoch` (zero: nothing) with `digest`.
    ///
    /// # Errors
    /// [`JoinRefused`].
    pub async fn join(&self, epoch: Epoch, digest: StateDigest) -> Result<Joined, JoinRefused> {
        self.look_at(epoch, &digest);
        loop {
            if let Some(joined) = self.try_join(epoch, digest)? {
                return Ok(joined);
            }
            self.make_snapshot()
                .await
                .map_err(|_failed| JoinRefused::Unpublished)?;
        }
    }

    /// Says aloud when somebody holds what was never published here.
    fn look_at(&self, epoch: Epoch, digest: &StateDigest) {
        let state = self.lock();
        let current = (state.trust.epoch(), *state.trust.digest());
        drop(state);
        if epoch > current.0 {
            Alarm::VerifierAhead.raise(&self.0.metrics, &epoch);
        } else if epoch == current.0 && *digest != current.1 {
            Alarm::Fork.raise(&self.0.metrics, &epoch);
        }
    }

    /// Nothing when a snapshot has to be made first.
    fn try_join(&self, epoch: Epoch, digest: StateDigest) -> Result<Option<Joined>, JoinRefused> {
        let mut state = self.lock();
        if state.draining {
            return Err(JoinRefused::Draining);
        }
        if epoch > state.trust.epoch() {
            return Err(JoinRefused::Ahead);
        }
        let backlog: Option<Vec<Frame>> = state
            .deltas_after(epoch, &digest)
            .map(|deltas| deltas.cloned().collect());
        let holds = backlog.is_some();
        let Some(backlog) = backlog.or_else(|| state.snapshot_backlog()) else {
            return Ok(None);
        };
        let deltas = if holds {
            backlog.len()
        } else {
            backlog.len().saturating_sub(1)
        };
        self.0.metrics.count_sent("delta", deltas);
        self.0.metrics.count_sent("snapshot", usize::from(!holds));
        Ok(Some(self.begin(
            &mut state,
            holds.then_some((epoch, digest)),
            &backlog,
            holds,
        )))
    }

    fn begin(
        &self,
        state: &mut State,
        held: Option<(Epoch, StateDigest)>,
        backlog: &[Frame],
        holds: bool,
    ) -> Joined {
        let now = self.0.clock.elapsed();
        let queue = Arc::new(Queue::default());
        let mut stream = Stream {
            queue: Arc::clone(&queue),
            sent: VecDeque::from_iter(held),
        };
        for frame in backlog {
            let has_room = stream.send(frame, now);
            debug_assert!(
                has_room,
                "the queue takes every delta that is kept, and a snapshot"
            );
        }
        let id = state.next_stream;
        state.next_stream += 1;
        state.streams.insert(id, stream);
        Joined {
            subscription: Subscription {
                feed: self.clone(),
                id,
                queue,
            },
            holds,
        }
    }

    /// Makes a snapshot of the current state, unless somebody else just did.
    async fn make_snapshot(&self) -> Result<(), SigningFailed> {
        let _one_at_a_time = self.0.making.lock().await;
        let trust = {
            let state = self.lock();
            if state.snapshot_backlog().is_some() {
                return Ok(());
            }
            state.trust.clone()
        };
        // Half a million revocations take a while to encode: neither the lock is held nor an async thread.
        let feed = self.clone();
        let made =
            tokio::task::spawn_blocking(move || feed.sign_update(&snapshot(&trust, feed.0.clock.now())));
        let frame = made.await.unwrap_or(Err(SigningFailed))?;
        let mut state = self.lock();
        if state.deltas_after(frame.epoch, &frame.digest).is_some() {
            state.snapshot = Some(frame);
        }
        Ok(())
    }
}

fn snapshot(trust: &TrustState, now: countersign_core::Timestamp) -> Update {
    Update {
        issuer: trust.issuer().clone(),
        epoch: trust.epoch(),
        state_digest: *trust.digest(),
        published_at: now,
        content: UpdateContent::Snapshot {
            key_set: Arc::clone(trust.keys()),
            revocations: trust.revocations().iter().cloned().collect(),
        },
    }
}

impl State {
    /// The snapshot, if there is one that leads to the current state, with what follows on it.
    fn snapshot_backlog(&self) -> Option<Vec<Frame>> {
        let snapshot = self.snapshot.as_ref()?;
        let deltas = self.deltas_after(snapshot.epoch, &snapshot.digest)?;
        Some([snapshot].into_iter().chain(deltas).cloned().collect())
    }
}

impl Subscription {
    /// The stream's handle, for whoever reads its other half.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            feed: self.feed.clone(),
            id: self.id,
            queue: Arc::clone(&self.queue),
        }
    }
}

/// What the reader of a stream's requests does to its responses.
#[derive(Clone, Debug)]
pub struct Handle {
    feed: Feed,
    id: StreamId,
    queue: Arc<Queue>,
}

impl Handle {
    /// Whether an acknowledgement is of something that this stream was sent.
    ///
    /// # Errors
    /// [`AckRefused`].
    pub fn acknowledge(&self, epoch: Epoch, digest: &[u8]) -> Result<(), AckRefused> {
        let mut state = self.feed.lock();
        let stream = state.streams.get_mut(&self.id).ok_or(AckRefused::Ended)?;
        let position = stream
            .sent
            .iter()
            .position(|(sent, known)| *sent == epoch && known.as_slice() == digest);
        match position {
            Some(position) => {
                // The one acknowledged stays, so that saying it again is no offence.
                stream.sent.drain(..position);
                Ok(())
            }
            None => {
                drop(state);
                Alarm::AckNotSent.raise(&self.feed.0.metrics, &epoch);
                Err(AckRefused::NotSent)
            }
        }
    }

    /// Answers a ping.
    pub fn answer(&self, ping_sequence: u64) {
        let mut state = self.feed.lock();
        let Ok(heartbeat) = self.feed.heartbeat(&mut state) else {
            return;
        };
        let pong = framed(&SyncResponse {
            message: Some(sync_response::Message::Pong(Pong {
                ping_sequence,
                heartbeat: Some(heartbeat),
                ..Pong::default()
            })),
        });
        if !self.queue.push(pong, self.feed.0.clock.elapsed()) {
            self.feed.end(&mut state, self.id, Ended::TooSlow);
        }
    }

    /// Waits until the stream has ended.
    pub async fn ended(&self) {
        self.queue.ended().await;
    }

    /// Ends the stream.
    pub fn end(&self, ended: Ended) {
        self.feed.end(&mut self.feed.lock(), self.id, ended);
    }

    /// Sends a snapshot, as a verifier asked after it refused an update.
    ///
    /// # Errors
    /// [`JoinRefused`].
    pub async fn resync(&self) -> Result<(), JoinRefused> {
        loop {
            if self.try_resync() {
                return Ok(());
            }
            self.feed
                .make_snapshot()
                .await
                .map_err(|_failed| JoinRefused::Unpublished)?;
        }
    }

    fn try_resync(&self) -> bool {
        let mut state = self.feed.lock();
        let Some(backlog) = state.snapshot_backlog() else {
            return false;
        };
        let now = self.feed.0.clock.elapsed();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return true;
        };
        if backlog.iter().all(|frame| stream.send(frame, now)) {
            self.feed.0.metrics.count_sent("snapshot", 1);
        } else {
            // What follows on what was left out would be refused.
            self.feed.end(&mut state, self.id, Ended::TooSlow);
        }
        true
    }
}

impl futures_util::Stream for Subscription {
    type Item = Result<Bytes, Ended>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(context).map(Some)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.lock().streams.remove(&self.id);
        self.queue.end(Ended::ByVerifier);
    }
}
