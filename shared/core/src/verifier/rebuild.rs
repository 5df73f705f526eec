//! The way up from an older snapshot.
//!
//! An authority keeps one snapshot and the deltas since, and answers whoever needs a snapshot with all of them. When that
//! snapshot is older than what was in force here (also before a restart), nothing of the way up is put in force; only
//! when it has arrived at exactly that state is it taken over, as a whole.

use super::session::Signing;
use super::{HeldTrust, MAX_LOGGED_BYTES, MAX_LOGGED_DELTAS, Moment, Received};
use crate::ports::Sha256;
use crate::trust::{Applied, Epoch, TrustState, Update, UpdateRefused};

/// A snapshot, and how far the deltas since have led.
#[derive(Debug)]
pub(super) struct Rebuild<S> {
    snapshot: S,
    deltas: Vec<(Epoch, S)>,
    bytes: usize,
    state: TrustState,
}

impl<S> Rebuild<S> {
    /// Begins with a snapshot.
    pub(super) fn begin(
        signed: S,
        received: &Received,
        trust: &HeldTrust,
        at: Moment,
        sha256: &dyn Sha256,
    ) -> Result<Self, UpdateRefused> {
        Ok(Self {
            snapshot: signed,
            deltas: Vec::new(),
            bytes: 0,
            state: step(None, &received.update, trust, at, sha256)?,
        })
    }

    /// Goes on with a delta.
    pub(super) fn follow(
        mut self,
        signed: S,
        received: &Received,
        trust: &HeldTrust,
        at: Moment,
        sha256: &dyn Sha256,
    ) -> Result<Self, UpdateRefused> {
        self.bytes = self.bytes.saturating_add(received.length);
        if self.deltas.len() >= MAX_LOGGED_DELTAS || self.bytes > MAX_LOGGED_BYTES {
            return Err(UpdateRefused::TooLarge);
        }
        self.state = step(Some(&self.state), &received.update, trust, at, sha256)?;
        self.deltas.push((received.update.epoch, signed));
        Ok(self)
    }

    /// The epoch that it has arrived at.
    pub(super) const fn epoch(&self) -> Epoch {
        self.state.epoch()
    }

    /// Everything, and the state at the end.
    pub(super) fn finish(self) -> (Signing<S>, TrustState) {
        (Signing::Snapshot(self.snapshot, self.deltas), self.state)
    }
}

fn step(
    from: Option<&TrustState>,
    update: &Update,
    trust: &HeldTrust,
    at: Moment,
    sha256: &dyn Sha256,
) -> Result<TrustState, UpdateRefused> {
    let time = trust.clock().best(at.elapsed);
    match trust.rules().apply(from, 0, update, time, sha256)? {
        Applied::Advanced(state) => Ok(state),
        Applied::Confirmed => Err(UpdateRefused::Base),
    }
}
