//! The way up from an older snapshot.
//!
//! An authority keeps one snapshot and the deltas since, and answers whoever needs a snapshot with all of them. When that
//! snapshot is older than what was in force here (also before a restart), nothing of the way up is put in force; only
//! when it has arrived at exactly that state is it taken over, as a whole.

use countersign_core::ports::Sha256;
use countersign_core::trust::{Applied, Epoch, TrustState, Update, UpdateRefused};
use countersign_proto::trust::v1::Signed;

use super::session::Signing;
use crate::cache::{MAX_LOGGED_BYTES, MAX_LOGGED_DELTAS};
use crate::trust::TrustStore;

/// A snapshot, and how far the deltas since have led.
#[derive(Debug)]
pub(super) struct Rebuild {
    snapshot: Signed,
    deltas: Vec<(Epoch, Signed)>,
    bytes: usize,
    state: TrustState,
}

impl Rebuild {
    /// Begins with a snapshot.
    pub(super) fn begin(
        signed: &Signed,
        update: &Update,
        trust: &TrustStore,
        sha256: &dyn Sha256,
    ) -> Result<Self, UpdateRefused> {
        Ok(Self {
            snapshot: signed.clone(),
            deltas: Vec::new(),
            bytes: 0,
            state: step(None, update, trust, sha256)?,
        })
    }

    /// Goes on with a delta.
    pub(super) fn follow(
        mut self,
        signed: &Signed,
        update: &Update,
        trust: &TrustStore,
        sha256: &dyn Sha256,
    ) -> Result<Self, UpdateRefused> {
        self.bytes = self.bytes.saturating_add(signed.payload.len());
        if self.deltas.len() >= MAX_LOGGED_DELTAS || self.bytes > MAX_LOGGED_BYTES {
            return Err(UpdateRefused::TooLarge);
        }
        self.state = step(Some(&self.state), update, trust, sha256)?;
        self.deltas.push((update.epoch, signed.clone()));
        Ok(self)
    }

    /// The epoch that it has arrived at.
    pub(super) const fn epoch(&self) -> Epoch {
        self.state.epoch()
    }

    /// Everything, and the state at the end.
    pub(super) fn finish(self) -> (Signing, TrustState) {
        (Signing::Snapshot(self.snapshot, self.deltas), self.state)
    }
}

fn step(
    from: Option<&TrustState>,
    update: &Update,
    trust: &TrustStore,
    sha256: &dyn Sha256,
) -> Result<TrustState, UpdateRefused> {
    let now = trust.clock().now();
    match trust.rules().apply(from, 0, update, now, sha256)? {
        Applied::Advanced(state) => Ok(state),
        Applied::Confirmed => Err(UpdateRefused::Base),
    }
}
