//! `countersign key rotate`: the whole hand-over from one signing key to the next, without a token refused.
//!
//! ```text
//! prepare -> every verifier that decides holds the key -> activate -> it signs
//! ```
//!
//! The authority sees to it that nobody is left behind: it activates nothing before. Here it is waited for that, and told whom and
//! until when. A run that was broken off goes on where it stopped: a key that is prepared already is taken over.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use serde::Serialize;
use tokio::time::Instant;

use super::holders::{self, Holders};
use super::{activated, listed, prepared};
use crate::args::duration;
use crate::commands::reach::{self, Reach};
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::present;
use crate::progress::Waiting;

/// How long a key that is activated may take until it signs. An activation is announced a minute ahead at most.
const UNTIL_IT_SIGNS: Duration = Duration::from_secs(70);

/// How.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// `ES256`, `EdDSA` or `RS256`. Left out: the algorithm of the authority's configuration
    #[arg(long)]
    algorithm: Option<String>,

    /// How long to wait for the verifiers
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    wait: Duration,

    /// When the wait for the verifiers is over, go on without those that do not hold the key. They refuse its tokens until
    /// they do. The reason goes into the audit record
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    force: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A rotation, as far as it has come. Programs find every part in each.
#[derive(Debug, Serialize)]
struct Rotated {
    kid: String,
    algorithm: String,
    /// Whether it signs. Until then the one before does.
    signs: bool,
    previous: Option<String>,
    active_from: Option<String>,
    /// The epoch that lets it sign, once there is one.
    epoch: Option<u64>,
    #[serde(flatten)]
    holders: Holders,
    forced: bool,
}

/// Rotates.
///
/// # Errors
/// [`Failure`]; what was done until then stays done, and the message says what it is.
pub(super) async fn run(args: RotateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    rotate(&connection, &args, output).await
}

async fn rotate(connection: &Connection, args: &RotateArgs, output: Output) -> Result<(), Failure> {
    // Asked for also if there is one: an authority that lets nothing be changed says so before anything is waited for.
    let made = prepared(connection, args.algorithm.clone()).await;
    let keys = listed(connection).await?.keys;
    let key = match made {
        Ok((key, _epoch)) => key,
        Err(failure) if failure.reason.as_deref() == Some("key_already_prepared") => {
            let standby = standby(&keys, args.algorithm.as_deref())?;
            standby.cloned().ok_or(failure)?
        }
        Err(failure) => return Err(failure),
    };
    let previous = keys.iter().find(|key| key.state() == v1::KeyState::Active);
    let turn = Turn {
        connection,
        key: &key,
        previous: previous.map(|key| key.kid.as_str()),
        output,
    };
    let taken = turn.take(args.wait, args.force.as_deref()).await?;
    let ended = signs(connection, &taken.key, output).await;
    let rotated = Rotated {
        signs: ended.is_ok(),
        active_from: present::wire_time(taken.key.active_from.as_ref()),
        epoch: Some(taken.epoch),
        forced: taken.forced,
        ..turn.rotated(taken.holders)
    };
    if ended.is_ok() || output.is_json() {
        output.data(&rotated, |_| rotated.sentence())?;
    }
    ended
}

/// The key that is prepared and not yet told to sign.
pub(super) fn standby<'a>(
    keys: &'a [v1::Key],
    algorithm: Option<&str>,
) -> Result<Option<&'a v1::Key>, Failure> {
    let waits =
        |key: &&v1::Key| key.state() == v1::KeyState::Prepared && key.active_from.is_none() && !key.shadow;
    let found = keys.iter().find(waits);
    match (found, algorithm) {
        (Some(key), Some(algorithm)) if key.algorithm != algorithm => {
            let message = format!("a key for {} is prepared already", key.algorithm);
            let next = format!(
                "rotate to it, without `--algorithm`, or withdraw it: `countersign key retire {}`",
                key.kid
            );
            Err(Failure::new(Exit::Failure, message).next(next))
        }
        (found, _) => Ok(found),
    }
}

/// The moment at which a prepared key may sign.
struct Turn<'a> {
    connection: &'a Connection,
    key: &'a v1::Key,
    /// The one that signs until then.
    previous: Option<&'a str>,
    output: Output,
}

/// A key that was activated.
struct Taken {
    key: v1::Key,
    epoch: u64,
    /// Who held it by then.
    holders: Holders,
    forced: bool,
}

