//! The one decision of this sidecar, for the proxy and the Verify API alike (I-18).
//!
//! ```text
//! open method? -> token -> known? -> authenticate -> judge -> verdict
//!                            '---------------------->'
//! ```
//!
//! Every decision is made on one look at the trust in force and one reading of the clock. A token whose key is not known
//! here, or not active yet, may be ahead of the trust stream: its request waits a moment for a newer epoch and is judged
//! once more (K16). All of them wait for the same event and cause no traffic, and only so many may wait at once, so that
//! a flood of invented keys costs nobody anything (K15).

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::binding::PeerCertificate;
use countersign_core::claims::Claims;
use countersign_core::names::ClientId;
use countersign_core::requirements::{Access, MethodPath, MethodTable, Mode, Requirements, Rule};
use countersign_core::staleness::{ClassBudget, Stale, StalenessBudget};
use countersign_core::trust::Epoch;
use countersign_core::verifier::ClockInDoubt;
use countersign_core::verifying::{
    Expectations, Presentation, TrustView, VerifiedToken, authenticate_known, judge,
};
use countersign_core::{Rejection, Timestamp};
use countersign_wire::status::{self, Disclosure};
use tokio::sync::Semaphore;

use crate::identity::Identity;
use crate::key_uses::KeyUses;
use crate::metrics::DecisionMetrics;
use crate::token_cache::{Digest, KnownToken, TokenCache};
use crate::trust::{Current, TrustStore};

/// The longest that a request waits for a newer epoch: a caller's patience is worth one round trip, not more.
pub const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The most requests that wait at once. Each holds one stream and at most 16 KiB of headers.
pub const MOST_WAITING: usize = 256;

/// A request, as far as it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The bare token, or why there is none ([`countersign_core::bearer::from_authorization`]).
    pub token: Result<&'a [u8], Rejection>,
    /// The method called. None: only the token is judged.
    pub method: Option<MethodPath<'a>>,
    /// The certificate of the connection, when there is one.
    pub peer_certificate: Option<&'a PeerCertificate>,
}

/// A verdict, and the epoch that it was made on. Zero: there was no trust.
#[derive(Debug)]
pub struct Decision {
    /// Let it pass, or why not.
    pub verdict: Result<Admission, Denied>,
    /// The epoch.
    pub epoch: Epoch,
    /// What it would have been refused for, where the method is only observed ([`Mode::Observe`]): the verdict then lets it pass, as
    /// one of nobody.
    pub observed: Option<Observed>,
}

impl Decision {
    /// A refusal on `epoch`.
    #[must_use]
    pub fn refused(rejection: Rejection, epoch: Epoch) -> Self {
        Self {
            verdict: Err(rejection.into()),
            epoch,
            observed: None,
        }
    }
}

/// A call that passes only because nothing is enforced.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Why it would be refused.
    pub denied: Denied,
    /// Whose it is, as far as a token says that our authority signed.
    pub client_id: Option<ClientId>,
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The reason.
    pub rejection: Rejection,
    /// What is too old, where that is the reason.
    pub stale: Option<Stale>,
}

impl Denied {
    /// The status that the caller is sent.
    #[must_use]
    pub fn status(&self, disclosure: Disclosure) -> tonic::Status {
        match &self.stale {
            Some(stale) => status::stale(stale, disclosure),
            None => status::refused(self.rejection, disclosure),
        }
    }
}

impl From<Rejection> for Denied {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            stale: None,
        }
    }
}

/// Why a request may pass.
#[derive(Clone, Debug)]
pub enum Admission {
    /// The method is open. Nobody was asked for a token.
    Open,
    /// The token is good for it.
    Token(Admitted),
}

/// A request with a good token.
#[derive(Clone, Debug)]
pub struct Admitted {
    token: VerifiedToken,
    known: Arc<KnownToken>,
}

impl Admitted {
    /// The token.
    #[must_use]
    pub const fn token(&self) -> &VerifiedToken {
        &self.token
    }

    /// What the token says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        self.token.claims()
    }

    /// What the service is told.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.known.identity
    }
}

/// Decides.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<TrustStore>,
    expected: Expectations,
    methods: MethodTable,
    tokens: TokenCache,
    metrics: DecisionMetrics,
    waiting: Semaphore,
    token_only: Requirements,
    key_uses: Arc<KeyUses>,
}

/// One look at the trust in force and at the clocks: all that a decision is made on.
struct Look {
    current: Current,
    elapsed: Duration,
    now: Result<Timestamp, Rejection>,
}

