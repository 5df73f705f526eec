//! What becomes of drills, and of their shadows.
//!
//! INVARIANT (nobody signs under a shadow): its private half is dropped before its public half is stored, and rotation does not
//! know of it. So a drill changes nothing about who signs, and about who has to hold which key before it signs.

use countersign_core::drill::{Aborted, Change, Drill, DrillEnd, DrillId, DrillOutcome, Reached};
use countersign_core::jose::Algorithm;
use countersign_core::key_set::{KeyTimes, PublishedKey};
use countersign_core::names::KeyId;
use countersign_core::ports::KeyReader as _;
use countersign_core::revocation::DigestSum;
use countersign_crypto::AwsLc;
use countersign_wire::status::Failure;

use super::books::{self, Plan};
use super::key_plans::{generate, has_room, withdrawn};
use super::opening::{Found, Opening, StartError};
use super::{Books, Done, Hold, Ledger, LedgerError};
use crate::audit::{self, Actor, Event, Outcome};
use crate::drills::Drills;
use crate::keyring::RingKey;
use crate::store::drills::{PREFIX, read};
use crate::store::meta::HEAD;
use crate::store::read_all;
use crate::store::record::Vault;

/// Who starts a drill, and why.
#[derive(Clone, Debug)]
pub struct NewDrill {
    /// The operator.
    pub started_by: String,
    /// The reason.
    pub reason: String,
}

impl Ledger {
    /// Begins a drill: makes a shadow and publishes it.
    ///
    /// # Errors
    /// [`LedgerError`]: `DrillRunning`, `LimitReached`, or the store's.
    pub async fn begin_drill(&self, new: NewDrill, algorithm: Algorithm) -> Result<Done<Drill>, LedgerError> {
        self.changeable()?;
        none_runs(&self.books())?;
        let published = shadow(algorithm).await?;
        self.write(Hold::Nobody, move |books, now| {
            none_runs(books)?;
            if !has_room(books) {
                return Err(LedgerError::Refused(Failure::LimitReached));
            }
            let epoch = books.next_epoch();
            let mut published = published;
            // Nothing is accepted under it: it has no time from which that would be so.
            published.times.prepared_at = now;
            let drill = Drill {
                id: books.drills.next_id(),
                key_id: published.jwk.key_id().clone(),
                started_by: new.started_by,
                reason: new.reason,
                published: Change { epoch, at: now },
                held: None,
                withdrawn: None,
                end: None,
            };
            let key = RingKey {
                published,
                published_in: epoch,
                signer: None,
                shadow: true,
            };
            Ok(Plan::drill(books.ring.with(key), drill))
        })
        .await
    }

    /// Declares the shadow of a drill compromised, as [`Ledger::compromise_key`] does a key, and takes down from then on who has
    /// heard of it. Everybody `held` it before, or the wait for that was over. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`LedgerError`]: `DrillUnknown`, or the store's. It may be tried again.
    pub async fn withdraw_shadow(
        &self,
        id: DrillId,
        held: Option<Reached>,
    ) -> Result<Done<Drill>, LedgerError> {
        let fleet = self.0.fleet.clone();
        self.write(Hold::Nobody, move |books, now| {
            let drill = known(books, id)?;
            if drill.withdrawn.is_some() || !drill.is_running() {
                return Ok(Plan::nothing(drill));
            }
            let epoch = books.next_epoch();
            let ring = withdrawn(&books.ring, &drill.key_id, now);
            // Right before the commit: what that takes is a part of what an operator waits for.
            fleet.time(epoch);
            let drill = Drill {
                held,
                withdrawn: Some(Change { epoch, at: now }),
                ..drill
            };
            Ok(Plan::drill(ring, drill))
        })
        .await
    }

