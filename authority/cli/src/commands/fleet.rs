//! `countersign fleet`: who verifies, and at which epoch.

use std::time::Duration;

use clap::Args;
use countersign_proto::admin::v1;
use serde::Serialize;

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
    let fleet = Fleet::read(list(&connection).await?);
    output.data(&fleet, |paint| fleet.table(paint))
}

/// The verifiers that the authority knows.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn list(connection: &Connection) -> Result<v1::ListVerifiersResponse, Failure> {
    let listed = connection
        .fleet()
        .list_verifiers(v1::ListVerifiersRequest {})
        .await;
    let listed = listed.map_err(|status| Failure::answered("cannot list the verifiers", &status))?;
    Ok(listed.into_inner())
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
        let summary = format!("epoch {}: in force on {current} of {all}", self.epoch);
        if self.verifiers.is_empty() {
            return format!("epoch {}: no verifier has connected", self.epoch);
        }
        format!("{}\n\n{summary}", paint.table(&heading, rows.collect()))
    }
}

/// How far an epoch has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Verifiers connected.
    pub(crate) verifiers: usize,
    /// Those of them that acknowledged the epoch.
    pub(crate) in_force: usize,
    /// The others, by SPIFFE ID.
    pub(crate) behind: Vec<String>,
}

impl Reach {
    fn of(listed: &v1::ListVerifiersResponse, epoch: u64) -> Self {
        let connected = || listed.verifiers.iter().filter(|verifier| verifier.connected);
        let behind = connected().filter(|verifier| verifier.acknowledged_epoch < epoch);
        let behind: Vec<String> = behind.map(|verifier| verifier.spiffe_id.clone()).collect();
        let verifiers = connected().count();
        Self {
            verifiers,
            in_force: verifiers.saturating_sub(behind.len()),
            behind,
        }
    }

    /// Whether every verifier that is connected has it.
    #[must_use]
    pub(crate) const fn is_complete(&self) -> bool {
        self.behind.is_empty()
    }
}

/// How often the authority is asked while something is waited for.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Waits until every connected verifier has acknowledged `epoch`, for at most `limit`; answers how far it came.
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
        let reach = Reach::of(&list(connection).await?, epoch);
        let verifiers = present::count(reach.verifiers, "verifier");
        let what = format!("epoch {epoch}: in force on {} of {verifiers}", reach.in_force);
        if reach.is_complete() || !waiting.again(POLL, &what).await {
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

    #[test]
    fn only_the_verifiers_that_are_connected_can_be_behind() {
        let listed = v1::ListVerifiersResponse {
            verifiers: vec![
                verifier("a", true, 7),
                verifier("b", true, 6),
                verifier("c", false, 1),
            ],
            epoch: 7,
            state_digest: vec![0xab],
        };
        let reach = Reach::of(&listed, 7);
        assert_eq!((reach.verifiers, reach.in_force), (2, 1));
        assert_eq!(reach.behind, ["spiffe://dev.test/b"]);
        assert!(Reach::of(&listed, 6).is_complete());
        let fleet = Fleet::read(listed);
        let states: Vec<bool> = fleet
            .verifiers
            .iter()
            .map(|verifier| verifier.up_to_date)
            .collect();
        assert_eq!(states, [true, false, false]);
        assert_eq!(fleet.state_digest, "ab");
    }
}
