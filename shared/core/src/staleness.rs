//! How long a verifier goes on deciding once its lease has ended.
//!
//! While a lease lasts, trust is current: the authority has said so, for exactly the state in force. After that each class of
//! methods has its own budget. Keys and revocations are parts of one state and age together; each has a number of its own, and
//! the shorter one decides.

use std::time::Duration;

use crate::names::ClassName;
use crate::planted::{Bug, planted};

/// The longest lease that a verifier believes, whatever it is told.
pub const MAX_LEASE: Duration = Duration::from_secs(60);

/// The lease that an authority grants unless configured otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// The longest budget that may be declared.
pub const MAX_BUDGET: Duration = Duration::from_secs(7 * 24 * 3600);

/// The most classes that a verifier may have.
pub const MAX_CLASSES: usize = 16;

/// The data that a decision is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// Which tokens are taken back.
    Revocations,
    /// Which keys sign.
    Keys,
}

impl Data {
    /// The name for people, metrics and error details.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revocations => "revocations",
            Self::Keys => "keys",
        }
    }
}

/// How long decisions of one class go on after the lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalenessBudget {
    /// On revocations that may be out of date.
    pub revocations: Duration,
    /// On keys that may be out of date.
    pub keys: Duration,
}

impl StalenessBudget {
    /// Nothing is decided without a lease.
    pub const STRICT: Self = Self::both(Duration::ZERO);
    /// A quarter of an hour.
    pub const NORMAL: Self = Self::both(Duration::from_secs(15 * 60));
    /// A day.
    pub const TOLERANT: Self = Self::both(Duration::from_secs(24 * 3600));

    /// The same for keys and revocations.
    #[must_use]
    pub const fn both(budget: Duration) -> Self {
        Self {
            revocations: budget,
            keys: budget,
        }
    }

    /// How long after the end of a lease anything is decided.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.revocations.min(self.keys)
    }

    /// What is too old to decide on when the lease ended `overdue` ago. Zero is while it lasts, and never too old.
    #[must_use]
    pub fn exceeded(&self, overdue: Duration) -> Option<Data> {
        if overdue.is_zero() || overdue < self.shortest() {
            None
        } else if self.revocations <= self.keys {
            Some(Data::Revocations)
        } else {
            Some(Data::Keys)
        }
    }

    /// The same for trust that may never have been confirmed: then nothing says that it is current, and it is too old for every
    /// budget.
    #[must_use]
    pub fn too_old(&self, overdue: Option<Duration>) -> Option<Data> {
        let never = if planted(Bug::NeverConfirmedIsFresh) {
            Duration::ZERO
        } else {
            Duration::MAX
        };
        self.exceeded(overdue.unwrap_or(never))
    }

    /// What is left of the budget when the lease ended `overdue` ago.
    #[must_use]
    pub fn left(&self, overdue: Duration) -> Duration {
        self.shortest().saturating_sub(overdue)
    }

    /// Time until calls are refused if nothing is confirmed any more: the lease still lasts `lease_left`, or ended `overdue` ago.
    #[must_use]
    pub fn refuses_in(&self, lease_left: Duration, overdue: Option<Duration>) -> Duration {
        overdue.map_or(Duration::ZERO, |overdue| {
            lease_left.saturating_add(self.left(overdue))
        })
    }
}

/// The budget of a class, as a verifier declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassBudget {
    /// The class.
    pub class: ClassName,
    /// Its budget.
    pub budget: StalenessBudget,
}

impl ClassBudget {
    /// The class `strict`: for methods that nobody revoked may call even once.
    #[must_use]
    pub fn strict() -> Self {
        Self::built_in("strict", StalenessBudget::STRICT)
    }

    /// The class `normal`.
    #[must_use]
    pub fn normal() -> Self {
        Self::built_in("normal", StalenessBudget::NORMAL)
    }

    /// The class `tolerant`: for methods that had better go on than be right to the minute.
    #[must_use]
    pub fn tolerant() -> Self {
        Self::built_in("tolerant", StalenessBudget::TOLERANT)
    }

    fn built_in(class: &'static str, budget: StalenessBudget) -> Self {
        Self {
            class: ClassName::built_in(class),
            budget,
        }
    }
}

/// `normal`: what a method belongs to of which nothing is said.
impl Default for ClassBudget {
    fn default() -> Self {
        Self::normal()
    }
}

/// What was too old to decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The class of the method.
    pub class: ClassName,
    /// The data whose budget is used up.
    pub data: Data,
    /// Time since the authority last confirmed it. Nothing when it never did.
    pub age: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_strict_class_ends_with_the_lease_and_not_before() {
        assert_eq!(StalenessBudget::STRICT.exceeded(Duration::ZERO), None);
        assert_eq!(
            StalenessBudget::STRICT.exceeded(Duration::from_nanos(1)),
            Some(Data::Revocations)
        );
    }

    #[test]
    fn what_was_never_confirmed_is_too_old_for_every_budget() {
        for longest in [Duration::ZERO, MAX_BUDGET, Duration::MAX] {
            assert!(StalenessBudget::both(longest).too_old(None).is_some());
            assert!(
                StalenessBudget::both(longest)
                    .too_old(Some(Duration::ZERO))
                    .is_none()
            );
        }
    }

    /// What the table in docs/staleness.md says.
    #[test]
    fn the_built_in_classes_are_what_they_are_documented_to_be() {
        let told = [
            ClassBudget::strict(),
            ClassBudget::normal(),
            ClassBudget::tolerant(),
        ]
        .map(|class| {
            (
                class.class.to_string(),
                class.budget.revocations,
                class.budget.keys,
            )
        });
        let both = |class: &str, seconds| (class.to_owned(), seconds * SECOND, seconds * SECOND);
        assert_eq!(
            told,
            [both("strict", 0), both("normal", 900), both("tolerant", 86_400)]
        );
        assert_eq!(ClassBudget::default(), ClassBudget::normal());
    }

    #[test]
    fn the_shorter_of_two_budgets_decides_and_is_named() {
        let keys_first = StalenessBudget {
            revocations: 20 * SECOND,
            keys: 10 * SECOND,
        };
        assert_eq!(keys_first.exceeded(10 * SECOND - Duration::from_nanos(1)), None);
        assert_eq!(keys_first.exceeded(10 * SECOND), Some(Data::Keys));
        assert_eq!(keys_first.left(4 * SECOND), 6 * SECOND);
        assert_eq!(keys_first.left(11 * SECOND), Duration::ZERO);
        let revocations_first = StalenessBudget {
            revocations: 5 * SECOND,
            ..keys_first
        };
        assert_eq!(revocations_first.exceeded(5 * SECOND), Some(Data::Revocations));
    }
}
