//! What verifiers are told: each update signed once, encoded once, and handed to every stream. The streams share its bytes, down
//! to the connections (`countersign_wire::framing`).
//!
//! A new stream is given the deltas that it lacks, or a snapshot and the deltas since. The snapshot is made when somebody
//! needs one and kept as long as the deltas behind it are. A heartbeat is signed at most once for each epoch and second, and
//! shared by all who ask for one: it is true as long as the epoch has not changed, and its time errs on the old side.
//!
//! Nothing here waits for a verifier. A stream that does not take its updates is cut: its memory is bounded, and the others
//! do not notice.

mod queue;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::names::KeyId;
use countersign_core::ports::{Clock, SigningFailed};
use countersign_core::trust::{Epoch, StateDigest, TrustState, Update, UpdateContent};
use countersign_crypto::SigningKey;
use countersign_crypto::publishing::{self, Context};
use countersign_proto::sync::v1 as sync;
use countersign_proto::trust::v1 as trust;
use countersign_wire::MAX_UPDATE_LENGTH;
use countersign_wire::framing::framed;
use countersign_wire::trust::{Heartbeat, write_heartbeat, write_update};

pub use queue::Ended;
pub use stream::{AckRefused, Handle, JoinRefused, Joined, Subscription};

use crate::alarm::Alarm;
use crate::fleet::{Fleet, StreamId};
use crate::metrics::Metrics;
use queue::Queue;

/// Deltas kept for those who come back. A stream's queue takes them all.
pub const MAX_DELTAS: usize = 512;

/// Bytes of deltas kept: a snapshot is smaller than more.
const MAX_DELTA_BYTES: usize = 8 * 1024 * 1024;

/// Updates that a verifier may have been sent and not acknowledged.
const MAX_UNACKNOWLEDGED: usize = 2 * MAX_DELTAS;

/// How long an update may lie in a stream's queue.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Signs what is published.
#[derive(Debug)]
pub struct Publisher(SigningKey);

impl Publisher {
    /// Signs with `key`.
    #[must_use]
    pub const fn new(key: SigningKey) -> Self {
        Self(key)
    }

    /// The key's `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.0.key_id()
    }

    fn sign(&self, context: Context, payload: Vec<u8>) -> Result<trust::Signed, SigningFailed> {
        Ok(trust::Signed {
            signature: publishing::sign(&self.0, context, &payload)?.into(),
            payload: payload.into(),
            key_id: self.0.key_id().as_str().to_owned(),
        })
    }
}

/// An update as it is sent.
#[derive(Clone, Debug)]
struct Frame {
    epoch: Epoch,
    digest: StateDigest,
    message: Bytes,
}

/// A delta and the state that it changes.
#[derive(Debug)]
struct Delta {
    base: Epoch,
    base_digest: StateDigest,
    frame: Frame,
}

/// The feed. Clones share it.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    publisher: Publisher,
    clock: Arc<dyn Clock>,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Held while a snapshot is made, so that a thousand newcomers make one.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    trust: TrustState,
    deltas: VecDeque<Delta>,
    delta_bytes: usize,
    snapshot: Option<Frame>,
    heartbeat: Option<(u64, trust::Signed)>,
    sequence: u64,
    streams: HashMap<StreamId, Stream>,
    next_stream: StreamId,
    draining: bool,
}

/// One open stream.
#[derive(Debug)]
struct Stream {
    queue: Arc<Queue>,
    /// What it was sent and has not acknowledged, oldest first; and what it last acknowledged.
    sent: VecDeque<(Epoch, StateDigest)>,
}

impl Stream {
    /// False when it has been sent as much as it may be without taking it.
    fn send(&mut self, frame: &Frame, now: Duration) -> bool {
        self.sent.push_back((frame.epoch, frame.digest));
        self.sent.len() <= MAX_UNACKNOWLEDGED && self.queue.push(frame.message.clone(), now)
    }
}

