//! The latest of what is kept that names an epoch and its digest, as the authority signed it. It is what an authority is shown
//! that was restored from a backup, or has a twin: its own signature says that it was here before.

use countersign_core::trust::Epoch;
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::trust::v1::Signed;

/// The longest update that is brought along. A longer one is not remembered: the heartbeat for its epoch soon is.
const MAX_UPDATE: usize = 32 * 1024;

/// The latest that was signed, and its epoch.
#[derive(Clone, Debug)]
pub(super) struct Latest(Option<(Epoch, Proof)>);

impl Latest {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// What to show.
    pub(super) fn proof(&self) -> Option<Proof> {
        self.0.as_ref().map(|(_, proof)| proof.clone())
    }

    /// Takes note of an update that leads to `epoch`.
    pub(super) fn update(&mut self, epoch: Epoch, signed: &Signed) {
        let is_later = self.0.as_ref().is_none_or(|(known, _)| *known < epoch);
        if is_later && signed.payload.len() <= MAX_UPDATE {
            self.0 = Some((epoch, Proof::Update(signed.clone())));
        }
    }

    /// Takes note of a heartbeat that states `epoch`.
    pub(super) fn heartbeat(&mut self, epoch: Epoch, signed: &Signed) {
        if self.0.as_ref().is_none_or(|(known, _)| *known <= epoch) {
            self.0 = Some((epoch, Proof::Heartbeat(signed.clone())));
        }
    }
}
