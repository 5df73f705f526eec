//! What must not happen, and is said aloud when it does: counted, and logged as an error with a stable name.

use crate::metrics::Metrics;

/// Something that an operator has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// A record of the store cannot be used.
    RecordRefused,
    /// It is not known whether a commit was made.
    CommitInDoubt,
    /// Somebody else writes to the store.
    StoreContested,
    /// The publishing key does not sign.
    PublishingFailed,
    /// A snapshot is larger than verifiers read.
    SnapshotTooLarge,
    /// A verifier holds a later epoch: this store is older than what was published.
    VerifierAhead,
    /// A verifier holds another state at the current epoch.
    Fork,
    /// A verifier proves that the store is not the one that was published from: an operator has to recover it.
    RecoveryRequired,
    /// What a verifier brings as a proof was not signed by a publishing key of this store.
    ProofRefused,
    /// A verifier acknowledges what it was not sent.
    AckNotSent,
    /// A certificate is registered for two clients, by its name and by its thumbprint.
    AmbiguousIdentity,
    /// The clock is behind what was signed.
    ClockBehind,
    /// No key signs.
    NoSigningKey,
    /// A token was signed that verifiers would refuse. Nobody got it.
    TokenUnsound,
}

impl Alarm {
    /// Every alarm there is.
    pub const ALL: [Self; 14] = [
        Self::RecordRefused,
        Self::CommitInDoubt,
        Self::StoreContested,
        Self::PublishingFailed,
        Self::SnapshotTooLarge,
        Self::VerifierAhead,
        Self::Fork,
        Self::RecoveryRequired,
        Self::ProofRefused,
        Self::AckNotSent,
        Self::AmbiguousIdentity,
        Self::ClockBehind,
        Self::NoSigningKey,
        Self::TokenUnsound,
    ];

    /// The stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RecordRefused => "record_refused",
            Self::CommitInDoubt => "commit_in_doubt",
            Self::StoreContested => "store_contested",
            Self::PublishingFailed => "publishing_failed",
            Self::SnapshotTooLarge => "snapshot_too_large",
            Self::VerifierAhead => "verifier_ahead",
            Self::Fork => "fork",
            Self::RecoveryRequired => "recovery_required",
            Self::ProofRefused => "proof_refused",
            Self::AckNotSent => "ack_not_sent",
            Self::AmbiguousIdentity => "ambiguous_identity",
            Self::ClockBehind => "clock_behind",
            Self::NoSigningKey => "no_signing_key",
            Self::TokenUnsound => "token_unsound",
        }
    }

    /// Says it, about `subject`. Every time is counted; what comes with every request or message is not logged every time.
    pub fn raise(self, metrics: &Metrics, subject: &dyn std::fmt::Display) {
        if metrics.count_alarm(self) {
            tracing::error!(alarm = self.reason(), subject = %subject, "alarm");
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::ALARM_LINES;
    use crate::test_util::Logs;

    /// An alert on the increase of a counter that begins with its first event would miss that one.
    #[test]
    fn every_alarm_is_there_before_it_is_raised() {
        let mut registry = Registry::default();
        Metrics::default().register(&mut registry);
        let mut shown = String::new();
        prometheus_client::encoding::text::encode(&mut shown, &registry).expect("encodes");
        for alarm in Alarm::ALL {
            let line = format!("alarms_total{{reason=\"{}\"}} 0", alarm.reason());
            assert!(shown.contains(&line), "{line}");
        }
    }

    /// I-41: a verifier or client that brings an alarm about a thousand times a second does not fill the disk.
    #[test]
    fn a_storm_of_alarms_is_counted_and_not_written_down_one_by_one() {
        let logs = Logs::default();
        let _capturing = logs.capture();
        let metrics = Metrics::default();
        for epoch in 0..1000 {
            Alarm::AckNotSent.raise(&metrics, &epoch);
        }
        // Another one is not lost among them.
        Alarm::Fork.raise(&metrics, &7);
        let said = |name: &str| logs.text().matches(name).count();
        let burst = usize::try_from(ALARM_LINES.burst.get()).expect("small");
        assert!(
            (burst..burst + 5).contains(&said("ack_not_sent")),
            "{}",
            said("ack_not_sent")
        );
        assert_eq!((metrics.alarms(Alarm::AckNotSent), said("fork")), (1000, 1));
    }
}
