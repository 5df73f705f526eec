//! The single writer. It holds trust state, keys and clients in memory, and every change of them goes through it:
//!
//! ```text
//! lock -> read the books -> decide (a pure function) -> one atomic commit of every record and the new head
//!      -> swap the books -> publish to the verifiers -> answer
//! ```
//!
//! INVARIANT (durable before visible): nobody sees a state, and no caller gets an answer, before the store has it.
//! INVARIANT (whole or not at all): a mutation that has begun is finished, whether its caller waits or not.
//! INVARIANT (no token slips through): a token of whom or what is revoked, and of a client that is disabled or deleted, either
//! carries an `iat` at or before the watermark, or is not issued. While such a mutation is being committed, these tokens are
//! held: the watermark is read off the [`Timeline`] after the hold is in place, and an issuer reads its `iat` before it looks
//! for a hold.

mod accepting;
mod books;
mod client_plans;
mod drill_plans;
mod key_plans;
mod opening;
mod publishing_plans;
mod recovering;
mod revocation_plans;
#[cfg(test)]
mod tests;
mod verifier_plans;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_core::ports::EntropyFailed;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::spiffe::TrustDomain;
use countersign_crypto::{EnvelopeError, KeyError, SecretHasher};
use countersign_wire::MAX_NAMED_REVOCATIONS;
use countersign_wire::status::Failure;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub use books::{Books, Hold};
pub use client_plans::NewSecret;
pub use drill_plans::{NewDrill, record_end};
pub use key_plans::{Activation, Compromised};
pub use opening::{Opened, Opening, StartError, open, open_publishers};
pub use recovering::{NotRecovered, Recovered, recover};
pub use revocation_plans::{RevocationPage, Revoked};

use crate::alarm::Alarm;
use crate::feed::Feed;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::store::meta::HEAD;
use crate::store::record::{RecordError, Vault};
use crate::store::{self, Store, StoreError, Version};
use crate::timeline::Timeline;
use books::{Outcome, Plan};

/// The rules that mutations follow.
#[derive(Clone, Debug)]
pub struct LedgerPolicy {
    /// Where clients live.
    pub trust_domain: TrustDomain,
    /// How long a revocation is kept after it was made, at most: no token lives longer, no verifier is staler.
    pub revocation_life: Duration,
    /// The same for the revocation of a certificate, and no shorter: it is about tokens that are issued later, too, for as long
    /// as the certificate is shown.
    pub certificate_life: Duration,
    /// How long the revocation of one token outlives the token.
    pub revocation_slack: Duration,
    /// The most revocations kept; a part of them is for others than single tokens.
    pub max_revocations: usize,
    /// The most client identifiers taken.
    pub max_clients: usize,
}

impl LedgerPolicy {
    /// How long the revocation of `subject` is kept after it was made, at most.
    #[must_use]
    pub const fn life_of(&self, subject: &RevokedSubject) -> Duration {
        match subject {
            RevokedSubject::Certificate(_) => self.certificate_life,
            RevokedSubject::Token(_)
            | RevokedSubject::Client(_)
            | RevokedSubject::Subject(_)
            | RevokedSubject::Audience(_)
            | RevokedSubject::Everything => self.revocation_life,
        }
    }

    /// When every token that was issued until `now` has expired, by any clock that is as right as it has to be.
    #[must_use]
    pub fn tokens_end(&self, now: Timestamp) -> Timestamp {
        let token_life = self.revocation_life.saturating_sub(self.revocation_slack);
        Self::refused_from(now.saturating_add(token_life))
    }

    /// When a token that expires then is refused by any clock that is as right as it has to be.
    #[must_use]
    pub const fn refused_from(expires_at: Timestamp) -> Timestamp {
        expires_at.saturating_add(CLOCKS_APART)
    }

