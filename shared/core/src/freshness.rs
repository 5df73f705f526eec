//! What the age of a verifier's trust means for the verifier as a whole.
//!
//! Age counts from the last time that the authority confirmed the very state that is in force, not from a connection
//! being open. Whether a call is decided is a matter of its method's class ([`crate::staleness`]); what is here is for
//! status answers, metrics and logs.

use std::sync::Arc;
use std::time::Duration;

use crate::staleness::ClassBudget;

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
    /// The lease lasts: calls of every class are decided.
    Fresh,
    /// The lease has ended, and calls of some class are still decided.
    Stale,
    /// No call is decided.
    Expired,
}

/// How a verifier deals with trust that grows old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalenessRules {
    /// From this age on, trust is warned of.
    pub warn_after: Duration,
    /// The class of methods of which nothing is said, and of questions without a method.
    pub default_class: Arc<ClassBudget>,
    /// Every class that calls can be of, the default among them. The authority counts on all of them, so that one which no method
    /// belongs to would only make it wait.
    pub classes: Vec<Arc<ClassBudget>>,
}

impl StalenessRules {
    /// What it means that the lease ended `overdue` ago; nothing: that the trust was never confirmed.
    #[must_use]
    pub fn freshness(&self, overdue: Option<Duration>) -> Freshness {
        let decides = |class: &Arc<ClassBudget>| class.budget.too_old(overdue).is_none();
        if overdue.is_some_and(|overdue| overdue.is_zero()) {
            Freshness::Fresh
        } else if self.classes.iter().any(decides) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }

    /// Whether calls of the default class are decided.
    #[must_use]
    pub fn decides(&self, overdue: Option<Duration>) -> bool {
        self.default_class.budget.too_old(overdue).is_none()
    }
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

    /// I-14: the lease makes it fresh, any class that decides keeps it from being expired, and the default class alone is what
    /// readiness goes by.
    #[test]
    fn trust_is_stale_between_the_end_of_its_lease_and_the_last_budget() {
        let classes = [
            ClassBudget::strict(),
            ClassBudget::normal(),
            ClassBudget::tolerant(),
        ]
        .map(Arc::new);
        let rules = StalenessRules {
            warn_after: Duration::from_secs(60),
            default_class: Arc::clone(&classes[1]),
            classes: classes.to_vec(),
        };
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        for (overdue, freshness, decides) in [
            (Some(Duration::ZERO), Freshness::Fresh, true),
            (Some(Duration::from_nanos(1)), Freshness::Stale, true),
            (minutes(15), Freshness::Stale, false),
            (minutes(24 * 60), Freshness::Expired, false),
            (None, Freshness::Expired, false),
        ] {
            assert_eq!(
                (rules.freshness(overdue), rules.decides(overdue)),
                (freshness, decides),
                "{overdue:?}"
            );
        }
    }

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
