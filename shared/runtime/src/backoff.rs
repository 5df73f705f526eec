//! When to try again: exponential backoff with full jitter, so that a thousand verifiers do not come back at once.
//!
//! The n-th wait is uniform between nothing and `initial * 2^n`, never over the cap. Jitter is no secret: it comes from a
//! small generator with a seed, so that simulations replay.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A small generator of numbers that are not secret (SplitMix64).
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// The generator that always gives the same numbers for the same seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator with a seed of its own in every process and at every call.
    #[must_use]
    pub fn unpredictable() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time uniform between nothing and `limit`, both included, in nanoseconds.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        match nanos.checked_add(1) {
            // The bias of the remainder is under 2^-20 for limits under an hour.
            Some(range) => Duration::from_nanos(self.next() % range),
            None => Duration::from_nanos(self.next()),
        }
    }
}

/// The waits between attempts at one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    cap: Duration,
    attempt: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Waits of up to `initial` at first, doubling, and never over `cap`.
    #[must_use]
    pub const fn new(initial: Duration, cap: Duration, jitter: Jitter) -> Self {
        Self {
            initial,
            cap,
            attempt: 0,
            jitter,
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        let ceiling = self.initial.saturating_mul(factor).min(self.cap);
        self.attempt = self.attempt.saturating_add(1).min(u32::BITS);
        self.jitter.up_to(ceiling)
    }

    /// Starts over. Call it when an attempt has lasted, not merely when it began well: a link that flaps would
    /// otherwise be tried without a pause.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(10);

    fn ceiling(attempt: u32) -> Duration {
        INITIAL.saturating_mul(1 << attempt.min(20)).min(CAP)
    }

    #[test]
    fn waits_stay_under_a_doubling_ceiling_and_the_cap() {
        let mut backoff = Backoff::new(INITIAL, CAP, Jitter::seeded(7));
        for attempt in 0..200 {
            assert!(backoff.next_delay() <= ceiling(attempt), "{attempt}");
        }
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let delays: Vec<_> = (0..1_000)
            .map(|seed| {
                let mut backoff = Backoff::new(INITIAL, CAP, Jitter::seeded(seed));
                (0..10).for_each(|_| assert!(backoff.next_delay() <= Duration::MAX));
                backoff.next_delay()
            })
            .collect();
        for tenth in 0..10 {
            let range = CAP / 10 * tenth..CAP / 10 * (tenth + 1);
            let count = delays.iter().filter(|delay| range.contains(delay)).count();
            assert!((50..200).contains(&count), "{count} of 1000 waits in {range:?}");
        }
    }

    #[test]
    fn one_seed_gives_one_sequence_and_a_reset_starts_over() {
        let mut one = Backoff::new(INITIAL, CAP, Jitter::seeded(1));
        let mut two = one.clone();
        (0..50).for_each(|_| assert_eq!(one.next_delay(), two.next_delay()));
        one.reset();
        assert!(one.next_delay() <= INITIAL);
        assert_ne!(Jitter::unpredictable().next(), Jitter::unpredictable().next());
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, Jitter::seeded(3));
        (0..100).for_each(|_| assert!(backoff.next_delay() <= Duration::MAX));
        assert_eq!(
            Backoff::new(Duration::ZERO, CAP, Jitter::seeded(3)).next_delay(),
            Duration::ZERO
        );
    }
}
