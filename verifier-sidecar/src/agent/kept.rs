//! What is kept for one key, and what follows from it: whom to answer what, and when to ask the authority. Without I/O; all
//! times are of the clock that counts on in the machine's sleep, so no wall clock makes a token last longer.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::names::CertificateThumbprint;
use countersign_runtime::backoff::Jitter;
use countersign_wire::status::NoToken;

use super::Unavailable;
use super::standing::{DISOWNED, Standing};
use super::token::Token;

/// After any attempt nobody asks again sooner, whatever happens to what came of it.
pub(super) const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// How long before its end a token is no longer given out: whoever gets it has yet to use it, and clocks differ.
const MARGIN: Duration = Duration::from_secs(10);

/// When whoever may have no token that is kept is to ask again. Nobody asks the authority meanwhile: another certificate is seen whenever it comes.
const DISOWNED_FOR: Duration = Duration::from_secs(10);

/// A token and its times.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The token.
    pub(crate) token: Token,
    /// From when on another is to be fetched.
    pub(crate) refresh_at: Duration,
    /// From when on it is not given out any more.
    pub(crate) served_until: Duration,
}

impl Fetched {
    /// `token`, that was asked for at `asked_at`: its life is counted from there, which errs on the safe side.
    ///
    /// Another is fetched between a sixth and a half of its life, in the middle at a third. Agents that began together, after a
    /// restart or an outage, come apart.
    pub(super) fn new(token: Token, asked_at: Duration, jitter: &mut Jitter) -> Self {
        let life = token.lifetime();
        Self {
            refresh_at: asked_at + life / 6 + jitter.up_to(life / 3),
            served_until: asked_at + life - MARGIN.min(life / 10),
            token,
        }
    }
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
struct Failed {
    why: NoToken,
    at: Duration,
    /// The certificate that it was made with, if that may be what failed it: with another one nobody has to wait.
    with: Option<CertificateThumbprint>,
}

/// What is kept for one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    token: Option<Arc<Fetched>>,
    failed: Option<Failed>,
    /// Nobody asks the authority before.
    paused_until: Duration,
}

/// What somebody who wants a token is told.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Here it is.
    Token(Arc<Fetched>),
    /// There is none.
    Unavailable(Unavailable),
    /// The keeper asks.
    Wait,
}

impl Kept {
    /// What somebody who wants a token at `now` is told, where the certificate `is_ours` that we have.
    pub(super) fn answer(
        &self,
        now: Duration,
        is_ours: impl FnOnce(&CertificateThumbprint) -> bool,
        standing: impl Fn(&Token) -> Standing,
    ) -> Answer {
        let held = self.lasting(now).map(|held| (held, standing(&held.token)));
        match held {
            // INVARIANT (nothing revoked): looked at each time, for revocations come at any.
            Some((token, standing)) if standing.is_served() => return Answer::Token(Arc::clone(token)),
            // Another would be of no more use.
            Some((_, Standing::Disowned)) => {
                return Answer::Unavailable(Unavailable {
                    why: DISOWNED,
                    retry_after: DISOWNED_FOR,
                });
            }
            Some(_) | None => {}
        }
        let pause = self.held_back_until(is_ours).saturating_sub(now);
        match self.failed {
            // INVARIANT (held back): whoever comes in the pause hears what came of the attempt before it.
            Some(Failed { why, .. }) if !pause.is_zero() => Answer::Unavailable(Unavailable {
                why,
                retry_after: pause,
            }),
            Some(_) | None => Answer::Wait,
        }
    }

    /// When the authority is to be asked, where the certificate `is_ours` that we have: in the past when it is due. Nothing: when
    /// somebody wants a token.
    pub(super) fn asks_at(
        &self,
        is_wanted: bool,
        is_ours: impl FnOnce(&CertificateThumbprint) -> bool,
        standing: impl Fn(&Token) -> Standing,
    ) -> Option<Duration> {
        let due = match &self.token {
            None if is_wanted => Duration::ZERO,
            None => return None,
            Some(held) => match standing(&held.token) {
                Standing::Good => held.refresh_at,
                Standing::Disowned => held.served_until,
                Standing::Outdated | Standing::Revoked => Duration::ZERO,
            },
        };
        Some(due.max(self.held_back_until(is_ours)))
    }

    /// Nobody asks the authority before. What it says of a certificate holds while that is ours.
    fn held_back_until(&self, is_ours: impl FnOnce(&CertificateThumbprint) -> bool) -> Duration {
        let with_another = self
            .failed
            .filter(|failed| failed.with.is_some_and(|with| !is_ours(&with)));
        with_another.map_or(self.paused_until, |failed| failed.at + LEAST_PAUSE)
    }

    /// For how long the token is given out, if nothing is heard against it.
    pub(super) fn good_for(&self, now: Duration, standing: impl Fn(&Token) -> Standing) -> Duration {
        let held = self.lasting(now);
        let held = held.filter(|held| standing(&held.token).is_served());
        held.map_or(Duration::ZERO, |held| held.served_until.saturating_sub(now))
    }

    /// Why there is no token, or not the next one, if anything is known to be wrong.
    pub(super) fn last_error(&self, now: Duration, standing: impl Fn(&Token) -> Standing) -> Option<NoToken> {
        if self.is_disowned(now, standing) {
            return Some(DISOWNED);
        }
        self.failed.map(|failed| failed.why)
    }

    /// Whether a token is kept that would last, and is good for nobody over the certificate that we have.
    pub(super) fn is_disowned(&self, now: Duration, standing: impl Fn(&Token) -> Standing) -> bool {
        let held = self.lasting(now);
        held.is_some_and(|held| standing(&held.token) == Standing::Disowned)
    }

    /// The token, good or not.
    pub(super) fn into_token(self) -> Option<Arc<Fetched>> {
        self.token
    }

    /// Takes note of a token that came at `now`.
    pub(super) fn succeeded(&mut self, token: Fetched, now: Duration) {
        *self = Self {
            token: Some(Arc::new(token)),
            failed: None,
            paused_until: now + LEAST_PAUSE,
        };
    }

    /// Takes note of an attempt that failed at `now`, and was made `with` this certificate. What is kept goes on being served.
    pub(super) fn failed(
        &mut self,
        why: NoToken,
        with: CertificateThumbprint,
        now: Duration,
        pause: Duration,
    ) {
        self.failed = Some(Failed {
            why,
            at: now,
            with: (why == DISOWNED).then_some(with),
        });
        self.paused_until = now + pause.max(LEAST_PAUSE);
    }

    fn lasting(&self, now: Duration) -> Option<&Arc<Fetched>> {
        self.token.as_ref().filter(|held| now < held.served_until)
    }
}
