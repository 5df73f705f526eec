//! What has to be done every second, and is nobody else's work.

use std::sync::Arc;
use std::time::Duration;

use countersign_runtime::ErrorChain;
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Every so many seconds, limiters forget those who have not asked for a while.
const FORGET: u32 = 60;

/// After a failure, every so many seconds the time is tried to be kept again.
const TRY_AGAIN: u32 = 60;

/// Sees until `stop` that the store knows the time, and that commits in doubt are settled: else the client concerned would
/// wait for the next mutation. By itself, because opening a store anew takes as long as it takes.
pub async fn keep_store(ledger: Ledger, stop: CancellationToken) {
    let mut pause = 0_u32;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // That it is in doubt was said aloud.
        let _settled = ledger.settle().await;
        pause = pause.saturating_sub(1);
        if pause == 0
            && let Err(error) = ledger.keep_time().await
        {
            tracing::warn!(error = %ErrorChain(&error), "the time was not stored");
            pause = TRY_AGAIN;
        }
    }
}

/// What is kept up.
#[derive(Debug)]
pub struct Upkeep {
    /// Tells the age of keys.
    pub ledger: Ledger,
    /// Its slow streams are cut.
    pub feed: Feed,
    /// They forget.
    pub limits: Arc<Limits>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Goes on until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0_u32;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let timeline = self.ledger.timeline();
            let now = timeline.now();
            let behind = now.since(timeline.clock().now());
            self.metrics.observe_time(&self.ledger.books(), now, behind);
            self.feed.cut_the_slow();
            count = count.wrapping_add(1);
            if count.is_multiple_of(FORGET) {
                self.limits.forget();
            }
        }
    }
}
