//! Shows that something is waited for, once it takes longer than people like to look at nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::output::Output;

/// From when on a wait is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the display moves.
const FRAME: Duration = Duration::from_millis(100);

/// The first and the longest pause between two questions to the authority.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A wait that shows itself on a terminal, after a second, and bounds itself always.
#[derive(Debug)]
pub(crate) struct Waiting {
    started: Instant,
    limit: Duration,
    pause: Duration,
    display: Option<ProgressBar>,
    watched: bool,
}

impl Waiting {
    /// Waits for at most `limit`.
    #[must_use]
    pub(crate) fn new(output: Output, limit: Duration) -> Self {
        Self {
            started: Instant::now(),
            limit,
            pause: PAUSES.0,
            display: None,
            watched: output.is_watched(),
        }
    }

    /// Lets `pause` pass and tells what is waited for; `false` when the time is up.
    pub(crate) async fn again(&mut self, pause: Duration, what: &str) -> bool {
        let waited = self.started.elapsed();
        if waited >= self.limit {
            return false;
        }
        self.show(waited, what);
        tokio::time::sleep(pause.min(self.limit.saturating_sub(waited))).await;
        true
    }

    /// The same before another question to the authority. Each is in its audit trail, so the pauses grow.
    pub(crate) async fn ask_again(&mut self, what: &str) -> bool {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(PAUSES.1);
        self.again(pause, what).await
    }

    fn show(&mut self, waited: Duration, what: &str) {
        if !self.watched || waited < PATIENCE {
            return;
        }
        let display = self.display.get_or_insert_with(|| {
            let display = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant; should it not parse, the default style does as well.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                display.set_style(style.tick_chars("|/-\\ "));
            }
            display.enable_steady_tick(FRAME);
            display
        });
        display.set_message(what.to_owned());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(display) = &self.display {
            display.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::ColourChoice;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit() {
        let mut waiting = Waiting::new(Output::new(true, ColourChoice::Never), Duration::from_secs(5));
        let mut turns = 0;
        while waiting.again(Duration::from_secs(2), "a test").await {
            turns += 1;
        }
        assert_eq!(turns, 3);
        assert_eq!(waiting.started.elapsed(), Duration::from_secs(5));
    }

    /// Each question is an event in the audit trail of the authority.
    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_the_authority_asks_it_about_once_a_second() {
        let mut waiting = Waiting::new(Output::new(true, ColourChoice::Never), Duration::from_secs(60));
        let mut questions = 1;
        while waiting.ask_again("a test").await {
            questions += 1;
        }
        assert!((60..=65).contains(&questions), "{questions}");
    }
}
