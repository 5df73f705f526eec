//! How often to say the same thing: the first three times aloud, then for whoever listens closely.

const ALOUD: u32 = 3;

/// The last thing that was said, and how often.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<&'static str>,
    times: u32,
}

impl Repeats {
    /// Takes note of `reason`. True while it is new enough to be said aloud.
    pub(super) fn is_news(&mut self, reason: &'static str) -> bool {
        if self.last != Some(reason) {
            *self = Self {
                last: Some(reason),
                times: 0,
            };
        }
        self.times = self.times.saturating_add(1);
        self.times <= ALOUD
    }

    /// All is well again. True when something was said before.
    pub(super) const fn recovered(&mut self) -> bool {
        self.times = 0;
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F18: a link that fails for ever is reported three times, and its recovery once.
    #[test]
    fn the_same_is_said_three_times_and_recovery_once() {
        let mut repeats = Repeats::default();
        assert!(!repeats.recovered());
        let said = (0..10).filter(|_| repeats.is_news("unavailable")).count();
        assert_eq!(said, 3);
        assert!(repeats.is_news("no_answer"));
        assert!(repeats.recovered());
        assert!(!repeats.recovered());
        assert!(repeats.is_news("unavailable"));
    }
}
