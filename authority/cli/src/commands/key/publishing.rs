//! `countersign key publishing`: the keys that sign trust updates, and how verifiers are led from one to the next.
//!
//! ```text
//! prepare -> every verifier that decides holds the key -> activate -> retire the one before
//! ```
//!
//! Verifiers that are running need no other pin for it. Those that come later do, once the links are no longer kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use serde::Serialize;
use tokio::time::Instant;

use super::holders::{self, Holders};
use super::publishing_keys;
use crate::args::duration;
use crate::commands::reach::{self, Reach};
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};
use crate::output::Output;
use crate::progress::Waiting;

/// What to do. Left out: show them.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PublishingArgs {
    #[command(subcommand)]
    command: Option<PublishingCommand>,

    #[command(flatten)]
    show: ShowArgs,
}

/// What to do with the keys that sign trust updates.
#[derive(Debug, Subcommand)]
enum PublishingCommand {
    /// Write the keys that sign trust updates: what a sidecar's `publishing_keys` names
    Show(ShowArgs),
    /// Make a key and lead verifiers to the set with it; it does not sign yet
    Prepare(ChangeArgs),
    /// Let the prepared key sign what is published
    Activate(ActivateArgs),
    /// Forget the key that no longer signs, or one that is prepared and not wanted
    Retire(ChangeArgs),
    /// Prepare a key, wait until every verifier has it, activate it, and retire the one before
    Rotate(RotateArgs),
}

/// Where to.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The file to write. Left out, or `-`: stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Where.
#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which key.
#[derive(Debug, Args)]
struct ActivateArgs {
    /// Do not wait for verifiers that do not hold the key, which are led to it when they come back. The reason goes into the
    /// audit record
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    force: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// How.
#[derive(Debug, Args)]
struct RotateArgs {
    /// How long to wait for the verifiers
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    wait: Duration,

    /// When the wait for the verifiers is over, go on without those that do not hold the key. The reason goes into the audit
    /// record
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    force: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Publishers {
    generation: u64,
    epoch: u64,
    keys: Vec<Key>,
}

/// The keys while not everybody holds the one that is prepared.
#[derive(Debug, Serialize)]
struct Pending {
    #[serde(flatten)]
    publishers: Publishers,
    #[serde(flatten)]
    holders: Holders,
}

#[derive(Debug, Serialize)]
struct Key {
    kid: String,
    state: &'static str,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run(args: PublishingArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        None => show(args.show, output).await,
        Some(PublishingCommand::Show(args)) => show(args, output).await,
        Some(PublishingCommand::Prepare(args)) => {
            let connection = Connection::operator(&args.connection).await?;
            tell(&prepared(&connection).await?, output)
        }
        Some(PublishingCommand::Activate(args)) => {
            let connection = Connection::operator(&args.connection).await?;
            tell(&activated(&connection, args.force.as_deref()).await?, output)
        }
        Some(PublishingCommand::Retire(args)) => {
            let connection = Connection::operator(&args.connection).await?;
            tell(&retired(&connection).await?, output)
        }
        Some(PublishingCommand::Rotate(args)) => rotate(args, output).await,
    }
}

async fn show(args: ShowArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let jwks = publishing_keys(&connection).await?;
    match args.out.filter(|path| path != Path::new("-")) {
        None => output.raw(&jwks),
        Some(path) => {
            files::write(&path, format!("{jwks}\n").as_bytes(), Audience::Everybody)?;
            output.note(&format!("wrote `{}`", path.display()));
            Ok(())
        }
    }
}

/// A run that was broken off goes on where it stopped: with the key that is prepared, or with the one to retire.
async fn rotate(args: RotateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let publishers = listed(&connection).await?;
    if find(&publishers, v1::KeyState::Retired).is_none() {
        // Asked for also if there is one: an authority that lets nothing be changed says so before anything is waited for.
        let publishers = match prepared(&connection).await {
            Err(failure) if failure.reason.as_deref() == Some("key_already_prepared") => publishers,
            made => made?,
        };
        when_held(&connection, &publishers, &args, output).await?;
    }
    tell(&retired(&connection).await?, output)
}

/// Activates the prepared key once every verifier holds it. When that takes longer than the wait, only with a reason.
async fn when_held(
    connection: &Connection,
    publishers: &v1::PublisherSetView,
    args: &RotateArgs,
    output: Output,
) -> Result<(), Failure> {
    let ends = Instant::now() + args.wait;
    let mut waiting = Waiting::new(output, args.wait);
    let behind = loop {
        let left = ends.saturating_duration_since(Instant::now());
        let published = Reach {
            epoch: publishers.published_in,
            ..Reach::default()
        };
        let reach = reach::follow(connection, published, Some(left), output).await?;
        if !reach.complete {
            break reach;
        }
        match activated(connection, None).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.reason.as_deref() == Some("verifiers_behind") => {}
            Err(failure) => return Err(failure),
        }
        // It is in force, but a verifier that has a disk does not have it there yet.
        if !waiting.ask_again("verifiers write the key to disk").await {
            break reach;
        }
    };
    let holders = Holders::lacking(connection, &behind).await?;
    let lines = holders.lines(&behind, SystemClock.now());
    let Some(reason) = &args.force else {
        let pending = Pending {
            publishers: Publishers::read(publishers),
            holders,
        };
        output.data(&pending, |_| format!("{}\n{lines}", pending.publishers.keys()))?;
        let message = "the prepared publishing key does not sign yet: it is not held everywhere";
        let next = holders::next(&behind, "countersign key publishing rotate");
        return Err(Failure::new(Exit::Unavailable, message).next(next));
    };
    output.warn(&format!(
        "the prepared publishing key is not held everywhere, and signs all the same\n{lines}"
    ));
    activated(connection, Some(reason)).await.map(drop)
}

