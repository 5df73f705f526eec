//! How often somebody may ask. Measured on the clock that never steps, and forgotten when it no longer matters.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_core::names::{CertificateThumbprint, ClientId};
use countersign_core::ports::Clock;
use countersign_core::spiffe::SpiffeId;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::audit::Actor;

/// A rate: so many a second on average, so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// From numbers known when this was written; zero counts as one.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        const fn at_least_one(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            per_second: at_least_one(per_second),
            burst: at_least_one(burst),
        }
    }
}

/// Our clock, as the limiter asks for it.
#[derive(Clone, Debug)]
struct Elapsed(Arc<dyn Clock>);

impl governor::clock::Clock for Elapsed {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A limit for each of many.
#[derive(Debug)]
pub struct Limiter<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Elapsed, NoOpMiddleware<Duration>>,
    clock: Elapsed,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// Each key may `rate`.
    #[must_use]
    pub fn new(rate: Rate, clock: Arc<dyn Clock>) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let clock = Elapsed(clock);
        Self {
            limiter: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
            clock,
        }
    }

    /// Counts one for `key`.
    ///
    /// # Errors
    /// How long `key` has to wait.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        self.limiter
            .check_key(key)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets everybody whose allowance is whole again.
    pub fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// A limit for one.
#[derive(Debug)]
pub struct Meter(RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Duration>>);

impl Meter {
    /// At most `rate`.
    #[must_use]
    pub fn new(rate: Rate, clock: Arc<dyn Clock>) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self(RateLimiter::new(quota, InMemoryState::default(), Elapsed(clock)))
    }

    /// Counts one; false when it is over.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.0.check().is_ok()
    }
}

/// How many failed authentications one certificate may cause. Secrets are not to be guessed at any rate; this is about the
/// work.
const FAILURES: Rate = Rate::new(2, 30);

/// How often one verifier may open a stream. It backs off by seconds; a snapshot costs us megabytes.
const STREAMS: Rate = Rate::new(1, 20);

/// How many refusals of one caller are written to the audit trail. Who goes on like that says nothing new.
pub(crate) const REFUSALS: Rate = Rate::new(1, 100);

/// Every limit on who asks for tokens and streams.
#[derive(Debug)]
pub struct Limits {
    clients: Limiter<ClientId>,
    failures: Limiter<CertificateThumbprint>,
    /// Until when those are not listened to who failed too often.
    blocked: Mutex<HashMap<CertificateThumbprint, Duration>>,
    streams: Limiter<SpiffeId>,
    refusals: Limiter<Actor>,
    clock: Arc<dyn Clock>,
}

impl Limits {
    /// Each client may ask for tokens at this rate.
    #[must_use]
    pub fn new(tokens: Rate, clock: &Arc<dyn Clock>) -> Self {
        Self {
            clients: Limiter::new(tokens, Arc::clone(clock)),
            failures: Limiter::new(FAILURES, Arc::clone(clock)),
            blocked: Mutex::default(),
            streams: Limiter::new(STREAMS, Arc::clone(clock)),
            refusals: Limiter::new(REFUSALS, Arc::clone(clock)),
            clock: Arc::clone(clock),
        }
    }

    /// Counts a token request of an authenticated client (G43).
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn token(&self, client_id: &ClientId) -> Result<(), Duration> {
        self.clients.check(client_id)
    }

    /// Whether requests over this certificate are listened to.
    ///
    /// # Errors
    /// How long not.
    pub fn listened_to(&self, certificate: &CertificateThumbprint) -> Result<(), Duration> {
        let now = self.clock.elapsed();
        match self.blocked().get(certificate) {
            Some(until) if *until > now => Err(until.saturating_sub(now)),
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a failed authentication over this certificate.
    pub fn failed(&self, certificate: &CertificateThumbprint) {
        if let Err(wait) = self.failures.check(certificate) {
            let until = self.clock.elapsed().saturating_add(wait);
            self.blocked().insert(*certificate, until);
        }
    }

    /// Counts a stream opened by a verifier (G46).
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn stream(&self, spiffe_id: &SpiffeId) -> Result<(), Duration> {
        self.streams.check(spiffe_id)
    }

    /// Counts a refusal of `actor`; false when it need not be written down any more.
    #[must_use]
    pub fn refusal(&self, actor: &Actor) -> bool {
        self.refusals.check(actor).is_ok()
    }

    /// Forgets what no longer matters. Without it, everybody who ever asked would be remembered.
    pub fn forget(&self) {
        self.clients.forget();
        self.failures.forget();
        self.streams.forget();
        self.refusals.forget();
        let now = self.clock.elapsed();
        self.blocked().retain(|_, until| *until > now);
    }

    fn blocked(&self) -> MutexGuard<'_, HashMap<CertificateThumbprint, Duration>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{ManualClock, client_id};

    fn limits(rate: Rate) -> (Limits, Arc<ManualClock>) {
        let manual = Arc::new(ManualClock::at(1000));
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&manual);
        (Limits::new(rate, &clock), manual)
    }

    /// G43: one client's storm is its own.
    #[test]
    fn each_client_has_a_rate_of_its_own() {
        let (limits, clock) = limits(Rate::new(10, 3));
        let (a, b) = (client_id("a"), client_id("b"));
        for _ in 0..3 {
            assert_eq!(limits.token(&a), Ok(()));
        }
        let wait = limits.token(&a).expect_err("is over");
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_millis(100),
            "{wait:?}"
        );
        assert_eq!(limits.token(&b), Ok(()));
        clock.advance(Duration::from_millis(100));
        assert_eq!(limits.token(&a), Ok(()));
        // A step of the wall clock gives nobody anything.
        clock.set(100_000);
        assert!(limits.token(&a).is_err());
    }

    #[test]
    fn whoever_fails_too_often_is_not_listened_to_for_a_while() {
        let (limits, clock) = limits(Rate::new(1, 1));
        let (bad, good) = (
            CertificateThumbprint::new([1; 32]),
            CertificateThumbprint::new([2; 32]),
        );
        for _ in 0..30 {
            limits.failed(&bad);
            assert_eq!(limits.listened_to(&bad), Ok(()));
        }
        limits.failed(&bad);
        assert!(limits.listened_to(&bad).is_err());
        assert_eq!(limits.listened_to(&good), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limits.listened_to(&bad), Ok(()));
    }

    #[test]
    fn nobody_is_remembered_for_ever() {
        let (limits, clock) = limits(Rate::new(10, 3));
        for n in 0..100 {
            assert_eq!(limits.token(&client_id(&format!("c{n}"))), Ok(()));
        }
        clock.advance(Duration::from_secs(2));
        limits.forget();
        assert!(limits.clients.limiter.is_empty());
    }
}
