//! What becomes of the roster of verifiers. None of it is an epoch: verifiers need not know of each other.

use countersign_core::fleet::VerifierKey;
use countersign_core::spiffe::SpiffeId;
use countersign_wire::status::Failure;

use super::{Done, Hold, Ledger, LedgerError, Plan};
use crate::roster::RosterChange;
use crate::store::verifiers::{Known, Quarantine};

impl Ledger {
    /// Takes down verifiers that may hold a lease, and strikes those that hold none any more.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn enrol(&self, known: Vec<Known>, gone: Vec<VerifierKey>) -> Result<Done<()>, LedgerError> {
        let known = known.into_iter().map(RosterChange::Known);
        let changes: Vec<_> = known
            .chain(gone.into_iter().map(RosterChange::Forgotten))
            .collect();
        self.change_roster(changes).await
    }

    /// Grants an identity no more leases.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn quarantine(&self, spiffe_id: SpiffeId) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, now| {
            let change = RosterChange::Quarantined(Quarantine {
                spiffe_id,
                since: now,
            });
            let changes = if books.roster.has(&change) {
                vec![]
            } else {
                vec![change]
            };
            Ok(Plan::roster(changes, ()))
        })
        .await
    }

    /// Ends a quarantine.
    ///
    /// # Errors
    /// [`LedgerError`]: `VerifierUnknown`, or the store's.
    pub async fn release(&self, spiffe_id: SpiffeId) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let change = RosterChange::Released(spiffe_id);
            if books.roster.has(&change) {
                return Err(LedgerError::Refused(Failure::VerifierUnknown));
            }
            Ok(Plan::roster(vec![change], ()))
        })
        .await
    }

    async fn change_roster(&self, mut changes: Vec<RosterChange>) -> Result<Done<()>, LedgerError> {
        self.write_down(Hold::Nobody, move |books, _now| {
            changes.retain(|change| !books.roster.has(change));
            Ok(Plan::roster(changes, ()))
        })
        .await
    }
}
