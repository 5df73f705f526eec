//! No way back: what happens when the store is not the one that was last published from, because it was restored from a backup
//! or copied (D17, F30).
//!
//! A verifier shows it with what it keeps: an epoch that was never reached here, or another digest, signed by a publishing key
//! that is in this very store. From then on nothing is signed for clients, no lease is granted and nothing is changed, until an
//! operator recovers the authority: then every key is withdrawn, a new one signs, and the epoch is above everything that was
//! shown. A verifier takes that over although revocations are missing that it holds, because no token from before is accepted.
//!
//! INVARIANT (no way back): no token that was issued before is accepted after it, whoever had revoked what.

use countersign_core::Timestamp;
use countersign_core::feed::Held;
use countersign_core::fleet::VerifierKey;
use countersign_core::key_set::KeyState;
use countersign_core::names::{ClientId, Issuer, KeyId};
use countersign_core::recovery::{Highest, has_to_stop};
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::{Epoch, MAX_EPOCH_STEP, StateDigest, TrustState};
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::Context;
use countersign_proto::sync::v1::hello::Proof;
use countersign_wire::status::Failure;
use countersign_wire::trust::{read_heartbeat, read_update_in_part};
use std::fmt;
use std::sync::Arc;

use super::accepting::succeeded;
use super::books::{self, Books, Hold, Plan};
use super::opening::{Found, Opening, StartError, find_books, own};
use super::{Ledger, LedgerError};
use crate::alarm::Alarm;
use crate::audit::{self, Actor, Event, Outcome};
use crate::keyring::{KeyRing, RingKey};
use crate::store::StoreError;
use crate::store::meta::{HEAD, Recovery};
use crate::store::record::RecordError;
use crate::timeline::written;

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            epoch,
            signed_at,
            shown_by,
        } = self;
        write!(
            f,
            "{shown_by} holds epoch {epoch}, signed at {}, that is not of this store: stop whatever else publishes in \
             this name, then run `countersign-authority recover`, which ends every token",
            written(Timestamp::from_seconds(*signed_at))
        )
    }
}

impl Books {
    /// Whether anything may be changed.
    ///
    /// # Errors
    /// [`LedgerError`]: `RecoveryRequired`.
    pub(super) const fn changeable(&self) -> Result<(), LedgerError> {
        if self.recovery.is_some() {
            Err(LedgerError::Refused(Failure::RecoveryRequired))
        } else {
            Ok(())
        }
    }
}

/// A state that was signed by a publishing key of ours.
struct Shown {
    issuer: Issuer,
    epoch: Epoch,
    digest: StateDigest,
    signed_at: Timestamp,
}

impl Ledger {
    /// Takes note of what `verifier` proves. When it has returned without an error and the proof shows that this store is not
    /// the one that was published from, then nothing is signed or changed any more, also after a restart.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's. It is not written down; the verifier will come again.
    pub async fn hear(&self, verifier: &VerifierKey, proof: &Proof) -> Result<(), LedgerError> {
        let Some(shown) = self.read(proof) else {
            Alarm::ProofRefused.raise(&self.0.metrics, verifier);
            return Ok(());
        };
        let held = Held {
            epoch: shown.epoch,
            digest: shown.digest,
            highest_epoch: shown.epoch,
            publishers: 0,
        };
        let standing = self.0.feed.standing(&held);
        if !has_to_stop(standing, known(&self.books()), shown.epoch) {
            return Ok(());
        }
        let recovery = Recovery {
            epoch: shown.epoch,
            signed_at: shown.signed_at.as_seconds(),
            shown_by: verifier.to_string(),
        };
        Alarm::RecoveryRequired.raise(&self.0.metrics, &recovery);
        // Whoever asks for a token meanwhile waits until it is written down.
        let hold = Hold::Tokens(RevokedSubject::Everything);
        let plan = move |books: &Books, _| {
            let mut plan = Plan::nothing(());
            plan.recovery =
                Some(recovery).filter(|recovery| has_to_stop(standing, known(books), recovery.epoch));
            Ok(plan)
        };
        self.write_down(hold, plan).await.map(drop)
    }

    /// What `proof` shows, if one of our publishing keys signed it about our issuer.
    fn read(&self, proof: &Proof) -> Option<Shown> {
        let (context, signed) = match proof {
            Proof::Heartbeat(signed) => (Context::Heartbeat, signed),
            Proof::Update(signed) => (Context::Update, signed),
        };
        let books = self.books();
        let verified =
            books
                .publishing
                .known()
                .verify(&signed.key_id, context, &signed.payload, &signed.signature);
        verified.ok()?;
        let shown = match proof {
            Proof::Heartbeat(_) => {
                let heartbeat = read_heartbeat(&signed.payload).ok()?;
                Shown {
                    issuer: heartbeat.issuer,
                    epoch: heartbeat.epoch,
                    digest: heartbeat.state_digest,
                    signed_at: Timestamp::from_seconds(heartbeat.authority_time_millis / 1000),
                }
            }
            Proof::Update(_) => {
                let update = read_update_in_part(&signed.payload, &AwsLc).ok()?.update;
                Shown {
                    issuer: update.issuer,
                    epoch: update.epoch,
                    digest: update.state_digest,
                    signed_at: update.published_at,
                }
            }
        };
        (shown.issuer == *self.books().trust.issuer()).then_some(shown)
    }
}

