//! `countersign key rotate`: the whole hand-over from one signing key to the next, without a token refused.
//!
//! ```text
//! prepare -> every verifier holds the key -> activate -> it signs
//! ```
//!
//! Waited for are the verifiers that the authority has seen since it started, also those that are away. A run that was broken off goes on where it stopped: a key that is prepared already is taken over.

use std::time::Duration;

use clap::Args;
use countersign_proto::admin::v1;
use serde::Serialize;

use super::{activated, listed, prepared};
use crate::args::duration;
use crate::commands::fleet::{self, Reach};
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
    /// they do
    #[arg(long)]
    force: bool,

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
    verifiers: usize,
    without: Vec<String>,
}

/// Rotates.
///
/// # Errors
/// [`Failure`]; what was done until then stays done, and the message says what it is.
pub(super) async fn run(args: RotateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let before = listed(&connection).await?;
    let previous = before.keys.iter().find(|key| key.state() == v1::KeyState::Active);
    let (key, epoch) = match standby(&before.keys, args.algorithm.as_deref())? {
        Some(key) => (key.clone(), before.epoch),
        None => prepared(&connection, args.algorithm.clone()).await?,
    };
    let reach = fleet::reached(&connection, epoch, args.wait, output).await?;
    if !reach.is_complete() {
        may_go_on(&key.kid, &reach, args.force, output)?;
    }
    let (key, epoch) = activated(&connection, key.kid).await?;
    signs(&connection, &key, output).await?;
    let rotated = Rotated {
        previous: previous.map(|key| key.kid.clone()),
        active_from: present::wire_time(key.active_from.as_ref()),
        kid: key.kid,
        algorithm: key.algorithm,
        epoch,
        verifiers: reach.in_force(),
        without: reach.without(),
    };
    output.data(&rotated, |_| rotated.sentence())
}

/// The key that is prepared and not yet told to sign.
fn standby<'a>(keys: &'a [v1::Key], algorithm: Option<&str>) -> Result<Option<&'a v1::Key>, Failure> {
    let waits = |key: &&v1::Key| key.state() == v1::KeyState::Prepared && key.active_from.is_none();
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

/// Whether a key signs although not every verifier is known to hold it.
fn may_go_on(kid: &str, reach: &Reach, forced: bool, output: Output) -> Result<(), Failure> {
    let message = format!(
        "key {kid} is prepared, but not yet held by every verifier: {}",
        reach.lacks()
    );
    if forced {
        output.warn(&format!("{message}; it signs all the same"));
        return Ok(());
    }
    let next = "repeat `countersign key rotate` once they hold it, or go on without them: `--force`";
    Err(Failure::new(Exit::Unavailable, message).next(next))
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
        assert!(standby(&keys[..2], None).expect("none").is_none());
    }
}