async fn listed(connection: &Connection) -> Result<v1::PublisherSetView, Failure> {
    let answer = connection
        .publishing_keys()
        .list_publishing_keys(v1::ListPublishingKeysRequest {})
        .await;
    let answer = answer.map_err(|status| Failure::answered("cannot list the publishing keys", &status))?;
    answer.into_inner().publishers.ok_or_else(nothing)
}

/// What the authority refused, with what to do about it where the same reason is about signing keys elsewhere.
fn answered(doing: &str, status: &tonic::Status) -> Failure {
    let failure = Failure::answered(doing, status);
    let next = match failure.reason.as_deref() {
        Some("key_already_prepared") => {
            "go on with `countersign key publishing rotate`, or with `activate` and `retire`"
        }
        Some("key_not_prepared") => "begin with `countersign key publishing rotate`, or with `prepare`",
        Some("key_not_retirable" | "key_unknown") => "see `countersign key publishing`",
        Some("verifiers_behind") => {
            "wait for them with `countersign key publishing rotate`, see who they are with `countersign fleet`, or go on without \
             them: `--force REASON`"
        }
        Some(_) | None => return failure,
    };
    failure.next(next)
}

async fn prepared(connection: &Connection) -> Result<v1::PublisherSetView, Failure> {
    let answer = connection
        .publishing_keys()
        .prepare_publishing_key(v1::PreparePublishingKeyRequest {})
        .await;
    let answer = answer.map_err(|status| answered("cannot prepare a publishing key", &status))?;
    answer.into_inner().publishers.ok_or_else(nothing)
}

async fn activated(connection: &Connection, force: Option<&str>) -> Result<v1::PublisherSetView, Failure> {
    let request = v1::ActivatePublishingKeyRequest {
        kid: String::new(),
        force_reason: force.unwrap_or_default().to_owned(),
    };
    let answer = connection
        .publishing_keys()
        .activate_publishing_key(request)
        .await;
    let answer = answer.map_err(|status| answered("cannot activate the publishing key", &status))?;
    answer.into_inner().publishers.ok_or_else(nothing)
}

async fn retired(connection: &Connection) -> Result<v1::PublisherSetView, Failure> {
    let answer = connection
        .publishing_keys()
        .retire_publishing_key(v1::RetirePublishingKeyRequest {})
        .await;
    let answer = answer.map_err(|status| answered("cannot retire a publishing key", &status))?;
    answer.into_inner().publishers.ok_or_else(nothing)
}

fn nothing() -> Failure {
    Failure::new(Exit::Failure, "the authority answered without the keys")
}

fn find(publishers: &v1::PublisherSetView, state: v1::KeyState) -> Option<&v1::PublishingKey> {
    publishers.keys.iter().find(|key| key.state() == state)
}

const fn word(state: v1::KeyState) -> &'static str {
    match state {
        v1::KeyState::Active => "signs",
        v1::KeyState::Prepared => "is prepared",
        v1::KeyState::Retired => "no longer signs",
        v1::KeyState::Compromised | v1::KeyState::Unspecified => "is unknown",
    }
}

fn tell(publishers: &v1::PublisherSetView, output: Output) -> Result<(), Failure> {
    let told = Publishers::read(publishers);
    output.data(&told, |_| told.sentence())
}

impl Publishers {
    fn read(publishers: &v1::PublisherSetView) -> Self {
        let keys = publishers.keys.iter().map(|key| Key {
            kid: key.kid.clone(),
            state: word(key.state()),
        });
        Self {
            generation: publishers.generation,
            epoch: publishers.epoch,
            keys: keys.collect(),
        }
    }

    /// A line for each key.
    fn keys(&self) -> String {
        let keys = self.keys.iter().map(|key| format!("{} {}", key.kid, key.state));
        let keys: Vec<String> = keys.collect();
        keys.join("\n")
    }

    fn sentence(&self) -> String {
        format!(
            "{}\ngeneration {}, epoch {}",
            self.keys(),
            self.generation,
            self.epoch
        )
    }
}