impl Feed {
    /// The feed of `trust`. Heartbeats are numbered from `first_sequence`, which is higher than in every earlier life.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        trust: TrustState,
        first_sequence: u64,
        clock: Arc<dyn Clock>,
        fleet: Fleet,
        metrics: Arc<Metrics>,
    ) -> Self {
        fleet.advance(trust.epoch());
        let state = State {
            trust,
            deltas: VecDeque::new(),
            delta_bytes: 0,
            snapshot: None,
            heartbeat: None,
            sequence: first_sequence,
            streams: HashMap::new(),
            next_stream: 0,
            draining: false,
        };
        Self(Arc::new(Inner {
            publisher,
            clock,
            fleet,
            metrics,
            state: Mutex::new(state),
            making: tokio::sync::Mutex::new(()),
        }))
    }

    /// Tells everybody that `update` has led to `trust`. Called by the ledger, in the order of epochs.
    pub fn publish(&self, update: &Update, trust: TrustState) {
        // Before anybody can acknowledge it.
        self.0.fleet.advance(trust.epoch());
        let frame = self.sign_update(update);
        let mut state = self.lock();
        state.trust = trust;
        state.heartbeat = None;
        match (frame, &update.content) {
            (
                Ok(frame),
                UpdateContent::Delta {
                    base_epoch,
                    base_digest,
                    ..
                },
            ) => {
                state.keep(Delta {
                    base: *base_epoch,
                    base_digest: *base_digest,
                    frame: frame.clone(),
                });
                let sent = state.broadcast(&frame, self.0.clock.elapsed());
                self.0.metrics.count_sent("delta", sent.streams);
                self.count_ended(Ended::TooSlow, sent.cut);
            }
            (Ok(_), UpdateContent::Snapshot { .. }) | (Err(SigningFailed), _) => {
                // Whoever is connected has to come back for a snapshot.
                state.forget();
                let cut = state.end_all(Ended::Unpublished);
                self.count_ended(Ended::Unpublished, cut);
            }
        }
    }

    /// Ends every stream and lets nobody in any more.
    pub fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        let cut = state.end_all(Ended::Draining);
        self.count_ended(Ended::Draining, cut);
    }

    /// Cuts streams that leave an update lying for too long.
    pub fn cut_the_slow(&self) {
        let now = self.0.clock.elapsed();
        let mut state = self.lock();
        let slow: Vec<StreamId> = state
            .streams
            .iter()
            .filter(|(_, stream)| stream.queue.waits_since(now) > MAX_WAIT)
            .map(|(id, _)| *id)
            .collect();
        for id in slow {
            self.end(&mut state, id, Ended::TooSlow);
        }
    }

    /// Ends a stream, unless it has ended.
    fn end(&self, state: &mut State, id: StreamId, ended: Ended) {
        if state.end(id, ended) {
            self.count_ended(ended, 1);
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    fn sign_update(&self, update: &Update) -> Result<Frame, SigningFailed> {
        let payload = write_update(update);
        if payload.len() > MAX_UPDATE_LENGTH {
            Alarm::SnapshotTooLarge.raise(&self.0.metrics, &payload.len());
        }
        let signed = self
            .0
            .publisher
            .sign(Context::Update, payload)
            .inspect_err(|_failed| {
                Alarm::PublishingFailed.raise(&self.0.metrics, &update.epoch);
            })?;
        Ok(Frame {
            epoch: update.epoch,
            digest: update.state_digest,
            message: framed(&sync::SyncResponse {
                message: Some(sync::sync_response::Message::Update(signed)),
            }),
        })
    }

    /// The heartbeat for the state of this moment. The state is locked, so that no update can come between the heartbeat
    /// and its place in a stream.
    fn heartbeat(&self, state: &mut State) -> Result<trust::Signed, SigningFailed> {
        let now = self.0.clock.now_millis();
        let second = now / 1000;
        if let Some((signed_in, heartbeat)) = &state.heartbeat
            && *signed_in == second
        {
            return Ok(heartbeat.clone());
        }
        state.sequence += 1;
        let heartbeat = Heartbeat {
            issuer: state.trust.issuer().clone(),
            epoch: state.trust.epoch(),
            state_digest: *state.trust.digest(),
            authority_time_millis: now,
            sequence: state.sequence,
            revocation_count: u64::try_from(state.trust.revocations().len()).unwrap_or(u64::MAX),
        };
        let signed = self
            .0
            .publisher
            .sign(Context::Heartbeat, write_heartbeat(&heartbeat))
            .inspect_err(|_failed| {
                Alarm::PublishingFailed.raise(&self.0.metrics, &heartbeat.epoch);
            })?;
        self.0.metrics.count_heartbeat();
        state.heartbeat = Some((second, signed.clone()));
        Ok(signed)
    }

    fn count_ended(&self, ended: Ended, streams: usize) {
        for _ in 0..streams {
            self.0.metrics.count_ended(ended.reason());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a broadcast.
struct Sent {
    streams: usize,
    cut: usize,
}

impl State {
    fn keep(&mut self, delta: Delta) {
        self.delta_bytes += delta.frame.message.len();
        self.deltas.push_back(delta);
        while self.deltas.len() > MAX_DELTAS || self.delta_bytes > MAX_DELTA_BYTES {
            let Some(oldest) = self.deltas.pop_front() else {
                break;
            };
            self.delta_bytes = self.delta_bytes.saturating_sub(oldest.frame.message.len());
        }
        // A snapshot that no delta follows on is of no use any more.
        let first = self.deltas.front().map(|delta| delta.base);
        if self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| first.is_none_or(|first| snapshot.epoch < first))
        {
            self.snapshot = None;
        }
    }

    fn forget(&mut self) {
        self.deltas.clear();
        self.delta_bytes = 0;
        self.snapshot = None;
    }

    fn broadcast(&mut self, frame: &Frame, now: Duration) -> Sent {
        let mut slow = Vec::new();
        for (id, stream) in &mut self.streams {
            if !stream.send(frame, now) {
                slow.push(*id);
            }
        }
        let streams = self.streams.len().saturating_sub(slow.len());
        for id in &slow {
            self.end(*id, Ended::TooSlow);
        }
        Sent {
            streams,
            cut: slow.len(),
        }
    }

    /// The deltas that lead on from the state `epoch`, if they are all there; none when it is the current one.
    fn deltas_after(&self, epoch: Epoch, digest: &StateDigest) -> Option<impl Iterator<Item = &Frame>> {
        let from = if epoch == self.trust.epoch() {
            (self.trust.digest() == digest).then_some(self.deltas.len())
        } else {
            self.deltas
                .iter()
                .position(|delta| delta.base == epoch && delta.base_digest == *digest)
        };
        from.map(|from| self.deltas.iter().skip(from).map(|delta| &delta.frame))
    }

    /// False when it has ended before.
    fn end(&mut self, id: StreamId, ended: Ended) -> bool {
        let stream = self.streams.remove(&id);
        stream.is_some_and(|stream| {
            stream.queue.end(ended);
            true
        })
    }

    fn end_all(&mut self, ended: Ended) -> usize {
        let streams = std::mem::take(&mut self.streams);
        for stream in streams.values() {
            stream.queue.end(ended);
        }
        streams.len()
    }
}
