//! What is wrong with the network when, and what follows from it for calls.

use std::time::Duration;

use countersign_runtime::backoff::Jitter;
use tokio::time::Instant;

use crate::relay::Fault;

/// After so long on a clean network every sidecar has a lease again: the longest pause between its attempts, and the attempt.
pub(crate) const RECOVERY: Duration = Duration::from_millis(6500);

/// A fault that passes, drawn from all there are.
pub(crate) fn drawn_fault(jitter: &mut Jitter) -> Fault {
    let number = usize::try_from(jitter.next() % 6000).unwrap_or_default();
    match number % 6 {
        0 => Fault::Away,
        1 => Fault::StallUp,
        2 => Fault::StallDown,
        3 => Fault::Delay(Duration::from_millis(300)),
        _ => Fault::CutAfter(number),
    }
}

/// The network of one sidecar over the time, from its first moment on.
#[derive(Debug)]
pub(crate) struct History {
    changes: Vec<(Instant, Fault)>,
}

impl History {
    /// A clean network.
    pub(crate) fn new() -> Self {
        Self {
            changes: vec![(Instant::now(), Fault::Clean)],
        }
    }

    /// From now on it is like this.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.changes.push((Instant::now(), fault));
    }

    /// Each state of the network: since when, until when, and what it is.
    fn spans(&self) -> impl Iterator<Item = (Instant, Instant, Fault)> {
        let ends = self.changes.iter().skip(1).map(|(at, _)| *at);
        let ends = ends.chain([Instant::now()]);
        self.changes
            .iter()
            .zip(ends)
            .map(|((from, fault), until)| (*from, until, *fault))
    }

    /// Whether the sidecar is sure to decide a call that began at `at`: it had time to get a lease, and since then not so much
    /// time has passed that lease and budget could have ended.
    pub(crate) fn must_decide(&self, at: Instant, goes_on: Duration) -> bool {
        self.spans().any(|(from, until, fault)| {
            fault == Fault::Clean && until - from >= RECOVERY && at >= from + RECOVERY && at < until + goes_on
        })
    }

    /// Whether no answer of the authority has come through for so long that the sidecar must not decide a call that began at
    /// `at`.
    pub(crate) fn must_refuse(&self, at: Instant, exposure: Duration) -> bool {
        self.spans().any(|(from, until, fault)| {
            let nothing = matches!(fault, Fault::Away | Fault::StallUp | Fault::StallDown);
            nothing && at > from + exposure && at < until
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EXPOSURE: Duration = Duration::from_secs(9);
    const RIDE_THROUGH: Duration = Duration::from_secs(8);

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_must_decide_once_it_had_time_and_until_lease_and_budget_can_have_ended() {
        let began = Instant::now();
        let mut history = History::new();
        tokio::time::advance(RECOVERY + SECOND).await;
        let cut = Instant::now();
        history.note(Fault::StallUp);
        tokio::time::advance(EXPOSURE + SECOND).await;
        let must = |at| history.must_decide(at, RIDE_THROUGH);
        assert!(!must(began + RECOVERY - SECOND));
        assert!(must(began + RECOVERY));
        assert!(must(cut + RIDE_THROUGH - SECOND));
        assert!(!must(cut + RIDE_THROUGH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clean_network_that_is_soon_gone_again_obliges_nobody() {
        let began = Instant::now();
        let mut history = History::new();
        tokio::time::advance(RECOVERY - SECOND).await;
        history.note(Fault::Away);
        tokio::time::advance(SECOND).await;
        assert!(!history.must_decide(began + RECOVERY, RIDE_THROUGH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_must_refuse_once_nothing_came_through_for_lease_and_budget() {
        for (fault, refuses) in [(Fault::StallDown, true), (Fault::Delay(SECOND), false)] {
            let mut history = History::new();
            let cut = Instant::now();
            history.note(fault);
            tokio::time::advance(EXPOSURE + 2 * SECOND).await;
            let must = |at| history.must_refuse(at, EXPOSURE);
            assert!(!must(cut + EXPOSURE));
            assert_eq!(must(cut + EXPOSURE + SECOND), refuses);
        }
    }
}
