//! Bugs on purpose: the simulation plants them, one at a time, to see that it finds them (`tests/simulation`).
//!
//! Without the feature `planted-bugs`, which nothing but the simulation's tests turns on, [`planted`] is `false` when the program is
//! compiled, and nothing is left of them.

/// A bug that somebody might write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A key signs before verifiers hold it.
    GateSkipped,
    /// A key signs when verifiers hold it in memory.
    GateOnAcknowledged,
    /// An epoch is acknowledged before it is saved.
    AcknowledgedBeforeSaving,
    /// An epoch that could not be saved is acknowledged as durable.
    DurableThoughNotSaved,
    /// Age counts from when the answer came, not from when it was asked for.
    AgeFromReceipt,
    /// Any answer confirms, whatever state it names.
    AnyAnswerConfirms,
    /// An answer about the same epoch confirms, whatever its digest.
    OtherDigestConfirms,
    /// An old heartbeat confirms again.
    OldHeartbeatConfirms,
    /// An answer without a lease confirms.
    ConfirmedWithoutLease,
    /// The lease of an earlier process counts after a start.
    LeaseAfterStart,
    /// What was never confirmed is fresh.
    NeverConfirmedIsFresh,
    /// The age of what is on disk goes by the wall clock alone.
    AgeByWall,
    /// A grant is not written down.
    GrantNotWritten,
    /// What is written down of a grant leaves out the budget.
    BudgetLeftOut,
    /// What is written down of a grant leaves out that clocks run apart.
    DriftLeftOut,
    /// After a start of the authority nobody is taken to hold a lease.
    GrantsForgotten,
    /// Who is in quarantine is granted leases.
    QuarantineGrants,
    /// What a stream says counts after another has taken its place.
    LateStreamCounts,
    /// A new key set is added to the old one.
    KeySetsMerged,
    /// Of two revocations of one subject, the first holds.
    FirstRevocationWins,
    /// Revocations are dropped before they expire.
    DroppedEarly,
    /// The authority drops revocations the moment they expire.
    PrunedWithoutMargin,
    /// A verifier lets the authority drop revocations that still matter by its own clock.
    PruneUnchecked,
    /// What is taken back by an update that cannot be taken over is not heeded.
    NotHeeded,
    /// An update to an earlier epoch is taken over.
    StepsBack,
    /// An update with other content for the epoch in force is taken over.
    ForkTaken,
    /// A revocation spares what was issued in its own second.
    SameSecondSpared,
    /// The floor on disk does not rise.
    FloorNotRaised,
    /// The floor on disk is not heeded in a cold start.
    FloorNotHeeded,
    /// A floor that is missing is taken for none.
    FloorZeroWhenMissing,
    /// What leads up from a snapshot is put in force before it is all there.
    RebuiltHalfway,
    /// A withdrawn key goes on signing.
    CompromisedKeySigns,
    /// A retired key is given up before its tokens have expired.
    RetiredKeyGoneEarly,
    /// A token is accepted in the second in which it expires.
    AcceptedAtExpiry,
    /// The verifier's time follows its wall clock.
    TimeFollowsWall,
    /// One decision reads the clock twice.
    ClockReadTwice,
    /// What is remembered of tokens is found by their `jti`.
    CachedByTokenId,
    /// An authority goes on that was shown a state of its own name that it never reached.
    ProofIgnored,
    /// A recovered authority goes on from its own epoch, not from above what was shown.
    ShownEpochForgotten,
    /// A recovered authority keeps its keys.
    KeysSurviveRecovery,
    /// A key's name is not of its numbers.
    KeyNamedByKind,
    /// A key signs after its successor was activated.
    RetiredKeySigns,
    /// A verifier accepts tokens under a withdrawn key.
    WithdrawnKeyVerifies,
    /// A signature that could not be checked passes.
    FailedCheckPasses,
    /// An operator is told before what he did is in the store.
    AnsweredBeforeCommitted,
    /// A link is followed that the publisher set in force did not sign.
    LinkSignerUnchecked,
    /// A publisher set counts as durable before the link to it is saved.
    LinkAcknowledgedBeforeSaving,
    /// A start on an earlier publisher set than was durable goes on with that.
    GenerationStepsBack,
    /// What a publishing key signed that is not in the set any more is believed.
    DroppedPublisherBelieved,
    /// A publishing key signs before verifiers hold it.
    PublisherGateSkipped,
    /// A prepared publishing key takes the place of the one that signs.
    PublisherReplacedAtOnce,
    /// What a trust file confirms counts for longer than its lifetime.
    LifetimeNotHeeded,
    /// What a trust file confirms takes the place of what the authority told the verifier.
    FileMakesOlder,
    /// A revoked certificate still proves itself and its SPIFFE ID.
    RevokedCertificateProves,
    /// A recovery makes verifiers forget which certificates are revoked.
    CertificatesForgotten,
    /// And a restart does, of those that a recovery left out.
    CertificatesNotRestored,
    /// What is carried past a recovery never ends.
    CarriedForGood,
    /// A cold start forgets what is carried with the rest.
    CarriedSetAside,
    /// And who lets go of everything does.
    CarriedLetGo,
    /// The register does not hear of trust files.
    ExportNotWritten,
    /// After a start of the authority nobody is taken to have a trust file.
    ExportsForgotten,
    /// A trust file is made before it is written down.
    FileMadeFirst,
}

