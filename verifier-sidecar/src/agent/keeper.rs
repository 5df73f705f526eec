//! The keeper of one key: waits until a token is due, asks the authority for it, and lets everybody who waits know.

use std::sync::Arc;
use std::time::Duration;

use countersign_runtime::backoff::{Backoff, Jitter};
use countersign_wire::status::{Failure, NoToken};

use super::kept::Fetched;
use super::source::NotFetched;
use super::standing::{DISOWNED, Standing, standing};
use super::{Agent, Slot};

/// The pauses between failed attempts: up to two seconds at first, and never over the cap. A token lasts for minutes, so there
/// is time; and when an authority comes back, its fleet comes spread over the cap.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The authority's own wish is heeded as far as this: a wrong number of its own must not outlast its repair by more.
const LONGEST_WISH: Duration = Duration::from_secs(5 * 60);

/// Within this time of a start the tokens of routes are fetched that nobody has asked for yet: after a restart of everything, not
/// all agents ask at once.
const START_SPREAD: Duration = Duration::from_secs(2);

/// How long the timers are trusted. They stand still while the machine is suspended, and nobody tells of a new certificate.
const UNSEEN: Duration = Duration::from_secs(10);

/// Keeps a token in `slot` until nobody has asked for it for long, or the agent stops.
pub(super) async fn keep(agent: Agent, slot: Arc<Slot>) {
    let keeping = Keeper {
        jitter: Jitter::unpredictable(),
        backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, Jitter::unpredictable()),
        told: None,
        agent: &agent,
        slot: &slot,
    };
    tokio::select! {
        () = keeping.run() => {}
        () = slot.dropped.cancelled() => {}
        () = agent.0.stop.cancelled() => {}
    }
}

struct Keeper<'a> {
    agent: &'a Agent,
    slot: &'a Arc<Slot>,
    jitter: Jitter,
    backoff: Backoff,
    /// The failure that was last told in the log.
    told: Option<NoToken>,
}

impl Keeper<'_> {
    async fn run(mut self) {
        let mut epochs = self.agent.0.trust.changed();
        let mut is_wanted = false;
        if self.slot.pinned {
            let spread = self.jitter.up_to(START_SPREAD);
            // Whoever asks does not wait for it.
            let _asked = tokio::time::timeout(spread, self.slot.wanted.notified()).await;
            is_wanted = true;
        }
        loop {
            if self.agent.drop_idle(self.slot) {
                return;
            }
            self.tell_disowned();
            let wait = self.due_in(is_wanted);
            if wait.is_zero() {
                // INVARIANT (one asks): nobody else calls this for the key.
                self.attempt().await;
                is_wanted = self.slot.pinned;
                continue;
            }
            tokio::select! {
                () = self.slot.wanted.notified() => is_wanted = true,
                () = tokio::time::sleep(wait) => {}
                changed = epochs.changed() => if changed.is_err() { return },
            }
        }
    }

    /// How long until the authority is to be asked, or until it is to be looked again.
    fn due_in(&self, is_wanted: bool) -> Duration {
        let now = self.agent.clock().elapsed();
        let asks_at = self.slot.kept.borrow().asks_at(
            is_wanted,
            |with| self.agent.has(with),
            |token| standing(token, self.agent),
        );
        asks_at.map_or(UNSEEN, |at| at.saturating_sub(now).min(UNSEEN))
    }

    async fn attempt(&mut self) {
        let asked_at = self.agent.clock().elapsed();
        let with = self.agent.0.source.certificate().thumbprint;
        let fetched = self.agent.0.source.fetch(&self.slot.key).await;
        let fetched = fetched.and_then(|token| match standing(&token, self.agent) {
            // It would be asked for again and again.
            Standing::Revoked => Err(Failure::TokenUnusable.into()),
            Standing::Disowned => Err(NotFetched {
                why: DISOWNED,
                retry_after: None,
            }),
            Standing::Good | Standing::Outdated => Ok(token),
        });
        let now = self.agent.clock().elapsed();
        let metrics = &self.agent.0.metrics;
        match fetched {
            Ok(token) => {
                metrics.fetched("fetched");
                self.backoff.reset();
                self.tell_success();
                let fetched = Fetched::new(token, asked_at, &mut self.jitter);
                self.slot.kept.send_modify(|kept| kept.succeeded(fetched, now));
            }
            Err(NotFetched { why, retry_after }) => {
                metrics.fetched(why.reason());
                let wish = retry_after.unwrap_or_default().min(LONGEST_WISH);
                let pause = self.backoff.next_delay().max(wish);
                self.tell_failure(why);
                self.slot
                    .kept
                    .send_modify(|kept| kept.failed(why, with, now, pause));
            }
        }
    }

    /// Once: nobody asks the authority until it is over.
    fn tell_disowned(&mut self) {
        let kept = self.slot.kept.borrow();
        let now = self.agent.clock().elapsed();
        let is_disowned = kept.is_disowned(now, |token| standing(token, self.agent));
        if is_disowned && self.told.replace(DISOWNED) != Some(DISOWNED) {
            tracing::warn!(
                key = %self.slot.key,
                reason = DISOWNED.reason(),
                "our certificate is revoked: what is bound to it, or to its SPIFFE ID, is given to nobody until there is another"
            );
        }
    }

    fn tell_success(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(key = %self.slot.key, "the authority issues tokens for the app again");
        }
    }

    /// Once for each reason: an outage is long, and the metrics count.
    fn tell_failure(&mut self, why: NoToken) {
        if self.told.replace(why) != Some(why) {
            let now = self.agent.clock().elapsed();
            let kept = self.slot.kept.borrow().clone();
            let good_for = kept.good_for(now, |token| standing(token, self.agent));
            tracing::warn!(
                key = %self.slot.key,
                reason = why.reason(),
                ?good_for,
                "the authority issues no token for the app"
            );
        }
    }
}
