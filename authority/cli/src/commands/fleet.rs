//! `countersign fleet`: who verifies, and at which epoch.

use std::mem;
use std::time::Duration;

use clap::Args;
use countersign_proto::admin::v1;
use serde::Serialize;

use super::pages;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::Failure;
use crate::output::{Output, Paint, Text, Tone};
use crate::present;
use crate::progress::Waiting;

/// Where.
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Fleet {
    epoch: u64,
    state_digest: String,
    gathering: bool,
    verifiers: Vec<Verifier>,
}

#[derive(Debug, Serialize)]
struct Verifier {
    spiffe_id: String,
    instance_id: String,
    version: String,
    connected: bool,
    acknowledged_epoch: u64,
    up_to_date: bool,
    durable: bool,
    connected_at: Option<String>,
    last_seen_at: Option<String>,
    last_nack: Option<String>,
}

/// Shows the verifiers.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: FleetArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let fleet = Fleet::read(list(&connection, 0).await?);
    output.data(&fleet, |paint| fleet.table(paint))
}

/// The verifiers that the authority has seen since it started and that have not acknowledged `lacking_epoch`; all, for 0.
/// What is said beside them is as of the first page.
///
/// # Errors
/// [`Failure`].
async fn list(connection: &Connection, lacking_epoch: u64) -> Result<v1::ListVerifiersResponse, Failure> {
    let mut service = connection.fleet();
    let mut first = None;
    let listed = pages::all("cannot list the verifiers", async |page_token| {
        let request = v1::ListVerifiersRequest {
            page_size: pages::SIZE,
            page_token,
            lacking_epoch,
        };
        let mut page = service.list_verifiers(request).await?.into_inner();
        let found = (
            mem::take(&mut page.verifiers),
            mem::take(&mut page.next_page_token),
        );
        first.get_or_insert(page);
        Ok(found)
    });
    let verifiers = listed.await?;
    Ok(v1::ListVerifiersResponse {
        verifiers,
        ..first.unwrap_or_default()
    })
}

impl Fleet {
    fn read(listed: v1::ListVerifiersResponse) -> Self {
        let epoch = listed.epoch;
        let verifiers = listed.verifiers.into_iter().map(|verifier| Verifier {
            up_to_date: verifier.connected && verifier.acknowledged_epoch >= epoch,
            connected_at: present::wire_time(verifier.connected_at.as_ref()),
            last_seen_at: present::wire_time(verifier.last_seen_at.as_ref()),
            last_nack: Some(verifier.last_nack).filter(|nack| !nack.is_empty()),
            spiffe_id: verifier.spiffe_id,
            instance_id: verifier.instance_id,
            version: verifier.version,
            connected: verifier.connected,
            acknowledged_epoch: verifier.acknowledged_epoch,
            durable: verifier.durable,
        });
        Self {
            epoch,
            state_digest: present::hex(&listed.state_digest),
            gathering: listed.gathering,
            verifiers: verifiers.collect(),
        }
    }

    fn table(&self, paint: Paint) -> String {
        let heading = ["VERIFIER", "STATE", "EPOCH", "ON DISK", "LAST SEEN", "REFUSED"];
        let rows = self.verifiers.iter().map(|verifier| {
            let state = match (verifier.connected, verifier.up_to_date) {
                (true, true) => Text::toned("current", Tone::Good),
                (true, false) => Text::toned("behind", Tone::Warning),
                (false, _) => Text::toned("away", Tone::Bad),
            };
            vec![
                verifier.spiffe_id.as_str().into(),
                state,
                verifier.acknowledged_epoch.to_string().into(),
                if verifier.durable { "yes" } else { "no" }.into(),
                present::optional(verifier.last_seen_at.clone()),
                present::optional(verifier.last_nack.clone()),
            ]
        });
        let current = self
            .verifiers
            .iter()
            .filter(|verifier| verifier.up_to_date)
            .count();
        let all = present::count(self.verifiers.len(), "verifier");
        let gathering = if self.gathering { GATHERING } else { "" };
        if self.verifiers.is_empty() {
            return format!("epoch {}: no verifier has connected{gathering}", self.epoch);
        }
        let summary = format!("epoch {}: in force on {current} of {all}{gathering}", self.epoch);
        format!("{}\n\n{summary}", paint.table(&heading, rows.collect()))
    }
}

/// What is added while the authority says that it is gathering.
const GATHERING: &str = "; the authority was restarted a moment ago, and others may not be back yet";

/// How far an epoch has come among the verifiers that the authority has seen since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Verifiers seen, connected or away.
    pub(crate) verifiers: usize,
    /// Those connected that have not acknowledged the epoch, by SPIFFE ID.
    pub(crate) behind: Vec<String>,
    /// Those away that had not acknowledged it, by SPIFFE ID.
    pub(crate) away: Vec<String>,
    /// Whether verifiers that were connected before the authority started may not be back yet.
    pub(crate) gathering: bool,
}

