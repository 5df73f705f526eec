//! How a stream ends, and a process.

use std::time::Duration;

use countersign_core::verifier::Ending;

use super::Verifier;
use crate::network::StreamId;
use crate::random::Random;

/// A stream that lived so long counts as recovery.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// A stream is not ended more often than this to shorten the log on disk.
const LOG_PAUSE: Duration = Duration::from_secs(600);

/// The longest pause between two streams.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The first pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

impl Verifier {
    /// Stops without a word. The stream that it had.
    pub(crate) fn crash(&mut self, tears: bool, random: &mut Random) -> Option<StreamId> {
        self.life += 1;
        let process = self.process.take()?;
        let writing = process.saving.map(|saving| saving.writing);
        self.disk.crash(writing, tears, random);
        process.live.map(|live| live.stream)
    }

    /// Stops in good order: it lets go of all that it could decide on, here and on disk. False when that cannot be done.
    pub(crate) fn leave(&mut self) -> bool {
        let Some(process) = &mut self.process else {
            return false;
        };
        process.held.let_go();
        self.disk.let_go(process.held.certificates())
    }

    /// The stream is over. How long to wait before the next.
    pub(crate) fn ended(&mut self, ending: Option<Ending>, at: Duration, random: &mut Random) -> Duration {
        let elapsed = self.clock.elapsed(at);
        let Some(process) = &mut self.process else {
            return LONGEST_PAUSE;
        };
        let live = process.live.take();
        if ending == Some(Ending::LogFull) {
            process.may_end_for_log_from = elapsed + LOG_PAUSE;
        }
        let healthy = live.is_some_and(|live| {
            live.machine.is_confirmed() && live.opened.is_some_and(|opened| at - opened >= HEALTHY_AFTER)
        });
        if healthy {
            process.attempt = 0;
        }
        if matches!(ending, Some(Ending::LogFull | Ending::Renewed)) {
            return Duration::ZERO;
        }
        let ceiling = SHORTEST_PAUSE
            .saturating_mul(1 << process.attempt.min(10))
            .min(LONGEST_PAUSE);
        process.attempt += 1;
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.below(nanos + 1))
    }
}
