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
            _ = ticks.tick() => fleet.recount(&ledger.books().roster),
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
        match ledger.enrol(untold).await {
            Ok(done) => {
                if !fleet.told(&done.answer) {
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
    use countersign_core::ports::Clock;
    use countersign_core::trust::Epoch;
    use countersign_runtime::TimerClock;
    use tokio_util::sync::DropGuard;

    use super::*;
    use crate::ledger::{self, Opening};
    use crate::test_util::{Bench, START, fleet};

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// One life of an authority, on what the bench has in its store.
    struct Life {
        fleet: Fleet,
        ledger: Ledger,
        _stop: DropGuard,
    }

    impl Life {
        async fn begin(bench: &Bench, clock: &TimerClock) -> Self {
            let told_by: Arc<dyn Clock> = Arc::new(clock.clone());
            let fleet = fleet(Arc::clone(&told_by), &bench.metrics);
            let opening = Opening {
                clock: told_by,
                fleet: fleet.clone(),
                ..bench.opening()
            };
            let ledger = ledger::open(opening).await.expect("opens").ledger;
            let stop = CancellationToken::new();
            tokio::spawn(run(fleet.clone(), ledger.clone(), stop.clone()));
            Self {
                fleet,
                ledger,
                _stop: stop.drop_guard(),
            }
        }

        async fn export(&self, lasts: Duration) -> Epoch {
            let until = self.fleet.now().saturating_add(lasts);
            let epoch = self.ledger.export(until).await.expect("stores").answer;
            self.fleet.exported(epoch, until);
            epoch
        }

        /// After `time`: how many files are on record, and whether they are counted with.
        async fn after(&self, time: Duration) -> (usize, bool) {
            tokio::time::sleep(time).await;
            let counted = self.fleet.files_until().is_some();
            (self.ledger.books().roster.exports().count(), counted)
        }
    }

    fn clock() -> TimerClock {
        TimerClock::starting_at(Timestamp::from_seconds(START))
    }

    /// The last half second of a file has two ends, one by elapsed time and one by the seconds of the wall clock.
    #[tokio::test]
    async fn a_trust_file_leaves_fleet_and_store_together_at_whatever_moment_it_is_looked_at() {
        for offset in [0, 100, 400, 500, 600, 900] {
            let bench = Bench::new();
            let ledger = bench.open().await.ledger;
            bench.clock.advance(Duration::from_millis(offset));
            let until = Timestamp::from_seconds(START + 60);
            let epoch = ledger.export(until).await.expect("stores").answer;
            bench.fleet.exported(epoch, until);
            for _ in 0..62 {
                assert!(tell(&bench.fleet, &ledger, true, false).await);
                let on_record = ledger.books().roster.exports().count();
                let has_ended = bench.fleet.files_until().is_none();
                assert_eq!(on_record == 0, has_ended, "{offset}");
                assert!(!has_ended || bench.fleet.now() >= until);
                bench.clock.advance(EVERY);
            }
            assert_eq!(ledger.books().roster.exports().count(), 0, "{offset}");
        }
    }

    /// A file that has ended by elapsed time, and by a time that was given out while the clock was ahead, has not by the clock itself.
    #[tokio::test]
    async fn what_the_store_does_not_strike_is_asked_for_again() {
        let bench = Bench::new();
        let ledger = bench.open().await.ledger;
        let until = Timestamp::from_seconds(START + 60);
        let epoch = ledger.export(until).await.expect("stores").answer;
        bench.fleet.exported(epoch, until);
        bench.clock.advance(HOUR);
        assert!(ledger.timeline().now() > until);
        bench.clock.set(START + 59);
        for kept in [1, 0] {
            assert!(tell(&bench.fleet, &ledger, true, false).await);
            assert_eq!(ledger.books().roster.exports().count(), kept);
            bench.clock.advance(EVERY);
        }
    }

    /// A clock that is ahead makes every trust file look expired, and what is struck by it would not be waited for any more.
    #[tokio::test(start_paused = true)]
    async fn a_trust_file_stays_on_record_until_the_clock_is_steady() {
        let life = Life::begin(&Bench::new(), &clock()).await;
        life.export(MINUTE).await;
        assert_eq!(life.after(2 * MINUTE).await, (1, false));
        assert_eq!(life.after(12 * MINUTE).await, (1, false));
        assert_eq!(life.after(2 * MINUTE).await, (0, false));
    }

    /// I-08, X02: a start with a clock that is ahead ends every file at once. When the clock has been set right, they count until
    /// their end, however long it has gone steadily since.
    #[tokio::test(start_paused = true)]
    async fn what_had_ended_by_a_clock_that_was_ahead_counts_again() {
        let (bench, clock) = (Bench::new(), clock());
        Life::begin(&bench, &clock).await.export(2 * HOUR).await;
        clock.step_forward(2 * HOUR + MINUTE);
        let life = Life::begin(&bench, &clock).await;
        assert_eq!(life.after(MINUTE).await, (1, false));
        clock.step_back(2 * HOUR + MINUTE);
        assert_eq!(life.after(2 * EVERY).await, (1, true));
        assert_eq!(life.after(HOUR).await, (1, true));
        assert_eq!(life.after(HOUR).await, (0, false));
    }

    /// The same of a file that was exported while the clock was ahead: whoever starts from it has a clock that is right.
    #[tokio::test(start_paused = true)]
    async fn what_was_exported_by_a_clock_that_was_ahead_counts_until_its_end_by_the_right_one() {
        let clock = clock();
        clock.step_forward(2 * HOUR);
        let life = Life::begin(&Bench::new(), &clock).await;
        life.export(HOUR).await;
        clock.step_back(2 * HOUR);
        assert_eq!(life.after(HOUR + MINUTE).await, (1, true));
        assert_eq!(life.after(2 * HOUR - 2 * MINUTE).await, (1, true));
        assert_eq!(life.after(2 * MINUTE).await, (0, false));
    }
}
