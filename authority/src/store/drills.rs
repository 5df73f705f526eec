//! Records of drills. They lie open; the head record holds the digest over them all, so that one that is missing or changed is
//! noticed at start.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::drill::{
    Aborted, Change, Drill, DrillEnd, DrillId, DrillOutcome, Measured, Reached, Response, Spread,
};
use countersign_core::fleet::VerifierKey;
use countersign_core::names::{KeyId, VerifierId};
use countersign_core::ports::Sha256;
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError, Stored};

/// What the names of drills' records begin with.
pub const PREFIX: &str = "drills/";

/// The name of a drill's record. Names are in the order of drills.
#[must_use]
pub fn name(id: DrillId) -> String {
    format!("{PREFIX}{id:016x}")
}

/// The digest of a record, which is counted in the head.
#[must_use]
pub fn digest(name: &str, bytes: &[u8], sha256: &dyn Sha256) -> [u8; 32] {
    sha256.sha256(&[b"countersign/drill/v1\0", name.as_bytes(), b"\0", bytes])
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDrill {
    id: DrillId,
    kid: String,
    started_by: String,
    reason: String,
    published: StoredChange,
    held: Option<StoredReached>,
    withdrawn: Option<StoredChange>,
    end: Option<StoredEnd>,
}

impl Stored for StoredDrill {
    const FORMAT: u32 = 1;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredChange {
    epoch: Epoch,
    at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredReached {
    at: u64,
    after_us: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEnd {
    outcome: String,
    at: u64,
    measured: Option<StoredMeasured>,
    aborted: Option<StoredAborted>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAborted {
    by: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMeasured {
    verifiers: u64,
    acknowledged: u64,
    spread: Option<StoredSpread>,
    safe: Option<StoredReached>,
    responses: Vec<StoredResponse>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSpread {
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredResponse {
    spiffe_id: String,
    verifier_id: String,
    took_us: Option<u64>,
    until: Option<u64>,
}

/// The record of a drill.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write(drill: &Drill) -> Result<Vec<u8>, RecordError> {
    let stored = StoredDrill {
        id: drill.id,
        kid: drill.key_id.as_str().to_owned(),
        started_by: drill.started_by.clone(),
        reason: drill.reason.clone(),
        published: write_change(drill.published),
        held: drill.held.map(write_reached),
        withdrawn: drill.withdrawn.map(write_change),
        end: drill.end.as_ref().map(write_end),
    };
    record::write(&name(drill.id), &stored)
}

fn write_change(change: Change) -> StoredChange {
    StoredChange {
        epoch: change.epoch,
        at: change.at.as_seconds(),
    }
}

fn write_reached(reached: Reached) -> StoredReached {
    StoredReached {
        at: reached.at.as_seconds(),
        after_us: micros(reached.after),
    }
}

fn write_end(end: &DrillEnd) -> StoredEnd {
    let aborted = |aborted: &Aborted| StoredAborted {
        by: aborted.by.clone(),
        reason: aborted.reason.clone(),
    };
    StoredEnd {
        outcome: end.outcome.name().to_owned(),
        at: end.at.as_seconds(),
        measured: end.measured.as_ref().map(write_measured),
        aborted: end.aborted.as_ref().map(aborted),
    }
}

fn write_measured(measured: &Measured) -> StoredMeasured {
    let spread = |spread: Spread| StoredSpread {
        p50_us: micros(spread.p50),
        p99_us: micros(spread.p99),
        max_us: micros(spread.max),
    };
    let response = |response: &Response| StoredResponse {
        spiffe_id: response.verifier.spiffe_id.as_str().to_owned(),
        verifier_id: response.verifier.verifier_id.as_str().to_owned(),
        took_us: response.took.map(micros),
        until: response.until.map(Timestamp::as_seconds),
    };
    StoredMeasured {
        verifiers: measured.verifiers,
        acknowledged: measured.acknowledged,
        spread: measured.spread.map(spread),
        safe: measured.safe.map(write_reached),
        responses: measured.responses.iter().map(response).collect(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Reads the record called `record_name`.
///
/// # Errors
/// [`RecordError`], also when the content is another drill's.
pub fn read(record_name: &str, bytes: &[u8]) -> Result<Drill, RecordError> {
    let stored: StoredDrill = record::read(record_name, bytes)?;
    read_drill(stored)
        .filter(|drill| name(drill.id) == record_name)
        .ok_or_else(|| RecordError::malformed(record_name))
}

fn read_drill(stored: StoredDrill) -> Option<Drill> {
    let end = stored.end.map(|end| read_end(end).ok_or(()));
    Some(Drill {
        id: stored.id,
        key_id: KeyId::parse(&stored.kid).ok()?,
        started_by: stored.started_by,
        reason: stored.reason,
        published: read_change(&stored.published),
        held: stored.held.as_ref().map(read_reached),
        withdrawn: stored.withdrawn.as_ref().map(read_change),
        end: end.transpose().ok()?,
    })
}

const fn read_change(stored: &StoredChange) -> Change {
    Change {
        epoch: stored.epoch,
        at: Timestamp::from_seconds(stored.at),
    }
}

const fn read_reached(stored: &StoredReached) -> Reached {
    Reached {
        at: Timestamp::from_seconds(stored.at),
        after: Duration::from_micros(stored.after_us),
    }
}

fn read_end(stored: StoredEnd) -> Option<DrillEnd> {
    let measured = stored.measured.as_ref();
    let measured = measured.map(|measured| read_measured(measured).ok_or(()));
    let outcome = DrillOutcome::from_name(&stored.outcome)?;
    let end = DrillEnd {
        outcome,
        at: Timestamp::from_seconds(stored.at),
        measured: measured.transpose().ok()?,
        aborted: stored.aborted.map(|aborted| Aborted {
            by: aborted.by,
            reason: aborted.reason,
        }),
    };
    (end.aborted.is_some() == (outcome == DrillOutcome::Aborted)).then_some(end)
}

fn read_measured(stored: &StoredMeasured) -> Option<Measured> {
    let spread = |spread: &StoredSpread| Spread {
        p50: Duration::from_micros(spread.p50_us),
        p99: Duration::from_micros(spread.p99_us),
        max: Duration::from_micros(spread.max_us),
    };
    let response = |stored: &StoredResponse| {
        Some(Response {
            verifier: VerifierKey {
                spiffe_id: SpiffeId::parse(&stored.spiffe_id).ok()?,
                verifier_id: VerifierId::parse(&stored.verifier_id).ok()?,
            },
            took: stored.took_us.map(Duration::from_micros),
            until: stored.until.map(Timestamp::from_seconds),
        })
    };
    Some(Measured {
        verifiers: stored.verifiers,
        acknowledged: stored.acknowledged,
        spread: stored.spread.as_ref().map(spread),
        safe: stored.safe.as_ref().map(read_reached),
        responses: stored.responses.iter().map(response).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    /// A drill that has ended, with everything that there can be.
    pub(crate) fn drill(id: DrillId) -> Drill {
        let reached = |seconds, micros| Reached {
            at: at(seconds),
            after: Duration::from_micros(micros),
        };
        let response = |verifier_id: &str, took, until| Response {
            verifier: VerifierKey {
                spiffe_id: SpiffeId::parse("spiffe://test/a").unwrap(),
                verifier_id: VerifierId::parse(verifier_id).unwrap(),
            },
            took,
            until,
        };
        let responses = vec![
            response("1f", None, Some(at(900))),
            response("2f", Some(Duration::from_micros(1500)), None),
        ];
        Drill {
            id,
            key_id: KeyId::parse(&"A".repeat(43)).unwrap(),
            started_by: "spiffe://test/anna".to_owned(),
            reason: "quarterly".to_owned(),
            published: Change { epoch: 7, at: at(10) },
            held: Some(reached(11, 2000)),
            withdrawn: Some(Change { epoch: 9, at: at(11) }),
            end: Some(DrillEnd {
                outcome: DrillOutcome::GaveUp,
                at: at(71),
                measured: Some(Measured::of(responses, Some(reached(12, 1600)))),
                aborted: None,
            }),
        }
    }

    fn aborted(id: DrillId) -> Drill {
        let mut drill = drill(id);
        let end = drill.end.as_mut().unwrap();
        end.outcome = DrillOutcome::Aborted;
        end.aborted = Some(Aborted {
            by: "spiffe://test/bert".to_owned(),
            reason: "wrong day".to_owned(),
        });
        drill
    }

    #[test]
    fn what_is_written_is_read() {
        let ended = drill(255);
        let running = Drill {
            held: None,
            withdrawn: None,
            end: None,
            ..drill(3)
        };
        let interrupted = Drill {
            end: Some(DrillEnd {
                outcome: DrillOutcome::Interrupted,
                at: at(20),
                measured: None,
                aborted: None,
            }),
            ..drill(4)
        };
        for drill in [ended, running, interrupted, aborted(5)] {
            let bytes = write(&drill).unwrap();
            assert_eq!(read(&name(drill.id), &bytes), Ok(drill.clone()));
            assert!(read(&name(drill.id + 1), &bytes).is_err(), "another's");
            let odd = String::from_utf8(bytes).unwrap();
            // One that nobody aborted, and one that somebody did and that came to its end.
            let odd = odd
                .replace("aborted\",", "complete\",")
                .replace("gave_up", "aborted");
            let odd = odd.replace("interrupted", "won");
            assert_eq!(
                read(&name(drill.id), odd.as_bytes()).is_err(),
                drill.end.is_some()
            );
        }
        assert!(name(9) < name(10) && name(255) < name(256));
    }
}