impl Reach {
    /// Of the verifiers listed, which all lack the epoch.
    fn of(lacking: v1::ListVerifiersResponse) -> Self {
        let (behind, away): (Vec<_>, Vec<_>) = lacking
            .verifiers
            .into_iter()
            .partition(|verifier| verifier.connected);
        let names = |verifiers: Vec<v1::Verifier>| verifiers.into_iter().map(|verifier| verifier.spiffe_id);
        Self {
            verifiers: usize::try_from(lacking.total).unwrap_or(usize::MAX),
            behind: names(behind).collect(),
            away: names(away).collect(),
            gathering: lacking.gathering,
        }
    }

    /// Those that acknowledged the epoch.
    #[must_use]
    pub(crate) fn in_force(&self) -> usize {
        self.verifiers
            .saturating_sub(self.behind.len())
            .saturating_sub(self.away.len())
    }

    /// Whether every verifier has it, as far as one can know: never when no verifier is known.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.verifiers > 0 && !self.gathering && self.behind.is_empty() && self.away.is_empty()
    }

    /// Those that do not have it, each with what it is.
    pub(crate) fn without(&self) -> Vec<String> {
        let behind = self.behind.iter().map(|id| format!("{id} (behind)"));
        behind
            .chain(self.away.iter().map(|id| format!("{id} (away)")))
            .collect()
    }

    /// What it lacks to be complete.
    #[must_use]
    pub(crate) fn lacks(&self) -> String {
        let gathering = if self.gathering { GATHERING } else { "" };
        match self.without().as_slice() {
            [] if self.verifiers == 0 => {
                format!("no verifier has connected since the authority started{gathering}")
            }
            [] => format!("all known verifiers have it{gathering}"),
            without => format!("not on {}{gathering}", without.join(", ")),
        }
    }
}

/// Waits until every verifier has acknowledged `epoch`, for at most `limit`; answers how far it came.
///
/// # Errors
/// When the authority does not answer.
pub(crate) async fn reached(
    connection: &Connection,
    epoch: u64,
    limit: Duration,
    output: Output,
) -> Result<Reach, Failure> {
    let mut waiting = Waiting::new(output, limit);
    loop {
        let reach = Reach::of(list(connection, epoch).await?);
        let verifiers = present::count(reach.verifiers, "verifier");
        let what = format!("epoch {epoch}: in force on {} of {verifiers}", reach.in_force());
        if reach.is_complete() || !waiting.ask_again(&what).await {
            return Ok(reach);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier(name: &str, connected: bool, epoch: u64) -> v1::Verifier {
        v1::Verifier {
            spiffe_id: format!("spiffe://dev.test/{name}"),
            connected,
            acknowledged_epoch: epoch,
            ..v1::Verifier::default()
        }
    }

    fn lacking(verifiers: Vec<v1::Verifier>, total: u64) -> v1::ListVerifiersResponse {
        v1::ListVerifiersResponse {
            verifiers,
            total,
            ..v1::ListVerifiersResponse::default()
        }
    }

    #[test]
    fn whoever_is_away_is_named_and_keeps_an_epoch_from_being_complete() {
        let reach = Reach::of(lacking(vec![verifier("b", true, 6), verifier("c", false, 1)], 3));
        assert_eq!((reach.verifiers, reach.in_force()), (3, 1));
        assert_eq!(
            reach.lacks(),
            "not on spiffe://dev.test/b (behind), spiffe://dev.test/c (away)"
        );
        assert!(!reach.is_complete());
        assert!(!Reach::of(lacking(vec![verifier("c", false, 1)], 3)).is_complete());
        assert!(Reach::of(lacking(vec![], 3)).is_complete());
    }

    /// An authority that has just started knows nobody: that is no sign that everybody knows.
    #[test]
    fn an_epoch_is_complete_nowhere_while_no_verifier_is_known_or_more_may_come_back() {
        let nobody = Reach::of(lacking(vec![], 0));
        assert!(!nobody.is_complete());
        assert!(nobody.lacks().starts_with("no verifier has connected"));
        let restarted = Reach::of(v1::ListVerifiersResponse {
            gathering: true,
            ..lacking(vec![], 3)
        });
        assert!(!restarted.is_complete());
        assert!(restarted.lacks().contains("may not be back"));
    }

    #[test]
    fn a_verifier_is_up_to_date_when_it_is_connected_and_has_the_epoch() {
        let fleet = Fleet::read(v1::ListVerifiersResponse {
            epoch: 7,
            state_digest: vec![0xab],
            ..lacking(
                vec![
                    verifier("a", true, 7),
                    verifier("b", true, 6),
                    verifier("c", false, 7),
                ],
                3,
            )
        });
        let states: Vec<bool> = fleet
            .verifiers
            .iter()
            .map(|verifier| verifier.up_to_date)
            .collect();
        assert_eq!(states, [true, false, false]);
        assert_eq!(fleet.state_digest, "ab");
    }
}
