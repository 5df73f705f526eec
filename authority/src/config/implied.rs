//! What the numbers of a configuration come to, in sentences for the operator.

use std::fmt;

use countersign_runtime::config::Written;
use countersign_wire::MAX_NAMED_REVOCATIONS;

use super::Config;

/// What the process of a verifier grows by for each single token at most, as tokens are usually spread: right after it has taken a
/// snapshot over. Measured by `countersign-bench million-revocations`.
const TOKEN_BYTES: usize = 25;

/// What any other revocation takes at most: the longest names, and its place in the maps.
const NAMED_BYTES: usize = 500;

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

impl fmt::Display for Implied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life = self.0.ledger.revocation_life;
        let rate = self.0.token_rate;
        let of_one = u64::from(rate.per_second.get())
            .saturating_mul(life.as_secs())
            .saturating_add(u64::from(rate.burst.get()));
        writeln!(
            f,
            "a revocation is kept for at most {}, that of a certificate for {}: a client at its limit of {} tokens a second \
             that has every one of them revoked holds at most {of_one}",
            Written(life),
            Written(self.0.ledger.certificate_life),
            rate.per_second,
        )?;
        let most = self.0.ledger.max_revocations;
        let named = most.min(MAX_NAMED_REVOCATIONS);
        write!(
            f,
            "all together are at most {most} (`revocations.max`): in each verifier about {} MB when they are single \
             tokens, and at most {} MB more for the {named} of them that may be others",
            megabytes(most, TOKEN_BYTES),
            megabytes(named, NAMED_BYTES),
        )
    }
}

/// Rounded up.
const fn megabytes(entries: usize, bytes: usize) -> usize {
    entries.saturating_mul(bytes).div_ceil(1_000_000)
}
