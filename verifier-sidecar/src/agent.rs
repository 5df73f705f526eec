//! Tokens for the app's own calls: got with the sidecar's certificate, kept, and renewed ahead of time; so an app handles no
//! secret, and goes on while the authority is away.
//!
//! ```text
//!   app -- GetToken --> service --.          one for each audience and its scopes
//!                                 >-- Agent --> keeper --> source --> the authority
//!   app -- a call ---> outbound --'               '------> kept: what is served, and when to ask again
//! ```
//!
//! INVARIANT (one asks): for each key its keeper alone asks the authority, one request at a time, whoever waits.
//! INVARIANT (held back): after an attempt nobody asks again before its pause is over, unless our certificate is what failed it and is
//! another by now; who has no token is told why at once.
//! INVARIANT (nothing revoked): what decisions heed as revoked is given to nobody, nor what hangs on a certificate of ours that is.
//! INVARIANT (bounded): as many keys as configured; one that nobody asks for is dropped.

mod keeper;
mod kept;
mod service;
mod source;
mod standing;
mod token;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::names::{Audience, CertificateThumbprint, Scope};
use countersign_core::ports::Clock;
use countersign_verifier::trust::TrustStore;
use countersign_wire::status::{Failure, NoToken};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::AgentMetrics;
use kept::{Answer, Kept};
use source::TokenSource;
use standing::standing;

pub(crate) use kept::Fetched;
pub(crate) use service::AgentService;
pub(crate) use source::AuthoritySource;
pub(crate) use token::Token;

/// Which tokens: those for one audience with the same scopes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey {
    /// The audience; none for the only one that the client is registered for.
    pub audience: Option<Audience>,
    /// The scopes; none for the default ones.
    pub scopes: BTreeSet<Scope>,
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.audience.as_ref().map_or("-", Audience::as_str))?;
        self.scopes.iter().try_for_each(|scope| write!(f, " {scope}"))
    }
}

/// What an agent keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Keys at most.
    pub max_tokens: usize,
    /// How long a key is kept that nobody asks for.
    pub idle: Duration,
}

/// A key that was asked for within this time does not make room for another: they would take turns at the authority.
const IN_USE: Duration = Duration::from_secs(60);

/// Why nobody gets a token, and when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// Why.
    pub(crate) why: NoToken,
    /// How long until the authority is asked again.
    pub(crate) retry_after: Duration,
}

impl Unavailable {
    fn failed(failure: Failure, retry_after: Duration) -> Self {
        Self {
            why: NoToken::Failed(failure),
            retry_after,
        }
    }
}

/// Keeps tokens. Clones are one agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent(Arc<Inner>);

struct Inner {
    source: Arc<dyn TokenSource>,
    trust: Arc<TrustStore>,
    limits: AgentLimits,
    metrics: AgentMetrics,
    keys: Mutex<BTreeMap<TokenKey, Arc<Slot>>>,
    keepers: TaskTracker,
    runtime: Handle,
    stop: CancellationToken,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// One key, its token, and who wants it.
#[derive(Debug)]
pub(crate) struct Slot {
    key: TokenKey,
    /// Kept whether or not anybody asks.
    pinned: bool,
    kept: watch::Sender<Kept>,
    wanted: Notify,
    /// When it was last asked for, in milliseconds of the elapsed clock.
    used_at: AtomicU64,
    dropped: CancellationToken,
}

impl Slot {
    fn touch(&self, now: Duration) {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.used_at.fetch_max(millis, Ordering::Relaxed);
    }

    fn unused_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.used_at.load(Ordering::Relaxed)))
    }
}

/// What there is to tell of one key.
#[derive(Clone, Debug)]
pub(crate) struct KeyStatus {
    /// The key.
    pub(crate) key: TokenKey,
    /// Its token, good or not.
    pub(crate) token: Option<Arc<Fetched>>,
    /// For how long that is given out.
    pub(crate) good_for: Duration,
    /// Why there is none, or not the next one, if anything is known to be wrong.
    pub(crate) last_error: Option<NoToken>,
    /// Whether it is kept whether or not anybody asks.
    pub(crate) pinned: bool,
}

