//! Tells the store who may hold a lease, before anybody is granted one, and what is over: leases, and the
//! lives of trust files. Many verifiers that come at
//! once, after a restart, are taken down in one commit.

use std::sync::Arc;
use std::time::Duration;

use countersign_runtime::ErrorChain;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::timeline::{STEADY, Steadiness};

/// How often it is looked who holds no lease any more, and tried again what failed.
const EVERY: Duration = Duration::from_secs(1);

/// Goes on until `stop`.
pub async fn run(fleet: Fleet, ledger: Ledger, stop: CancellationToken) {
    let mut failing = false;
    let mut steadiness = Steadiness::new(Arc::clone(ledger.timeline().clock()));
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = fleet.untold(), if !failing => {}
            _ = ticks.tick() => {}
        }
        let is_steady = steadiness.observe() >= STEADY;
        failing = !tell(&fleet, &ledger, is_steady, failing).await;
    }
}

/// Tells everything there is to tell. False when the store did not take it.
async fn tell(fleet: &Fleet, ledger: &Ledger, is_steady: bool, again: bool) -> bool {
    loop {
        let mut untold = fleet.to_tell();
        if !is_steady {
            untold.expired.clear();
        }
        if untold.is_empty() {
            return true;
        }
        match ledger.enrol(untold.clone()).await {
            Ok(_) => {
                if !fleet.told(&untold) {
                    return true;
                }
            }
            Err(error) => {
                if !again {
                    tracing::warn!(
                        error = %ErrorChain(&error),
                        "verifiers were not taken down: new ones are granted no lease until they are"
                    );
                }
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::Timestamp;

    use super::*;
    use crate::test_util::{Bench, START};

    /// A clock that is ahead makes every trust file look expired, and what is struck by it would not be waited for any more.
    #[tokio::test]
    async fn a_trust_file_stays_on_record_until_the_clock_is_steady() {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        let until = Timestamp::from_seconds(START + 60);
        let epoch = ledger.export(until).await.expect("stores").answer;
        bench.fleet.exported(epoch, until);
        bench.clock.advance(Duration::from_secs(61));
        for (is_steady, kept) in [(false, 1), (true, 0)] {
            assert!(tell(&bench.fleet, &ledger, is_steady, false).await);
            assert_eq!(ledger.books().roster.exports().count(), kept);
        }
    }
}
