//! Every metric of the authority: names and labels, once. No label takes a value that an outsider chooses.

pub mod connections;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::issuing::{CLIENT_CREDENTIALS, IssueError};
use countersign_core::rotation::RotationStep;
use countersign_runtime::SystemClock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::alarm::Alarm;
use crate::ledger::Books;
use crate::limits::{Limiter, Rate};
use crate::store::StoreError;

/// A label that takes names from tables in this program only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub &'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issue {
    grant: Name,
    result: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    action: Name,
    result: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Name,
}

type SecondsGauge = Gauge<f64, AtomicU64>;

/// What is counted and measured.
#[derive(Debug)]
pub struct Metrics {
    issued: Family<Issue, Counter>,
    issue_duration: Histogram,
    admin_actions: Family<Action, Counter>,
    epoch: Gauge<u64, AtomicU64>,
    revocations: Gauge<u64, AtomicU64>,
    clients: Gauge<u64, AtomicU64>,
    recovery_required: Gauge,
    keys: Family<Kind, Gauge>,
    signing_key_age: SecondsGauge,
    clock_behind: SecondsGauge,
    verifiers_connected: Gauge<u64, AtomicU64>,
    verifiers_current: Gauge<u64, AtomicU64>,
    rotation_waits_for: Gauge<u64, AtomicU64>,
    drill_completed: SecondsGauge,
    drill_time_to_safe: SecondsGauge,
    sync_sent: Family<Kind, Counter>,
    sync_ended: Family<Reason, Counter>,
    nacks: Family<Reason, Counter>,
    heartbeats: Counter,
    commits: Family<Outcome, Counter>,
    commit_duration: Histogram,
    rotation_steps: Family<Action, Counter>,
    alarms: Family<Reason, Counter>,
    alarm_lines: Limiter<Alarm>,
    unaudited: Counter,
}

/// How often one alarm is logged. It is counted every time.
pub(crate) const ALARM_LINES: Rate = Rate::new(1, 10);

/// From 10 microseconds to 5 seconds.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.5, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            issued: Family::default(),
            issue_duration: durations(),
            admin_actions: Family::default(),
            epoch: Gauge::default(),
            revocations: Gauge::default(),
            clients: Gauge::default(),
            recovery_required: Gauge::default(),
            keys: Family::default(),
            signing_key_age: Gauge::default(),
            clock_behind: Gauge::default(),
            verifiers_connected: Gauge::default(),
            verifiers_current: Gauge::default(),
            rotation_waits_for: Gauge::default(),
            drill_completed: Gauge::default(),
            drill_time_to_safe: Gauge::default(),
            sync_sent: Family::default(),
            sync_ended: Family::default(),
            nacks: Family::default(),
            heartbeats: Counter::default(),
            commits: Family::default(),
            commit_duration: durations(),
            rotation_steps: Family::default(),
            alarms: Family::default(),
            alarm_lines: Limiter::new(ALARM_LINES, Arc::new(SystemClock)),
            unaudited: Counter::default(),
        }
    }
}

impl Metrics {
    /// Names every metric in `registry`, which puts `countersign_` before and the unit and `_total` behind.
    pub fn register(&self, registry: &mut Registry) {
        self.register_issuing(registry);
        self.register_state(registry);
        self.register_sync(registry);
        self.register_drills(registry);
    }

    fn register_issuing(&self, registry: &mut Registry) {
        registry.register(
            "tokens_issued",
            "Token requests, by grant and result",
            self.issued.clone(),
        );
        registry.register_with_unit(
            "issue_duration",
            "Time to answer a token request",
            Unit::Seconds,
            self.issue_duration.clone(),
        );
        registry.register(
            "admin_actions",
            "Operators' actions, by action and result",
            self.admin_actions.clone(),
        );
        registry.register(
            "rotation_steps",
            "Steps of timed rotation, by step and result",
            self.rotation_steps.clone(),
        );
        // At zero from the start, so that the first one is an increase.
        for alarm in Alarm::ALL {
            let labels = Reason {
                reason: Name(alarm.reason()),
            };
            self.alarms.get_or_create(&labels).inc_by(0);
        }
        registry.register(
            "alarms",
            "What must not happen and did: look at the log",
            self.alarms.clone(),
        );
        registry.register(
            "audit_refusals_omitted",
            "Refusals of callers who were refused too often for each to be written to the audit trail",
            self.unaudited.clone(),
        );
    }

