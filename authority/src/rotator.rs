//! Timed rotation: asks the core what to do next, does it, and asks again.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::Gate;
use countersign_core::rotation::{self, RotationPolicy, RotationStep};
use countersign_runtime::ErrorChain;
use countersign_wire::status::Failure;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Actor, Event, Outcome};
use crate::fleet::Fleet;
use crate::ledger::{Activation, Books, Ledger, LedgerError};
use crate::metrics::Metrics;
use crate::service::keys::KeyPolicy;

/// How often it is asked. The shortest propagation and the shortest lifetime are seconds.
const EVERY: Duration = Duration::from_secs(1);

/// The most steps at one time: a key is dropped, one is made, one is activated, and an operator was quicker with one. What
/// is left is due a second later.
const MAX_STEPS: usize = 4;

/// The loop.
#[derive(Debug)]
pub struct Rotator {
    /// The keys.
    pub ledger: Ledger,
    /// Who has to hear of an activation.
    pub fleet: Fleet,
    /// When keys follow each other.
    pub policy: RotationPolicy,
    /// What new keys are for.
    pub keys: KeyPolicy,
    /// What is counted.
    pub metrics: std::sync::Arc<Metrics>,
}

impl Rotator {
    /// Rotates until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut failing: Option<RotationStep> = None;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            failing = self.catch_up(failing).await;
        }
    }

    /// Does what is due. Gives back the step that does not succeed, so that it is complained about once.
    pub async fn catch_up(&self, failing: Option<RotationStep>) -> Option<RotationStep> {
        for _ in 0..MAX_STEPS {
            let step = self.next_step()?;
            if !self.make(&step, failing.as_ref() == Some(&step)).await {
                return Some(step);
            }
        }
        None
    }

    fn next_step(&self) -> Option<RotationStep> {
        self.ledger.changeable().ok()?;
        let books = self.ledger.books();
        let timeline = self.ledger.timeline();
        let now = timeline.now();
        // A key without its private half is nobody to wait for. It goes on verifying until it is gone.
        let step = rotation::next_step(books.ring.signers(), &self.policy, now)
            .or_else(|| rotation::next_drop(books.ring.times(), &self.policy, now))?;
        let waits = self.waits(&books, &step, now);
        self.metrics.observe_gate(waits);
        (waits == 0).then_some(step)
    }

    /// How many verifiers have to hold the key first, or to stop, and trust files without it to expire, before it may sign.
    fn waits(&self, books: &Books, step: &RotationStep, now: Timestamp) -> usize {
        let RotationStep::Activate(key_id) = step else {
            return 0;
        };
        // When nothing signs, nothing is waited for.
        let key = books
            .ring
            .find(key_id)
            .filter(|_| books.ring.signing(now).is_some());
        match key.map(|key| self.fleet.gate(key.published_in)) {
            None | Some(Gate::Open) => 0,
            Some(Gate::Waits { laggards, .. }) => laggards,
        }
    }

    /// Makes `step`, and tells what became of it, unless it failed `again`. False when rotation does not go on.
    async fn make(&self, step: &RotationStep, again: bool) -> bool {
        let result = self.take(step).await;
        if result.as_ref().is_err_and(was_overtaken) {
            return true;
        }
        self.report(step, &result, again);
        result.is_ok()
    }

    async fn take(&self, step: &RotationStep) -> Result<(), LedgerError> {
        match step {
            RotationStep::Prepare => self.ledger.prepare_key(self.keys.algorithm).await.map(drop),
            RotationStep::Activate(key_id) => {
                let activation = Activation {
                    lead: self.keys.activation_lead,
                    forced: false,
                };
                let activated = self.ledger.activate_key(Some(key_id.clone()), activation);
                activated.await.map(drop)
            }
            RotationStep::Drop(key_id) => {
                let retention = self.policy.retention;
                self.ledger.drop_key(key_id.clone(), retention).await.map(drop)
            }
        }
    }

    fn report(&self, step: &RotationStep, result: &Result<(), LedgerError>, again: bool) {
        let (name, subject) = match step {
            RotationStep::Prepare => ("rotate_prepare", ""),
            RotationStep::Activate(key_id) => ("rotate_activate", key_id.as_str()),
            RotationStep::Drop(key_id) => ("rotate_drop", key_id.as_str()),
        };
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Refused(error.failure().reason()),
        };
        self.metrics
            .count_step(step, if result.is_ok() { "done" } else { "failed" });
        if again {
            return;
        }
        if let Err(error) = result {
            tracing::error!(
                step = name,
                error = %ErrorChain(error),
                "rotation does not go on"
            );
        }
        audit::record(&Event {
            actor: &Actor::authority(),
            action: name,
            subject,
            outcome,
            note: "",
        });
    }
}

/// Whether an operator or a verifier was quicker, and the next step is another one.
const fn was_overtaken(error: &LedgerError) -> bool {
    matches!(
        error,
        LedgerError::Refused(
            Failure::KeyAlreadyPrepared
                | Failure::KeyNotPrepared
                | Failure::KeyUnknown
                | Failure::VerifiersBehind
        )
    )
}

#[cfg(test)]
mod tests;
