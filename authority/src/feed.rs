//! What verifiers are told: each update signed once, encoded once, and handed to every stream. The streams share its bytes, down
//! to the connections (`countersign_wire::framing`).
//!
//! Who is told what is decided by [`countersign_core::feed`]; here is what it leaves to others: signatures, locks, queues,
//! alarms. A snapshot is signed when somebody needs one, and a heartbeat at most once for each epoch and second.
//!
//! Nothing here waits for a verifier. A stream that does not take its updates is cut: its memory is bounded, and the others
//! do not notice.

mod export;
mod queue;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use countersign_core::feed::{Feed as Machine, Frame, Held, Published, Standing, StreamId, is_too_slow};
use countersign_core::names::KeyId;
use countersign_core::ports::{Clock, SigningFailed};
use countersign_core::trust::{Heartbeat, TrustState, Update};
use countersign_crypto::SigningKey;
use countersign_crypto::publishing::{self, Context};
use countersign_proto::sync::v1 as sync;
use countersign_proto::trust::v1 as trust;
use countersign_wire::MAX_UPDATE_LENGTH;
use countersign_wire::framing::framed;
use countersign_wire::trust::{write_heartbeat, write_update};

pub use export::Exported;
pub use queue::Ended;
pub use stream::{Handle, Joined, NotJoined, Subscription};

use crate::alarm::Alarm;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::publishing::{KeptLink, PublishingRing};
use queue::Queue;

/// Signs what is published.
#[derive(Debug)]
pub struct Publisher(Arc<SigningKey>);

impl Publisher {
    /// Signs with `key`.
    #[must_use]
    pub const fn new(key: Arc<SigningKey>) -> Self {
        Self(key)
    }

    /// The key's `kid`.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        self.0.key_id()
    }

    pub(crate) fn sign(&self, context: Context, payload: Vec<u8>) -> Result<trust::Signed, SigningFailed> {
        Ok(trust::Signed {
            signature: publishing::sign(self.0.as_ref(), context, &payload)?.into(),
            payload: payload.into(),
            key_id: self.0.key_id().as_str().to_owned(),
        })
    }
}

/// The feed. Clones share it.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    /// While this is held, that of the fleet may be taken, and not the other way round.
    state: Mutex<State>,
    /// Held while a snapshot is made, so that a thousand newcomers make one.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    machine: Machine<Bytes>,
    publishing: PublishingRing,
    /// One for each stream that is open in the machine.
    queues: HashMap<StreamId, Arc<Queue>>,
    /// The heartbeat signed last, by its number.
    heartbeat: Option<(u64, trust::Signed)>,
}

impl Feed {
    /// The feed that does as `machine` says, signed as `publishing` says.
    #[must_use]
    pub fn new(
        publishing: PublishingRing,
        machine: Machine<Bytes>,
        clock: Arc<dyn Clock>,
        fleet: Fleet,
        metrics: Arc<Metrics>,
    ) -> Self {
        fleet.advance(machine.trust().epoch());
        let mut state = State {
            machine,
            publishing,
            queues: HashMap::new(),
            heartbeat: None,
        };
        for link in state.publishing.links() {
            let _no_streams = state.machine.introduce(link.generation, framed_link(link));
        }
        Self(Arc::new(Inner {
            clock,
            fleet,
            metrics,
            state: Mutex::new(state),
            making: tokio::sync::Mutex::new(()),
        }))
    }

    /// Tells everybody that `update` has led to `trust`. Called by the ledger, in the order of epochs. Once it has returned,
    /// no lease is granted any more to whoever has not acknowledged it. It is signed as `publishing` says, and the links of that
    /// come before it.
    pub fn publish(&self, update: &Update, trust: TrustState, publishing: &PublishingRing) {
        // Before anybody can acknowledge it.
        self.0.fleet.advance(trust.epoch());
        let frame = self.sign_update(publishing.publisher(), update).ok();
        let mut state = self.lock();
        self.lead(&mut state, publishing);
        match state.machine.publish(update, trust, frame) {
            Published::Sent { message, to, cut } => {
                self.close(&mut state, &cut, Ended::TooSlow);
                let sent = to
                    .iter()
                    .filter(|id| self.push(&mut state, **id, &message))
                    .count();
                self.0.metrics.count_sent("delta", sent);
            }
            Published::Broken(streams) => self.close(&mut state, &streams, Ended::Unpublished),
        }
    }

