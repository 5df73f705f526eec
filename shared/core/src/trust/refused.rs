//! Why an update is refused.

use crate::jwk::KeySetError;

/// Why an update is not taken over. The state in force stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefused {
    /// The publishing key is not one that is pinned here.
    #[error("the publishing key is not pinned here")]
    PublisherUnknown,
    /// The signature is not the publishing key's.
    #[error("the signature of the update is wrong")]
    Signature,
    /// The bytes are no update.
    #[error("the update is malformed")]
    Malformed,
    /// It is about another issuer.
    #[error("the update is about another issuer")]
    Issuer,
    /// Its epoch is before the one in force, or before the high-water mark.
    #[error("the update would step back")]
    Regressed,
    /// Its epoch is the one in force, its content is not.
    #[error("the update contradicts the state in force at the same epoch")]
    Fork,
    /// Its epoch is impossibly far ahead.
    #[error("the update jumps too far ahead")]
    Jump,
    /// It is a delta to another state than the one in force.
    #[error("the update is a change of another state")]
    Base,
    /// Its digest is not that of the state it gives.
    #[error("the state does not have the digest stated")]
    Digest,
    /// A revocation in it is not of its form, or lives impossibly long.
    #[error("a revocation is malformed")]
    Revocation,
    /// It drops revocations that can still matter.
    #[error("the update would un-revoke")]
    Unrevoke,
    /// It has more entries than are held here.
    #[error("the update is too large")]
    TooLarge,
    /// It is published under a publisher set whose link is not held here.
    #[error("the publisher set of the update is not held here")]
    PublishersMissing,
    /// It was taken over; what is on disk was signed by keys that publish no longer, and a snapshot has to replace it.
    #[error("the log on disk was signed by keys that publish no longer")]
    PublishersChanged,
    /// Its key set is refused.
    #[error("the key set is refused: {0}")]
    KeySet(KeySetError),
}

impl UpdateRefused {
    /// Every reason; those of key sets are [`KeySetError::ALL`].
    pub const ALL: [Self; 14] = [
        Self::PublisherUnknown,
        Self::Signature,
        Self::Malformed,
        Self::Issuer,
        Self::Regressed,
        Self::Fork,
        Self::Jump,
        Self::Base,
        Self::Digest,
        Self::Revocation,
        Self::Unrevoke,
        Self::TooLarge,
        Self::PublishersMissing,
        Self::PublishersChanged,
    ];

    /// The stable name for logs, metrics and `Nack.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::PublisherUnknown => "publisher_unknown",
            Self::Signature => "update_signature",
            Self::Malformed => "update_malformed",
            Self::Issuer => "update_issuer",
            Self::Regressed => "epoch_regressed",
            Self::Fork => "epoch_fork",
            Self::Jump => "epoch_jump",
            Self::Base => "update_base",
            Self::Digest => "update_digest",
            Self::Revocation => "revocation_malformed",
            Self::Unrevoke => "revocation_unrevoked",
            Self::TooLarge => "update_too_large",
            Self::PublishersMissing => "publishers_missing",
            Self::PublishersChanged => "publishers_changed",
            Self::KeySet(error) => error.reason(),
        }
    }

    /// Whether a snapshot can mend it. Anything else is the authority, or somebody in its name, contradicting itself.
    #[must_use]
    pub const fn wants_snapshot(self) -> bool {
        matches!(
            self,
            Self::Base | Self::Digest | Self::Revocation | Self::PublishersChanged
        )
    }
}
