//! What is revoked, and what is forgotten.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_core::names::{ClientId, TokenId};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_wire::status::Failure;

use crate::store::{Range, Record, revocations};

use super::{Books, Done, Hold, Ledger, LedgerError, Plan, client_plans};

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

    /// Revokes the token with this `jti`, whenever it ends.
    ///
    /// # Errors
    /// [`LedgerError`]: `LimitReached`, or the store's.
    pub async fn revoke_token_id(&self, token_id: TokenId) -> Result<Done<Revoked>, LedgerError> {
        let life = self.policy().revocation_life;
        self.write(Hold::Nobody, move |books, now| {
            let subject = RevokedSubject::Token(token_id);
            if books.trust.revocations().find(&subject).is_some() {
                return Ok(Plan::nothing(Revoked::Already));
            }
            let revocation = Revocation {
                subject,
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
        let life = self.policy().revocation_life;
        self.write(Hold::Client(client_id.clone()), move |books, now| {
            if books.clients.find(client_id.as_str()).is_none() {
                return Err(LedgerError::Refused(Failure::ClientUnknown));
            }
            Ok(plan(books, client_plans::watermark(&client_id, now, life)))
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
            let expired = books.trust.revocations().iter();
            let count = expired.filter(|entry| entry.expires_at < time).count();
            Ok(Plan {
                prune_before: Some(time),
                ..Plan::nothing(count)
            })
        })
        .await
    }
}

/// A page of revocations.
#[derive(Clone, Debug)]
pub struct RevocationPage {
    /// The revocations, in the order of their records' names.
    pub revocations: Vec<Revocation>,
    /// What the page after this one comes after. None on the last page.
    pub next: Option<String>,
}

impl Ledger {
    /// Revocations in force, a page at a time. Read off the store, which has them in an order.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn list_revocations(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<RevocationPage, LedgerError> {
        let range = Range {
            prefix: revocations::PREFIX.to_owned(),
            after: after.map(|after| format!("{}{after}", revocations::PREFIX)),
            limit,
        };
        let page = self.0.store.range(range).await?;
        let last = page.records.last().filter(|_| page.more);
        let next = last.and_then(|record| record.name.strip_prefix(revocations::PREFIX));
        let read = |record: &Record| revocations::read(&record.name, &record.value);
        Ok(RevocationPage {
            next: next.map(str::to_owned),
            revocations: page.records.iter().map(read).collect::<Result<_, _>>()?,
        })
    }
}

/// Adds `revocation`, unless the list is as strict already.
fn plan(books: &Books, revocation: Revocation) -> Plan<Revoked> {
    let covered = books
        .trust
        .revocations()
        .find(&revocation.subject)
        .is_some_and(|held| {
            held.issued_before >= revocation.issued_before && held.expires_at >= revocation.expires_at
        });
    if covered {
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
/// first.
fn prune_before(list: &RevocationList, now: Timestamp, limit: usize) -> Option<Timestamp> {
    let latest = now.saturating_sub(PRUNE_MARGIN);
    let mut expired: Vec<Timestamp> = list
        .iter()
        .map(|entry| entry.expires_at)
        .filter(|expires_at| *expires_at < latest)
        .collect();
    if expired.is_empty() {
        return None;
    }
    if expired.len() <= limit {
        return Some(latest);
    }
    let (_, last, _) = expired.select_nth_unstable(limit.saturating_sub(1));
    Some(Timestamp::from_seconds(last.as_seconds().saturating_add(1)))
}
