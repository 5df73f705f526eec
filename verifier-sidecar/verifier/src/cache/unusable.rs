//! The reasons for which trust on disk, or in a file, is not used, and for which it is not on disk.

use countersign_core::trust::UpdateRefused;
use countersign_core::verifier::Unsound;

/// Why what was on disk is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The database could not be read.
    Unreadable,
    /// The database panicked.
    Panicked,
    /// The database did not open in time.
    Hung,
    /// The process died while opening it, more than once.
    Deadly,
    /// The floor is there, the records are not.
    Lost,
    /// The records are there, the floor is not, or not readable.
    FloorMissing,
    /// The records end before the floor: the database is older than it was.
    BelowFloor,
    /// The records end at the floor with another state.
    FloorContradicted,
    /// It is another verifier's.
    Identity,
    /// It has another format.
    Format,
    /// It is larger than any.
    TooLarge,
    /// A record does not parse.
    Malformed,
    /// A record lies under another name than it was written to.
    Misplaced,
    /// The state does not have the digest or the number of revocations that the authority stated.
    Manifest,
    /// A link to other publishing keys is wrong.
    Publishers,
    /// Links to other publishing keys are missing that were here: the database is older than it was.
    PublishersBehind,
    /// It is a file for a warm start whose lifetime has ended.
    Expired,
    /// A signature or a step is refused.
    Refused(UpdateRefused),
}

impl From<Unsound> for Unusable {
    fn from(why: Unsound) -> Self {
        match why {
            Unsound::FloorMissing => Self::FloorMissing,
            Unsound::BelowFloor => Self::BelowFloor,
            Unsound::FloorContradicted => Self::FloorContradicted,
            Unsound::Misplaced => Self::Misplaced,
            Unsound::Manifest => Self::Manifest,
            Unsound::Refused(refused) => Self::Refused(refused),
        }
    }
}

impl Unusable {
    /// The stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Panicked => "panicked",
            Self::Hung => "hung",
            Self::Deadly => "deadly",
            Self::Lost => "lost",
            Self::FloorMissing => "floor_missing",
            Self::BelowFloor => "below_floor",
            Self::FloorContradicted => "floor_contradicted",
            Self::Identity => "identity",
            Self::Format => "format",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Misplaced => "misplaced",
            Self::Manifest => "manifest",
            Self::Publishers => "publishers",
            Self::PublishersBehind => "publishers_behind",
            Self::Expired => "expired",
            Self::Refused(refused) => refused.reason(),
        }
    }
}

/// Why the trust is kept in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDurable {
    /// The state directory cannot be written.
    Unwritable,
    /// No database can be made in it.
    NoDatabase,
    /// A save failed. Final for this process.
    Failed,
    /// A save takes too long. Ends with the next one that does not.
    Slow,
    /// The log is full, or has a gap. Ends with the next snapshot.
    Gap,
}

impl NotDurable {
    /// The stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unwritable => "unwritable",
            Self::NoDatabase => "no_database",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Gap => "gap",
        }
    }
}
