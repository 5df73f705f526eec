//! What verifiers are told: which updates a stream is given, what may be acknowledged on it, when it is cut, and what a ping
//! is answered with.
//!
//! A machine of values: updates come in signed, as an `S` that costs little to clone, and go out with the numbers of the
//! streams that they are for. Whoever runs it signs, frames, queues, and says what time it is.
//!
//! A new stream is given the links to publisher sets that it lacks, and the deltas, or a snapshot and the deltas since. The snapshot is made when somebody
//! needs one and kept as long as the deltas behind it are. Nothing here waits for a verifier: everything that is kept for a
//! stream has a bound, and who exceeds it is cut.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use stream::{
    AckRefused, Answer, Begun, Held, Join, JoinRefused, MAX_RESYNCS, Resync, Standing, is_too_slow,
};

use crate::publishers::{Generation, MAX_LINKS};
use crate::time::Timestamp;
use crate::trust::{Epoch, Heartbeat, StateDigest, TrustState, Update, UpdateContent};
use stream::Stream;

/// Deltas kept for those who come back.
pub const MAX_DELTAS: usize = 512;

/// Bytes of deltas kept: a snapshot is smaller than more.
const MAX_DELTA_BYTES: usize = 8 * 1024 * 1024;

/// Identifies one stream among all since the start.
pub type StreamId = u64;

/// An update as it is sent.
#[derive(Clone, Debug)]
pub struct Frame<S> {
    epoch: Epoch,
    digest: StateDigest,
    length: usize,
    message: S,
}

impl<S> Frame<S> {
    /// `message` is `update`, signed, in `length` bytes.
    pub const fn new(update: &Update, message: S, length: usize) -> Self {
        Self {
            epoch: update.epoch,
            digest: update.state_digest,
            length,
            message,
        }
    }
}

/// A delta and the state that it changes.
#[derive(Clone, Debug)]
struct Delta<S> {
    base: Epoch,
    base_digest: StateDigest,
    frame: Frame<S>,
}

/// What becomes of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Published<S> {
    /// It is sent.
    Sent {
        /// What.
        message: S,
        /// On these streams.
        to: Vec<StreamId>,
        /// These have ended: they have acknowledged nothing for too long.
        cut: Vec<StreamId>,
    },
    /// Nothing leads on from what verifiers hold. These streams, all there were, have ended: they have to come back for a
    /// snapshot.
    Broken(Vec<StreamId>),
}

/// The feed of one authority.
#[derive(Clone, Debug)]
pub struct Feed<S> {
    trust: TrustState,
    deltas: VecDeque<Delta<S>>,
    delta_bytes: usize,
    /// States before the deltas that are kept, oldest first: nothing leads on from them, but they are known.
    passed: VecDeque<(Epoch, StateDigest)>,
    snapshot: Option<Frame<S>>,
    /// The links to publisher sets that are kept, oldest first.
    links: VecDeque<(Generation, S)>,
    /// The last one, while it is true.
    heartbeat: Option<Heartbeat>,
    sequence: u64,
    /// In an order, so that a simulation goes the same way twice.
    streams: BTreeMap<StreamId, Stream>,
    next_stream: StreamId,
    draining: bool,
}

impl<S: Clone> Feed<S> {
    /// The feed of `trust`. Heartbeats are numbered from `first_sequence`, which is higher than in every earlier life.
    #[must_use]
    pub const fn new(trust: TrustState, first_sequence: u64) -> Self {
        Self {
            trust,
            deltas: VecDeque::new(),
            delta_bytes: 0,
            passed: VecDeque::new(),
            snapshot: None,
            links: VecDeque::new(),
            heartbeat: None,
            sequence: first_sequence,
            streams: BTreeMap::new(),
            next_stream: 0,
            draining: false,
        }
    }

