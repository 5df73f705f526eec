//! `countersign key drill`: rehearses the compromise of a key, ends a rehearsal before its time, and shows how earlier ones went.
//!
//! The authority carries a drill out. Here it is watched; when the connection breaks off, its record is asked for until it has
//! ended.

mod view;

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use countersign_wire::write_duration;
use tokio::time::timeout;
use tonic::Streaming;

use crate::args::duration;
use crate::commands::reach::Reach;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::progress::{Tally, Waiting};
use view::{Drill, Drills};

/// How much longer than it waits for verifiers a drill takes: for the store, and a restart of the authority.
const MARGIN: Duration = Duration::from_secs(60);

/// What to do with drills.
#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Publish a key that nobody has, withdraw it as if it were compromised, and measure how long that takes everywhere
    Run(RunArgs),
    /// End the drill that runs, before its time
    Abort(AbortArgs),
    /// Show the drills that were run
    List(ListArgs),
    /// Show one, with the verifiers that were slowest or did not follow
    Show(ShowArgs),
}

/// Why, and how long.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Why; goes into the audit record and the history
    #[arg(long)]
    reason: String,

    /// How long to wait until every verifier holds the key, and again until every one refuses it; an hour at most
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    wait: Duration,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which, and why.
#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    /// The drill's number; without it, whichever runs
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,

    /// Why; goes into the audit record and the history
    #[arg(long)]
    reason: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The drill's number
    id: u64,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs a drill, aborts it, or shows some.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run(command: DrillCommand, output: Output) -> Result<(), Failure> {
    match command {
        DrillCommand::Run(run) => rehearsed(run, output).await,
        DrillCommand::Abort(abort) => aborted(abort, output).await,
        DrillCommand::List(list) => listed(&list.connection, output).await,
        DrillCommand::Show(show) => shown(&show, output).await,
    }
}

async fn aborted(args: AbortArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::AbortDrillRequest {
        id: args.id.unwrap_or_default(),
        reason: args.reason,
    };
    let doing = "cannot abort the drill";
    let answered = connection.drills().abort_drill(request).await;
    let answered = answered.map_err(|status| Failure::answered(doing, &status))?;
    let drill = Drill::read(named(answered.into_inner().drill, doing)?);
    output.data(&drill, |_| drill.lines(SystemClock.now()))
}

async fn listed(args: &ConnectionArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(args).await?;
    let listed = connection.drills().list_drills(v1::ListDrillsRequest {}).await;
    let listed = listed.map_err(|status| Failure::answered("cannot list the drills", &status))?;
    let drills = Drills::read(listed.into_inner());
    output.data(&drills, |paint| drills.table(paint))
}

async fn shown(args: &ShowArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let drill = Drill::read(found(&connection, args.id).await?);
    output.data(&drill, |_| drill.lines(SystemClock.now()))
}

async fn found(connection: &Connection, id: u64) -> Result<v1::Drill, Failure> {
    let doing = format!("cannot show drill {id}");
    let got = connection.drills().get_drill(v1::GetDrillRequest { id }).await;
    let got = got.map_err(|status| Failure::answered(&doing, &status))?;
    named(got.into_inner().drill, &doing)
}

fn named(drill: Option<v1::Drill>, doing: &str) -> Result<v1::Drill, Failure> {
    let nothing = || {
        Failure::new(
            Exit::Failure,
            format!("{doing}: the authority answered without it"),
        )
    };
    drill.ok_or_else(nothing)
}

async fn rehearsed(args: RunArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::RunDrillRequest {
        reason: args.reason,
        wait: Some(write_duration(args.wait)),
    };
    let mut service = connection.rehearsing();
    let doing = "cannot run a drill";
    let begun = timeout(connection.timeout, service.run_drill(request)).await;
    let begun = begun.map_err(|_elapsed| {
        let message = format!("{doing}: the authority does not answer");
        Failure::new(Exit::Unavailable, message).next("see whether it runs: `countersign key drill list`")
    })?;
    let stream = begun.map_err(|status| Failure::answered(doing, &status))?;
    let last = match watched(stream.into_inner(), output).await? {
        Watched::Ended(drill) => *drill,
        // It goes on, whoever looks.
        Watched::Lost(id) => followed(&connection, id, args.wait, output).await?,
    };
    let drill = Drill::read(last);
    output.data(&drill, |_| drill.lines(SystemClock.now()))?;
    drill.complete()
}

/// What became of a drill that was watched.
enum Watched {
    /// It is over.
    Ended(Box<v1::Drill>),
    /// It is not known: the connection is gone.
    Lost(u64),
}

async fn watched(mut stream: Streaming<v1::RunDrillResponse>, output: Output) -> Result<Watched, Failure> {
    let mut tally = Tally::new(output);
    let mut id = None;
    loop {
        let told = match (stream.message().await, id) {
            (Ok(Some(told)), _) => told,
            (Ok(None) | Err(_), Some(id)) => return Ok(Watched::Lost(id)),
            (Ok(None), None) => {
                return Err(Failure::new(
                    Exit::Failure,
                    "the authority says nothing of the drill",
                ));
            }
            (Err(status), None) => return Err(Failure::answered("cannot watch the drill", &status)),
        };
        let drill = told.drill.unwrap_or_default();
        if drill.state() != v1::DrillState::Running {
            return Ok(Watched::Ended(Box::new(drill)));
        }
        let reach = Reach::read(told.reach.unwrap_or_default());
        let doing = if drill.withdrawn_at.is_some() {
            "the withdrawal is"
        } else {
            "the shadow key is"
        };
        let line = format!(
            "drill {}: {doing} {}",
            drill.id,
            reach.sentence(SystemClock.now())
        );
        tally.show((reach.in_force, reach.live), &line, None);
        id = Some(drill.id);
    }
}

/// The drill once it is over.
async fn followed(
    connection: &Connection,
    id: u64,
    wait: Duration,
    output: Output,
) -> Result<v1::Drill, Failure> {
    let mut waiting = Waiting::new(output, wait.saturating_mul(2).saturating_add(MARGIN));
    let what = format!("drill {id} goes on; the connection is gone");
    loop {
        let found = found(connection, id).await;
        match found {
            Ok(drill) if drill.state() != v1::DrillState::Running => return Ok(drill),
            Err(failure) if failure.exit != Exit::Unavailable => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        if !waiting.ask_again(&what).await {
            let message = format!("drill {id} is not over yet, as far as is known");
            let next = format!("see `countersign key drill show {id}`");
            return Err(Failure::new(Exit::Unavailable, message).next(next));
        }
    }
}

#[cfg(test)]
mod tests;