    /// Whether there is room for `after`, which has `revoked` in it. Single tokens leave some, and certificates half of that, so
    /// that a list full of them does not stop anybody from disabling a client, whose entry is not counted against them; and clients,
    /// certificates and the like leave room for one that ends everything.
    fn has_room(&self, after: &RevocationList, revoked: &RevocationList) -> bool {
        let kept_free = (self.max_revocations / 4).min(MAX_NAMED_REVOCATIONS);
        let for_clients = kept_free / 2;
        let (all, named, certificates) = (after.len(), after.others_len(), after.certificates_len());
        let not_for_clients = all.saturating_sub(named).saturating_add(certificates);
        let leaves = |room| {
            all.saturating_add(room) <= self.max_revocations
                && named.saturating_add(room) <= MAX_NAMED_REVOCATIONS
        };
        let fits = |revocation: Revocation| match revocation.subject {
            RevokedSubject::Token(_) => all <= self.max_revocations - kept_free && leaves(0),
            RevokedSubject::Certificate(_) => {
                not_for_clients <= self.max_revocations - for_clients
                    && certificates <= MAX_NAMED_REVOCATIONS - for_clients
                    && leaves(1)
            }
            RevokedSubject::Client(_) | RevokedSubject::Subject(_) | RevokedSubject::Audience(_) => leaves(1),
            RevokedSubject::Everything => leaves(0),
        };
        revoked.iter().all(fits)
    }
}

/// How far a verifier's clock may be behind: the longest leeway.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// Why a mutation was not made.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The books do not allow it.
    #[error("{}", .0.reason())]
    Refused(Failure),
    /// The store did not take it, or it is not known whether it did.
    #[error("the change was not stored")]
    Store(#[from] StoreError),
    /// A record could not be made.
    #[error("a record could not be made")]
    Record(#[from] RecordError),
    /// No key or secret could be made.
    #[error("no key or secret could be made")]
    Generation,
    /// The task ended before its time.
    #[error("the mutation was interrupted")]
    Interrupted,
}

impl LedgerError {
    /// What the caller is told.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Refused(failure) => *failure,
            Self::Store(StoreError::Conflict) => Failure::VersionMoved,
            Self::Store(StoreError::Unavailable(_) | StoreError::Damaged(_)) => Failure::StoreUnavailable,
            Self::Store(StoreError::TooLarge) => Failure::LimitReached,
            Self::Record(_) | Self::Generation | Self::Interrupted => Failure::Internal,
        }
    }
}

impl From<KeyError> for LedgerError {
    fn from(_: KeyError) -> Self {
        Self::Generation
    }
}

impl From<EntropyFailed> for LedgerError {
    fn from(_: EntropyFailed) -> Self {
        Self::Generation
    }
}

impl From<EnvelopeError> for LedgerError {
    fn from(_: EnvelopeError) -> Self {
        Self::Generation
    }
}

/// A change that was made, and the books with it.
#[derive(Clone, Debug)]
pub struct Done<T> {
    /// What the mutation tells.
    pub answer: T,
    /// The books right after it.
    pub books: Arc<Books>,
}

/// The ledger. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    vault: Vault,
    hasher: SecretHasher,
    policy: LedgerPolicy,
    timeline: Arc<Timeline>,
    feed: Feed,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    books: ArcSwap<Books>,
    changed: watch::Sender<u64>,
    writer: Mutex<Writer>,
    queue: Arc<Semaphore>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Writer {
    head: Version,
    doubt: Option<Doubt>,
}

/// A commit that may have been made.
#[derive(Debug)]
struct Doubt {
    head: Vec<u8>,
    outcome: Outcome,
}

/// The most mutations that wait for their turn. Each is a durable commit of some milliseconds, so this is seconds of work.
const MAX_WAITING: usize = 1024;

/// How far signatures may be past the time of the books. A step of the clock by less is what the leeway is for; and while
/// tokens are issued, one commit in so long a time is nothing.
const KEEP_TIME: Duration = Duration::from_secs(60);

