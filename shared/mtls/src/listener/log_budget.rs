//! A bound on log lines that strangers can cause: so many in each window, and a count of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

pub(super) struct LogBudget(Mutex<State>);

struct State {
    since: Instant,
    spent: u32,
    left_out: u64,
}

impl LogBudget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            since: Instant::now(),
            spent: 0,
            left_out: 0,
        }))
    }

    /// Whether a line may be written now, and how many were not since the last one.
    pub(super) fn line(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.elapsed() >= WINDOW {
            state.since = Instant::now();
            state.spent = 0;
        }
        if state.spent >= LINES {
            state.left_out += 1;
            return None;
        }
        state.spent += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_not_written() {
        let budget = LogBudget::new();
        let written = (0..1_000).filter(|_| budget.line().is_some()).count();
        assert_eq!(written, 10);
        tokio::time::advance(WINDOW).await;
        assert_eq!(budget.line(), Some(990));
        assert_eq!(budget.line(), Some(0));
    }
}