    fn register_state(&self, registry: &mut Registry) {
        registry.register("epoch", "The current epoch", self.epoch.clone());
        registry.register("revocations", "Revocations in force", self.revocations.clone());
        registry.register("clients", "Client identifiers taken", self.clients.clone());
        registry.register(
            "recovery_required",
            "1 while nothing is signed or changed until an operator recovers the authority",
            self.recovery_required.clone(),
        );
        registry.register("keys", "Published signing keys, by state", self.keys.clone());
        registry.register_with_unit(
            "signing_key_age",
            "For how long the key that signs has been signing; 0 when none does",
            Unit::Seconds,
            self.signing_key_age.clone(),
        );
        registry.register_with_unit(
            "clock_behind",
            "How far the clock is behind the last time given",
            Unit::Seconds,
            self.clock_behind.clone(),
        );
        registry.register(
            "store_commits",
            "Commits to the store, by result",
            self.commits.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time for one durable commit",
            Unit::Seconds,
            self.commit_duration.clone(),
        );
    }

    fn register_sync(&self, registry: &mut Registry) {
        registry.register(
            "verifiers_connected",
            "Trust streams open",
            self.verifiers_connected.clone(),
        );
        registry.register(
            "verifiers_current",
            "Trust streams whose verifier has acknowledged the current epoch",
            self.verifiers_current.clone(),
        );
        registry.register(
            "rotation_waits_for",
            "Verifiers, and trust files, that do not hold a key on disk which is due to sign",
            self.rotation_waits_for.clone(),
        );
        registry.register(
            "sync_updates_sent",
            "Updates handed to trust streams, by kind",
            self.sync_sent.clone(),
        );
        registry.register(
            "sync_streams_ended",
            "Trust streams that the authority ended, by reason",
            self.sync_ended.clone(),
        );
        registry.register(
            "sync_nacks",
            "Updates that verifiers refused, by reason",
            self.nacks.clone(),
        );
        registry.register(
            "heartbeats_signed",
            "Heartbeats signed; each may answer many pings",
            self.heartbeats.clone(),
        );
    }