impl Ledger {
    /// The books now.
    #[must_use]
    pub fn books(&self) -> Arc<Books> {
        self.0.books.load_full()
    }

    /// The authority's time.
    #[must_use]
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.0.timeline
    }

    /// The rules.
    #[must_use]
    pub fn policy(&self) -> &LedgerPolicy {
        &self.0.policy
    }

    /// Makes and checks secrets.
    #[must_use]
    pub fn hasher(&self) -> &SecretHasher {
        &self.0.hasher
    }

    /// Counts the changes of the books.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The books, as soon as a token with these claims is not held.
    pub async fn settled(&self, claims: &Claims) -> Arc<Books> {
        let books = self.books();
        if !books.hold.holds(claims) {
            return books;
        }
        let mut changes = self.changes();
        loop {
            let books = self.books();
            if !books.hold.holds(claims) || changes.changed().await.is_err() {
                return books;
            }
        }
    }

    /// Finds out what became of a commit in doubt, if there is one, so that who is held because of it is let go.
    ///
    /// # Errors
    /// The store's: nobody knows yet.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let mut writer = self.0.writer.lock().await;
        self.0.settle(&mut writer).await.map(|_made| ())
    }

    /// Commits the time of the last signature, when it is so far past that of the books that a restart would lose it: tokens
    /// of later than the authority then knows of would be out of reach of its watermarks.
    ///
    /// # Errors
    /// [`LedgerError`]: the store's.
    pub async fn keep_time(&self) -> Result<(), LedgerError> {
        if self.timeline().signed().since(self.books().committed_at) < KEEP_TIME {
            return Ok(());
        }
        let plan = |_: &Books, _| {
            Ok(Plan {
                keeps_time: true,
                ..Plan::nothing(())
            })
        };
        self.write_down(Hold::Nobody, plan).await.map(drop)
    }

    /// Does `work` to its end, whether or not anybody waits for it. [`Self::close`] does.
    pub fn finish<T>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.0.tasks.spawn(work)
    }

    /// Waits until every mutation that has begun is finished, and all work besides; later mutations are refused.
    pub async fn close(&self) {
        self.0.queue.close();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Whether anything may be changed now.
    ///
    /// # Errors
    /// [`LedgerError`]: `RecoveryRequired`.
    pub fn changeable(&self) -> Result<(), LedgerError> {
        self.books().changeable()
    }

    /// Makes the change that `plan` decides on, once every earlier one is made. `hold` names whose tokens wait for it.
    async fn write<T, P>(&self, hold: Hold, plan: P) -> Result<Done<T>, LedgerError>
    where
        T: Send + 'static,
        P: FnOnce(&Books, Timestamp) -> Result<Plan<T>, LedgerError> + Send + 'static,
    {
        self.write_down(hold, move |books, now| {
            books.changeable()?;
            plan(books, now)
        })
        .await
    }

    /// The same for what is no change to anybody outside: it goes on while the authority waits to be recovered.
    async fn write_down<T, P>(&self, hold: Hold, plan: P) -> Result<Done<T>, LedgerError>
    where
        T: Send + 'static,
        P: FnOnce(&Books, Timestamp) -> Result<Plan<T>, LedgerError> + Send + 'static,
    {
        let turn = Arc::clone(&self.0.queue)
            .try_acquire_owned()
            .map_err(|_full_or_closed| LedgerError::Refused(Failure::StoreUnavailable))?;
        let inner = Arc::clone(&self.0);
        let mutation = self.finish(async move {
            let _turn = turn;
            let mut writer = inner.writer.lock().await;
            inner.mutate(&mut writer, hold, plan).await
        });
        mutation.await.unwrap_or(Err(LedgerError::Interrupted))
    }
}