impl Look {
    /// What to decide on. Without the time, its age cannot be known, nor what of it has expired.
    fn trust(&self) -> Result<TrustView<'_>, Rejection> {
        let view = self.current.view(self.elapsed).ok_or(Rejection::TrustCold)?;
        self.now.map(|_known| view)
    }

    fn epoch(&self) -> Epoch {
        self.current.in_force().map_or(0, |trust| trust.state.epoch())
    }

    fn refuses_in(&self, budget: &StalenessBudget) -> Duration {
        let trust = self.current.in_force();
        trust.map_or(Duration::ZERO, |trust| trust.refuses_in(budget, self.elapsed))
    }

    /// What there is to say to a request of `class` that is refused.
    fn denied(&self, rejection: Rejection, class: &ClassBudget) -> Denied {
        let trust = self
            .current
            .in_force()
            .filter(|_| rejection == Rejection::TrustStale);
        let stale = trust.and_then(|trust| {
            Some(Stale {
                class: class.class.clone(),
                data: class.budget.too_old(trust.overdue(self.elapsed))?,
                age: trust.age(self.elapsed),
            })
        });
        Denied { rejection, stale }
    }
}

impl Verifier {
    /// A verifier of `expected` on what `trust` holds, which asks for what `methods` say. Questions without a method are of the
    /// default class.
    #[must_use]
    pub fn new(
        trust: Arc<TrustStore>,
        expected: Expectations,
        methods: MethodTable,
        tokens: TokenCache,
        metrics: DecisionMetrics,
    ) -> Self {
        Self {
            expected,
            methods,
            tokens,
            metrics,
            waiting: Semaphore::new(MOST_WAITING),
            token_only: Requirements {
                class: Arc::clone(&trust.staleness().default_class),
                ..Requirements::default()
            },
            trust,
            key_uses: Arc::default(),
        }
    }

    /// Which keys the tokens accepted came under.
    #[must_use]
    pub const fn key_uses(&self) -> &Arc<KeyUses> {
        &self.key_uses
    }

