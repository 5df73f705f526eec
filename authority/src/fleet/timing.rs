//! How long the verifiers take to acknowledge one epoch: what a drill measures.

use std::time::Duration;

use countersign_core::drill::{Measured, Reached, Response, Stopwatch};
use countersign_core::fleet::VerifierKey;
use countersign_core::trust::Epoch;

use super::Fleet;

/// How often it is looked whether an epoch has come to everybody, where somebody has to stop by itself before.
const PAUSE: Duration = Duration::from_millis(250);

impl Fleet {
    /// Takes down from now on how long those who decide take to acknowledge `epoch`, which is about to be published.
    pub fn time(&self, epoch: Epoch) {
        let elapsed = self.0.clock.elapsed();
        let mut state = self.lock();
        let deciding = state.register.after(None);
        let deciding = deciding.filter(|(_, verifier)| verifier.end() > elapsed);
        let deciding: Vec<VerifierKey> = deciding.map(|(key, _)| key.clone()).collect();
        state.stopwatch = Some(Stopwatch::start(epoch, elapsed, deciding.into_iter()));
    }

    /// What was taken down about `epoch`. It is `safe` if nobody decides on anything earlier any more. Nothing when it was not
    /// timed.
    #[must_use]
    pub fn timed(&self, epoch: Epoch, safe: bool) -> Option<Measured> {
        let elapsed = self.0.clock.elapsed();
        let state = self.lock();
        let stopwatch = state.stopwatch.as_ref().filter(|watch| watch.epoch() == epoch)?;
        let until = |verifier| {
            let verifier = state.register.find(verifier)?;
            verifier.ends_before(epoch, elapsed).map(|(_, end)| end).max()
        };
        let responses: Vec<_> = stopwatch
            .took()
            .map(|(verifier, took)| (verifier.clone(), took, until(verifier)))
            .collect();
        let after = stopwatch.read(elapsed);
        drop(state);
        let response = |(verifier, took, until): (_, _, Option<Duration>)| Response {
            verifier,
            took,
            until: until.map(|end| self.time_of(end)),
        };
        let safe = safe.then(|| Reached {
            at: self.0.clock.now(),
            after,
        });
        Some(Measured::of(responses.into_iter().map(response).collect(), safe))
    }

    /// Waits until `epoch` may have come further: at once when the last one who is connected has acknowledged it.
    pub async fn further(&self, epoch: Epoch) {
        if self.lock().register.is_lacking(epoch) {
            let _in_time = tokio::time::timeout(PAUSE, self.reached_by_connected(epoch)).await;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
