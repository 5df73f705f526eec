//! Forgets revocations that no token can need any more.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::chain::Chain;
use crate::ledger::Ledger;

/// At most this often, because each time is an epoch for every verifier.
const EVERY: Duration = Duration::from_secs(60);

/// At most about as many at a time: more would make a commit that others have to wait for.
const SLICE: usize = 20_000;

/// Prunes until `stop`.
pub async fn run(ledger: Ledger, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match ledger.prune(SLICE).await {
            Ok(done) if done.answer > 0 => {
                tracing::info!(
                    count = done.answer,
                    epoch = done.books.trust.epoch(),
                    "forgot revocations"
                );
            }
            Ok(_) => {}
            // It is tried again, and whatever is wrong shows elsewhere too.
            Err(error) => {
                tracing::warn!(
                    error = %Chain(&error),
                    "revocations were not forgotten"
                );
            }
        }
    }
}
