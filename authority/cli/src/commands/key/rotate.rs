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

use super::{activated, listed, prepared};
use crate::args::duration;
use crate::commands::fleet;
use crate::commands::reach::{self, Laggard, Reach};
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

#[derive(Debug, Serialize)]
struct Rotated {
    kid: String,
    algorithm: String,
    previous: Option<String>,
    active_from: Option<String>,
    epoch: u64,
    verifiers: u32,
    laggards: Vec<Laggard>,
    forced: bool,
}

/// Rotates.
///
/// # Errors
/// [`Failure`]; what was done until then stays done, and the message says what it is.
pub(super) async fn run(args: RotateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let before = listed(&connection).await?;
    let previous = before.keys.iter().find(|key| key.state() == v1::KeyState::Active);
    let key = match standby(&before.keys, args.algorithm.as_deref())? {
        Some(key) => key.clone(),
        None => prepared(&connection, args.algorithm.clone()).await?.0,
    };
    let turn = Turn {
        connection: &connection,
        key: &key,
        output,
    };
    let taken = turn.take(args.wait, args.force.as_deref()).await?;
    signs(&connection, &taken.key, output).await?;
    let rotated = Rotated {
        previous: previous.map(|key| key.kid.clone()),
        active_from: present::wire_time(taken.key.active_from.as_ref()),
        kid: taken.key.kid,
        algorithm: taken.key.algorithm,
        epoch: taken.epoch,
        verifiers: taken.reach.in_force,
        laggards: taken.reach.laggards,
        forced: taken.forced,
    };
    output.data(&rotated, |_| rotated.sentence())
}

/// The key that is prepared and not yet told to sign.
fn standby<'a>(keys: &'a [v1::Key], algorithm: Option<&str>) -> Result<Option<&'a v1::Key>, Failure> {
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
    output: Output,
}

/// A key that was activated.
struct Taken {
    key: v1::Key,
    epoch: u64,
    /// How far the key had come by then.
    reach: Reach,
    forced: bool,
}

impl Turn<'_> {
    /// Activates the key once every verifier holds it. When that takes longer than `wait`, only if `force` says why.
    async fn take(&self, wait: Duration, force: Option<&str>) -> Result<Taken, Failure> {
        let reach = match self.when_held(wait).await? {
            Held::Taken(taken) => return Ok(*taken),
            Held::NotYet(reach) => reach,
        };
        let lacks = self.lacks(&reach).await?;
        let message = format!("key {} is prepared, but {lacks}", self.key.kid);
        let Some(reason) = force else {
            return Err(Failure::new(Exit::Unavailable, message).next(NEXT));
        };
        self.output.warn(&format!("{message}; it signs all the same"));
        let (key, epoch) = activated(self.connection, &self.key.kid, Some(reason)).await?;
        Ok(Taken {
            key,
            epoch,
            reach,
            forced: true,
        })
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
                        reach,
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

    /// Who does not hold the key.
    async fn lacks(&self, reach: &Reach) -> Result<String, Failure> {
        let now = SystemClock.now();
        let sentence = reach.sentence(now);
        if !reach.complete {
            return Ok(format!("{sentence}: {}", reach.laggards(now).join("; ")));
        }
        let verifiers = fleet::list(self.connection).await?.verifiers;
        let without = verifiers.iter().filter(|verifier| !verifier.durable);
        let names: Vec<String> = without
            .map(|verifier| reach::verifier(&verifier.spiffe_id, &verifier.verifier_id))
            .collect();
        Ok(format!("{sentence}, but not on the disk of {}", names.join(", ")))
    }
}

enum Held {
    Taken(Box<Taken>),
    NotYet(Reach),
}

/// What an operator can do about verifiers that do not hold a key.
const NEXT: &str = "repeat `countersign key rotate` to wait on; `countersign fleet forget` those that are gone for good, \
                    `countersign fleet quarantine` those whose disk does not work, or go on without them: `--force REASON`";

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
        let holders = present::count(self.verifiers, "verifier");
        format!(
            "{} ({}) signs since {from}, held by {holders} before\nepoch {}{previous}",
            self.kid, self.algorithm, self.epoch
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str, state: v1::KeyState, algorithm: &str, told: bool) -> v1::Key {
        v1::Key {
            kid: kid.to_owned(),
            algorithm: algorithm.to_owned(),
            state: state.into(),
            active_from: told.then(prost_types::Timestamp::default),
            ..v1::Key::default()
        }
    }

    #[test]
    fn a_rotation_takes_over_what_is_prepared() {
        let keys = [
            key("a", v1::KeyState::Active, "ES256", true),
            key("b", v1::KeyState::Prepared, "ES256", true),
            v1::Key {
                shadow: true,
                ..key("drill", v1::KeyState::Prepared, "ES256", false)
            },
            key("c", v1::KeyState::Prepared, "ES256", false),
        ];
        let found = |algorithm| standby(&keys, algorithm).map(|key| key.map(|key| key.kid.as_str()));
        assert_eq!(found(None).expect("one"), Some("c"));
        assert_eq!(found(Some("ES256")).expect("one"), Some("c"));
        assert!(
            found(Some("EdDSA"))
                .expect_err("another")
                .next
                .is_some_and(|next| next.contains("retire c"))
        );
        assert!(standby(&keys[..3], None).expect("none").is_none());
    }
}
