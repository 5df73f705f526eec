//! How far an epoch has come on the verifiers, and by when it is in force on all: read, shown, and waited for.
//!
//! The authority bounds it: whoever has not confirmed the epoch was granted a lease for an earlier one at a known time, and stops
//! when that and its budgets have ended. Once a bound was told it holds, so a later one does not put it off.

mod following;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use countersign_core::Timestamp;
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use serde::Serialize;

use crate::args::duration;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::present::{self, At};
pub(crate) use following::follow;

/// The most laggards that people are shown. Programs get all that the authority names.
const NAMED: usize = 10;

/// How much of a verifier's identifier people are shown. `fleet forget` takes as much of it as tells it from others.
const SHORT: usize = 8;

/// The state of a laggard that is not connected.
const AWAY: &str = "away";

/// How far an epoch has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reach {
    /// The epoch.
    pub(crate) epoch: u64,
    /// Verifiers that decide.
    pub(crate) live: u32,
    /// Those of them on which it is in force.
    pub(crate) in_force: u32,
    /// Those of them that hold it on disk.
    pub(crate) durable: u32,
    /// Whether nobody decides on anything earlier any more.
    pub(crate) complete: bool,
    /// By when that is so, in every class.
    pub(crate) by: Option<At>,
    /// By when, for each class in which it is not so yet.
    pub(crate) bounds: BTreeMap<String, At>,
    /// When the last trust file of an earlier epoch has expired, if there is one.
    pub(crate) trust_files_until: Option<At>,
    /// When the last token concerned has expired, if the authority says.
    pub(crate) tokens_end: Option<At>,
    /// Those on which it is not in force, the longest bound first.
    pub(crate) laggards: Vec<Laggard>,
}

/// A verifier on which an epoch is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Laggard {
    spiffe_id: String,
    verifier_id: String,
    state: &'static str,
    acknowledged_epoch: Option<u64>,
    until: Option<At>,
}

impl Reach {
    /// What the authority says.
    #[must_use]
    pub(crate) fn read(reach: v1::EpochReach) -> Self {
        let bounds = read_bounds(&reach.bounds);
        let trust_files_until = At::read(reach.trust_files_until.as_ref());
        Self {
            epoch: reach.epoch,
            live: reach.live,
            in_force: reach.in_force,
            durable: reach.durable,
            complete: reach.complete,
            by: latest(&bounds).max(trust_files_until),
            bounds,
            trust_files_until,
            tokens_end: At::read(reach.tokens_end.as_ref()),
            laggards: reach.laggards.into_iter().map(Laggard::read).collect(),
        }
    }

    /// Keeps to what was promised before: a bound that was told once is not put off. (After a restart the authority takes
    /// everybody to have been granted something until then.)
    #[must_use]
    fn within(mut self, promised: &BTreeMap<String, At>) -> Self {
        for (class, bound) in &mut self.bounds {
            if let Some(promised) = promised.get(class) {
                *bound = *promised.min(bound);
            }
        }
        self.by = latest(&self.bounds).max(self.trust_files_until);
        self
    }

    /// What it is at `now`, by the authority's clock: complete, once all bounds have passed.
    fn passed(&mut self, now: Timestamp) {
        self.complete = self.complete || self.by.is_some_and(|by| by.0 <= now);
    }

    /// Whether nothing but exported trust files is without it: about those there is nothing to be done but to wait.
    #[must_use]
    pub(crate) fn lacks_files_only(&self) -> bool {
        !self.complete
            && self.trust_files_until.is_some()
            && self.bounds.is_empty()
            && self.in_force >= self.live
    }

    /// In one sentence. `now` is for whether a date has to be told with a time.
    #[must_use]
    pub(crate) fn sentence(&self, now: Timestamp) -> String {
        let extent = extent(self.in_force, self.live);
        match self.by {
            Some(by) if self.in_force < self.live && self.complete => {
                let by = by.clock(now);
                format!("{extent}; safe on the others, too, since {by} UTC")
            }
            Some(by) if self.in_force < self.live => {
                format!(
                    "{extent} now; on all by {} UTC{}",
                    by.clock(now),
                    self.classes(now)
                )
            }
            Some(by) if !self.complete && self.bounds.is_empty() => {
                let by = by.clock(now);
                format!("{extent} now; safe everywhere by {by} UTC")
            }
            // In force, and on a disk that does not take it: it would come back with what is there.
            Some(by) if !self.complete => {
                let by = by.clock(now);
                format!("{extent} now; a crash brings nothing older back from {by} UTC on")
            }
            None if self.in_force < self.live && self.complete => {
                format!("{extent}; no token that it concerns is left on the others")
            }
            Some(_) | None => extent,
        }
    }

    /// The bound of each class, the earliest first, when there are several.
    fn classes(&self, now: Timestamp) -> String {
        if self.bounds.len() < 2 {
            return String::new();
        }
        let mut bounds: Vec<_> = self.bounds.iter().collect();
        bounds.sort_by_key(|(_, by)| **by);
        let bounds: Vec<String> = bounds
            .into_iter()
            .map(|(class, by)| format!("{class} {}", by.clock(now)))
            .collect();
        format!(" ({})", bounds.join(", "))
    }

    /// The sentence with the epoch, and a line for each laggard.
    #[must_use]
    pub(crate) fn lines(&self, now: Timestamp) -> String {
        let mut lines = vec![format!("epoch {}: {}", self.epoch, self.sentence(now))];
        if !self.complete {
            lines.extend(
                self.laggards(now)
                    .into_iter()
                    .map(|laggard| format!("  {laggard}")),
            );
        }
        lines.join("\n")
    }

