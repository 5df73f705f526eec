//! How trust comes here: one stream to the authority, for the sidecar's whole life.
//!
//! A stream's life is a state machine without I/O ([`countersign_core::verifier::Session`]); `session` speaks for it, and the
//! [`Supervisor`] drives it, one stream after another, with growing random pauses while the authority is away. Everything that comes is verified before it is parsed
//! ([`Publishers`]), saved before it is in force, and in force before it is acknowledged. Whatever fails, the last good
//! state stays, and its age tells how long ago that was.
//!
//! ```text
//! cache -> TrustStore        at the start, with the age that the last heartbeat gives
//! authority -> session -> cache -> TrustStore -> Ack
//! ```

mod leases;
mod leaving;
mod metrics;
mod publishers;
mod repeats;
#[cfg(test)]
pub(crate) mod scripted;
mod session;
mod supervisor;

use std::time::Duration;

use countersign_core::names::VerifierId;
use countersign_core::verifier::Ending;
use serde::Deserialize;

pub use countersign_core::verifier::HEARTBEAT_PERIOD;
pub use metrics::{ByReason, Reason, SyncMetrics};
pub use publishers::Publishers;
pub use supervisor::{Dial, DialError, Supervisor};

/// What becomes of the trust when the sidecar is stopped in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// It stays on disk, for the next start; the authority waits for this verifier until its budgets end.
    #[default]
    Keep,
    /// It goes, and then the authority is told, and does not wait.
    Forget,
}

/// How the stream behaves.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    /// Random per process start.
    pub instance_id: String,
    /// Which verifier of its identity this is, also after a restart.
    pub verifier_id: VerifierId,
    /// How often a heartbeat is asked for. Three without an answer end the stream.
    pub heartbeat_period: Duration,
    /// The longest pause between two attempts to open a stream.
    pub longest_pause: Duration,
    /// A stream is opened anew after this long, so that new certificates and trust roots come into use.
    pub longest_session: Duration,
    /// What becomes of the trust at the end.
    pub on_stop: OnStop,
}

impl SyncSettings {
    /// The usual settings.
    #[must_use]
    pub const fn new(instance_id: String, verifier_id: VerifierId) -> Self {
        Self {
            instance_id,
            verifier_id,
            heartbeat_period: HEARTBEAT_PERIOD,
            // Shorter than a lease, so that an authority that is away for a moment is missed by nobody. With full jitter, a
            // fleet that comes back at once is spread over it; the authority lets in only so many streams at a time.
            longest_pause: Duration::from_secs(5),
            longest_session: Duration::from_secs(3600),
            on_stop: OnStop::Keep,
        }
    }
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No way to the authority could be prepared.
    Dial,
    /// The authority did not answer the opening in time.
    OpenTimeout,
    /// The authority cannot be reached, or said that it is not available.
    Unavailable,
    /// The authority does not admit this sidecar.
    NotAdmitted,
    /// The authority has too many streams, or too many of this identity.
    TooMany,
    /// The authority never reached the epoch that is in force here: it was restored, or it is another one.
    Disowned,
    /// The authority ended it with an error.
    Failed,
    /// The authority ended it.
    Closed,
    /// No answer for three heartbeat periods.
    NoAnswer,
    /// The authority does not read.
    SendBlocked,
    /// The log on disk is full: the next stream asks for a snapshot.
    LogFull,
    /// It was open for as long as one may be.
    Renewed,
    /// The sidecar is shutting down.
    Stopped,
}

impl Ended {
    /// The stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::OpenTimeout => "open_timeout",
            Self::Unavailable => "unavailable",
            Self::NotAdmitted => "not_admitted",
            Self::TooMany => "too_many_streams",
            Self::Disowned => "disowned",
            Self::Failed => "failed",
            Self::Closed => "closed",
            Self::NoAnswer => "no_answer",
            Self::SendBlocked => "send_blocked",
            Self::LogFull => "log_full",
            Self::Renewed => "renewed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether this side ended it with nothing being wrong.
    const fn is_orderly(self) -> bool {
        matches!(self, Self::LogFull | Self::Renewed | Self::Stopped)
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::NoAnswer => Self::NoAnswer,
            Ending::Renewed => Self::Renewed,
            Ending::LogFull => Self::LogFull,
        }
    }
}
