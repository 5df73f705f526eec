//! `countersign key`: signing keys and their life.

mod drill;
mod holders;
mod publishing;
mod rotate;
mod users;

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use countersign_core::Timestamp;
use countersign_core::names::KeyId;
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use serde::Serialize;

use super::reach::{self, Reach, WaitArgs};
use crate::args::key_id;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Paint, Text, Tone};
use crate::present::{self, At};
use drill::DrillCommand;
use publishing::PublishingArgs;
use rotate::RotateArgs;
use users::UsersArgs;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show the keys that verifiers hold
    List(ListArgs),
    /// Make a key and publish it; it does not sign yet
    Prepare(PrepareArgs),
    /// Let the prepared key sign
    Activate(ActivateArgs),
    /// Prepare a key, wait until every verifier has it, activate it, and wait until it signs
    Rotate(RotateArgs),
    /// Withdraw a prepared key that never signed
    Retire(RetireArgs),
    /// Declare a key compromised: every token under it is refused, and another key signs at once
    Compromise(CompromiseArgs),
    /// Rehearse the compromise of a key, on one that nobody has, and show how long it takes everywhere
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Show who accepted tokens under a key since the authority started, and whose tokens those were
    Users(UsersArgs),
    /// Show or replace the keys that sign trust updates
    Publishing(PublishingArgs),
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which kind.
#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// `ES256`, `EdDSA` or `RS256`. Left out: the algorithm of the authority's configuration
    #[arg(long)]
    algorithm: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which key.
#[derive(Debug, Args)]
pub(crate) struct ActivateArgs {
    /// The key's `kid`. Left out: the prepared one
    #[arg(allow_hyphen_values = true, value_parser = key_id)]
    kid: Option<KeyId>,

    /// Do not wait for verifiers that do not hold the key, which refuse its tokens until they do. The reason goes into the
    /// audit record
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    force: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which key.
#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// The key's `kid`
    #[arg(allow_hyphen_values = true, value_parser = key_id)]
    kid: KeyId,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which key, and why.
#[derive(Debug, Args)]
pub(crate) struct CompromiseArgs {
    /// The key's `kid`
    #[arg(allow_hyphen_values = true, value_parser = key_id)]
    kid: KeyId,

