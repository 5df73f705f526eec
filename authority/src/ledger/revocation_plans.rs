//! What is revoked, and what is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_core::names::{ClientId, TokenId};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_wire::status::Failure;

use super::{Books, Done, Hold, Ledger, LedgerError, Plan};

/// What a revocation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is in force from the epoch of the books returned.
    Now,
    /// There was nothing to do.
    Already,
}

impl Ledger {
    /// Revokes the token with these claims. One that has expired needs none.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn revoke_token(&self, claims: &Claims) -> Result<Done<Revoked>, LedgerError> {
        let subject = RevokedSubject::Token(claims.token_id.clone());
        let ends = claims.expires_at;
        let expires_at = ends.saturating_add(self.policy().revocation_slack);
        let latest = self.policy().revocation_life;
        let clock = Arc::clone(self.timeline().clock());
        self.write(Hold::Nobody, move |books, now| {
            // Also by the clock itself: after a step ahead that was taken back, `now` is late.
            if ends <= now.min(clock.now()) {
                return Ok(Plan::nothing(Revoked::Already));
            }
            let revocation = Revocation {
                subject,
                issued_before: Timestamp::default(),
                expires_at: expires_at.min(now.saturating_add(latest)),
            };
            Ok(plan(books, revocation))
        })
        .await
    }

    /// Revokes the token with this `jti`, whenever it ends. Done again, it is revoked for longer: the token may have been issued
    /// since.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn revoke_token_id(&self, token_id: TokenId) -> Result<Done<Revoked>, LedgerError> {
        let life = self.policy().revocation_life;
        self.write(Hold::Nobody, move |books, now| {
            let revocation = Revocation {
                subject: RevokedSubject::Token(token_id),
                issued_before: Timestamp::default(),
                expires_at: now.saturating_add(life),
            };
            Ok(plan(books, revocation))
        })
        .await
    }

    /// Revokes every token that the client was issued until now.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `LimitReached`, or the store's.
    pub async fn revoke_client(&self, client_id: ClientId) -> Result<Done<Revoked>, LedgerError> {
        // A client that was registered once is known for ever.
        self.changeable()?;
        if self.books().clients.find(client_id.as_str()).is_none() {
            return Err(LedgerError::Refused(Failure::ClientUnknown));
        }
        self.revoke_all_of(RevokedSubject::Client(client_id)).await
    }

    /// Revokes every token that `subject` names and that was issued until now. A certificate is good for no token while the entry is
    /// kept: done again, that is longer.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn revoke_all_of(&self, subject: RevokedSubject) -> Result<Done<Revoked>, LedgerError> {
        let life = self.policy().life_of(&subject);
        self.write(Hold::Tokens(subject.clone()), move |books, now| {
            Ok(plan(books, until(now, subject, life)))
        })
        .await
    }

    /// Revokes every token that was issued at or before `issued_before`, which is not in the future.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn revoke_everything(&self, issued_before: Timestamp) -> Result<Done<Revoked>, LedgerError> {
        let life = self.policy().revocation_life;
        self.write(Hold::Nobody, move |books, now| {
            let revocation = Revocation {
                subject: RevokedSubject::Everything,
                issued_before: issued_before.min(now),
                expires_at: now.saturating_add(life),
            };
            Ok(plan(books, revocation))
        })
        .await
    }

    /// Forgets revocations that no token can need any more, also by a clock that is a minute behind, the oldest first, at
    /// most `limit` or so at a time. Nothing happens when there are none, so that pruning alone makes no epochs.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn prune(&self, limit: usize) -> Result<Done<usize>, LedgerError> {
        let clock = Arc::clone(self.timeline().clock());
        self.write(Hold::Nobody, move |books, now| {
            // The earlier of the two: after a step ahead that was taken back, tokens live longer than `now` has it.
            let now = now.min(clock.now());
            let Some(time) = prune_before(books.trust.revocations(), now, limit) else {
                return Ok(Plan::nothing(0));
            };
            let expired = books.trust.revocations().expiries();
            let expired = expired.filter(|(expires_at, _)| *expires_at < time);
            Ok(Plan {
                prune_before: Some(time),
                ..Plan::nothing(expired.map(|(_, count)| count).sum())
            })
        })
        .await
    }
}

/// A page of revocations.
#[derive(Clone, Debug)]
pub struct RevocationPage {
    /// The revocations, in the order of the list.
    pub revocations: Vec<Revocation>,
    /// What the page after this one comes after. None on the last page.
    pub next: Option<RevokedSubject>,
}

impl Ledger {
    /// Revocations in force, at most `limit`, those after the one for `after`.
    #[must_use]
    pub fn list_revocations(&self, after: Option<&RevokedSubject>, limit: usize) -> RevocationPage {
        let books = self.books();
        let mut rest = books.trust.revocations().after(after);
        let revocations: Vec<Revocation> = rest.by_ref().take(limit).collect();
        let last = revocations.last().filter(|_| rest.next().is_some());
        RevocationPage {
            next: last.map(|last| last.subject.clone()),
            revocations,
        }
    }
}

/// Ends every token of `subject` that was issued until `now`.
pub(super) const fn until(now: Timestamp, subject: RevokedSubject, life: Duration) -> Revocation {
    Revocation {
        subject,
        issued_before: now,
        expires_at: now.saturating_add(life),
    }
}

/// Adds `revocation`, unless the list is as strict already.
fn plan(books: &Books, revocation: Revocation) -> Plan<Revoked> {
    if books.trust.revocations().covers(&revocation) {
        Plan::nothing(Revoked::Already)
    } else {
        Plan::nothing(Revoked::Now).and_revoke(revocation)
    }
}

/// How long an entry is kept after it has expired, for verifiers whose clock is behind: by it the tokens concerned have
/// expired, too, when the entry goes, and what is dropped is no un-revoking. As long as the longest leeway that may be
/// configured.
const PRUNE_MARGIN: Duration = Duration::from_secs(60);

/// The time before which entries are dropped: all of those that expired longer ago than the margin, or those that did so
/// first. What expires together is dropped together.
fn prune_before(list: &RevocationList, now: Timestamp, limit: usize) -> Option<Timestamp> {
    let latest = now.saturating_sub(PRUNE_MARGIN);
    let mut expired: BTreeMap<Timestamp, usize> = BTreeMap::new();
    for (expires_at, count) in list.expiries().filter(|(expires_at, _)| *expires_at < latest) {
        let together = expired.entry(expires_at).or_default();
        *together = together.saturating_add(count);
    }
    let mut taken = 0_usize;
    let fit = expired.into_iter().take_while(|(_, count)| {
        let is_first = taken == 0;
        taken = taken.saturating_add(*count);
        is_first || taken <= limit
    });
    let (last, _) = fit.last()?;
    Some(Timestamp::from_seconds(last.as_seconds().saturating_add(1)))
}
