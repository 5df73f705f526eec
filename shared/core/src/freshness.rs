//! What the age of a verifier's trust means for the verifier as a whole.
//!
//! Age counts from the last time that the authority confirmed the very state that is in force, not from a connection
//! being open. Whether a call is decided is a matter of its method's class ([`crate::staleness`]); what is here is for
//! status answers, metrics and logs.

use std::sync::Arc;
use std::time::Duration;

use crate::staleness::ClassBudget;

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

/// `normal` is the only class, and a missed minute is worth a look.
impl Default for StalenessRules {
    fn default() -> Self {
        let normal = Arc::new(ClassBudget::normal());
        Self {
            warn_after: Duration::from_secs(60),
            default_class: Arc::clone(&normal),
            classes: vec![normal],
        }
    }
}

impl StalenessRules {
    /// The budgets that the authority is told of.
    #[must_use]
    pub fn budgets(&self) -> Vec<ClassBudget> {
        self.classes.iter().map(|class| (**class).clone()).collect()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// I-14: the lease makes it fresh, and any class that decides keeps it from being expired.
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
        for (overdue, freshness) in [
            (Some(Duration::ZERO), Freshness::Fresh),
            (Some(Duration::from_nanos(1)), Freshness::Stale),
            (minutes(15), Freshness::Stale),
            (minutes(24 * 60), Freshness::Expired),
            (None, Freshness::Expired),
        ] {
            assert_eq!(rules.freshness(overdue), freshness, "{overdue:?}");
        }
    }
}