    /// Why; goes into the audit record
    #[arg(long)]
    reason: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Keys {
    epoch: u64,
    keys: Vec<Key>,
    /// When the last trust file without the prepared key has expired, if there is one: the key waits for that, too.
    trust_files_until: Option<At>,
}

#[derive(Debug, Serialize)]
struct Key {
    kid: String,
    algorithm: String,
    state: &'static str,
    prepared_at: Option<String>,
    active_from: Option<String>,
    retired_from: Option<String>,
    compromised_at: Option<String>,
    acknowledged_by: u32,
    verifiers: u32,
    published_in: u64,
    shadow: bool,
    jwk: Option<serde_json::Value>,
}

/// What one step did.
#[derive(Debug, Serialize)]
struct Step {
    epoch: u64,
    key: Option<Key>,
}

/// Which key is withdrawn, and which signs now.
#[derive(Debug, Serialize)]
struct Compromised {
    compromised: String,
    key: Option<Key>,
}

/// Shows keys and moves them.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: KeyCommand, output: Output) -> Result<(), Failure> {
    match command {
        KeyCommand::List(args) => list(&args.connection, output).await,
        KeyCommand::Prepare(args) => prepare(args, output).await,
        KeyCommand::Activate(args) => activate(args, output).await,
        KeyCommand::Rotate(args) => rotate::run(args, output).await,
        KeyCommand::Retire(args) => retire(args, output).await,
        KeyCommand::Compromise(args) => compromise(args, output).await,
        KeyCommand::Drill(command) => drill::run(command, output).await,
        KeyCommand::Users(args) => users::run(args, output).await,
        KeyCommand::Publishing(args) => publishing::run(args, output).await,
    }
}

async fn list(args: &ConnectionArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(args).await?;
    let listed = listed(&connection).await?;
    let trust_files_until = match rotate::standby(&listed.keys, None)? {
        Some(key) => trust_files(&connection, key.published_in, output).await?,
        None => None,
    };
    let keys = Keys {
        epoch: listed.epoch,
        keys: listed.keys.into_iter().map(Key::read).collect(),
        trust_files_until,
    };
    output.data(&keys, |paint| keys.table(paint, SystemClock.now()))
}

/// Until when trust files from before `epoch` are decided on.
async fn trust_files(connection: &Connection, epoch: u64, output: Output) -> Result<Option<At>, Failure> {
    let published = Reach {
        epoch,
        ..Reach::default()
    };
    let reach = reach::follow(connection, published, Some(Duration::ZERO), output).await?;
    Ok(reach.trust_files_until)
}

async fn listed(connection: &Connection) -> Result<v1::ListKeysResponse, Failure> {
    let listed = connection.keys().list_keys(v1::ListKeysRequest {}).await;
    let listed = listed.map_err(|status| Failure::answered("cannot list the keys", &status))?;
    Ok(listed.into_inner())
}

async fn prepared(connection: &Connection, algorithm: Option<String>) -> Result<(v1::Key, u64), Failure> {
    let algorithm = algorithm.unwrap_or_default();
    let answer = connection
        .keys()
        .prepare_key(v1::PrepareKeyRequest { algorithm })
        .await;
    let answer = answer
        .map_err(|status| Failure::answered("cannot prepare a key", &status))?
        .into_inner();
    Ok((answer.key.ok_or_else(nothing)?, answer.epoch))
}

/// The key that signs soon, and the epoch that says so.
async fn activated(
    connection: &Connection,
    kid: &str,
    force: Option<&str>,
) -> Result<(v1::Key, u64), Failure> {
    let request = v1::ActivateKeyRequest {
        kid: kid.to_owned(),
        force_reason: force.unwrap_or_default().to_owned(),
    };
    let answer = connection.keys().activate_key(request).await;
    let answer = answer
        .map_err(|status| Failure::answered("cannot activate the key", &status))?
        .into_inner();
    Ok((answer.key.ok_or_else(nothing)?, answer.epoch))
}

async fn prepare(args: PrepareArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let (key, epoch) = prepared(&connection, args.algorithm).await?;
    let kid = key.kid.clone();
    let step = Step {
        epoch,
        key: Some(Key::read(key)),
    };
    output.data(&step, |_| {
        format!("prepared {kid} at epoch {epoch}; it does not sign yet")
    })
}

async fn activate(args: ActivateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let (key, epoch) = activated(
        &connection,
        args.kid.as_ref().map_or("", KeyId::as_str),
        args.force.as_deref(),
    )
    .await?;
    let kid = key.kid.clone();
    let from = present::wire_time(key.active_from.as_ref()).unwrap_or_default();
    let step = Step {
        epoch,
        key: Some(Key::read(key)),
    };
    output.data(&step, |_| {
        format!("activated {kid} at epoch {epoch}; it signs from {from}")
    })
}

async fn retire(args: RetireArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let kid = args.kid.to_string();
    let answer = connection.keys().retire_key(v1::RetireKeyRequest { kid }).await;
    let epoch = answer
        .map_err(|status| Failure::answered("cannot retire the key", &status))?
        .into_inner()
        .epoch;
    output.data(&Step { epoch, key: None }, |_| {
        format!("withdrew {} at epoch {epoch}", args.kid)
    })
}

async fn compromise(args: CompromiseArgs, output: Output) -> Result<(), Failure> {
    output.confirm(
        "every token under this key is refused from now on, everywhere",
        args.kid.as_str(),
        args.yes,
    )?;
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::CompromiseKeyRequest {
        kid: args.kid.to_string(),
        reason: args.reason,
    };
    let answer = connection.keys().compromise_key(request).await;
    let doing = "cannot declare the key compromised";
    let answer = answer
        .map_err(|status| Failure::answered(doing, &status))?
        .into_inner();
    let kid = args.kid.to_string();
    let signs = match &answer.signing_key {
        Some(key) => format!("{} signs now", key.kid),
        None => "no key signs now".to_owned(),
    };
    let told = format!(
        "{kid} is compromised: its tokens are refused from epoch {} on\n{signs}",
        answer.epoch
    );
    let done = Compromised {
        compromised: kid,
        key: answer.signing_key.map(Key::read),
    };
    reach::tell(&connection, &done, &told, answer.reach, args.wait, output).await
}

/// The keys that sign trust updates, as a JWK Set.
///
/// # Errors
/// When the authority does not answer.
pub(crate) async fn publishing_keys(connection: &Connection) -> Result<String, Failure> {
    let answer = connection
        .keys()
        .get_publishing_keys(v1::GetPublishingKeysRequest {})
        .await;
    let answer = answer.map_err(|status| Failure::answered("cannot get the publishing keys", &status))?;
    Ok(answer.into_inner().jwks)
}

fn nothing() -> Failure {
    Failure::new(Exit::Failure, "the authority answered without the key")
}

impl Key {
    fn read(key: v1::Key) -> Self {
        let time = |time: &Option<prost_types::Timestamp>| present::wire_time(time.as_ref());
        Self {
            state: match key.state() {
                v1::KeyState::Unspecified => "unknown",
                v1::KeyState::Prepared => "prepared",
                v1::KeyState::Active => "active",
                v1::KeyState::Retired => "retired",
                v1::KeyState::Compromised => "compromised",
            },
            prepared_at: time(&key.prepared_at),
            active_from: time(&key.active_from),
            retired_from: time(&key.retired_from),
            compromised_at: time(&key.compromised_at),
            acknowledged_by: key.acknowledged_by,
            verifiers: key.verifiers,
            published_in: key.published_in,
            shadow: key.shadow,
            jwk: serde_json::from_str(&key.jwk).ok(),
            kid: key.kid,
            algorithm: key.algorithm,
        }
    }
}

impl Keys {
    fn table(&self, paint: Paint, now: Timestamp) -> String {
        let rows = self.keys.iter().map(|key| {
            let tone = match key.state {
                "active" => Tone::Good,
                "compromised" => Tone::Bad,
                _ => Tone::Plain,
            };
            vec![
                key.kid.as_str().into(),
                key.algorithm.as_str().into(),
                match key.shadow {
                    true => Text::toned(format!("{} (drill)", key.state), Tone::Faint),
                    false => Text::toned(key.state, tone),
                },
                present::optional(key.prepared_at.clone()),
                present::optional(key.active_from.clone()),
                present::optional(key.retired_from.clone()),
                format!("{} of {}", key.acknowledged_by, key.verifiers).into(),
            ]
        });
        let heading = [
            "KEY",
            "ALGORITHM",
            "STATE",
            "PREPARED",
            "SIGNS FROM",
            "SIGNED UNTIL",
            "HELD BY",
        ];
        let files = match self.trust_files_until {
            Some(until) => format!(
                "; exported trust files without the prepared key are decided on until {} UTC",
                until.clock(now)
            ),
            None => String::new(),
        };
        format!(
            "{}\n\nepoch {}{files}",
            paint.table(&heading, rows.collect()),
            self.epoch
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HELD BY is of verifiers. What holds a key up although they all have it is told, too.
    #[test]
    fn trust_files_without_the_prepared_key_are_told_of() {
        let now = Timestamp::from_seconds(1_800_021_600);
        let mut keys = Keys {
            epoch: 7,
            keys: vec![Key::read(v1::Key {
                acknowledged_by: 2,
                verifiers: 2,
                ..v1::Key::default()
            })],
            trust_files_until: Some(At(Timestamp::from_seconds(1_800_021_900))),
        };
        let table = keys.table(Paint::plain(), now);
        assert!(
            table.ends_with(
                "2 of 2\n\nepoch 7; exported trust files without the prepared key are decided on until 14:05:00 UTC"
            ),
            "{table}"
        );
        keys.trust_files_until = None;
        assert!(keys.table(Paint::plain(), now).ends_with("2 of 2\n\nepoch 7"));
    }
}
