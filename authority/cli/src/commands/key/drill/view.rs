//! Drills as they are shown.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_proto::admin::v1;
use countersign_wire::read_duration;
use serde::Serialize;

use crate::commands::reach;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, Text, Tone};
use crate::present::{self, At};

/// The most verifiers that people are shown. Programs get all that the authority names.
const NAMED: usize = 10;

/// Those that were run, the last one first.
#[derive(Debug, Serialize)]
pub(super) struct Drills {
    drills: Vec<Drill>,
}

/// A drill. Lengths of time are in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Drill {
    id: u64,
    state: &'static str,
    kid: String,
    started_by: String,
    reason: String,
    published_at: Option<At>,
    published_in: u64,
    held_at: Option<At>,
    held_after_ms: Option<f64>,
    withdrawn_at: Option<At>,
    withdrawn_in: Option<u64>,
    safe_at: Option<At>,
    time_to_safe_ms: Option<f64>,
    ended_at: Option<At>,
    aborted_by: Option<String>,
    abort_reason: Option<String>,
    verifiers: u64,
    acknowledged: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    responses: Vec<Response>,
    unnamed: u64,
}

/// How a verifier answered to the withdrawal.
#[derive(Debug, Serialize)]
struct Response {
    spiffe_id: String,
    verifier_id: String,
    took_ms: Option<f64>,
    decides_until: Option<At>,
}

fn millis(duration: Option<&prost_types::Duration>) -> Option<f64> {
    let duration = read_duration(duration?)?;
    // To the microsecond: what is finer is the scheduler's.
    let micros = Duration::from_micros(u64::try_from(duration.as_micros()).ok()?);
    Some(micros.as_secs_f64() * 1000.0)
}

fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl Drills {
    pub(super) fn read(listed: v1::ListDrillsResponse) -> Self {
        Self {
            drills: listed.drills.into_iter().map(Drill::read).collect(),
        }
    }

    pub(super) fn table(&self, paint: Paint) -> String {
        if self.drills.is_empty() {
            return "no drill was run yet".to_owned();
        }
        let heading = [
            "DRILL",
            "STARTED",
            "OUTCOME",
            "VERIFIERS",
            "TIME TO SAFE",
            "P50",
            "P99",
            "MAX",
            "REASON",
        ];
        let rows = self.drills.iter().map(|drill| {
            let tone = match drill.state {
                "complete" => Tone::Good,
                "running" => Tone::Plain,
                _ => Tone::Warning,
            };
            vec![
                drill.id.to_string().into(),
                present::optional(drill.published_at.map(|at| present::time(at.0))),
                Text::toned(drill.state, tone),
                format!("{} of {}", drill.acknowledged, drill.verifiers).into(),
                shown(drill.time_to_safe_ms),
                shown(drill.p50_ms),
                shown(drill.p99_ms),
                shown(drill.max_ms),
                drill.reason.as_str().into(),
            ]
        });
        paint.table(&heading, rows.collect())
    }
}

fn shown(millis: Option<f64>) -> Text {
    present::optional(millis.map(length))
}

/// A length of time as people write it.
fn length(millis: f64) -> String {
    if millis < 10_000.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{:.1} s", millis / 1000.0)
    }
}

impl Drill {
    pub(super) fn read(drill: v1::Drill) -> Self {
        Self {
            id: drill.id,
            state: match drill.state() {
                v1::DrillState::Unspecified => "unknown",
                v1::DrillState::Running => "running",
                v1::DrillState::Complete => "complete",
                v1::DrillState::GaveUp => "gave_up",
                v1::DrillState::Interrupted => "interrupted",
                v1::DrillState::Aborted => "aborted",
            },
            published_at: At::read(drill.published_at.as_ref()),
            held_at: At::read(drill.held_at.as_ref()),
            held_after_ms: millis(drill.held_after.as_ref()),
            withdrawn_at: At::read(drill.withdrawn_at.as_ref()),
            withdrawn_in: Some(drill.withdrawn_in).filter(|epoch| *epoch > 0),
            safe_at: At::read(drill.safe_at.as_ref()),
            time_to_safe_ms: millis(drill.safe_after.as_ref()),
            ended_at: At::read(drill.ended_at.as_ref()),
            aborted_by: said(drill.aborted_by),
            abort_reason: said(drill.abort_reason),
            p50_ms: millis(drill.p50.as_ref()),
            p99_ms: millis(drill.p99.as_ref()),
            max_ms: millis(drill.max.as_ref()),
            responses: drill.responses.into_iter().map(Response::read).collect(),
            kid: drill.kid,
            started_by: drill.started_by,
            reason: drill.reason,
            published_in: drill.published_in,
            verifiers: drill.verifiers,
            acknowledged: drill.acknowledged,
            unnamed: drill.unnamed,
        }
    }

