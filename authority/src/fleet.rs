//! The verifiers: who is connected or was since the start, and which epoch each has in force.
//!
//! Of those away only the identity is known: a closed stream is remembered while its identity has no other open. After a
//! restart of the authority those connected before are unknown until they are back ([`Fleet::gather_until`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use countersign_wire::status::Failure;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// One verifier, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Which start of it.
    pub instance_id: String,
    /// Its version.
    pub version: String,
    /// Whether its stream is open.
    pub connected: bool,
    /// The last epoch that it acknowledged.
    pub acknowledged: Epoch,
    /// Whether that is on its disk.
    pub durable: bool,
    /// When its stream was opened.
    pub connected_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// Why it last refused an update.
    pub last_nack: &'static str,
}

/// How long an answer waits for the verifiers, so that it can say that they are all there: they usually are.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_millis(500);

/// How many verifiers are connected, and how many of them have acknowledged something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Streams open.
    pub connected: u32,
    /// Those of them at or past the epoch asked about.
    pub acknowledged: u32,
}

/// Identifies one stream among all since the start.
pub type StreamId = u64;

/// A verifier's place in the order of the fleet.
pub type Place = (SpiffeId, StreamId);

/// Some of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The verifiers, in the order of their places.
    pub verifiers: Vec<Verifier>,
    /// The last one's place, when there are more behind it.
    pub next: Option<Place>,
    /// How many verifiers are known in all.
    pub total: usize,
}

/// The fleet. Clones share it.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: FleetLimits,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// How many verifiers are let in and remembered.
#[derive(Clone, Copy, Debug)]
pub struct FleetLimits {
    /// Streams that one identity may hold.
    pub streams_per_identity: usize,
    /// Streams in all.
    pub streams: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Open streams, and the last closed one of each identity that has none open.
    verifiers: BTreeMap<Place, Verifier>,
    next: StreamId,
    /// Until when somebody who was connected before the start may not be back, in elapsed time.
    gathers_until: Duration,
    current: Epoch,
    /// How many are connected, by the epoch that each acknowledged last: kept up, because with every acknowledgement everybody
    /// who waits for an epoch counts those who are there.
    connected: BTreeMap<Epoch, u32>,
}

