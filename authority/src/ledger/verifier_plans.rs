//! What becomes of the roster of verifiers. None of it is an epoch: verifiers need not know of each other.

use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use countersign_wire::status::Failure;

use super::{Done, Hold, Ledger, LedgerError, Plan};
use crate::fleet::Untold;
use crate::roster::RosterChange;
use crate::store::verifiers::{Export, Quarantine};

/// The most trust files that may be decided on at one time: one every five minutes that lasts a week is half of it.
const MAX_EXPORTS: usize = 4096;

impl Ledger {
    /// Takes down what the fleet has to have taken down before anything is granted, and strikes what is over. What it took in: of
    /// the trust files those that have ended by the wall clock, too, which the store has to go by after a restart.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn enrol(&self, mut untold: Untold) -> Result<Done<Untold>, LedgerError> {
        let clock = Arc::clone(self.timeline().clock());
        self.write_down(Hold::Nobody, move |books, now| {
            // The earlier of the two: after a step ahead that was taken back, files live longer than `now` has it.
            let now = now.min(clock.now());
            let ends = |epoch: &Epoch| books.roster.export_ends(*epoch);
            let has_ended = |epoch: &Epoch| ends(epoch).is_none_or(|until| until <= now);
            untold.expired.retain(has_ended);
            let known = untold.known.iter().cloned().map(RosterChange::Known);
            let gone = untold.gone.iter().cloned().map(RosterChange::Forgotten);
            let expired = untold.expired.iter().copied().map(RosterChange::Expired);
            let mut changes: Vec<_> = known.chain(gone).chain(expired).collect();
            changes.retain(|change| !books.roster.has(change));
            Ok(Plan::roster(changes, untold))
        })
        .await
    }

    /// Takes down that a trust file may be decided on until `until`, before it is made. It is an epoch of its own, which is in the
    /// file: so whoever holds the epoch or starts from the file shows a store that was restored from before it that it was. The
    /// epoch.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn export(&self, until: Timestamp) -> Result<Done<Epoch>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            if books.roster.exports().count() >= MAX_EXPORTS {
                return Err(LedgerError::Refused(Failure::LimitReached));
            }
            let epoch = books.next_epoch();
            let change = RosterChange::Exported(Export { epoch, until });
            Ok(Plan {
                marks_epoch: true,
                ..Plan::roster(vec![change], epoch)
            })
        })
        .await
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
}
