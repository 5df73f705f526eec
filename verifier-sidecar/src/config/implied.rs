//! What the numbers of a configuration come to, in sentences for the operator.

use std::fmt;
use std::time::Duration;

use countersign_core::staleness::{ClassBudget, DEFAULT_LEASE, MAX_LEASE};
use countersign_runtime::config::Written;

use super::Config;

/// What the numbers come to. Shown one sentence a line.
#[derive(Debug)]
pub struct Implied<'a>(&'a Config);

impl Config {
    /// What the numbers come to.
    #[must_use]
    pub const fn implied(&self) -> Implied<'_> {
        Implied(self)
    }
}

impl Implied<'_> {
    /// How long a token can be good at most after it was issued: the longest that its revocation matters.
    fn token_life(&self) -> Duration {
        let expected = &self.0.expectations;
        expected.max_lifetime.saturating_add(expected.leeway)
    }

    fn class(&self, class: &ClassBudget, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_default = class.class == self.0.trust.staleness.default_class.class;
        let default = if is_default { " (default)" } else { "" };
        let goes_on = DEFAULT_LEASE.saturating_add(class.budget.shortest());
        let name = &class.class;
        let ride_through = Written(goes_on);
        write!(
            f,
            "class `{name}`{default}: goes on for {ride_through} after the last contact; if this sidecar is cut off, "
        )?;
        if goes_on <= self.token_life() {
            write!(f, "a revocation is unnoticed for at most {ride_through}")
        } else {
            let token_life = Written(self.token_life());
            write!(
                f,
                "a revoked token is unnoticed for at most {token_life}, when it has expired, and a compromised key for at most {ride_through}"
            )
        }
    }
}

impl fmt::Display for Implied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (usual, most) = (Written(DEFAULT_LEASE), Written(MAX_LEASE));
        write!(
            f,
            "with leases of {usual}, which are the authority's to grant (at most {most} is believed):"
        )?;
        for class in &self.0.trust.staleness.classes {
            f.write_str("\n")?;
            self.class(class, f)?;
        }
        for class in &self.0.unused_classes {
            write!(f, "\nclass `{class}`: no method belongs to it")?;
        }
        if self.0.others_unguarded {
            let audience = &self.0.expectations.audience;
            write!(
                f,
                "\nwhat no `[[method]]` names takes any good token for `{audience}`: there are no `default_scopes`"
            )?;
        }
        Ok(())
    }
}
