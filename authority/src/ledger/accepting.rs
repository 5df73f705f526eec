//! The way out when the time in the store is wrong: a clock that was ahead left it there, and nothing would be signed until
//! it has come (X08). The operator names that time at start, and the clock is believed instead.
//!
//! By itself that would let tokens live whose revocations the wrong clock forgot too early, and tokens from the time ahead,
//! which no later watermark reaches. So the same commit withdraws every key, and a new one signs.
//!
//! INVARIANT (no un-revoking): no token that was issued before is accepted after it.

use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::recovery;
use countersign_core::revocation::{Revocation, RevocationList};
use countersign_core::trust::{Epoch, TrustState};
use countersign_crypto::{AwsLc, KeyError};
use countersign_wire::MAX_REVOCATION_LIFE;

use super::LedgerPolicy;
use super::books::{self, Plan};
use super::key_plans::{generate, ring_key};
use super::opening::{Found, Opening, StartError};
use crate::alarm::Alarm;
use crate::audit::{self, Actor, Event, Outcome};
use crate::keyring::KeyRing;
use crate::store::meta::HEAD;
use crate::store::record::Vault;
use crate::timeline::written;

/// What was found in the store, at the clock's time if the operator accepts that. An acceptance of another time than the one
/// in the store is none: the option may be left where it is, and works once.
pub(super) async fn accept_clock(
    opening: &Opening,
    vault: &Vault,
    found: Found,
) -> Result<Found, StartError> {
    let now = opening.clock.now();
    let floor = found.books.committed_at;
    if opening.accepted_time == Some(floor) && now < floor {
        return withdraw(opening, vault, found, now).await;
    }
    if floor.since(now) > opening.leeway {
        let advice = format!(
            "the store is at {} and the clock at {}: set the clock right, or, if the store is wrong, start with \
             --accept-clock {floor}, which ends every token",
            written(floor),
            written(now)
        );
        Alarm::ClockBehind.raise(&opening.metrics, &advice);
    }
    if let Some(accepted) = opening.accepted_time {
        tracing::warn!(%accepted, store = %floor, clock = %now, "no clock had to be accepted");
    }
    Ok(found)
}

async fn withdraw(
    opening: &Opening,
    vault: &Vault,
    found: Found,
    now: Timestamp,
) -> Result<Found, StartError> {
    let before = found.books;
    let ring = succeeded(opening, &before.ring, before.next_epoch(), now).await?;
    let plan = Plan::ring(ring, ());
    let mut after = before.after(&plan, now)?.books;
    let mut commit = books::records(&before, &after, &plan, vault)?;
    let list = shortened(before.trust.revocations(), now, &opening.policy);
    books::shortened_records(before.trust.revocations(), &list, vault, &mut commit)?;
    after.trust = TrustState::new(
        opening.issuer.clone(),
        after.trust.epoch(),
        Arc::clone(after.trust.keys()),
        list,
        &AwsLc,
    )
    .published_under(before.trust.publishers(), &AwsLc);
    commit.expect(HEAD, found.version);
    commit.put(HEAD.to_owned(), after.head()?.write(vault)?);
    let version = opening.store.commit(commit).await?;
    audit::record(&Event {
        actor: &Actor::authority(),
        action: "accept_clock",
        subject: &before.committed_at.to_string(),
        outcome: Outcome::Done,
        note: &format!("the clock is at {}; every key was withdrawn", written(now)),
    });
    Ok(Found {
        books: after,
        version,
    })
}

/// The ring with every key withdrawn, and a new one that `epoch` publishes and that signs from `now` on.
pub(super) async fn succeeded(
    opening: &Opening,
    ring: &KeyRing,
    epoch: Epoch,
    now: Timestamp,
) -> Result<KeyRing, StartError> {
    let successor = generate(opening.algorithm).await?;
    let successor = ring_key(successor, recovery::successor(now), epoch);
    let successor = successor.map_err(|_failed| StartError::Key(KeyError::Generation))?;
    let withdrawn = ring.retimed(|key| recovery::withdrawn(*key.times(), now));
    Ok(withdrawn.with(successor))
}

/// The list with entries that verifiers do not take as they would be if they were made now: they have refused what was made to
/// last longer, and with it everything after it. What is shortened is as strict as anything that verifiers may hold about the
/// same subject, and the tokens concerned have no key any more.
fn shortened(list: &RevocationList, now: Timestamp, policy: &LedgerPolicy) -> RevocationList {
    let latest = now.saturating_add(MAX_REVOCATION_LIFE);
    let taken = |entry: Revocation| {
        if entry.expires_at <= latest {
            return entry;
        }
        Revocation {
            issued_before: entry.issued_before.min(now),
            expires_at: now.saturating_add(policy.life_of(&entry.subject)),
            ..entry
        }
    };
    list.iter().map(taken).collect()
}
