//! Who holds a key that is prepared and who does not, as a rotation that has to wait for them tells it.

use countersign_core::Timestamp;
use countersign_proto::admin::v1;
use serde::Serialize;

use crate::commands::fleet;
use crate::commands::reach::{self, Laggard, Reach};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::present::At;

/// How far a key has come on the verifiers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Holders {
    /// Verifiers that have the key in force.
    pub(super) verifiers: u32,
    /// Verifiers that decide.
    pub(super) live: u32,
    /// By when nobody decides without it, if somebody does.
    by: Option<At>,
    /// When the last trust file without it has expired, if there is one.
    trust_files_until: Option<At>,
    /// Those that decide without it, the longest bound first.
    pub(super) laggards: Vec<Laggard>,
    /// Those that have it in force, and not on the disk that they have.
    not_on_disk: Vec<Holder>,
}

/// A verifier.
#[derive(Debug, Serialize)]
struct Holder {
    spiffe_id: String,
    verifier_id: String,
}

impl Holders {
    /// What `reach` says of them.
    pub(super) fn of(reach: &Reach) -> Self {
        Self {
            verifiers: reach.in_force,
            live: reach.live,
            by: reach.by.filter(|_| !reach.complete),
            trust_files_until: reach.trust_files_until,
            laggards: reach.laggards.clone(),
            not_on_disk: Vec::new(),
        }
    }

    /// The same of a key that not everybody holds. When it is in force everywhere, it is a disk that lacks it.
    ///
    /// # Errors
    /// When the authority does not answer.
    pub(super) async fn lacking(connection: &Connection, reach: &Reach) -> Result<Self, Failure> {
        let mut holders = Self::of(reach);
        if reach.complete {
            let verifiers = fleet::list(connection).await?.verifiers;
            holders.not_on_disk = without_disk(verifiers);
        }
        Ok(holders)
    }

    /// What `reach` says, and a line for each that does not hold the key.
    pub(super) fn lines(&self, reach: &Reach, now: Timestamp) -> String {
        let on_disk = self.not_on_disk.iter().map(|holder| {
            let name = reach::verifier(&holder.spiffe_id, &holder.verifier_id);
            format!("\n  {name}: not on its disk yet")
        });
        [reach.lines(now)].into_iter().chain(on_disk).collect()
    }
}

/// What an operator can do about those that do not hold a key, after `command` has waited for them.
pub(super) fn next(reach: &Reach, command: &str) -> String {
    if reach.lacks_files_only() {
        return format!(
            "repeat `{command}` when the exported trust file has expired, which neither `countersign fleet forget` nor \
             `countersign fleet quarantine` hastens; or go on without whoever starts from it: `--force REASON`"
        );
    }
    format!(
        "repeat `{command}` to wait on; `countersign fleet forget` those that are gone for good, `countersign fleet quarantine` those \
         whose disk does not work, or go on without them: `--force REASON`"
    )
}

fn without_disk(verifiers: Vec<v1::Verifier>) -> Vec<Holder> {
    let without = verifiers.into_iter().filter(|verifier| !verifier.durable);
    without
        .map(|verifier| Holder {
            spiffe_id: verifier.spiffe_id,
            verifier_id: verifier.verifier_id,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody shall forget a verifier, and wait on all the same.
    #[test]
    fn where_a_trust_file_is_waited_for_no_verifier_is_named() {
        let files = |in_force| {
            Reach::read(v1::EpochReach {
                epoch: 7,
                live: 2,
                in_force,
                trust_files_until: Some(countersign_wire::write_time(Timestamp::from_seconds(
                    1_800_000_000,
                ))),
                ..v1::EpochReach::default()
            })
        };
        let told = |reach: &Reach| next(reach, "countersign key rotate");
        let waits = "repeat `countersign key rotate` when the exported trust file has expired";
        assert!(told(&files(2)).starts_with(waits), "{}", told(&files(2)));
        assert!(told(&files(2)).ends_with("`--force REASON`"));
        let both = told(&files(1));
        assert!(
            both.contains("`countersign fleet forget` those that are gone"),
            "{both}"
        );
    }
}