    /// Those on which it is not in force, each with what it is and until when, and the trust files without it.
    #[must_use]
    pub(crate) fn laggards(&self, now: Timestamp) -> Vec<String> {
        let named = self.laggards.iter().take(NAMED);
        let mut lines: Vec<String> = named.map(|laggard| laggard.line(now)).collect();
        let all = usize::try_from(self.live.saturating_sub(self.in_force)).unwrap_or(usize::MAX);
        let all = all.max(self.laggards.len());
        match all.saturating_sub(lines.len()) {
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        if let Some(until) = self.trust_files_until {
            let until = until.clock(now);
            lines.push(format!(
                "exported trust files without it: decided on until {until} UTC"
            ));
        }
        lines
    }
}

impl Laggard {
    fn read(laggard: v1::Laggard) -> Self {
        let state = match (laggard.quarantined, laggard.connected) {
            (true, _) => "quarantined",
            (false, true) => "behind",
            (false, false) => AWAY,
        };
        Self {
            spiffe_id: laggard.spiffe_id,
            verifier_id: laggard.verifier_id,
            state,
            acknowledged_epoch: acknowledged(laggard.acknowledged_epoch),
            until: At::read(laggard.until.as_ref()),
        }
    }

    fn line(&self, now: Timestamp) -> String {
        let at = match self.acknowledged_epoch {
            None => String::new(),
            Some(epoch) => format!(" at epoch {epoch}"),
        };
        let until = match self.until {
            Some(until) => format!(", decides until {} UTC", until.clock(now)),
            None => String::new(),
        };
        let name = verifier(&self.spiffe_id, &self.verifier_id);
        format!("{name}: {}{at}{until}", self.state)
    }
}

/// The epoch that a verifier has acknowledged, if it has said so since the authority started.
#[must_use]
pub(crate) const fn acknowledged(epoch: u64) -> Option<u64> {
    match epoch {
        0 => None,
        epoch => Some(epoch),
    }
}

/// A verifier's name, with as much of its identifier as people need.
#[must_use]
pub(crate) fn verifier(spiffe_id: &str, verifier_id: &str) -> String {
    match verifier_id.get(..SHORT).unwrap_or(verifier_id) {
        "" => spiffe_id.to_owned(),
        short => format!("{spiffe_id} ({short})"),
    }
}

/// On how many of those that decide something is in force.
#[must_use]
pub(crate) fn extent(in_force: u32, live: u32) -> String {
    match live {
        0 => "no verifier decides anything now".to_owned(),
        1 if in_force >= live => "in force on the only verifier".to_owned(),
        live if in_force >= live => format!("in force on all {live} verifiers"),
        live => format!("in force on {in_force} of {}", present::count(live, "verifier")),
    }
}

/// The bounds of a message, by class.
#[must_use]
pub(crate) fn read_bounds(bounds: &[v1::ClassBound]) -> BTreeMap<String, At> {
    let read = |bound: &v1::ClassBound| Some((bound.class.clone(), At::read(bound.by.as_ref())?));
    bounds.iter().filter_map(read).collect()
}

/// The latest of them.
#[must_use]
pub(crate) fn latest(bounds: &BTreeMap<String, At>) -> Option<At> {
    bounds.values().max().copied()
}

/// Whether to wait for the verifiers.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until it is in force everywhere; with a duration, for so long at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Option<Duration>>,
}

/// What was done, with how far it has come.
#[derive(Debug, Serialize)]
struct Receipt<'a, T> {
    #[serde(flatten)]
    done: &'a T,
    #[serde(flatten)]
    reach: &'a Reach,
}

/// Tells people in `text` and programs by `done` what was done, and how far it has come. With `--wait` people are told again once
/// it is everywhere, and programs only then.
///
/// # Errors
/// [`Exit::Unavailable`] when it is not in force everywhere by the end of the wait.
pub(crate) async fn tell<T: Serialize>(
    connection: &Connection,
    done: &T,
    text: &str,
    answered: Option<v1::EpochReach>,
    wait: WaitArgs,
    output: Output,
) -> Result<(), Failure> {
    let receipt = |reach: &Reach| {
        let lines = reach.lines(SystemClock.now());
        output.data(&Receipt { done, reach }, |_| format!("{text}\n{lines}"))
    };
    let reach = Reach::read(answered.unwrap_or_default());
    let Some(limit) = wait.wait.filter(|_| !reach.complete) else {
        return receipt(&reach);
    };
    if !output.is_json() {
        receipt(&reach)?;
    }
    let followed = follow(connection, reach.clone(), limit, output).await;
    let last = followed.as_ref().unwrap_or(&reach);
    if output.is_json() {
        receipt(last)?;
    } else if last.complete {
        output.raw(&last.lines(SystemClock.now()))?;
    }
    let followed = followed.map_err(|failure| Failure {
        message: format!(
            "it is done, but how far it has come is not known: {}",
            failure.message
        ),
        ..failure
    })?;
    complete(&followed)
}

/// Whether it is everywhere.
///
/// # Errors
/// [`Exit::Unavailable`] when it is not.
pub(crate) fn complete(reach: &Reach) -> Result<(), Failure> {
    if reach.complete {
        return Ok(());
    }
    let sentence = reach.sentence(SystemClock.now());
    let message = format!("not in force everywhere yet: {sentence}");
    let mut next = format!("go on waiting: `countersign fleet watch {}`", reach.epoch);
    if reach.laggards.iter().any(|laggard| laggard.state == AWAY) {
        next.push_str("; one that is away because it was stopped for good: `countersign fleet forget`");
    }
    Err(Failure::new(Exit::Unavailable, message).next(next))
}

#[cfg(test)]
mod tests;
