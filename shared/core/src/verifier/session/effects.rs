//! What a session asks for, and what it tells.

use super::super::{ClockMark, Message, StateId};
use crate::revocation::RevocationList;
use crate::trust::{Descent, Epoch, TrustState, UpdateRefused};

/// What whoever runs the session has to do, in order.
#[derive(Debug)]
pub enum Effect<S> {
    /// Send this.
    Send(Message),
    /// Save this, then call [`super::Session::saved`].
    Save(Box<Accepted<S>>),
    /// Save this, then call [`super::Session::kept`].
    Keep(Box<Kept<S>>),
    /// Do not save this, which shows how far the authority had come, but see whether its epoch is on disk by now: the save was
    /// given up, and may land late. Then call [`super::Session::kept`].
    Probe(Box<Kept<S>>),
    /// Close the stream.
    End(Ending),
    /// Count this, and tell whoever listens.
    Tell(Event),
}

/// What verified, to be saved and put in force.
#[derive(Clone, Debug)]
pub struct Accepted<S> {
    /// As it was signed.
    pub signed: Signing<S>,
    /// The state that it leads to.
    pub leads_to: StateId,
    /// That state; nothing when it is in force already, and only the log is to be replaced.
    pub(super) state: Option<TrustState>,
    /// How that state came about.
    pub(super) descent: Descent,
    /// Certificates that are revoked though that state does not say so ([`HeldTrust::carried`](crate::verifier::HeldTrust::carried)):
    /// to be saved beside a snapshot, in place of what was saved so before. Beside a delta nothing is saved, and what was saved stays.
    pub carried: RevocationList,
}

/// Updates as they were signed.
#[derive(Clone, Debug)]
pub enum Signing<S> {
    /// A change of the state in force.
    Delta(S),
    /// A snapshot, and the deltas that follow on it with the epochs that they lead to.
    Snapshot(S, Vec<(Epoch, S)>),
}

/// A heartbeat that confirmed the state in force, to be kept for the next start.
#[derive(Clone, Debug)]
pub struct Kept<S> {
    /// As it was signed.
    pub signed: S,
    /// The epoch that it states.
    pub epoch: Epoch,
    /// Where the clocks stood when the ping was sent that it answers.
    pub sent: ClockMark,
}

/// What became of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Whether it survives a power cut.
    pub durable: bool,
    /// Whether the cache asks for a snapshot to replace its log.
    pub wants_snapshot: bool,
    /// Whether it does because the log was signed by keys that publish no longer.
    pub log_outdated: bool,
}

/// Why a session ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No answer for three heartbeat periods.
    NoAnswer,
    /// It was open for as long as one may be.
    Renewed,
    /// The log on disk is full: the next stream asks for a snapshot.
    LogFull,
}

/// What happened, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new state is in force.
    Installed,
    /// The log on disk has been replaced; the state in force is the same.
    LogReplaced,
    /// An update led to the state in force, or to an earlier one.
    Repeated,
    /// An update is refused.
    Refused {
        /// The epoch that it leads to; zero when it cannot be read.
        epoch: Epoch,
        /// Why.
        refused: UpdateRefused,
    },
    /// Revocations of an update are not taken as they stand.
    SetAside {
        /// Why.
        why: SetAside,
        /// How many; may be none.
        count: usize,
    },
    /// A heartbeat confirmed the state in force.
    Confirmed,
    /// An answer confirmed nothing.
    Ignored(Ignored),
    /// Somebody set the wall clock, by so many milliseconds. Nothing here goes by it.
    ClockSet(i64),
}

/// Why a revocation is not taken as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAside {
    /// It is none.
    Malformed,
    /// It claims to matter for longer than any may.
    Overlong,
    /// It expired before it came.
    Expired,
    /// It is about a certificate that was revoked before a recovery, and there are more of those than can be held: these end first.
    NoRoom,
}

impl SetAside {
    /// The stable name for metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Overlong => "overlong",
            Self::Expired => "expired",
            Self::NoRoom => "no_room",
        }
    }
}

/// Why an answer to a ping confirms nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No such ping waits for an answer.
    PingUnknown,
    /// The heartbeat is not one, or contradicts what was signed before.
    Refused(UpdateRefused),
    /// It is older than one that came before.
    Sequence,
    /// It is from farther away than clocks may be apart.
    Time,
    /// It states another number of revocations.
    Count,
    /// The authority is at a later epoch.
    Ahead,
    /// It is from before the state in force was.
    Superseded,
    /// The authority does not know yet what is in force here.
    NotGranted,
    /// An operator has put this verifier in quarantine.
    Quarantined,
}

impl Ignored {
    /// The stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::PingUnknown => "ping_unknown",
            Self::Refused(refused) => refused.reason(),
            Self::Sequence => "heartbeat_sequence",
            Self::Time => "heartbeat_time",
            Self::Count => "heartbeat_count",
            Self::Ahead => "heartbeat_ahead",
            Self::Superseded => "heartbeat_superseded",
            Self::NotGranted => "lease_not_granted",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether it happens with nothing being wrong: an answer and an update or its acknowledgement have overtaken each other.
    #[must_use]
    pub const fn happens(self) -> bool {
        matches!(self, Self::Ahead | Self::Superseded | Self::NotGranted)
    }
}
