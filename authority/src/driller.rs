//! Carries out drills: asks the core what comes next, does it, and asks again, whoever still looks.
//!
//! A drill that nobody carries out any more is ended before the next one: by the next start, after a crash, and else by whoever
//! runs the next drill. What the ledger says of a drill is what counts: an operator may end it there.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::drill::{Drill, DrillEnd, DrillId, DrillOutcome, Next, Reached};
use countersign_core::jose::Algorithm;
use countersign_runtime::ErrorChain;
use countersign_wire::status::Failure;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fleet::Fleet;
use crate::ledger::{Done, Ledger, LedgerError, NewDrill, record_end};

/// How soon it is tried again what the store did not take.
const RETRY: Duration = Duration::from_secs(1);

/// Starts drills. Clones share the one that runs.
#[derive(Clone, Debug)]
pub struct Driller {
    ledger: Ledger,
    fleet: Fleet,
    algorithm: Algorithm,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The last one that was begun here. Whoever carries it out still has the sender. Held while one is begun.
    last: Arc<Mutex<Option<watch::Receiver<Drill>>>>,
}

impl Driller {
    /// Shadows are keys for `algorithm`. Drills are carried out among `tasks`, and broken off by `stop`.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        fleet: Fleet,
        algorithm: Algorithm,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            ledger,
            fleet,
            algorithm,
            tasks,
            stop,
            last: Arc::default(),
        }
    }

    /// Begins a drill that waits for the verifiers `wait` long at most, twice: until they hold the shadow, and until they refuse
    /// it. It goes on when nobody watches any more. What is watched ends without an end of the drill if that is broken off.
    ///
    /// # Errors
    /// [`LedgerError`]: `DrillRunning`, `LimitReached`, or the store's.
    pub async fn start(&self, new: NewDrill, wait: Duration) -> Result<watch::Receiver<Drill>, LedgerError> {
        let mut last = self.last.lock().await;
        if let Some(left) = self.ledger.books().drills.running() {
            if last.as_ref().is_some_and(|last| is_carried_out(last, left.id)) {
                return Err(LedgerError::Refused(Failure::DrillRunning));
            }
            let done = self.ledger.end_drill(left.id, self.interrupted()).await?;
            record_end(&done.answer);
        }
        let drill = self.ledger.begin_drill(new, self.algorithm).await?.answer;
        let (progress, watched) = watch::channel(drill);
        let run = Run {
            driller: self.clone(),
            wait,
            progress,
        };
        *last = Some(watched.clone());
        self.tasks.spawn(run.carry_out());
        Ok(watched)
    }

    fn interrupted(&self) -> DrillEnd {
        DrillEnd {
            outcome: DrillOutcome::Interrupted,
            at: self.ledger.timeline().now(),
            measured: None,
            aborted: None,
        }
    }
}

fn is_carried_out(last: &watch::Receiver<Drill>, id: DrillId) -> bool {
    last.borrow().id == id && last.has_changed().is_ok()
}

/// One drill.
struct Run {
    driller: Driller,
    wait: Duration,
    progress: watch::Sender<Drill>,
}

impl Run {
    async fn carry_out(self) {
        if let Some(ended) = self.rehearse().await {
            record_end(&ended);
            self.progress.send_replace(ended);
        } else {
            tracing::warn!(
                drill = self.id(),
                "the drill goes no further: the next start ends it"
            );
        }
    }

    /// Publishes, withdraws, waits for both, and ends the drill, if nobody else does. Nothing when it cannot go on.
    async fn rehearse(&self) -> Option<Drill> {
        let ledger = &self.driller.ledger;
        let clock = ledger.timeline().clock();
        let published = clock.elapsed();
        let mut ends = Instant::now() + self.wait;
        loop {
            let drill = ledger.books().drills.find(self.id())?.as_ref().clone();
            if !drill.is_running() {
                return Some(drill);
            }
            let is_everywhere = self.is_everywhere(&drill);
            match drill.next(is_everywhere, ends <= Instant::now()) {
                Next::End(outcome) => return self.end(&drill, outcome).await,
                Next::Withdraw => {
                    let held = is_everywhere.then(|| Reached {
                        at: clock.now(),
                        after: clock.elapsed().saturating_sub(published),
                    });
                    let withdrawn = self.insist(|| ledger.withdraw_shadow(drill.id, held)).await?;
                    self.progress.send_replace(withdrawn);
                    ends = Instant::now() + self.wait;
                }
                Next::Wait => {
                    let further = self.driller.fleet.further(drill.awaited());
                    let looked = tokio::time::timeout_at(ends, further);
                    if self.driller.stop.run_until_cancelled(looked).await.is_none() {
                        return self.end(&drill, DrillOutcome::Interrupted).await;
                    }
                }
            }
        }
    }

    async fn end(&self, drill: &Drill, outcome: DrillOutcome) -> Option<Drill> {
        let Driller { ledger, fleet, .. } = &self.driller;
        let safe = outcome == DrillOutcome::Complete;
        let withdrawn = drill.withdrawn;
        let end = DrillEnd {
            outcome,
            at: ledger.timeline().now(),
            measured: withdrawn.and_then(|withdrawn| fleet.timed(withdrawn.epoch, safe)),
            aborted: None,
        };
        self.insist(|| ledger.end_drill(drill.id, end.clone())).await
    }

    /// Whether it is on every verifier. Trust files are not waited for: what a drill measures is how fast verifiers are.
    fn is_everywhere(&self, drill: &Drill) -> bool {
        let (fleet, epoch) = (&self.driller.fleet, drill.awaited());
        match drill.withdrawn {
            None => fleet.is_held(epoch),
            Some(_) => fleet.reach(epoch).is_on_all_verifiers(),
        }
    }

    /// Makes a change, again and again while the store does not take it. Nothing when it never will, or the process stops.
    async fn insist<F>(&self, change: impl Fn() -> F) -> Option<Drill>
    where
        F: Future<Output = Result<Done<Drill>, LedgerError>>,
    {
        let mut failed = false;
        loop {
            let error = match change().await {
                Ok(done) => return Some(done.answer),
                Err(error) => error,
            };
            if matches!(error.failure(), Failure::RecoveryRequired | Failure::DrillUnknown) {
                return None;
            }
            if !std::mem::replace(&mut failed, true) {
                tracing::warn!(drill = self.id(), error = %ErrorChain(&error), "a drill waits for the store");
            }
            let paused = tokio::time::sleep(RETRY);
            self.driller.stop.run_until_cancelled(paused).await?;
        }
    }

    fn id(&self) -> DrillId {
        self.progress.borrow().id
    }
}

#[cfg(test)]
mod tests;