    /// Everything about it, for people. `now` is for whether a date has to be told with a time.
    pub(super) fn lines(&self, now: Timestamp) -> String {
        let mut lines = vec![format!(
            "drill {}: {} ({}, by {})",
            self.id,
            self.outcome(),
            self.reason,
            self.started_by
        )];
        lines.extend(self.steps(now).into_iter().map(|step| format!("  {step}")));
        lines.extend(self.spread().map(|spread| format!("  {spread}")));
        lines.extend(self.named(now).into_iter().map(|named| format!("    {named}")));
        lines.join("\n")
    }

    fn outcome(&self) -> String {
        match (self.state, self.time_to_safe_ms) {
            ("complete", Some(safe)) => format!("complete, safe everywhere after {}", length(safe)),
            ("gave_up", _) => "gave up waiting".to_owned(),
            ("aborted", _) => format!(
                "aborted by {}, because: {}",
                self.aborted_by.as_deref().unwrap_or("-"),
                self.abort_reason.as_deref().unwrap_or("-")
            ),
            (state, _) => state.to_owned(),
        }
    }

    fn steps(&self, now: Timestamp) -> Vec<String> {
        let clock = |at: &At| format!("{} UTC", at.clock(now));
        let published = self.published_at.as_ref().map(|at| {
            let held = match self.held_after_ms {
                Some(after) => format!("held by every verifier after {}", length(after)),
                None if self.withdrawn_at.is_some() => "not held by every verifier in time".to_owned(),
                None => "not held by every verifier yet".to_owned(),
            };
            format!("published at {}, epoch {}; {held}", clock(at), self.published_in)
        });
        let withdrawn = self.withdrawn_at.as_ref().map(|at| {
            let epoch = self.withdrawn_in.unwrap_or_default();
            format!("withdrawn at {}, epoch {epoch}", clock(at))
        });
        let ended = self
            .ended_at
            .as_ref()
            .map(|at| format!("ended at {}; the key is gone", clock(at)));
        [published, withdrawn, ended].into_iter().flatten().collect()
    }

    fn spread(&self) -> Option<String> {
        self.ended_at?;
        let of = format!(
            "{} of {}",
            self.acknowledged,
            present::count(self.verifiers, "verifier")
        );
        match (self.p50_ms, self.p99_ms, self.max_ms) {
            (Some(p50), Some(p99), Some(max)) => Some(format!(
                "acknowledged by {of}: p50 {}, p99 {}, max {}",
                length(p50),
                length(p99),
                length(max)
            )),
            _ if self.withdrawn_at.is_some() => Some(format!("acknowledged by {of}")),
            _ => None,
        }
    }

    /// Those that did not follow, and the slowest.
    fn named(&self, now: Timestamp) -> Vec<String> {
        let named = self.responses.iter().take(NAMED);
        let mut lines: Vec<String> = named.map(|response| response.line(now)).collect();
        let more = self
            .verifiers
            .saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        // Without any name there is nothing that more could be added to.
        if more > 0 && !lines.is_empty() {
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// Whether everybody is safe.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] when it did not come to that.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        let message = match self.state {
            "complete" => return Ok(()),
            "gave_up" => "a verifier did not refuse the key in time",
            "aborted" => "an operator has ended it",
            _ => "the drill was broken off: the authority was stopped",
        };
        let message = format!("drill {} is not complete: {message}", self.id);
        let next = if self.state == "gave_up" {
            "see the verifiers: `countersign fleet`; then run another one, with a longer `--wait`"
        } else {
            "run another one: `countersign key drill run`"
        };
        Err(Failure::new(Exit::Unavailable, message).next(next))
    }
}

impl Response {
    fn read(response: v1::DrillResponse) -> Self {
        Self {
            took_ms: millis(response.took.as_ref()),
            decides_until: At::read(response.until.as_ref()),
            spiffe_id: response.spiffe_id,
            verifier_id: response.verifier_id,
        }
    }

    fn line(&self, now: Timestamp) -> String {
        let name = reach::verifier(&self.spiffe_id, &self.verifier_id);
        let until = self.decides_until.map(|until| until.clock(now));
        match (self.took_ms, until) {
            (None, Some(until)) => format!("{name}: no answer; it may accept the key until {until} UTC"),
            (None, None) => format!("{name}: no answer; it has stopped deciding"),
            (Some(took), None) => format!("{name}: {}", length(took)),
            (Some(took), Some(until)) => {
                format!(
                    "{name}: {}, not on disk; a crash could bring the key back until {until} UTC",
                    length(took)
                )
            }
        }
    }
}
