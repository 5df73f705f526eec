//! One verifier: which epoch it has in force and on disk, and until when it may decide on what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::StreamId;
use crate::names::ClassName;
use crate::planted::{Bug, planted};
use crate::staleness::ClassBudget;
use crate::time::Timestamp;
use crate::trust::Epoch;

/// One verifier, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Its software version. Empty until it comes back after a restart of the authority.
    pub version: String,
    /// Which start of it.
    pub instance_id: String,
    /// Its open stream.
    pub stream: Option<StreamId>,
    /// The last epoch that it acknowledged. Zero: none since the authority started.
    pub acknowledged: Epoch,
    /// The last epoch that it acknowledged to hold on disk.
    pub durable: Epoch,
    /// When its stream was opened.
    pub connected_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// Why it last refused an update.
    pub last_nack: &'static str,
    pub(super) budgets: Arc<[ClassBudget]>,
    pub(super) stored: bool,
    /// When each class has stopped deciding on what was granted until now.
    pub(super) ends: BTreeMap<ClassName, Duration>,
    /// The same of what was granted while the epoch granted for was on its disk: after a crash it comes back with that.
    pub(super) kept: BTreeMap<ClassName, Duration>,
}

impl Verifier {
    /// How long each class decides without a lease.
    #[must_use]
    pub fn budgets(&self) -> &Arc<[ClassBudget]> {
        &self.budgets
    }

    /// When each class that has not done so by `elapsed` stops deciding, if nothing more is granted.
    pub fn ends(&self, elapsed: Duration) -> impl Iterator<Item = (&ClassName, Duration)> {
        self.ends
            .iter()
            .map(|(class, end)| (class, *end))
            .filter(move |(_, end)| *end > elapsed)
    }

    /// When the last class has stopped.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.ends.values().copied().max().unwrap_or_default()
    }

    /// When it has stopped deciding on anything before `epoch`, for each class that has not done so by `elapsed`. With the epoch in
    /// force and not on disk, a crash would bring back what is on disk.
    pub fn ends_before(
        &self,
        epoch: Epoch,
        elapsed: Duration,
    ) -> impl Iterator<Item = (&ClassName, Duration)> {
        let ends = if self.acknowledged < epoch {
            Some(&self.ends)
        } else if self.durable < epoch {
            Some(&self.kept)
        } else {
            None
        };
        let ends = ends.into_iter().flatten();
        ends.map(|(class, end)| (class, *end))
            .filter(move |(_, end)| *end > elapsed)
    }

    /// Whether it holds `epoch`, and at `elapsed` a restart cannot bring back anything before.
    #[must_use]
    pub fn holds(&self, epoch: Epoch, elapsed: Duration) -> bool {
        let lacks_disk = self.ends_before(epoch, elapsed).next().is_some();
        self.acknowledged >= epoch && (!lacks_disk || planted(Bug::GateOnAcknowledged))
    }

    /// Writes down that it may decide until `lease` and its budgets have ended, counted from `elapsed`.
    pub(super) fn extend(&mut self, elapsed: Duration, lease: Duration) {
        for ClassBudget { class, budget } in self.budgets.iter() {
            let counted = if planted(Bug::BudgetLeftOut) {
                Duration::ZERO
            } else {
                budget.shortest()
            };
            let length = lease.saturating_add(counted);
            let end = elapsed.saturating_add(length).saturating_add(drift(length));
            match self.ends.get_mut(class) {
                Some(earlier) => *earlier = end.max(*earlier),
                None => drop(self.ends.insert(class.clone(), end)),
            }
        }
    }

    pub(super) fn new(budgets: Arc<[ClassBudget]>) -> Self {
        Self {
            version: String::new(),
            instance_id: String::new(),
            stream: None,
            acknowledged: 0,
            durable: 0,
            connected_at: Timestamp::default(),
            last_seen_at: Timestamp::default(),
            last_nack: "",
            budgets,
            stored: false,
            ends: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }
}

/// How far apart two clocks may run in `length`: half a thousandth, the most that a clock is slewed by.
pub(super) fn drift(length: Duration) -> Duration {
    if planted(Bug::DriftLeftOut) {
        return Duration::ZERO;
    }
    // A length is bounded by the longest budget, so nothing is cut off.
    Duration::from_micros(length.as_secs().saturating_mul(500)).saturating_add(Duration::from_millis(1))
}
