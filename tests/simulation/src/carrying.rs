//! What a verifier must know of certificates that are revoked, whatever becomes of its authority and of its disk.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::names::CertificateThumbprint;
use countersign_core::revocation::RevokedSubject;
use countersign_core::verifier::StateId;

use crate::disk::Lacks;
use crate::model::Known;
use crate::world::World;

/// For what times are rounded and moved by, where something ends.
const ENDED: Duration = Duration::from_secs(5);

impl World {
    /// The state is in force.
    pub(crate) fn note_certificates(&mut self, verifier: usize, id: StateId) {
        let known = &mut self.model.verifiers[verifier];
        let published = self.model.published.get(&(id.epoch, id.digest));
        for (subject, (_, expires_at)) in published.iter().flat_map(|published| &published.revocations) {
            if let RevokedSubject::Certificate(revoked) = subject {
                let until = known.certificates.entry(*revoked).or_default();
                *until = (*until).max(*expires_at);
            }
        }
    }

    /// And the authority was told that it is on disk.
    pub(crate) fn note_on_disk(&mut self, verifier: usize, id: StateId) {
        let known = &mut self.model.verifiers[verifier];
        known.on_disk.clone_from(&known.certificates);
        let published = self.model.published.get(&(id.epoch, id.digest));
        let in_state = |revoked: &CertificateThumbprint| {
            let entry = published?.revocations.get(&RevokedSubject::Certificate(*revoked));
            entry.map(|(_, expires_at)| *expires_at)
        };
        let beside = known.certificates.iter();
        let beside = beside.filter(|(revoked, until)| in_state(revoked).is_none_or(|end| end < **until));
        known.beside = beside.map(|(revoked, until)| (*revoked, *until)).collect();
    }

    /// It has let go of everything else.
    pub(crate) fn note_let_go(&mut self, verifier: usize) {
        let known = &mut self.model.verifiers[verifier];
        known.on_disk.clone_from(&known.certificates);
        known.beside.clone_from(&known.certificates);
    }

    /// A start may have found less.
    pub(crate) fn note_lacks(&mut self, verifier: usize, lacks: Lacks) {
        let known = &mut self.model.verifiers[verifier];
        match lacks {
            Lacks::Nothing => {}
            Lacks::State => known.on_disk.clone_from(&known.beside),
            // Who starts with what somebody put there knows of none.
            Lacks::Anything => {
                known.on_disk.clear();
                known.beside.clear();
            }
        }
        known.certificates.clone_from(&known.on_disk);
    }

    /// By when the authority has said what time it is to a verifier whose time is `now`, since it started.
    pub(crate) fn heard_by(&self, known: &Known, now: Timestamp, at: Duration) -> Timestamp {
        let anchor = known.anchor.filter(|_| known.heard);
        let since = anchor.map(|anchor| at.saturating_sub(anchor.at) + self.model.steps + ENDED);
        since.map_or(Timestamp::default(), |since| now.saturating_sub(since))
    }
}