    /// The current state.
    #[must_use]
    pub const fn trust(&self) -> &TrustState {
        &self.trust
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// `link` leads to the publisher set of `generation`, for whoever lacks it. The streams that it is to be sent on now, before
    /// anything else; none when it was introduced before.
    pub fn introduce(&mut self, generation: Generation, link: S) -> Vec<StreamId> {
        if self.links.back().is_some_and(|(known, _)| *known >= generation) {
            return Vec::new();
        }
        self.links.push_back((generation, link));
        while self.links.len() > MAX_LINKS {
            self.links.pop_front();
        }
        self.streams.keys().copied().collect()
    }

    /// `update` has led to `trust`. There is no `frame` if it could not be signed.
    pub fn publish(&mut self, update: &Update, trust: TrustState, frame: Option<Frame<S>>) -> Published<S> {
        let follows_on = self.trust.publishers() == trust.publishers();
        self.trust = trust;
        self.heartbeat = None;
        let published = match (frame, &update.content) {
            (
                Some(frame),
                UpdateContent::Delta {
                    base_epoch,
                    base_digest,
                    ..
                },
            ) => {
                let sent = self.send(&frame);
                self.keep(Delta {
                    base: *base_epoch,
                    base_digest: *base_digest,
                    frame,
                });
                sent
            }
            (Some(_), UpdateContent::Snapshot { .. }) | (None, _) => {
                self.forget_log();
                Published::Broken(self.end_all())
            }
        };
        // What is kept may be signed by a key that is not in the next set.
        if !follows_on {
            self.forget_log();
        }
        // A snapshot that no delta follows on is of no use any more.
        if !self.snapshot_leads_on() {
            self.snapshot = None;
        }
        published
    }

    /// Ends every stream, and lets nobody in any more. The streams that were open.
    pub fn drain(&mut self) -> Vec<StreamId> {
        self.draining = true;
        self.end_all()
    }

    /// Ends a stream. False when it has ended before.
    pub fn end(&mut self, stream: StreamId) -> bool {
        self.streams.remove(&stream).is_some()
    }

    /// The snapshot to sign, when there is none that leads to the current state.
    #[must_use]
    pub fn wanted_snapshot(&self) -> Option<TrustState> {
        (!self.snapshot_leads_on()).then(|| self.trust.clone())
    }

    /// Keeps a snapshot, unless what follows on it is no longer kept.
    pub fn keep_snapshot(&mut self, snapshot: Frame<S>) {
        if self.deltas_after(snapshot.epoch, &snapshot.digest).is_some() {
            self.snapshot = Some(snapshot);
        }
    }

    fn forget_log(&mut self) {
        let passed = self.deltas.drain(..).map(|delta| (delta.base, delta.base_digest));
        self.passed.extend(passed);
        let excess = self.passed.len().saturating_sub(MAX_DELTAS);
        self.passed.drain(..excess);
        self.delta_bytes = 0;
        self.snapshot = None;
    }

    fn send(&mut self, frame: &Frame<S>) -> Published<S> {
        let (mut to, mut cut) = (Vec::with_capacity(self.streams.len()), Vec::new());
        self.streams.retain(|id, stream| {
            let takes = stream.send(frame);
            if takes { &mut to } else { &mut cut }.push(*id);
            takes
        });
        Published::Sent {
            message: frame.message.clone(),
            to,
            cut,
        }
    }

    fn keep(&mut self, delta: Delta<S>) {
        self.delta_bytes += delta.frame.length;
        self.deltas.push_back(delta);
        while self.deltas.len() > MAX_DELTAS || self.delta_bytes > MAX_DELTA_BYTES {
            let Some(oldest) = self.deltas.pop_front() else {
                break;
            };
            self.delta_bytes = self.delta_bytes.saturating_sub(oldest.frame.length);
        }
    }

    /// The digest that the state `epoch` had here, if that is known.
    fn digest_at(&self, epoch: Epoch) -> Option<&StateDigest> {
        let kept = self.deltas.iter().find(|delta| delta.base == epoch);
        let kept = kept.map(|delta| &delta.base_digest);
        let passed = self.passed.iter().find(|(passed, _)| *passed == epoch);
        let kept = kept.or_else(|| passed.map(|(_, digest)| digest));
        kept.or_else(|| (epoch == self.trust.epoch()).then_some(self.trust.digest()))
    }

    /// The deltas that lead on from the state `epoch`, if they are all there; none when it is the current one.
    fn deltas_after(&self, epoch: Epoch, digest: &StateDigest) -> Option<impl Iterator<Item = &Frame<S>>> {
        let from = if epoch == self.trust.epoch() {
            (self.trust.digest() == digest).then_some(self.deltas.len())
        } else {
            self.deltas
                .iter()
                .position(|delta| delta.base == epoch && delta.base_digest == *digest)
        };
        from.map(|from| self.deltas.iter().skip(from).map(|delta| &delta.frame))
    }

    fn snapshot_leads_on(&self) -> bool {
        let snapshot = self.snapshot.as_ref();
        snapshot.is_some_and(|snapshot| self.deltas_after(snapshot.epoch, &snapshot.digest).is_some())
    }

    /// The snapshot, if there is one that leads to the current state, with what follows on it.
    fn snapshot_backlog(&self) -> Option<Vec<Frame<S>>> {
        let snapshot = self.snapshot.as_ref()?;
        let deltas = self.deltas_after(snapshot.epoch, &snapshot.digest)?;
        Some([snapshot].into_iter().chain(deltas).cloned().collect())
    }

    fn end_all(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.streams).into_keys().collect()
    }
}

/// The update that leads to `trust` from anywhere.
#[must_use]
pub fn snapshot(trust: &TrustState, now: Timestamp) -> Update {
    Update {
        issuer: trust.issuer().clone(),
        epoch: trust.epoch(),
        state_digest: *trust.digest(),
        published_at: now,
        content: UpdateContent::Snapshot {
            key_set: Arc::clone(trust.keys()),
            revocations: trust.revocations().clone(),
            publishers: trust.publishers(),
        },
    }
}
