//! What an operator is told of a recovery: what was done, what it means, and what to look at.

use std::fmt::{self, Display, Formatter};

use countersign_core::Timestamp;

use crate::ledger::Recovered;
use crate::timeline::written;

/// A recovery, in words.
pub(super) struct Report<'a>(pub(super) &'a Recovered);

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Recovered {
            found,
            shown,
            epoch,
            withdrawn,
            signing,
            clients,
            quarantined,
        } = self.0;
        writeln!(f, "recovered: the authority goes on from epoch {epoch}\n")?;
        writeln!(f, "  store      epoch {found}")?;
        if let Some(shown) = shown {
            let signed_at = written(Timestamp::from_seconds(shown.signed_at));
            writeln!(
                f,
                "  shown      epoch {} of {signed_at}, by {}",
                shown.epoch, shown.shown_by
            )?;
        }
        for key_id in withdrawn {
            writeln!(f, "  withdrawn  key {key_id}")?;
        }
        if let Some(key_id) = signing {
            writeln!(f, "  signs now  key {key_id}")?;
        }
        f.write_str(MEANS)?;
        for (client_id, enabled) in clients {
            let state = if *enabled { "enabled" } else { "disabled" };
            writeln!(f, "    {state:9} {client_id}")?;
        }
        f.write_str(QUARANTINE)?;
        for spiffe_id in quarantined {
            writeln!(f, "    {}", spiffe_id.as_str())?;
        }
        f.write_str(TWIN)
    }
}

const MEANS: &str = "
Every token that was issued until now is refused, by each verifier as soon as it reaches this
authority. Clients get new ones as soon as it serves again.

What was changed after the backup was taken is lost. Look at it before you serve:

- Clients registered since are gone. Clients disabled or deleted since, and secrets and
  certificates taken from clients since, are valid again. The clients are now:
";

const QUARANTINE: &str = "
- Certificates revoked since get tokens again: revoke them again.
- Verifiers put in quarantine since are granted leases again. In quarantine are now:
";

const TWIN: &str = "
- Nobody else may publish in this name. A copy that still runs stops as soon as a verifier shows it
  what this authority signed.
";
