//! One stream's place in the fleet.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::{StreamId, VerifierKey};
use countersign_core::names::{ClientId, KeyId};
use countersign_core::trust::Epoch;
use tokio_util::sync::CancellationToken;

use super::Fleet;

/// A verifier's place in the fleet, as long as its stream is open.
#[derive(Debug)]
pub struct Membership {
    pub(super) fleet: Fleet,
    pub(super) key: VerifierKey,
    pub(super) stream: StreamId,
    pub(super) superseded: CancellationToken,
}

impl Membership {
    /// Which verifier it is.
    #[must_use]
    pub const fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Waits until another stream of the verifier has taken the place of this one.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Waits until the store has been told of it, so that it can be granted something.
    pub async fn known(&self) {
        loop {
            let mut told = std::pin::pin!(self.fleet.0.told.notified());
            // Before looking, so that what comes in between is not missed.
            told.as_mut().enable();
            if !self.fleet.lock().to_be_stored.contains_key(&self.key) {
                return;
            }
            told.await;
        }
    }

    /// Something came from it.
    pub fn seen(&self, now: Timestamp) {
        self.fleet.lock().register.seen(&self.key, self.stream, "", now);
    }

    /// It has `epoch` in force. Whether it was sent that epoch is for the feed to say.
    pub fn acknowledged(&self, epoch: Epoch, durable: bool, now: Timestamp) {
        let elapsed = self.fleet.0.clock.elapsed();
        let mut state = self.fleet.lock();
        if let Some(stopwatch) = &mut state.stopwatch {
            stopwatch.acknowledged(&self.key, epoch, elapsed);
        }
        let register = &mut state.register;
        register.acknowledged(&self.key, self.stream, epoch, durable, now);
        self.fleet.announce(state);
    }

    /// Grants it a lease, if it may have one, and writes down until when it may decide. Before the answer is sent.
    #[must_use]
    pub fn grant(&self) -> Option<Duration> {
        let elapsed = self.fleet.0.clock.elapsed();
        let mut state = self.fleet.lock();
        if state.suspended {
            return None;
        }
        let current = state.current;
        state.register.grant(&self.key, self.stream, current, elapsed)
    }

    /// Whether an operator has put it in quarantine.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.fleet.lock().register.is_quarantined(&self.key.spiffe_id)
    }

    /// It refused an update.
    pub fn refused(&self, reason: &'static str, now: Timestamp) {
        let mut state = self.fleet.lock();
        state.register.seen(&self.key, self.stream, reason, now);
    }

    /// It has accepted `tokens` under a key, of these clients.
    pub fn used(&self, key_id: KeyId, tokens: u64, clients: Vec<ClientId>, now: Timestamp) {
        let mut state = self.fleet.lock();
        let keys = state.usage.entry(self.key.clone()).or_default();
        // Keys come and go: those that were used last are remembered.
        if keys.len() >= MAX_KEYS && !keys.contains_key(&key_id) {
            let oldest = keys.iter().min_by_key(|(_, usage)| usage.last_used_at);
            if let Some(oldest) = oldest.map(|(key_id, _)| key_id.clone()) {
                keys.remove(&oldest);
            }
        }
        let usage = keys.entry(key_id).or_default();
        usage.tokens = usage.tokens.saturating_add(tokens);
        usage.last_used_at = now;
        usage.clients = clients;
    }

    /// It takes leave: it decides nothing any more.
    pub fn left(&self) {
        let mut state = self.fleet.lock();
        state.register.left(&self.key, self.stream);
        self.fleet.announce(state);
    }
}

/// The most keys whose use is remembered for a verifier: as many as a key set may have.
pub(super) const MAX_KEYS: usize = 64;

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        state.superseded.remove(&self.stream);
        state.register.closed(&self.key, self.stream);
        self.fleet.announce(state);
    }
}