impl Bug {
    /// Every one.
    pub const ALL: [Self; 62] = [
        Self::GateSkipped,
        Self::GateOnAcknowledged,
        Self::AcknowledgedBeforeSaving,
        Self::DurableThoughNotSaved,
        Self::AgeFromReceipt,
        Self::AnyAnswerConfirms,
        Self::OtherDigestConfirms,
        Self::OldHeartbeatConfirms,
        Self::ConfirmedWithoutLease,
        Self::LeaseAfterStart,
        Self::NeverConfirmedIsFresh,
        Self::AgeByWall,
        Self::GrantNotWritten,
        Self::BudgetLeftOut,
        Self::DriftLeftOut,
        Self::GrantsForgotten,
        Self::QuarantineGrants,
        Self::LateStreamCounts,
        Self::KeySetsMerged,
        Self::FirstRevocationWins,
        Self::DroppedEarly,
        Self::PrunedWithoutMargin,
        Self::PruneUnchecked,
        Self::NotHeeded,
        Self::StepsBack,
        Self::ForkTaken,
        Self::SameSecondSpared,
        Self::FloorNotRaised,
        Self::FloorNotHeeded,
        Self::FloorZeroWhenMissing,
        Self::RebuiltHalfway,
        Self::CompromisedKeySigns,
        Self::RetiredKeyGoneEarly,
        Self::AcceptedAtExpiry,
        Self::TimeFollowsWall,
        Self::ClockReadTwice,
        Self::CachedByTokenId,
        Self::ProofIgnored,
        Self::ShownEpochForgotten,
        Self::KeysSurviveRecovery,
        Self::KeyNamedByKind,
        Self::RetiredKeySigns,
        Self::WithdrawnKeyVerifies,
        Self::FailedCheckPasses,
        Self::AnsweredBeforeCommitted,
        Self::LinkSignerUnchecked,
        Self::LinkAcknowledgedBeforeSaving,
        Self::GenerationStepsBack,
        Self::DroppedPublisherBelieved,
        Self::PublisherGateSkipped,
        Self::PublisherReplacedAtOnce,
        Self::LifetimeNotHeeded,
        Self::FileMakesOlder,
        Self::RevokedCertificateProves,
        Self::CertificatesForgotten,
        Self::CertificatesNotRestored,
        Self::CarriedForGood,
        Self::CarriedSetAside,
        Self::CarriedLetGo,
        Self::ExportNotWritten,
        Self::ExportsForgotten,
        Self::FileMadeFirst,
    ];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this thread has `bug`.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Gives this thread `bug`, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

/// Whether this thread has a bug: never.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}
