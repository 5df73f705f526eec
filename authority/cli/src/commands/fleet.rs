//! `countersign fleet`: who verifies, at which epoch, until when; and what an operator does about one that does not follow.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use serde::Serialize;

use super::pages;
use super::reach::{self, Reach};
use crate::args::duration;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Paint, Text, Tone};
use crate::present::{self, At};

/// What to do; without a command, the verifiers are shown.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    command: Option<FleetCommand>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What to do with verifiers.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Show the verifiers, at which epoch each is and until when it decides
    List(ListArgs),
    /// Wait until an epoch is in force everywhere
    Watch(WatchArgs),
    /// Grant the verifiers of an identity no more leases: they stop deciding, each class when its budget ends
    Quarantine(QuarantineArgs),
    /// End a quarantine
    Release(ReleaseArgs),
    /// Take a verifier for gone that was killed and will not come back: nothing waits for it any more
    Forget(ForgetArgs),
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// For what.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The epoch. Left out: the current one
    #[arg(default_value_t = 0, hide_default_value = true)]
    epoch: u64,

    /// How long to wait at most. Left out: until it is everywhere
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Whom, and why.
#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    /// The verifiers' identity
    spiffe_id: String,

    /// Why; goes into the audit record
    #[arg(long)]
    reason: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Whom.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The verifiers' identity
    spiffe_id: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Whom, and why.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// The verifier's identity
    spiffe_id: String,

    /// Which of this identity: as much of its identifier as tells it from others. Left out: the only one that there is
    verifier_id: Option<String>,

    /// Why; goes into the audit record
    #[arg(long)]
    reason: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Fleet {
    epoch: u64,
    state_digest: String,
    live: u32,
    in_force: u32,
    verifiers: Vec<Verifier>,
}

#[derive(Debug, Serialize)]
struct Verifier {
    spiffe_id: String,
    verifier_id: String,
    instance_id: String,
    version: String,
    state: State,
    connected: bool,
    quarantined: bool,
    /// Unknown until it says so to the authority that runs now.
    acknowledged_epoch: Option<u64>,
    up_to_date: bool,
    /// Whether that epoch is on its disk.
    durable: Option<bool>,
    connected_at: Option<String>,
    last_seen_at: Option<String>,
    last_nack: Option<String>,
    decides_until: Option<At>,
    bounds: BTreeMap<String, At>,
}

/// What a verifier is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It has the current epoch.
    Current,
    /// It is connected, and has an earlier one.
    Behind,
    /// It is not connected.
    Away,
    /// It is granted nothing.
    Quarantined,
    /// It is connected, and has nothing to decide on yet.
    Cold,
}

impl State {
    fn of(verifier: &v1::Verifier, epoch: u64) -> Self {
        if verifier.quarantined {
            Self::Quarantined
        } else if !verifier.connected {
            Self::Away
        } else if verifier.acknowledged_epoch >= epoch {
            Self::Current
        } else if verifier.acknowledged_epoch == 0 && verifier.bounds.is_empty() {
            Self::Cold
        } else {
            Self::Behind
        }
    }

    fn text(self) -> Text {
        match self {
            Self::Current => Text::toned("current", Tone::Good),
            Self::Behind => Text::toned("behind", Tone::Warning),
            Self::Away => Text::toned("away", Tone::Bad),
            Self::Quarantined => Text::toned("quarantined", Tone::Bad),
            Self::Cold => Text::toned("cold", Tone::Warning),
        }
    }
}

/// Shows the verifiers, or does something about one.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: FleetArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        None => show(&args.connection, output).await,
        Some(FleetCommand::List(list)) => show(&list.connection, output).await,
        Some(FleetCommand::Watch(watch)) => watched(watch, output).await,
        Some(FleetCommand::Quarantine(quarantine)) => quarantined(quarantine, output).await,
        Some(FleetCommand::Release(release)) => released(release, output).await,
        Some(FleetCommand::Forget(forget)) => forgotten(forget, output).await,
    }
}

