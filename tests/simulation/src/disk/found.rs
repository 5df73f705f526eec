//! What a start finds in the state directory, and what confirms it.

use std::time::Duration;

use countersign_core::revocation::RevocationList;
use countersign_core::trust::TrustState;
use countersign_core::verifier::{Age, BootId, ClockMark, Manifest, Moment, StateId};

use super::Heard;

/// When a start is.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) boot: BootId,
    pub(crate) now: Moment,
    /// What time it is in truth, for the model.
    pub(crate) right_millis: u64,
}

/// What confirms the state that a start finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    pub(crate) age: Age,
    /// From when on, in true time.
    pub(crate) anchor: Duration,
    /// By how much its age may be too small.
    pub(crate) error: Duration,
}

impl Heard {
    pub(super) fn confirmed(&self, manifest: &Manifest, starting: &Starting) -> Option<Confirmed> {
        let (boot, now) = (Some(&starting.boot), starting.now);
        let is_exact = self.sent.passed(boot, now.elapsed).is_some();
        Some(Confirmed {
            age: manifest.age(boot, now)?,
            anchor: self.anchor,
            error: if is_exact {
                self.error
            } else {
                off(now.wall_millis, starting.right_millis)
            },
        })
    }
}

/// How far a clock is off.
pub(crate) const fn off(millis: u64, right_millis: u64) -> Duration {
    Duration::from_millis(millis.abs_diff(right_millis) + 1000)
}

/// What a start finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) trust: Option<TrustState>,
    /// Certificates that are revoked by more than that.
    pub(crate) carried: RevocationList,
    /// What confirms it.
    pub(crate) confirmed: Vec<Confirmed>,
    pub(crate) mark: Option<ClockMark>,
    pub(crate) floor: Option<StateId>,
    /// Whether there was something that cannot be used.
    pub(super) unusable: bool,
}

impl Found {
    /// Whether time is counted on from before: then no wall clock matters.
    pub(crate) fn goes_on(&self, boot: &BootId) -> bool {
        self.mark
            .as_ref()
            .is_some_and(|mark| mark.heard && mark.boot.as_ref() == Some(boot))
    }
}
