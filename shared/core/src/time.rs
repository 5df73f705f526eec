//! Wall time as tokens carry it: whole seconds since 1970, with arithmetic that cannot overflow.

use std::fmt;
use std::time::Duration;

/// A point in time: seconds since 1970-01-01T00:00:00Z, ignoring leap seconds (RFC 7519, section 2, `NumericDate`).
///
/// Tokens carry whole seconds, so time is rounded down where it is read: a token expires when the second `exp` begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The largest value accepted from outside: the last integer that every JSON reader keeps exact (RFC 7493, 2.2).
    pub const MAX: Self = Self((1 << 53) - 1);

    /// `seconds` since 1970, at most [`Timestamp::MAX`].
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        if seconds > Self::MAX.0 {
            Self::MAX
        } else {
            Self(seconds)
        }
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0
    }

    /// Reads a protobuf or JSON integer. Zero, negative numbers and numbers over [`Timestamp::MAX`] are no times.
    #[must_use]
    pub fn from_wire(seconds: i64) -> Option<Self> {
        u64::try_from(seconds)
            .ok()
            .filter(|s| (1..=Self::MAX.0).contains(s))
            .map(Self)
    }

    /// The integer that [`Timestamp::from_wire`] reads.
    #[must_use]
    pub fn to_wire(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// This time and `duration` more, whole seconds of it.
    #[must_use]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Self::from_seconds(self.0.saturating_add(duration.as_secs()))
    }

    /// This time less `duration`, whole seconds of it; not before 1970.
    #[must_use]
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_times_are_positive_and_exact_in_json() {
        for refused in [i64::MIN, -1, 0, 1 << 53, i64::MAX] {
            assert_eq!(Timestamp::from_wire(refused), None, "{refused}");
        }
        for accepted in [1, 1_700_000_000, (1 << 53) - 1] {
            assert_eq!(
                Timestamp::from_wire(accepted).map(Timestamp::to_wire),
                Some(accepted)
            );
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(
            Timestamp::from_seconds(5).saturating_sub(Duration::from_secs(6)),
            Timestamp::default()
        );
        assert_eq!(
            Timestamp::from_seconds(5).since(Timestamp::from_seconds(9)),
            Duration::ZERO
        );
    }
}
