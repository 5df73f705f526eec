//! Shows that something is waited for, once it takes longer than people like to look at nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::output::Output;
use crate::present;

/// From when on a wait is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the display moves.
const FRAME: Duration = Duration::from_millis(100);

/// What a countdown looks like beside how many have done something.
const TALLY: &str = "{spinner} {bar:20} {pos}/{len} {prefix}{wide_msg}";

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
        let display = self
            .display
            .get_or_insert_with(|| display(None, "{spinner} {msg} ({elapsed})", what));
        display.set_message(what.to_owned());
    }
}

fn display(length: Option<u64>, template: &str, message: &str) -> ProgressBar {
    let display = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    // The templates are constants; should one not parse, the default style does as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        display.set_style(style.tick_chars("|/-\\ ").progress_chars("=> "));
    }
    display.set_message(message.to_owned());
    display.enable_steady_tick(FRAME);
    display
}

/// How many of all have done something: a bar with a countdown on a terminal, a line at each change where there is none, and
/// nothing for programs. What is over within a second is not shown.
#[derive(Debug)]
pub(crate) struct Tally {
    output: Output,
    started: Instant,
    display: Option<ProgressBar>,
    line: String,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            started: Instant::now(),
            display: None,
            line: String::new(),
        }
    }

    /// Shows that `done` of `all` have done it, what is to be said of that, and how long it may still take.
    pub(crate) fn show(&mut self, (done, all): (u32, u32), line: &str, left: Option<Duration>) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        if self.output.is_watched() {
            let display = self
                .display
                .get_or_insert_with(|| display(Some(all.into()), TALLY, line));
            display.set_length(all.into());
            display.set_position(done.into());
            display.set_prefix(left.map(countdown).unwrap_or_default());
            display.set_message(line.to_owned());
        } else if self.is_news(line) && !self.output.is_json() {
            self.output.note(line);
        }
    }

    fn is_news(&mut self, line: &str) -> bool {
        let news = self.line != line;
        if news {
            line.clone_into(&mut self.line);
        }
        news
    }
}

/// It comes first: what follows may be cut off where the terminal ends.
fn countdown(left: Duration) -> String {
    format!("{} at most; ", present::duration(left))
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(display) = &self.display {
            display.finish_and_clear();
        }
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

    #[tokio::test(start_paused = true)]
    async fn where_nobody_watches_a_line_is_said_once() {
        let mut tally = Tally::new(Output::new(true, ColourChoice::Never));
        assert!(tally.is_news("1 of 2") && !tally.is_news("1 of 2") && tally.is_news("2 of 2"));
        assert_eq!(countdown(Duration::from_secs(90)), "1m 30s at most; ");
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