    /// From now on everything is signed as `publishing` says.
    pub fn follow(&self, publishing: &PublishingRing) {
        self.lead(&mut self.lock(), publishing);
    }

    fn lead(&self, state: &mut State, publishing: &PublishingRing) {
        for link in publishing.links() {
            let message = framed_link(link);
            for stream in state.machine.introduce(link.generation, message.clone()) {
                self.push(state, stream, &message);
            }
        }
        state.publishing = publishing.clone();
    }

    fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(self.lock().publishing.publisher())
    }

    /// What a verifier that has `held` tells of this authority.
    #[must_use]
    pub fn standing(&self, held: &Held) -> Standing {
        self.lock().machine.standing(held)
    }

    /// Ends every stream and lets nobody in any more.
    pub fn drain(&self) {
        let mut state = self.lock();
        let streams = state.machine.drain();
        self.close(&mut state, &streams, Ended::Draining);
    }

    /// Cuts streams that leave an update lying for too long.
    pub fn cut_the_slow(&self) {
        let now = self.0.clock.elapsed();
        let mut state = self.lock();
        let slow: Vec<StreamId> = state
            .queues
            .iter()
            .filter(|(_, queue)| is_too_slow(queue.waits_since(now)))
            .map(|(id, _)| *id)
            .collect();
        for id in slow {
            self.end(&mut state, id, Ended::TooSlow);
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock().machine.streams()
    }

    /// Puts `message` into the queue of a stream, or ends the stream for having no room. False if it is not sent.
    fn push(&self, state: &mut State, id: StreamId, message: &Bytes) -> bool {
        let queue = state.queues.get(&id);
        let sent = queue.is_some_and(|queue| queue.push(message.clone(), self.0.clock.elapsed()));
        if !sent {
            self.end(state, id, Ended::TooSlow);
        }
        sent
    }

    /// Ends a stream, unless it has ended.
    fn end(&self, state: &mut State, id: StreamId, ended: Ended) {
        if state.machine.end(id) {
            self.close(state, &[id], ended);
        }
    }

    /// Ends the queues of streams that the machine has ended.
    fn close(&self, state: &mut State, streams: &[StreamId], ended: Ended) {
        for queue in streams.iter().filter_map(|id| state.queues.remove(id)) {
            queue.end(ended);
            self.0.metrics.count_ended(ended.reason());
        }
    }

    fn sign_update(&self, publisher: &Publisher, update: &Update) -> Result<Frame<Bytes>, SigningFailed> {
        let signed = self.signed_update(publisher, update)?;
        let message = framed(&sync::SyncResponse {
            message: Some(sync::sync_response::Message::Update(signed)),
        });
        let length = message.len();
        Ok(Frame::new(update, message, length))
    }

    fn signed_update(&self, publisher: &Publisher, update: &Update) -> Result<trust::Signed, SigningFailed> {
        let payload = write_update(update);
        if payload.len() > MAX_UPDATE_LENGTH {
            Alarm::SnapshotTooLarge.raise(&self.0.metrics, &payload.len());
        }
        publisher.sign(Context::Update, payload).inspect_err(|_failed| {
            Alarm::PublishingFailed.raise(&self.0.metrics, &update.epoch);
        })
    }

    /// `heartbeat`, signed now or before.
    fn shared_heartbeat(
        &self,
        state: &mut State,
        heartbeat: &Heartbeat,
    ) -> Result<trust::Signed, SigningFailed> {
        if let Some((sequence, signed)) = &state.heartbeat
            && *sequence == heartbeat.sequence
        {
            return Ok(signed.clone());
        }
        let signed = self.sign_heartbeat(state.publishing.publisher(), heartbeat)?;
        self.0.metrics.count_heartbeat();
        state.heartbeat = Some((heartbeat.sequence, signed.clone()));
        Ok(signed)
    }

    fn sign_heartbeat(
        &self,
        publisher: &Publisher,
        heartbeat: &Heartbeat,
    ) -> Result<trust::Signed, SigningFailed> {
        publisher
            .sign(Context::Heartbeat, write_heartbeat(heartbeat))
            .inspect_err(|_failed| {
                Alarm::PublishingFailed.raise(&self.0.metrics, &heartbeat.epoch);
            })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn framed_link(link: &KeptLink) -> Bytes {
    framed(&sync::SyncResponse {
        message: Some(sync::sync_response::Message::Publishers(link.signed.clone())),
    })
}