impl Inner {
    async fn mutate<T, P>(&self, writer: &mut Writer, hold: Hold, plan: P) -> Result<Done<T>, LedgerError>
    where
        P: FnOnce(&Books, Timestamp) -> Result<Plan<T>, LedgerError>,
    {
        self.settle(writer).await?;
        self.hold(hold);
        let result = self.attempt(writer, plan).await;
        // While it is in doubt whether a client was stopped, it stays held.
        if result.is_err() && writer.doubt.is_none() {
            self.hold(Hold::Nobody);
        }
        result
    }

    async fn attempt<T, P>(&self, writer: &mut Writer, plan: P) -> Result<Done<T>, LedgerError>
    where
        P: FnOnce(&Books, Timestamp) -> Result<Plan<T>, LedgerError>,
    {
        let before = self.books.load_full();
        let now = self.timeline.now();
        let plan = plan(&before, now)?;
        if plan.is_nothing() {
            self.hold(Hold::Nobody);
            return Ok(Done {
                answer: plan.answer,
                books: before,
            });
        }
        let outcome = before.after(&plan, now)?;
        // Only growth is refused: a limit that was lowered below what is held stops neither rotation nor pruning.
        let held = outcome.books.trust.revocations();
        let grows = held.len() > before.trust.revocations().len();
        if grows && !self.policy.has_room(held, &plan.revoked) {
            return Err(LedgerError::Refused(Failure::LimitReached));
        }
        let mut commit = books::records(&before, &outcome.books, &plan, &self.vault)?;
        let head = outcome.books.head()?.write(&self.vault)?;
        commit.expect(HEAD, writer.head);
        commit.put(HEAD.to_owned(), head.clone());
        self.commit(writer, commit, head, outcome).await?;
        Ok(Done {
            answer: plan.answer,
            books: self.books.load_full(),
        })
    }

    async fn commit(
        &self,
        writer: &mut Writer,
        commit: store::Commit,
        head: Vec<u8>,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let clock = self.timeline.clock();
        let started = clock.elapsed();
        let result = self.store.commit(commit).await;
        let took = clock.elapsed().saturating_sub(started);
        self.metrics.observe_commit(took, &result);
        match result {
            Ok(revision) => {
                self.adopt(writer, revision, outcome);
                Ok(())
            }
            Err(StoreError::Unavailable(source)) => {
                Alarm::CommitInDoubt.raise(&self.metrics, &source);
                writer.doubt = Some(Doubt { head, outcome });
                if self.settle(writer).await? {
                    Ok(())
                } else {
                    Err(StoreError::Unavailable(source))
                }
            }
            Err(error @ StoreError::Conflict) => {
                Alarm::StoreContested.raise(&self.metrics, &"head");
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Finds out what became of a commit in doubt. True when it was made.
    async fn settle(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let Some(doubt) = &writer.doubt else {
            return Ok(false);
        };
        let stored = store::find(self.store.as_ref(), HEAD).await?;
        let made = stored.as_ref().is_some_and(|stored| stored.value == doubt.head);
        let version = stored.map_or(0, |stored| stored.version);
        match writer.doubt.take() {
            Some(doubt) if made => self.adopt(writer, version, doubt.outcome),
            Some(_) | None => self.hold(Hold::Nobody),
        }
        Ok(made)
    }

    /// Takes over what the store has.
    fn adopt(&self, writer: &mut Writer, head: Version, outcome: Outcome) {
        writer.head = head;
        let trust = outcome.books.trust.clone();
        let publishing = outcome.books.publishing.clone();
        self.metrics.observe_books(&outcome.books);
        if outcome.books.recovery.is_some() {
            self.fleet.suspend();
        }
        self.books.store(Arc::new(outcome.books));
        if let Some(update) = &outcome.update {
            self.feed.publish(update, trust, &publishing);
        } else {
            self.feed.follow(&publishing);
        }
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn hold(&self, hold: Hold) {
        let books = self.books.load_full();
        if books.hold != hold {
            let mut changed = books.as_ref().clone();
            changed.hold = hold;
            self.books.store(Arc::new(changed));
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
