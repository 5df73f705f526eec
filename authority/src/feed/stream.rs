//! One verifier's stream: how it begins, what comes from it, and how it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::feed::{
    AckRefused, Answer, Begun, Held, Join, JoinRefused, Resync, Standing, StreamId, snapshot,
};
use countersign_core::ports::SigningFailed;
use countersign_core::trust::Epoch;
use countersign_proto::sync::v1::{Pong, SyncResponse, sync_response};
use countersign_wire::framing::framed;

use super::queue::Queue;
use super::{Ended, Feed, State};
use crate::alarm::Alarm;

/// Why a verifier gets no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotJoined {
    /// It is not let in.
    Refused(JoinRefused),
    /// No update can be signed.
    Unpublished,
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
    /// Begins a stream with a verifier that has `held`.
    ///
    /// # Errors
    /// [`NotJoined`].
    pub async fn join(&self, held: &Held) -> Result<Joined, NotJoined> {
        self.look_at(held);
        loop {
            if let Some(joined) = self.try_join(held)? {
                return Ok(joined);
            }
            self.make_snapshot()
                .await
                .map_err(|_failed| NotJoined::Unpublished)?;
        }
    }

    /// Says aloud when somebody holds what was never published here.
    fn look_at(&self, held: &Held) {
        let (standing, publishers) = {
            let state = self.lock();
            (state.machine.standing(held), state.machine.trust().publishers())
        };
        if held.publishers > publishers {
            Alarm::VerifierAhead.raise(&self.0.metrics, &held.publishers);
        }
        match standing {
            Standing::Consistent => {}
            Standing::Fork => Alarm::Fork.raise(&self.0.metrics, &held.epoch),
            Standing::Ahead => Alarm::VerifierAhead.raise(&self.0.metrics, &held.epoch),
            Standing::SeenLater => Alarm::VerifierAhead.raise(&self.0.metrics, &held.highest_epoch),
        }
    }

    /// Nothing when a snapshot has to be made first.
    fn try_join(&self, held: &Held) -> Result<Option<Joined>, NotJoined> {
        let mut state = self.lock();
        match state.machine.join(held) {
            Join::Begun(begun) => Ok(Some(self.begin(&mut state, begun))),
            Join::NeedsSnapshot => Ok(None),
            Join::Refused(refused) => Err(NotJoined::Refused(refused)),
        }
    }

    fn begin(&self, state: &mut State, begun: Begun<Bytes>) -> Joined {
        let Begun {
            stream: id,
            holds,
            backlog,
            links,
        } = begun;
        let snapshots = usize::from(!holds);
        self.0.metrics.count_sent("snapshot", snapshots);
        self.0
            .metrics
            .count_sent("delta", backlog.len().saturating_sub(links + snapshots));
        let queue = Arc::new(Queue::default());
        state.queues.insert(id, Arc::clone(&queue));
        for message in &backlog {
            let has_room = self.push(state, id, message);
            debug_assert!(
                has_room,
                "the queue takes every delta that is kept, and a snapshot"
            );
        }
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
        let Some(trust) = self.lock().machine.wanted_snapshot() else {
            return Ok(());
        };
        // Half a million revocations take a while to encode: neither the lock is held nor an async thread.
        let feed = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let update = snapshot(&trust, feed.0.clock.now());
            feed.sign_update(&feed.publisher(), &update)
        });
        let frame = made.await.unwrap_or(Err(SigningFailed))?;
        self.lock().machine.keep_snapshot(frame);
        Ok(())
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
        let taken = self.feed.lock().machine.acknowledge(self.id, epoch, digest);
        if taken == Err(AckRefused::NotSent) {
            Alarm::AckNotSent.raise(&self.feed.0.metrics, &epoch);
        }
        taken
    }

    /// Answers a ping of a verifier that is in quarantine or not. `grant` is asked for a lease when there may be one, and has
    /// written it down when it gives one.
    pub fn answer(&self, ping_sequence: u64, quarantined: bool, grant: impl FnOnce() -> Option<Duration>) {
        let mut state = self.feed.lock();
        let now = self.feed.0.clock.now_millis();
        let Answer { heartbeat, may_grant } = state.machine.answer(self.id, now, quarantined);
        let signed = heartbeat.map(|heartbeat| self.feed.shared_heartbeat(&mut state, &heartbeat));
        let Ok(heartbeat) = signed.transpose() else {
            return;
        };
        // INVARIANT (a bound holds): until the state is unlocked there is no later epoch, so whoever has published one finds
        // every lease for an earlier one written down.
        let lease = if may_grant { grant() } else { None };
        let lease = lease.unwrap_or_default();
        let pong = framed(&SyncResponse {
            message: Some(sync_response::Message::Pong(Pong {
                ping_sequence,
                heartbeat,
                lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
                quarantined,
            })),
        });
        self.feed.push(&mut state, self.id, &pong);
    }

    /// Waits until the stream has ended.
    pub async fn ended(&self) {
        self.queue.ended().await;
    }

    /// Ends the stream.
    pub fn end(&self, ended: Ended) {
        self.feed.end(&mut self.feed.lock(), self.id, ended);
    }

    /// Sends a snapshot, as a verifier asked after it refused an update; or ends the stream, when it asked too often.
    ///
    /// # Errors
    /// [`SigningFailed`].
    pub async fn resync(&self) -> Result<(), SigningFailed> {
        while !self.try_resync() {
            self.feed.make_snapshot().await?;
        }
        Ok(())
    }

    /// False when a snapshot has to be made first.
    fn try_resync(&self) -> bool {
        let mut state = self.feed.lock();
        match state.machine.resync(self.id) {
            Resync::Backlog(backlog) => {
                if backlog
                    .iter()
                    .all(|message| self.feed.push(&mut state, self.id, message))
                {
                    self.feed.0.metrics.count_sent("snapshot", 1);
                }
            }
            Resync::TooOften => self.feed.close(&mut state, &[self.id], Ended::Misbehaved),
            Resync::TooSlow => self.feed.close(&mut state, &[self.id], Ended::TooSlow),
            Resync::Ended => {}
            Resync::NeedsSnapshot => return false,
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
        let mut state = self.feed.lock();
        state.machine.end(self.id);
        state.queues.remove(&self.id);
        drop(state);
        self.queue.end(Ended::ByVerifier);
    }
}
