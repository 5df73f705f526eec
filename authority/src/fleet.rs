//! The verifiers: [`countersign_core::fleet::Register`] for many streams at once, with whoever waits for an epoch, and with what
//! the store has yet to be told.

mod membership;
mod timing;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::drill::Stopwatch;
use countersign_core::fleet::{
    Gate, Introduction, Laggard, NotLetIn, Reach, Register, StreamId, Verifier, VerifierKey,
};
use countersign_core::names::{ClassName, ClientId, KeyId};
use countersign_core::ports::Clock;
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::ClassBudget;
use countersign_core::trust::Epoch;
use countersign_wire::status::Failure;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::store::verifiers::Known;

pub use countersign_core::fleet::FleetLimits;
pub use membership::Membership;

/// How long an answer waits for the verifiers, so that it can say that they are all there: they usually are.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_millis(500);

/// The most verifiers that one commit takes down.
const BATCH: usize = 512;

/// Tokens that a verifier accepted under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage {
    /// How many, since the authority started.
    pub tokens: u64,
    /// When this was last said.
    pub last_used_at: Timestamp,
    /// Clients that they were issued to, those seen last.
    pub clients: Vec<ClientId>,
}

/// One verifier, as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Which.
    pub key: VerifierKey,
    /// What is known of it.
    pub verifier: Verifier,
    /// Whether it is granted nothing.
    pub quarantined: bool,
    /// When each class stops deciding, if nothing more is granted.
    pub ends: BTreeMap<ClassName, Duration>,
    /// Which keys tokens came under.
    pub usage: BTreeMap<KeyId, KeyUsage>,
}

/// Some of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The verifiers, in the order of their keys.
    pub verifiers: Vec<Listed>,
    /// The last one's key, when there are more behind it.
    pub next: Option<VerifierKey>,
    /// How many verifiers are known in all.
    pub total: usize,
}

/// What the store has to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// Who may hold a lease.
    pub known: Vec<Known>,
    /// Who holds none any more.
    pub gone: Vec<VerifierKey>,
    /// The epochs of trust files that nobody decides on any more.
    pub expired: Vec<Epoch>,
}

impl Untold {
    /// Whether there is nothing to tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.known.is_empty() && self.gone.is_empty() && self.expired.is_empty()
    }
}

/// The fleet. Clones share it.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// The store has to be told of somebody.
    untold: Notify,
    /// It was.
    told: Notify,
}

#[derive(Debug)]
struct State {
    register: Register,
    current: Epoch,
    /// Nobody is granted a lease any more in this life.
    suspended: bool,
    /// Ends the reader of a stream whose place another has taken.
    superseded: HashMap<StreamId, CancellationToken>,
    to_be_stored: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
    usage: BTreeMap<VerifierKey, BTreeMap<KeyId, KeyUsage>>,
    /// Of the drill that withdrew a key last.
    stopwatch: Option<Stopwatch>,
}

impl Fleet {
    /// Nobody yet. Leases last `lease`.
    #[must_use]
    pub fn new(limits: FleetLimits, lease: Duration, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let began = clock.elapsed();
        Self(Arc::new(Inner {
            clock,
            metrics,
            state: Mutex::new(State {
                register: Register::new(limits, lease, began),
                current: 0,
                suspended: false,
                superseded: HashMap::new(),
                to_be_stored: BTreeMap::new(),
                usage: BTreeMap::new(),
                stopwatch: None,
            }),
            changed: watch::Sender::new(()),
            untold: Notify::new(),
            told: Notify::new(),
        }))
    }

    /// Takes in what the store has. Whoever is known may have been granted a lease until this moment.
    pub fn restore(&self, roster: &Roster) {
        let elapsed = self.0.clock.elapsed();
        let mut state = self.lock();
        for known in roster.known() {
            let budgets = Arc::clone(&known.budgets);
            state.register.restore(known.key.clone(), budgets, elapsed);
        }
        for quarantine in roster.quarantined() {
            state.register.quarantine(quarantine.spiffe_id.clone(), true);
        }
        drop(state);
        self.recount(roster);
    }

    /// Counts with every trust file on record until its end by the clock as it goes now. Ends do not move to earlier times. After the
    /// clock was set back, what had ended by it or was exported by it ends later than it seemed.
    pub fn recount(&self, roster: &Roster) {
        let exports = roster.exports();
        let ends: Vec<_> = exports
            .map(|export| (export.epoch, self.elapsed_at(export.until)))
            .collect();
        let mut state = self.lock();
        for (epoch, end) in ends {
            state.register.exported(epoch, end);
        }
    }

    /// A trust file of `epoch` or later is about to be given out, which nobody decides on from `until` on. The store has it.
    pub fn exported(&self, epoch: Epoch, until: Timestamp) {
        let end = self.elapsed_at(until);
        let mut state = self.lock();
        state.register.exported(epoch, end);
        self.announce(state);
    }