    fn register_drills(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "drill_completed_timestamp",
            "When the last complete drill ended, in seconds since 1970; 0 when there was none",
            Unit::Seconds,
            self.drill_completed.clone(),
        );
        registry.register_with_unit(
            "drill_time_to_safe",
            "From the withdrawal of a key until nobody accepts it any more, in the last complete drill",
            Unit::Seconds,
            self.drill_time_to_safe.clone(),
        );
    }

    /// A token request was answered after `took`.
    pub fn observe_issue(&self, grant_type: &str, result: Result<(), IssueError>, took: Duration) {
        let grant = if grant_type == CLIENT_CREDENTIALS {
            CLIENT_CREDENTIALS
        } else {
            "other"
        };
        let labels = Issue {
            grant: Name(grant),
            result: Name(result.map_or_else(IssueError::reason, |()| "issued")),
        };
        self.issued.get_or_create(&labels).inc();
        self.issue_duration.observe(took.as_secs_f64());
    }

    /// An operator's action had this result.
    pub fn count_action(&self, action: &'static str, result: &'static str) {
        let labels = Action {
            action: Name(action),
            result: Name(result),
        };
        self.admin_actions.get_or_create(&labels).inc();
    }

    /// Rotation took a step.
    pub fn count_step(&self, step: &RotationStep, result: &'static str) {
        let step = match step {
            RotationStep::Prepare => "prepare",
            RotationStep::Activate(_) => "activate",
            RotationStep::Drop(_) => "drop",
        };
        let labels = Action {
            action: Name(step),
            result: Name(result),
        };
        self.rotation_steps.get_or_create(&labels).inc();
    }

    /// The books have changed.
    pub fn observe_books(&self, books: &Books) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.epoch.set(books.trust.epoch());
        self.revocations.set(count(books.trust.revocations().len()));
        self.clients.set(count(books.clients.len()));
        self.recovery_required.set(books.recovery.is_some().into());
        self.observe_drill(books);
    }

    fn observe_drill(&self, books: &Books) {
        let end = books.drills.last_complete().and_then(|drill| drill.end.as_ref());
        let ended = end.map_or_else(Timestamp::default, |end| end.at);
        let measured = end.and_then(|end| end.measured.as_ref());
        let safe = measured.and_then(|measured| measured.safe);
        self.drill_completed
            .set(Duration::from_secs(ended.as_seconds()).as_secs_f64());
        self.drill_time_to_safe
            .set(safe.map_or(0.0, |safe| safe.after.as_secs_f64()));
    }

    /// What changes by itself as time goes by.
    pub fn observe_time(&self, books: &Books, now: Timestamp, behind: Duration) {
        use countersign_core::key_set::KeyState;
        for state in [
            KeyState::Prepared,
            KeyState::Active,
            KeyState::Retired,
            KeyState::Compromised,
        ] {
            let keys = books.ring.keys().iter();
            let count = keys
                .filter(|key| !key.shadow && key.times().state(now) == state)
                .count();
            let labels = Kind {
                kind: Name(state.name()),
            };
            self.keys
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let signing = books.ring.signing(now).and_then(|key| key.times().active_from);
        self.signing_key_age
            .set(signing.map_or(0.0, |from| now.since(from).as_secs_f64()));
        self.clock_behind.set(behind.as_secs_f64());
    }

    /// The fleet has changed.
    pub fn observe_fleet(&self, connected: u32, current: u32) {
        self.verifiers_connected.set(connected.into());
        self.verifiers_current.set(current.into());
    }

    /// So many verifiers are waited for before a key signs.
    pub fn observe_gate(&self, verifiers: usize) {
        self.rotation_waits_for
            .set(u64::try_from(verifiers).unwrap_or(u64::MAX));
    }

    /// An update was put on a stream.
    pub fn count_sent(&self, kind: &'static str, streams: usize) {
        let labels = Kind { kind: Name(kind) };
        let streams = u64::try_from(streams).unwrap_or(u64::MAX);
        self.sync_sent.get_or_create(&labels).inc_by(streams);
    }

    /// A stream was ended by us.
    pub fn count_ended(&self, reason: &'static str) {
        let labels = Reason { reason: Name(reason) };
        self.sync_ended.get_or_create(&labels).inc();
    }

    /// A verifier refused an update. `reason` is of the table of reasons.
    pub fn count_nack(&self, reason: &'static str) {
        let labels = Reason { reason: Name(reason) };
        self.nacks.get_or_create(&labels).inc();
    }

    /// A heartbeat was signed.
    pub fn count_heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// A commit ended after `took`.
    pub fn observe_commit<T>(&self, took: Duration, result: &Result<T, StoreError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(StoreError::Conflict) => "conflict",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::Damaged(_)) => "damaged",
            Err(StoreError::TooLarge) => "too_large",
        };
        let labels = Outcome { result: Name(result) };
        self.commits.get_or_create(&labels).inc();
        self.commit_duration.observe(took.as_secs_f64());
    }

    /// How often an alarm was raised.
    #[must_use]
    pub fn alarms(&self, alarm: Alarm) -> u64 {
        let labels = Reason {
            reason: Name(alarm.reason()),
        };
        self.alarms.get_or_create(&labels).get()
    }

    /// What must not happen did. True when it is to be logged, too.
    #[must_use]
    pub fn count_alarm(&self, alarm: Alarm) -> bool {
        let labels = Reason {
            reason: Name(alarm.reason()),
        };
        self.alarms.get_or_create(&labels).inc();
        self.alarm_lines.check(&alarm).is_ok()
    }

    /// A refusal was left out of the audit trail.
    pub fn count_unaudited(&self) {
        self.unaudited.inc();
    }

    /// How many were.
    #[must_use]
    pub fn unaudited(&self) -> u64 {
        self.unaudited.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_convention() {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("countersign");
        metrics.register(&mut registry);
        metrics.observe_issue("client_credentials", Ok(()), Duration::from_millis(1));
        metrics.observe_issue("\"}\nfoo", Err(IssueError::InvalidClient), Duration::ZERO);
        assert!(metrics.count_alarm(Alarm::Fork));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            r#"countersign_tokens_issued_total{grant="client_credentials",result="issued"} 1"#,
            // H10: what a client writes into a field is no label.
            r#"countersign_tokens_issued_total{grant="other",result="invalid_client"} 1"#,
            "countersign_issue_duration_seconds_count 2",
            "countersign_epoch 0",
            "countersign_signing_key_age_seconds 0",
            "countersign_revocations 0",
            "countersign_verifiers_connected 0",
        ] {
            assert!(
                text.lines().any(|found| found.starts_with(line)),
                "{line}\n{text}"
            );
        }
    }
}
