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
            Self::AckNotSent => "ack_not_sent",
            Self::AmbiguousIdentity => "ambiguous_identity",
            Self::ClockBehind => "clock_behind",
            Self::NoSigningKey => "no_signing_key",
            Self::TokenUnsound => "token_unsound",
        }
    }

    /// Says it, about `subject`.
    pub fn raise(self, metrics: &Metrics, subject: &dyn std::fmt::Display) {
        metrics.count_alarm(self);
        tracing::error!(alarm = self.reason(), subject = %subject, "alarm");
    }
}