    /// Ends a drill, and stops publishing its shadow. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`LedgerError`]: `DrillUnknown`, or the store's. It may be tried again.
    pub async fn end_drill(&self, id: DrillId, end: DrillEnd) -> Result<Done<Drill>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let drill = known(books, id)?;
            if !drill.is_running() {
                return Ok(Plan::nothing(drill));
            }
            Ok(ended(books, drill, end))
        })
        .await
    }

    /// Ends the drill that runs, or that one if it does, before its time. Whoever carries it out finds that out.
    ///
    /// # Errors
    /// [`LedgerError`]: `DrillNotRunning`, `DrillUnknown`, or the store's.
    pub async fn abort_drill(
        &self,
        id: Option<DrillId>,
        aborted: Aborted,
    ) -> Result<Done<Drill>, LedgerError> {
        let fleet = self.0.fleet.clone();
        self.write(Hold::Nobody, move |books, now| {
            let drill = match id {
                Some(id) => Some(known(books, id)?),
                None => books.drills.running().map(|drill| drill.as_ref().clone()),
            };
            let drill = drill.filter(Drill::is_running);
            let drill = drill.ok_or(LedgerError::Refused(Failure::DrillNotRunning))?;
            let withdrawn = drill.withdrawn;
            let end = DrillEnd {
                outcome: DrillOutcome::Aborted,
                at: now,
                measured: withdrawn.and_then(|withdrawn| fleet.timed(withdrawn.epoch, false)),
                aborted: Some(aborted),
            };
            Ok(ended(books, drill, end))
        })
        .await
    }
}

fn none_runs(books: &Books) -> Result<(), LedgerError> {
    match books.drills.running() {
        None => Ok(()),
        Some(_) => Err(LedgerError::Refused(Failure::DrillRunning)),
    }
}

fn known(books: &Books, id: DrillId) -> Result<Drill, LedgerError> {
    let known = books.drills.find(id).map(|drill| drill.as_ref().clone());
    known.ok_or(LedgerError::Refused(Failure::DrillUnknown))
}

fn ended(books: &Books, drill: Drill, end: DrillEnd) -> Plan<Drill> {
    let ring = books.ring.without(&drill.key_id);
    let drill = Drill {
        end: Some(end),
        ..drill
    };
    Plan::drill(ring, drill)
}

/// The public half of a key whose private half is gone when this has returned.
async fn shadow(algorithm: Algorithm) -> Result<PublishedKey, LedgerError> {
    let jwk = generate(algorithm).await?.jwk().clone();
    let public_key = AwsLc.public_key(&jwk).map_err(|_weak| LedgerError::Generation)?;
    Ok(PublishedKey {
        jwk,
        public_key,
        times: KeyTimes::default(),
    })
}

/// The drills that the store has.
pub(super) async fn read_drills(opening: &Opening, sum: &DigestSum) -> Result<Drills, StartError> {
    let mut drills = Drills::default();
    for record in read_all(opening.store.as_ref(), PREFIX).await? {
        let drill = read(&record.name, &record.value)?;
        drills.found(drill, record.value);
    }
    // A shadow would be taken for a key of ours without the record that says what it is.
    if drills.sum() == *sum {
        Ok(drills)
    } else {
        Err(StartError::DrillsMismatch)
    }
}

/// The shadow that is published.
pub(super) fn shadow_of(drills: &Drills) -> Option<&KeyId> {
    drills.running().map(|drill| &drill.key_id)
}

/// Ends the drill in whose middle the authority was stopped, if there is one. While the authority waits to be recovered, that
/// waits, too.
pub(super) async fn interrupt_drill(
    opening: &Opening,
    vault: &Vault,
    found: Found,
) -> Result<Found, StartError> {
    let before = &found.books;
    let drill = match before.drills.running() {
        Some(drill) if before.changeable().is_ok() => drill.as_ref().clone(),
        Some(_) | None => return Ok(found),
    };
    let last = drill.withdrawn.unwrap_or(drill.published);
    let end = DrillEnd {
        outcome: DrillOutcome::Interrupted,
        at: opening.clock.now().max(last.at),
        measured: None,
        aborted: None,
    };
    let plan = ended(before, drill, end);
    // Nothing is signed for clients yet, so the time of the books stays.
    let after = before.after(&plan, before.committed_at)?.books;
    let mut commit = books::records(before, &after, &plan, vault)?;
    commit.expect(HEAD, found.version);
    commit.put(HEAD.to_owned(), after.head()?.write(vault)?);
    let version = opening.store.commit(commit).await?;
    record_end(&plan.answer);
    Ok(Found {
        books: after,
        version,
    })
}

/// Writes the end of a drill to the audit trail.
pub fn record_end(drill: &Drill) {
    let outcome = drill.end.as_ref().map_or("", |end| end.outcome.name());
    audit::record(&Event {
        actor: &Actor::authority(),
        action: "end_drill",
        subject: &drill.id.to_string(),
        outcome: Outcome::Done,
        note: outcome,
    });
}