impl Agent {
    /// An agent that asks `source`, and knows from `trust` what is revoked. Its keepers run on the present runtime.
    pub(crate) fn new(
        source: Arc<dyn TokenSource>,
        trust: Arc<TrustStore>,
        limits: AgentLimits,
        metrics: AgentMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            source,
            trust,
            limits,
            metrics,
            keys: Mutex::default(),
            keepers: TaskTracker::new(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
        }))
    }

    /// Keeps a token for `key` from now on, whether or not anybody asks for it. Pinned keys do not count against the limit.
    pub(crate) fn pin(&self, key: TokenKey) -> Arc<Slot> {
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = keys.get(&key).filter(|slot| slot.pinned) {
            return Arc::clone(slot);
        }
        self.begin(&mut keys, key, true)
    }

    /// A good token for `key`. Waits where none is kept.
    pub(crate) async fn token(&self, key: &TokenKey) -> Result<Arc<Fetched>, Unavailable> {
        let answer = match self.slot(key) {
            Ok(slot) => self.wait(&slot).await,
            Err(full) => Err(full),
        };
        self.count(&answer);
        answer
    }

    /// A good token for a key that is pinned.
    pub(crate) async fn pinned_token(&self, slot: &Slot) -> Result<Arc<Fetched>, Unavailable> {
        let answer = self.wait(slot).await;
        self.count(&answer);
        answer
    }

    /// What is kept.
    pub(crate) fn status(&self) -> Vec<KeyStatus> {
        let now = self.clock().elapsed();
        let keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |slot: &Arc<Slot>| {
            let kept = slot.kept.borrow().clone();
            KeyStatus {
                key: slot.key.clone(),
                good_for: kept.good_for(now, |token| standing(token, self)),
                last_error: kept.last_error(now, |token| standing(token, self)),
                token: kept.into_token(),
                pinned: slot.pinned,
            }
        };
        keys.values().map(status).collect()
    }

    /// Why there is no token for `key`, or not the next one.
    pub(crate) fn last_error(&self, key: &TokenKey) -> Option<NoToken> {
        let now = self.clock().elapsed();
        let keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = keys.get(key).map(|slot| slot.kept.borrow());
        kept.and_then(|kept| kept.last_error(now, |token| standing(token, self)))
    }

    /// The limits.
    pub(crate) fn limits(&self) -> AgentLimits {
        self.0.limits
    }

    /// Keeps tokens until `stop`. Who waits for one then is told so.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
        self.0.stop.cancel();
        self.0.keepers.close();
        self.0.keepers.wait().await;
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.0.trust.clock()
    }

    fn count(&self, answer: &Result<Arc<Fetched>, Unavailable>) {
        let result = answer
            .as_ref()
            .map_or_else(|no| no.why.reason(), |_token| "served");
        self.0.metrics.requested(result);
    }

    async fn wait(&self, slot: &Slot) -> Result<Arc<Fetched>, Unavailable> {
        // Nearly always it ends here.
        if let Answer::Token(token) = self.answer(slot, &slot.kept.borrow()) {
            return Ok(token);
        }
        let mut changes = slot.kept.subscribe();
        loop {
            let answer = self.answer(slot, &changes.borrow_and_update());
            match answer {
                Answer::Token(token) => return Ok(token),
                Answer::Unavailable(unavailable) => return Err(unavailable),
                Answer::Wait => slot.wanted.notify_one(),
            }
            tokio::select! {
                // The sender is in the slot, so this does not end.
                _changed = changes.changed() => {}
                () = slot.dropped.cancelled() => return Err(stopping()),
                () = self.0.stop.cancelled() => return Err(stopping()),
            }
        }
    }

    /// What somebody who asks for `slot` now is told.
    fn answer(&self, slot: &Slot, kept: &Kept) -> Answer {
        let now = self.clock().elapsed();
        slot.touch(now);
        kept.answer(now, |with| self.has(with), |token| standing(token, self))
    }

    /// Whether this is our certificate now.
    fn has(&self, certificate: &CertificateThumbprint) -> bool {
        self.0.source.certificate().thumbprint == *certificate
    }

    /// The slot of `key`: the one there is, or a new one if there is room.
    fn slot(&self, key: &TokenKey) -> Result<Arc<Slot>, Unavailable> {
        let now = self.clock().elapsed();
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = keys.get(key) {
            // Under the lock, so that it is not dropped as idle in between.
            slot.touch(now);
            return Ok(Arc::clone(slot));
        }
        let unpinned = keys.values().filter(|slot| !slot.pinned);
        if unpinned.clone().count() >= self.0.limits.max_tokens {
            let longest_unused = unpinned.max_by_key(|slot| slot.unused_for(now)).cloned();
            let unused = longest_unused.filter(|slot| slot.unused_for(now) >= IN_USE);
            let unused = unused.ok_or(Unavailable::failed(Failure::TooManyTokens, IN_USE))?;
            keys.remove(&unused.key);
            unused.dropped.cancel();
        }
        Ok(self.begin(&mut keys, key.clone(), false))
    }

    /// Puts a slot for `key` in the place of what is there, and starts its keeper.
    fn begin(&self, keys: &mut BTreeMap<TokenKey, Arc<Slot>>, key: TokenKey, pinned: bool) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            key: key.clone(),
            pinned,
            kept: watch::Sender::new(Kept::default()),
            wanted: Notify::new(),
            used_at: AtomicU64::default(),
            dropped: CancellationToken::new(),
        });
        slot.touch(self.clock().elapsed());
        if let Some(replaced) = keys.insert(key, Arc::clone(&slot)) {
            replaced.dropped.cancel();
        }
        let keeping = keeper::keep(self.clone(), Arc::clone(&slot));
        self.0.keepers.spawn_on(keeping, &self.0.runtime);
        slot
    }

    /// Drops `slot` if nobody has asked for it for long. True when it is dropped.
    fn drop_idle(&self, slot: &Arc<Slot>) -> bool {
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = !slot.pinned && slot.unused_for(self.clock().elapsed()) >= self.0.limits.idle;
        let is_there = keys.get(&slot.key).is_some_and(|there| Arc::ptr_eq(there, slot));
        if is_idle && is_there {
            keys.remove(&slot.key);
            slot.dropped.cancel();
        }
        is_idle
    }
}

fn stopping() -> Unavailable {
    Unavailable::failed(Failure::Draining, Duration::from_secs(1))
}