impl Turn<'_> {
    /// Activates the key once every verifier holds it. When that takes longer than `wait`, only if `force` says why.
    async fn take(&self, wait: Duration, force: Option<&str>) -> Result<Taken, Failure> {
        let reach = match self.when_held(wait).await? {
            Held::Taken(taken) => return Ok(*taken),
            Held::NotYet(reach) => reach,
        };
        let holders = Holders::lacking(self.connection, &reach).await?;
        let lines = holders.lines(&reach, SystemClock.now());
        let kid = &self.key.kid;
        let Some(reason) = force else {
            self.output.data(&self.rotated(holders), |_| {
                format!("{kid} is prepared and does not sign yet\n{lines}")
            })?;
            let message = format!("key {kid} does not sign yet: it is not held everywhere");
            let next = holders::next(&reach, "countersign key rotate");
            return Err(Failure::new(Exit::Unavailable, message).next(next));
        };
        self.output.warn(&format!(
            "key {kid} is not held everywhere, and signs all the same\n{lines}"
        ));
        let (key, epoch) = activated(self.connection, kid, Some(reason)).await?;
        Ok(Taken {
            key,
            epoch,
            holders,
            forced: true,
        })
    }

    /// The rotation before the key may sign.
    fn rotated(&self, holders: Holders) -> Rotated {
        Rotated {
            kid: self.key.kid.clone(),
            algorithm: self.key.algorithm.clone(),
            signs: false,
            previous: self.previous.map(str::to_owned),
            active_from: None,
            epoch: None,
            holders,
            forced: false,
        }
    }

    async fn when_held(&self, wait: Duration) -> Result<Held, Failure> {
        let ends = Instant::now() + wait;
        let mut waiting = Waiting::new(self.output, wait);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let published = Reach {
                epoch: self.key.published_in,
                ..Reach::default()
            };
            let reach = reach::follow(self.connection, published, Some(left), self.output).await?;
            if !reach.complete {
                return Ok(Held::NotYet(reach));
            }
            match activated(self.connection, &self.key.kid, None).await {
                Ok((key, epoch)) => {
                    return Ok(Held::Taken(Box::new(Taken {
                        key,
                        epoch,
                        holders: Holders::of(&reach),
                        forced: false,
                    })));
                }
                Err(failure) if failure.reason.as_deref() == Some("verifiers_behind") => {}
                Err(failure) => return Err(failure),
            }
            // It is in force, but a verifier that has a disk does not have it there yet.
            if !waiting.ask_again("verifiers write the key to disk").await {
                return Ok(Held::NotYet(reach));
            }
        }
    }
}

enum Held {
    Taken(Box<Taken>),
    NotYet(Reach),
}

async fn signs(connection: &Connection, key: &v1::Key, output: Output) -> Result<(), Failure> {
    let mut waiting = Waiting::new(output, UNTIL_IT_SIGNS);
    loop {
        let keys = listed(connection).await?.keys;
        let state = keys.iter().find(|found| found.kid == key.kid).map(v1::Key::state);
        match state {
            Some(v1::KeyState::Active) => return Ok(()),
            Some(v1::KeyState::Prepared) => {}
            Some(v1::KeyState::Retired | v1::KeyState::Compromised | v1::KeyState::Unspecified) | None => {
                let message = format!("key {} was withdrawn by somebody else", key.kid);
                return Err(Failure::new(Exit::Failure, message).next("see `countersign key list`"));
            }
        }
        let what = format!("key {} is about to sign", key.kid);
        if !waiting.ask_again(&what).await {
            let message = format!("key {} is activated, but does not sign yet", key.kid);
            return Err(Failure::new(Exit::Unavailable, message).next("see `countersign key list`"));
        }
    }
}

impl Rotated {
    fn sentence(&self) -> String {
        let previous = match &self.previous {
            Some(kid) => format!("\n{kid} no longer signs; its tokens stay good until they expire"),
            None => String::new(),
        };
        let from = self.active_from.as_deref().unwrap_or_default();
        let holders = present::count(self.holders.verifiers, "verifier");
        let epoch = self.epoch.unwrap_or_default();
        format!(
            "{} ({}) signs since {from}, held by {holders} before\nepoch {epoch}{previous}",
            self.kid, self.algorithm
        )
    }
}

#[cfg(test)]
mod tests;
