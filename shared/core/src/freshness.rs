//! How old a verifier's trust may be.
//!
//! Age counts from the last time that the authority confirmed the very state that is in force, not from a connection
//! being open.

use std::time::Duration;

/// How long a verifier goes on without the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalenessBudget {
    /// From this age on, the verifier decides and warns.
    pub warn_after: Duration,
    /// From this age on, the verifier refuses: the bound on how long a revocation can go unnoticed by a verifier that is
    /// cut off.
    pub refuse_after: Duration,
}

/// What the age of the trust means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Decide.
    Fresh,
    /// Decide, and tell.
    Stale,
    /// Refuse.
    Expired,
}

impl Freshness {
    /// The name for people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Expired => "expired",
        }
    }
}

impl StalenessBudget {
    /// What `age` means.
    #[must_use]
    pub fn judge(&self, age: Duration) -> Freshness {
        if age >= self.refuse_after {
            Freshness::Expired
        } else if age >= self.warn_after {
            Freshness::Stale
        } else {
            Freshness::Fresh
        }
    }

    /// What is left of the budget at `age`.
    #[must_use]
    pub const fn left(&self, age: Duration) -> Duration {
        self.refuse_after.saturating_sub(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_inclusive() {
        let second = Duration::from_secs(1);
        let budget = StalenessBudget {
            warn_after: 60 * second,
            refuse_after: 900 * second,
        };
        assert_eq!(budget.judge(59 * second), Freshness::Fresh);
        assert_eq!(budget.judge(60 * second), Freshness::Stale);
        assert_eq!(budget.judge(899 * second), Freshness::Stale);
        assert_eq!(budget.judge(900 * second), Freshness::Expired);
        assert_eq!(budget.left(901 * second), Duration::ZERO);
    }
}