impl State {
    fn of<'a>(&'a self, spiffe_id: &'a SpiffeId) -> impl Iterator<Item = (&'a StreamId, &'a Verifier)> {
        self.verifiers
            .range((spiffe_id.clone(), 0)..=(spiffe_id.clone(), StreamId::MAX))
            .map(|((_, stream), verifier)| (stream, verifier))
    }

    fn reach(&self, epoch: Epoch) -> Reach {
        Reach {
            connected: self.connected.values().sum(),
            acknowledged: self.connected.range(epoch..).map(|(_, count)| count).sum(),
        }
    }

    fn enter(&mut self, acknowledged: Epoch) {
        *self.connected.entry(acknowledged).or_default() += 1;
    }

    fn leave(&mut self, acknowledged: Epoch) {
        if let Entry::Occupied(mut count) = self.connected.entry(acknowledged) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Fleet {
    /// Nobody yet.
    #[must_use]
    pub fn new(limits: FleetLimits, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            limits,
            metrics,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        }))
    }

    /// A stream of `spiffe_id` was opened.
    ///
    /// # Errors
    /// [`Failure::TooManyStreams`] for the identity, [`Failure::LimitReached`] in all (G46).
    pub fn join(
        &self,
        spiffe_id: &SpiffeId,
        instance_id: String,
        version: String,
        now: Timestamp,
    ) -> Result<Membership, Failure> {
        let mut state = self.lock();
        let open = state
            .of(spiffe_id)
            .filter(|(_, verifier)| verifier.connected)
            .count();
        if open >= self.0.limits.streams_per_identity {
            return Err(Failure::TooManyStreams);
        }
        let connected = state.reach(0).connected;
        if usize::try_from(connected).unwrap_or(usize::MAX) >= self.0.limits.streams {
            return Err(Failure::LimitReached);
        }
        let forgotten: Vec<StreamId> = state
            .of(spiffe_id)
            .filter(|(_, verifier)| !verifier.connected)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in forgotten {
            state.verifiers.remove(&(spiffe_id.clone(), stream));
        }
        self.forget_the_longest_gone(&mut state);
        let stream = state.next;
        state.next += 1;
        let verifier = Verifier {
            spiffe_id: spiffe_id.clone(),
            instance_id,
            version,
            connected: true,
            acknowledged: 0,
            durable: false,
            connected_at: now,
            last_seen_at: now,
            last_nack: "",
        };
        state.verifiers.insert((spiffe_id.clone(), stream), verifier);
        state.enter(0);
        self.announce(state);
        Ok(Membership {
            fleet: self.clone(),
            key: (spiffe_id.clone(), stream),
        })
    }

    /// Those seen since the start that have not acknowledged `lacking` (all, for epoch 0): at most `size`, behind `after`.
    #[must_use]
    pub fn page(&self, lacking: Epoch, after: Option<Place>, size: usize) -> Page {
        let state = self.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = state
            .verifiers
            .range((start, Bound::Unbounded))
            .filter(|(_, verifier)| lacking == 0 || verifier.acknowledged < lacking);
        let page: Vec<_> = found.by_ref().take(size).collect();
        let last = page.last().map(|(place, _)| (*place).clone());
        Page {
            verifiers: page.into_iter().map(|(_, verifier)| verifier.clone()).collect(),
            next: last.filter(|_| found.next().is_some()),
            total: state.verifiers.len(),
        }
    }

    /// Verifiers that were connected before this start may not be back before `end`, in elapsed time.
    pub fn gather_until(&self, end: Duration) {
        self.lock().gathers_until = end;
    }

    /// Whether verifiers that were connected before this start may not be back at `elapsed`.
    #[must_use]
    pub fn is_gathering(&self, elapsed: Duration) -> bool {
        elapsed < self.lock().gathers_until
    }

    /// How many are connected, and how many of them are at `epoch` or past it.
    #[must_use]
    pub fn reach(&self, epoch: Epoch) -> Reach {
        self.lock().reach(epoch)
    }

    /// The same, after a moment in which usually all who are connected get there.
    pub async fn reach_soon(&self, epoch: Epoch) -> Reach {
        // Whether the moment sufficed is what the numbers tell.
        let _in_time = tokio::time::timeout(ACKNOWLEDGEMENT_WAIT, self.reached_by_all(epoch)).await;
        self.reach(epoch)
    }

    /// Waits until all who are connected are at `epoch` or past it.
    async fn reached_by_all(&self, epoch: Epoch) {
        let mut changed = self.0.changed.subscribe();
        loop {
            let reach = self.reach(epoch);
            if reach.acknowledged >= reach.connected || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// There is a new epoch.
    pub fn advance(&self, epoch: Epoch) {
        let mut state = self.lock();
        state.current = epoch;
        self.announce(state);
    }

    /// As many who are gone are remembered as may be connected.
    fn forget_the_longest_gone(&self, state: &mut State) {
        if state.verifiers.len() < self.0.limits.streams.saturating_mul(2) {
            return;
        }
        let gone = state.verifiers.iter().filter(|(_, verifier)| !verifier.connected);
        let longest = gone.min_by_key(|(_, verifier)| verifier.last_seen_at);
        if let Some(key) = longest.map(|(key, _)| key.clone()) {
            state.verifiers.remove(&key);
        }
    }

    fn announce(&self, state: MutexGuard<'_, State>) {
        let reach = state.reach(state.current);
        drop(state);
        self.0.metrics.observe_fleet(reach.connected, reach.acknowledged);
        self.0.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A verifier's place in the fleet, as long as its stream is open.
#[derive(Debug)]
pub struct Membership {
    fleet: Fleet,
    key: Place,
}

impl Membership {
    /// Who it is.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.key.0
    }

    /// Something came from it.
    pub fn seen(&self, now: Timestamp) {
        let mut state = self.fleet.lock();
        if let Some(verifier) = state.verifiers.get_mut(&self.key) {
            verifier.last_seen_at = now;
        }
    }

    /// It has `epoch` in force. Whether it was sent that epoch is for the feed to say.
    pub fn acknowledged(&self, epoch: Epoch, durable: bool, now: Timestamp) {
        let mut state = self.fleet.lock();
        if let Some(verifier) = state.verifiers.get_mut(&self.key) {
            verifier.last_seen_at = now;
            let before = verifier.acknowledged;
            if epoch >= before {
                verifier.acknowledged = epoch;
                verifier.durable = durable;
                state.leave(before);
                state.enter(epoch);
            }
        }
        self.fleet.announce(state);
    }

    /// It refused an update.
    pub fn refused(&self, reason: &'static str, now: Timestamp) {
        let mut state = self.fleet.lock();
        if let Some(verifier) = state.verifiers.get_mut(&self.key) {
            verifier.last_seen_at = now;
            verifier.last_nack = reason;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        if let Some(verifier) = state.verifiers.get_mut(&self.key) {
            verifier.connected = false;
            let acknowledged = verifier.acknowledged;
            state.leave(acknowledged);
        }
        // One closed stream of an identity is remembered, and only while it has none open.
        let others: Vec<(StreamId, bool)> = state
            .of(&self.key.0)
            .filter(|(stream, _)| **stream != self.key.1)
            .map(|(stream, verifier)| (*stream, verifier.connected))
            .collect();
        if others.iter().any(|(_, connected)| *connected) {
            state.verifiers.remove(&self.key);
        } else {
            for (stream, _) in others {
                state.verifiers.remove(&(self.key.0.clone(), stream));
            }
        }
        self.fleet.announce(state);
    }
}

#[cfg(test)]
mod tests;
