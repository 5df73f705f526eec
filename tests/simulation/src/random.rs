//! The only source of chance: whatever happens in a run is a function of its seed (SplitMix64).

use std::time::Duration;

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which is not zero.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// An index into something that is `length` long, and not empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(length)).unwrap_or_default()
    }

    /// From `least` to `most`, both included.
    pub(crate) const fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether something happens that does so `per_mille` times out of a thousand.
    pub(crate) const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Milliseconds from `least` to `most`, with some microseconds.
    pub(crate) const fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.within(least * 1000, most * 1000))
    }

    /// More or less `mean`: exponentially distributed, and at most eight times as much.
    pub(crate) fn about(&mut self, mean: Duration) -> Duration {
        let doublings = self.next().leading_zeros().min(8);
        let part = self.within(0, 1_000_000);
        // The sum of a geometric number of halves and a uniform rest has the mean of one and a half.
        let halves = mean / 2 * doublings;
        halves + mean / 2 * u32::try_from(part).unwrap_or_default() / 1_000_000
    }

    /// One of `choices`, which are not empty.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }
}