    /// The trust that decides.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustStore> {
        &self.trust
    }

    /// What is accepted.
    #[must_use]
    pub const fn expected(&self) -> &Expectations {
        &self.expected
    }

    /// What is asked of calls of `method`.
    #[must_use]
    pub fn rule(&self, method: MethodPath<'_>) -> &Rule {
        self.methods.find(method)
    }

    /// Counts a request that has not even the form of a question.
    pub fn count_refused(&self, rejection: Rejection) {
        self.metrics
            .count(&Decision::refused(rejection, self.trust.epoch()));
    }

    /// Decides on what is known now.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        let decision = self.observe(question, self.decide_now(question));
        self.metrics.count(&decision);
        decision
    }

    /// Decides, and waits up to [`LONGEST_WAIT`] where a newer epoch may change the verdict.
    pub async fn decide_patiently(&self, question: &Question<'_>) -> Decision {
        let first = self.decide_now(question);
        let decision = match &first.verdict {
            Err(denied) if may_be_early(denied.rejection) && self.mode(question) == Mode::Enforce => {
                self.decide_later(question, first).await
            }
            // What is only observed makes nobody wait.
            Ok(_) | Err(_) => first,
        };
        let decision = self.observe(question, decision);
        self.metrics.count(&decision);
        decision
    }

    async fn decide_later(&self, question: &Question<'_>, first: Decision) -> Decision {
        let Ok(_place) = self.waiting.try_acquire() else {
            return first;
        };
        let mut epochs = self.trust.changed();
        // Looks at the present value first: an epoch that came in between counts.
        let newer = epochs.wait_for(|epoch| *epoch > first.epoch);
        let came = matches!(tokio::time::timeout(LONGEST_WAIT, newer).await, Ok(Ok(_)));
        self.metrics.waited(came);
        if came { self.decide_now(question) } else { first }
    }

    /// Whether a request that was let in would be let in now, were its method enforced.
    ///
    /// # Errors
    /// What it would be [`Denied`] for.
    pub fn judge_again(
        &self,
        admitted: &Admitted,
        method: MethodPath<'_>,
        peer_certificate: Option<&PeerCertificate>,
    ) -> Result<(), Denied> {
        let rule = self.rule(method);
        let Access::Protected(requirements) = &rule.access else {
            return Ok(());
        };
        let presentation = Presentation {
            peer_certificate,
            requirements,
        };
        let look = self.look();
        let judged = look
            .trust()
            .and_then(|trust| self.judge(Arc::clone(&admitted.known), trust, &presentation, look.now?));
        match judged {
            Ok(_) => Ok(()),
            Err(rejection) => Err(look.denied(rejection, &requirements.class)),
        }
    }

    /// Time until calls of `method` are refused because trust is too old, if the authority stays away.
    #[must_use]
    pub fn refuses_in(&self, method: MethodPath<'_>) -> Duration {
        match &self.rule(method).access {
            Access::Open => Duration::MAX,
            Access::Protected(requirements) => self.look().refuses_in(&requirements.class.budget),
        }
    }

    fn look(&self) -> Look {
        Look {
            current: self.trust.current(),
            elapsed: self.trust.clock().elapsed(),
            now: self.trust.now().map_err(|ClockInDoubt| Rejection::VerifierClock),
        }
    }

    fn decide_now(&self, question: &Question<'_>) -> Decision {
        let requirements = match question.method.map(|method| &self.rule(method).access) {
            None => &self.token_only,
            Some(Access::Protected(requirements)) => requirements,
            Some(Access::Open) => {
                return Decision {
                    verdict: Ok(Admission::Open),
                    epoch: self.trust.epoch(),
                    observed: None,
                };
            }
        };
        let presentation = Presentation {
            peer_certificate: question.peer_certificate,
            requirements,
        };
        let look = self.look();
        let verdict = question
            .token
            .and_then(|token| self.verify(token, &look, &presentation));
        Decision {
            verdict: verdict
                .map(Admission::Token)
                .map_err(|rejection| look.denied(rejection, &requirements.class)),
            epoch: look.epoch(),
            observed: None,
        }
    }

    /// Lets what is refused pass where the method is only observed.
    fn observe(&self, question: &Question<'_>, decision: Decision) -> Decision {
        match (decision.verdict, self.mode(question)) {
            (Err(denied), Mode::Observe) => Decision {
                verdict: Ok(Admission::Open),
                epoch: decision.epoch,
                observed: Some(Observed {
                    denied,
                    client_id: question.token.ok().and_then(|token| self.client_of(token)),
                }),
            },
            (verdict, Mode::Observe | Mode::Enforce) => Decision { verdict, ..decision },
        }
    }

    /// What becomes of a refusal.
    fn mode(&self, question: &Question<'_>) -> Mode {
        question
            .method
            .map_or(Mode::Enforce, |method| self.rule(method).mode)
    }

    /// Whose token this is, whatever it may be good for.
    fn client_of(&self, token: &[u8]) -> Option<ClientId> {
        if let Some(known) = self.tokens.find(token) {
            return Some(known.authentic.claims().client_id.clone());
        }
        let look = self.look();
        let budget = &self.token_only.class.budget;
        let is_known = || self.tokens.knows(&Digest::of(token));
        let (_, authentic) = authenticate_known(token, look.trust(), budget, is_known).ok()?;
        Some(authentic.claims().client_id.clone())
    }

    fn verify(
        &self,
        token: &[u8],
        look: &Look,
        presentation: &Presentation<'_>,
    ) -> Result<Admitted, Rejection> {
        if let Some(known) = self.tokens.find(token) {
            self.metrics.recognized();
            let admitted = self.judge(known, look.trust()?, presentation, look.now?)?;
            admitted.known.key_use.count();
            return Ok(admitted);
        }
        let budget = &presentation.requirements.class.budget;
        let digest = LazyCell::new(|| Digest::of(token));
        let mut is_known = false;
        let authenticated = authenticate_known(token, look.trust(), budget, || {
            is_known = self.tokens.knows(&digest);
            is_known
        });
        if is_known {
            self.metrics.recognized();
        } else {
            self.metrics.new_token();
        }
        let (trust, authentic) = authenticated?;
        let known = Arc::new(KnownToken {
            identity: Identity::of(authentic.claims()).ok_or(Rejection::TokenMalformed)?,
            key_use: self
                .key_uses
                .of(authentic.key_id(), &authentic.claims().client_id),
            authentic,
        });
        let admitted = self.judge(known, trust, presentation, look.now?)?;
        admitted.known.key_use.count();
        if is_known {
            self.tokens.remember(token, Arc::clone(&admitted.known));
        } else {
            self.tokens.note(&digest);
        }
        Ok(admitted)
    }

    fn judge(
        &self,
        known: Arc<KnownToken>,
        trust: TrustView<'_>,
        presentation: &Presentation<'_>,
        now: Timestamp,
    ) -> Result<Admitted, Rejection> {
        let authentic = known.authentic.clone();
        let token = judge(authentic, trust, &self.expected, presentation, now)?;
        Ok(Admitted { token, known })
    }
}

/// Whether the trust stream may merely be behind the token.
fn may_be_early(rejection: Rejection) -> bool {
    matches!(rejection, Rejection::KidUnknown | Rejection::KeyNotActive)
}

#[cfg(test)]
mod tests;