async fn show(args: &ConnectionArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(args).await?;
    let fleet = Fleet::read(list(&connection).await?);
    output.data(&fleet, |paint| fleet.table(paint))
}

/// The verifiers that the authority knows. What is said beside them is as of the first page.
///
/// # Errors
/// When the authority does not answer.
pub(crate) async fn list(connection: &Connection) -> Result<v1::ListVerifiersResponse, Failure> {
    let mut service = connection.fleet();
    let mut first = None;
    let listed = pages::all("cannot list the verifiers", async |page_token| {
        let request = v1::ListVerifiersRequest {
            page_size: pages::SIZE,
            page_token,
            lacking_epoch: 0,
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

async fn watched(args: WatchArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let epoch = Reach {
        epoch: args.epoch,
        ..Reach::default()
    };
    let reached = reach::follow(&connection, epoch, args.wait, output).await?;
    output.data(&reached, |_| reached.lines(SystemClock.now()))?;
    reach::complete(&reached)
}

async fn quarantined(args: QuarantineArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::QuarantineVerifierRequest {
        spiffe_id: args.spiffe_id.clone(),
        reason: args.reason,
    };
    let answer = connection.fleet().quarantine_verifier(request).await;
    let doing = format!("cannot put `{}` in quarantine", args.spiffe_id);
    let answer = answer
        .map_err(|status| Failure::answered(&doing, &status))?
        .into_inner();
    let bounds = reach::read_bounds(&answer.bounds);
    let files_until = At::read(answer.trust_files_until.as_ref());
    let until = reach::latest(&bounds).max(files_until);
    let value = serde_json::json!({
        "spiffe_id": args.spiffe_id, "quarantined": true, "decides_until": until, "bounds": bounds,
        "trust_files_until": files_until,
    });
    output.data(&value, |_| {
        let stops = match until {
            Some(until) => format!("decides until {} UTC", until.clock(SystemClock.now())),
            None => "decides nothing now".to_owned(),
        };
        format!("`{}` is in quarantine; it {stops}", args.spiffe_id)
    })
}

async fn released(args: ReleaseArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::ReleaseVerifierRequest {
        spiffe_id: args.spiffe_id.clone(),
    };
    let answer = connection.fleet().release_verifier(request).await;
    let doing = format!("cannot release `{}`", args.spiffe_id);
    answer.map_err(|status| Failure::answered(&doing, &status))?;
    let value = serde_json::json!({ "spiffe_id": args.spiffe_id, "quarantined": false });
    output.data(&value, |_| {
        format!("`{}` is no longer in quarantine", args.spiffe_id)
    })
}

async fn forgotten(args: ForgetArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let listed = list(&connection).await?.verifiers;
    let asked_for = args.verifier_id.as_deref().unwrap_or_default();
    let verifier_id = one(&listed, &args.spiffe_id, asked_for)?;
    let request = v1::ForgetVerifierRequest {
        spiffe_id: args.spiffe_id.clone(),
        verifier_id: verifier_id.clone(),
        reason: args.reason,
    };
    let answer = connection.fleet().forget_verifier(request).await;
    let name = reach::verifier(&args.spiffe_id, &verifier_id);
    let doing = format!("cannot forget {name}");
    answer.map_err(|status| Failure::answered(&doing, &status))?;
    let value = serde_json::json!({
        "spiffe_id": args.spiffe_id, "verifier_id": verifier_id, "forgotten": true,
    });
    output.data(&value, |_| {
        format!("forgot {name}: nothing waits for it any more")
    })
}

/// The one verifier of an identity whose identifier begins so.
fn one(listed: &[v1::Verifier], spiffe_id: &str, beginning: &str) -> Result<String, Failure> {
    let ids = || {
        let of_identity = listed.iter().filter(|verifier| verifier.spiffe_id == spiffe_id);
        of_identity.map(|verifier| &verifier.verifier_id)
    };
    if let Some(whole) = ids().find(|id| *id == beginning) {
        return Ok(whole.clone());
    }
    let mut found = ids().filter(|id| id.starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.clone()),
        (None, _) => {
            let message = format!("there is no verifier {}", reach::verifier(spiffe_id, beginning));
            Err(Failure::new(Exit::Failure, message).next("see `countersign fleet --json`"))
        }
        (Some(_), Some(_)) => {
            let message = format!("`{spiffe_id}` has several such verifiers");
            Err(Failure::usage(message).next("say which, by its identifier: `countersign fleet` shows it"))
        }
    }
}

impl Fleet {
    fn read(listed: v1::ListVerifiersResponse) -> Self {
        let epoch = listed.epoch;
        let verifiers: Vec<Verifier> = listed
            .verifiers
            .into_iter()
            .map(|verifier| Verifier::read(verifier, epoch))
            .collect();
        let live = verifiers
            .iter()
            .filter(|verifier| verifier.decides_until.is_some());
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            epoch,
            state_digest: present::hex(&listed.state_digest),
            live: count(live.clone().count()),
            in_force: count(
                live.filter(|verifier| verifier.acknowledged_epoch >= Some(epoch))
                    .count(),
            ),
            verifiers,
        }
    }

    fn table(&self, paint: Paint) -> String {
        if self.verifiers.is_empty() {
            return format!("epoch {}: no verifier is known", self.epoch);
        }
        let heading = [
            "VERIFIER",
            "STATE",
            "EPOCH",
            "ON DISK",
            "DECIDES UNTIL",
            "LAST SEEN",
            "REFUSED",
        ];
        let replicas = self.replicas();
        let rows = self.verifiers.iter().map(|verifier| {
            let name = if replicas.contains(verifier.spiffe_id.as_str()) {
                reach::verifier(&verifier.spiffe_id, &verifier.verifier_id)
            } else {
                verifier.spiffe_id.clone()
            };
            let until = verifier.decides_until.map(|until| present::time(until.0));
            vec![
                name.into(),
                verifier.state.text(),
                present::optional(verifier.acknowledged_epoch.map(|epoch| epoch.to_string())),
                present::optional(verifier.durable.map(yes_or_no)),
                present::optional(until),
                present::optional(verifier.last_seen_at.clone()),
                present::optional(verifier.last_nack.clone()),
            ]
        });
        let summary = reach::extent(self.in_force, self.live);
        format!(
            "{}\n\nepoch {}: {summary}",
            paint.table(&heading, rows.collect()),
            self.epoch
        )
    }

    /// The identities that several verifiers have.
    fn replicas(&self) -> BTreeSet<&str> {
        let ids = || self.verifiers.iter().map(|verifier| verifier.spiffe_id.as_str());
        // They are in the order of their identities.
        ids()
            .zip(ids().skip(1))
            .filter(|(one, next)| one == next)
            .map(|(one, _)| one)
            .collect()
    }
}

impl Verifier {
    fn read(verifier: v1::Verifier, epoch: u64) -> Self {
        let bounds = reach::read_bounds(&verifier.bounds);
        let acknowledged_epoch = reach::acknowledged(verifier.acknowledged_epoch);
        Self {
            state: State::of(&verifier, epoch),
            up_to_date: verifier.connected && verifier.acknowledged_epoch >= epoch,
            connected_at: present::wire_time(verifier.connected_at.as_ref()),
            last_seen_at: present::wire_time(verifier.last_seen_at.as_ref()),
            last_nack: Some(verifier.last_nack).filter(|nack| !nack.is_empty()),
            spiffe_id: verifier.spiffe_id,
            verifier_id: verifier.verifier_id,
            instance_id: verifier.instance_id,
            version: verifier.version,
            connected: verifier.connected,
            quarantined: verifier.quarantined,
            acknowledged_epoch,
            durable: acknowledged_epoch.map(|_| verifier.durable),
            decides_until: reach::latest(&bounds),
            bounds,
        }
    }
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests;
