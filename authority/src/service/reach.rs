//! How far an epoch has come, as operators are told.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::{Laggard, Reach};
use countersign_core::names::ClassName;
use countersign_core::trust::Epoch;
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;
use countersign_proto::admin::v1;
use countersign_wire::write_time;

use super::Desk;
use crate::fleet::Fleet;

impl Desk {
    /// How far `epoch`, which takes something back, has come after a moment in which verifiers usually have it. `ends` is when no
    /// token that it concerns is left, if they end.
    pub(super) async fn reach_soon(
        &self,
        fleet: &Fleet,
        epoch: Epoch,
        ends: Option<Timestamp>,
    ) -> v1::EpochReach {
        let reach = fleet.reach_soon(epoch).await;
        write_reach(fleet, epoch, &reach, ends)
    }

    /// When every token that was issued until now has ended: none lives on after the longest lifetime.
    pub(super) fn tokens_end(&self) -> Timestamp {
        self.ledger.policy().tokens_end(self.ledger.timeline().now())
    }
}

/// The most verifiers that are named.
const MAX_NAMED: usize = 100;

/// How far `epoch` has come. `ends` is when the last token concerned has expired: nothing is accepted after it, whoever has not
/// heard.
pub(super) fn write_reach(
    fleet: &Fleet,
    epoch: Epoch,
    reach: &Reach,
    ends: Option<Timestamp>,
) -> v1::EpochReach {
    let laggards = fleet.laggards(epoch, MAX_NAMED);
    let bounds = write_bounds(fleet, &reach.bounds, ends);
    // Whoever starts from a file may take it for earlier than it is when the tokens end, too.
    let files_ends = ends.map(|ends| ends.saturating_add(MAX_CLOCK_DIFFERENCE));
    let files_until = reach.files_until.and_then(|end| capped(fleet, end, files_ends));
    v1::EpochReach {
        epoch,
        live: count(reach.live),
        in_force: count(reach.in_force),
        durable: count(reach.durable),
        complete: bounds.is_empty() && files_until.is_none(),
        trust_files_until: files_until.map(write_time),
        bounds,
        laggards: laggards
            .iter()
            .map(|laggard| write_laggard(fleet, laggard))
            .collect(),
        tokens_end: ends.map(write_time),
    }
}

/// When classes have stopped: none once `ends` has come.
pub(super) fn write_bounds(
    fleet: &Fleet,
    bounds: &BTreeMap<ClassName, Duration>,
    ends: Option<Timestamp>,
) -> Vec<v1::ClassBound> {
    let write = |(class, end): (&ClassName, &Duration)| {
        Some(v1::ClassBound {
            class: class.as_str().to_owned(),
            by: Some(write_time(capped(fleet, *end, ends)?)),
        })
    };
    bounds.iter().filter_map(write).collect()
}

/// When `end` is, but no later than `ends`. Nothing once that has come.
fn capped(fleet: &Fleet, end: Duration, ends: Option<Timestamp>) -> Option<Timestamp> {
    let by = fleet.time_of(end);
    match ends {
        Some(ends) if ends <= fleet.now() => None,
        Some(ends) => Some(by.min(ends)),
        None => Some(by),
    }
}

fn write_laggard(fleet: &Fleet, laggard: &Laggard) -> v1::Laggard {
    v1::Laggard {
        spiffe_id: laggard.key.spiffe_id.as_str().to_owned(),
        verifier_id: laggard.key.verifier_id.as_str().to_owned(),
        connected: laggard.connected,
        acknowledged_epoch: laggard.acknowledged,
        until: Some(write_time(fleet.time_of(laggard.until))),
        quarantined: laggard.quarantined,
    }
}

pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
