//! Forgets revocations that no token can need any more.

use std::sync::Arc;
use std::time::Duration;

use countersign_runtime::ErrorChain;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::timeline::{STEADY, Steadiness};

/// At most this often, because each time is an epoch for every verifier.
const EVERY: Duration = Duration::from_secs(60);

/// At most about as many at a time: more would make a commit that others have to wait for.
const SLICE: usize = 20_000;

/// Prunes until `stop`.
pub async fn run(ledger: Ledger, stop: CancellationToken) {
    let mut steadiness = Steadiness::new(Arc::clone(ledger.timeline().clock()));
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        forget(&ledger, &mut steadiness).await;
    }
}

async fn forget(ledger: &Ledger, steadiness: &mut Steadiness) {
    if steadiness.observe() < STEADY || ledger.changeable().is_err() {
        return;
    }
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
                error = %ErrorChain(&error),
                "revocations were not forgotten"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::names::TokenId;

    use super::*;
    use crate::test_util::{Bench, START};

    /// I-11, X02: a clock that steps ahead, or is ahead at the start, makes nobody forget, unless it stays there.
    #[tokio::test]
    async fn nothing_is_forgotten_by_a_clock_that_has_just_been_stepped() {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        let token_id = TokenId::parse("1.1").expect("valid");
        ledger.revoke_token_id(token_id).await.expect("revokes");
        let mut steadiness = Steadiness::new(Arc::clone(ledger.timeline().clock()));
        let held = || ledger.books().trust.revocations().len();
        // Ahead by two hours when the process starts, and then by ten more.
        for ahead in [2, 12] {
            bench.clock.set(START + ahead * 3600);
            for _ in 0..14 {
                forget(&ledger, &mut steadiness).await;
                bench.clock.advance(EVERY);
            }
            assert_eq!(held(), 1, "{ahead}");
        }
        for _ in 0..3 {
            forget(&ledger, &mut steadiness).await;
            bench.clock.advance(EVERY);
        }
        assert_eq!(held(), 0);
    }
}