    /// Grants nobody a lease any more: the authority has to be recovered first.
    pub fn suspend(&self) {
        self.lock().suspended = true;
    }

    /// How long a lease lasts.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lock().register.lease()
    }

    /// A stream was opened.
    ///
    /// # Errors
    /// [`Failure::TooManyStreams`] for the identity, [`Failure::LimitReached`] in all (G46).
    pub fn join(
        &self,
        key: VerifierKey,
        introduction: Introduction,
        now: Timestamp,
    ) -> Result<Membership, Failure> {
        let elapsed = self.0.clock.elapsed();
        let budgets = Arc::clone(&introduction.budgets);
        let mut state = self.lock();
        let joined = state.register.join(&key, introduction, elapsed, now);
        let joined = joined.map_err(|refused| match refused {
            NotLetIn::Identity => Failure::TooManyStreams,
            NotLetIn::Full => Failure::LimitReached,
        })?;
        if let Some(earlier) = joined.superseded
            && let Some(token) = state.superseded.remove(&earlier)
        {
            token.cancel();
        }
        if joined.to_be_stored {
            state.to_be_stored.insert(key.clone(), budgets);
            self.0.untold.notify_one();
        }
        let superseded = CancellationToken::new();
        state.superseded.insert(joined.stream, superseded.clone());
        self.announce(state);
        Ok(Membership {
            fleet: self.clone(),
            key,
            stream: joined.stream,
            superseded,
        })
    }

    /// Everybody who is known and has not acknowledged `lacking` (all, for epoch 0): at most `size`, behind `after`.
    #[must_use]
    pub fn page(&self, lacking: Epoch, after: Option<&VerifierKey>, size: usize) -> Page {
        let elapsed = self.0.clock.elapsed();
        let state = self.lock();
        let register = &state.register;
        let mut found = register
            .after(after)
            .filter(|(_, verifier)| lacking == 0 || verifier.acknowledged < lacking);
        let listed = |(key, verifier): (&VerifierKey, &Verifier)| Listed {
            key: key.clone(),
            verifier: verifier.clone(),
            quarantined: register.is_quarantined(&key.spiffe_id),
            ends: verifier
                .ends(elapsed)
                .map(|(class, end)| (class.clone(), end))
                .collect(),
            usage: state.usage.get(key).cloned().unwrap_or_default(),
        };
        let verifiers: Vec<Listed> = found.by_ref().take(size).map(listed).collect();
        let last = verifiers.last().map(|listed| listed.key.clone());
        Page {
            verifiers,
            next: last.filter(|_| found.next().is_some()),
            total: register.len(),
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.lock().register.connected()
    }

    /// How many of those who are connected have not acknowledged `epoch`.
    #[must_use]
    pub fn lacking(&self, epoch: Epoch) -> usize {
        self.lock().register.lacking(epoch)
    }

    /// How far `epoch` has come.
    #[must_use]
    pub fn reach(&self, epoch: Epoch) -> Reach {
        self.lock().register.reach(epoch, self.0.clock.elapsed())
    }

    /// The same, after a moment in which usually all who are connected get there.
    pub async fn reach_soon(&self, epoch: Epoch) -> Reach {
        // Whether the moment sufficed is what the numbers tell.
        let _in_time = tokio::time::timeout(ACKNOWLEDGEMENT_WAIT, self.reached_by_connected(epoch)).await;
        self.reach(epoch)
    }

    async fn reached_by_connected(&self, epoch: Epoch) {
        let mut changed = self.changes();
        while self.lock().register.is_lacking(epoch) && changed.changed().await.is_ok() {}
    }

    /// Who lacks `epoch`: at most `most`, those that may go on for longest first.
    #[must_use]
    pub fn laggards(&self, epoch: Epoch, most: usize) -> Vec<Laggard> {
        let elapsed = self.0.clock.elapsed();
        self.lock().register.laggards(epoch, elapsed, most)
    }

    /// Whether a key that `epoch` published may sign from now on.
    #[must_use]
    pub fn gate(&self, epoch: Epoch) -> Gate {
        self.lock().register.gate(epoch, self.0.clock.elapsed())
    }

    /// Whether every verifier that decides holds `epoch`, whatever trust files there are.
    #[must_use]
    pub fn is_held(&self, epoch: Epoch) -> bool {
        self.lock().register.is_held(epoch, self.0.clock.elapsed())
    }

    /// When each class of an identity's verifiers has stopped deciding, if nothing more is granted.
    #[must_use]
    pub fn ends(&self, spiffe_id: &SpiffeId) -> BTreeMap<ClassName, Duration> {
        let elapsed = self.0.clock.elapsed();
        let state = self.lock();
        let mut ends = BTreeMap::new();
        let verifiers = state.register.after(None);
        for (_, verifier) in verifiers.filter(|(key, _)| key.spiffe_id == *spiffe_id) {
            for (class, end) in verifier.ends(elapsed) {
                let latest = ends.entry(class.clone()).or_insert(end);
                *latest = end.max(*latest);
            }
        }
        ends
    }

    /// When the last trust file has expired, if there is any.
    #[must_use]
    pub fn files_until(&self) -> Option<Timestamp> {
        self.reach(Epoch::MAX).files_until.map(|end| self.time_of(end))
    }

    /// What the clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// When `end`, in elapsed time, is on the clock: the second that has begun by then is over.
    #[must_use]
    pub fn time_of(&self, end: Duration) -> Timestamp {
        let left = end.saturating_sub(self.0.clock.elapsed());
        let millis = self.0.clock.now_millis();
        let at = Duration::from_millis(millis).saturating_add(left);
        Timestamp::from_seconds(at.as_secs().saturating_add(u64::from(at.subsec_nanos() > 0)))
    }

    /// Elapsed time when the clock will say `time`; now, if it has. Half a second more, so that it is not before that, and
    /// [`Fleet::time_of`] always says the same: the second after it.
    fn elapsed_at(&self, time: Timestamp) -> Duration {
        // First, so that it comes out earlier and not later, time and again, by what passes in between.
        let elapsed = self.0.clock.elapsed();
        let left = Duration::from_secs(time.as_seconds())
            .saturating_add(Duration::from_millis(500))
            .saturating_sub(Duration::from_millis(self.0.clock.now_millis()));
        elapsed.saturating_add(left)
    }

    /// Told of everything that may change how far an epoch has come, but the passing of time.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// There is a new epoch.
    pub fn advance(&self, epoch: Epoch) {
        let mut state = self.lock();
        state.current = epoch;
        self.announce(state);
    }

    /// Puts an identity in quarantine, or ends that. The store has it.
    pub fn quarantine(&self, spiffe_id: SpiffeId, on: bool) {
        let mut state = self.lock();
        state.register.quarantine(spiffe_id, on);
        self.announce(state);
    }

    /// Whether a verifier is known and connected. Nothing when it is not known.
    #[must_use]
    pub fn is_connected(&self, key: &VerifierKey) -> Option<bool> {
        let state = self.lock();
        let verifier = state.register.find(key)?;
        Some(verifier.stream.is_some())
    }

    /// Takes a verifier that is not connected for gone. The store has struck it.
    pub fn forget(&self, key: &VerifierKey) -> bool {
        let mut state = self.lock();
        let forgotten = state.register.forget(key);
        if forgotten {
            state.usage.remove(key);
        }
        self.announce(state);
        forgotten
    }

    /// Waits until the store has to be told of somebody.
    pub async fn untold(&self) {
        self.0.untold.notified().await;
    }

    /// What the store has to be told. It is asked for again until [`Fleet::told`].
    #[must_use]
    pub fn to_tell(&self) -> Untold {
        let elapsed = self.0.clock.elapsed();
        let mut state = self.lock();
        let gone = state.register.ended(elapsed, BATCH);
        for key in &gone {
            state.register.unstored(key);
        }
        let known = state.to_be_stored.iter().take(BATCH);
        let known = known.map(|(key, budgets)| Known {
            key: key.clone(),
            budgets: Arc::clone(budgets),
        });
        Untold {
            known: known.collect(),
            gone,
            expired: state.register.expired_files(elapsed, BATCH),
        }
    }

    /// The store has taken `untold` in, of which it has struck what is in there as expired. True when there is more.
    pub fn told(&self, untold: &Untold) -> bool {
        let elapsed = self.0.clock.elapsed();
        let mut state = self.lock();
        for epoch in &untold.expired {
            state.register.strike_files(*epoch, elapsed);
        }
        for Known { key, budgets } in &untold.known {
            state.register.stored(key, budgets);
            if state.to_be_stored.get(key) == Some(budgets) {
                state.to_be_stored.remove(key);
            }
        }
        for key in &untold.gone {
            // One that came back meanwhile waits to be stored anew.
            if state.register.forget(key) {
                state.usage.remove(key);
            }
        }
        let more =
            !state.to_be_stored.is_empty() || untold.gone.len() == BATCH || untold.expired.len() == BATCH;
        self.announce(state);
        self.0.told.notify_waiters();
        more
    }

    fn announce(&self, state: MutexGuard<'_, State>) {
        let connected = state.register.connected();
        let current = connected.saturating_sub(state.register.lacking(state.current));
        drop(state);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.0.metrics.observe_fleet(count(connected), count(current));
        self.0.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