/// The highest epoch that was shown before.
fn known(books: &Books) -> Option<Epoch> {
    books.recovery.as_ref().map(|known| known.epoch)
}

/// Why an authority was not recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NotRecovered {
    /// The store cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is nothing to recover from, as far as is known here.
    #[error(
        "recovery_not_required: no verifier has shown a later state; if you know of one, name its epoch: `--above EPOCH`"
    )]
    NotRequired,
    /// Verifiers would not believe the epoch.
    #[error("epoch_jump: verifiers believe no epoch above {MAX_EPOCH_STEP}")]
    Jump,
}

impl From<StoreError> for NotRecovered {
    fn from(error: StoreError) -> Self {
        Self::Start(error.into())
    }
}

impl From<RecordError> for NotRecovered {
    fn from(error: RecordError) -> Self {
        Self::Start(error.into())
    }
}

/// What a recovery did.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The store as it was.
    pub found: Epoch,
    /// What had shown that it is not the one that was published from.
    pub shown: Option<Recovery>,
    /// The epoch from which the authority goes on.
    pub epoch: Epoch,
    /// The keys that were withdrawn.
    pub withdrawn: Vec<KeyId>,
    /// The key that signs now.
    pub signing: Option<KeyId>,
    /// The clients, and whether each of them may have tokens.
    pub clients: Vec<(ClientId, bool)>,
    /// Who is in quarantine.
    pub quarantined: Vec<SpiffeId>,
}

/// Ends the recovery mode of the store: the epoch is above everything that was shown and `above` it, every key is withdrawn, a
/// new one signs, and every token that was issued until now is revoked. Without `above`, only if a recovery is required.
///
/// # Errors
/// [`NotRecovered`].
pub async fn recover(opening: &Opening, above: Option<Epoch>) -> Result<Recovered, NotRecovered> {
    let vault = own(opening).await?;
    let Found {
        books: before,
        version,
    } = find_books(opening, &vault).await?;
    if before.recovery.is_none() && above.is_none() {
        return Err(NotRecovered::NotRequired);
    }
    let (epoch, now) = target(opening, &before, above)?;
    let ring = succeeded(opening, &before.ring, epoch, now).await?;
    let plan = Plan::ring(ring, ()).and_revoke(Revocation {
        subject: RevokedSubject::Everything,
        issued_before: now,
        expires_at: now.saturating_add(opening.policy.revocation_life),
    });
    let mut after = before.after(&plan, now)?.books;
    after.recovery = None;
    after.trust = TrustState::new(
        opening.issuer.clone(),
        epoch,
        Arc::clone(after.trust.keys()),
        after.trust.revocations().clone(),
        &AwsLc,
    )
    .published_under(before.trust.publishers(), &AwsLc);
    let mut commit = books::records(&before, &after, &plan, &vault)?;
    commit.expect(HEAD, version);
    commit.put(HEAD.to_owned(), after.head()?.write(&vault)?);
    opening.store.commit(commit).await?;
    let recovered = describe(before, &after, now);
    audit::record(&Event {
        actor: &Actor::authority(),
        action: "recover",
        subject: &epoch.to_string(),
        outcome: Outcome::Done,
        note: &format!(
            "from epoch {}; every key was withdrawn, and every token that was issued until {} is revoked",
            recovered.found,
            written(now)
        ),
    });
    Ok(recovered)
}

/// The epoch to go on from, and the time: after everything that was ever ordered by time, as far as is known.
fn target(
    opening: &Opening,
    before: &Books,
    above: Option<Epoch>,
) -> Result<(Epoch, Timestamp), NotRecovered> {
    let mut highest = Highest {
        epoch: before.trust.epoch().max(above.unwrap_or_default()),
        not_before: before.committed_at,
    };
    if let Some(shown) = &before.recovery {
        highest = highest.or(shown.epoch, Timestamp::from_seconds(shown.signed_at));
    }
    let epoch = highest.goes_on_from().ok_or(NotRecovered::Jump)?;
    Ok((epoch, highest.goes_on_at(opening.clock.now())))
}

fn describe(before: Books, after: &Books, now: Timestamp) -> Recovered {
    let names = |ring: &KeyRing, state| {
        let keys = ring.keys().iter();
        let keys = keys.filter(|key| key.times().state(now) == state);
        keys.map(RingKey::key_id).cloned().collect()
    };
    let clients = after.clients.after(None);
    let quarantined = after.roster.quarantined();
    Recovered {
        found: before.trust.epoch(),
        shown: before.recovery,
        epoch: after.trust.epoch(),
        withdrawn: names(&after.ring, KeyState::Compromised),
        signing: after.ring.signing(now).map(|key| key.key_id().clone()),
        clients: clients
            .map(|client| (client.client_id.clone(), !client.disabled))
            .collect(),
        quarantined: quarantined
            .map(|quarantine| quarantine.spiffe_id.clone())
            .collect(),
    }
}
