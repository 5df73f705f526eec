//! The decisions of a verifier: each on one look at its trust and its clocks, with what is remembered of tokens, or anew.

use std::time::Duration;

use countersign_core::binding::PeerCertificate;
use countersign_core::planted::{Bug, planted};
use countersign_core::verifier::HeldTrust;
use countersign_core::verifying::{Presentation, TrustView, authenticate, judge};
use countersign_core::{Rejection, Timestamp};

use super::Verifier;

/// Tokens that are remembered.
const KNOWN_TOKENS: usize = 256;

/// A token as it is shown to a verifier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) text: &'a str,
    /// Its `jti`.
    pub(crate) token_id: &'a str,
    /// The certificate of the connection.
    pub(crate) certificate: Option<&'a PeerCertificate>,
}

/// One look at trust and clocks: all that a decision is made on.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    held: HeldTrust,
    elapsed: Duration,
    pub(crate) now: Result<Timestamp, Rejection>,
}

impl Look {
    fn view(&self) -> Result<TrustView<'_>, Rejection> {
        let trust = self.held.in_force().ok_or(Rejection::TrustCold)?;
        Ok(trust.view(self.elapsed))
    }
}

impl Verifier {
    /// One look at trust and clocks.
    pub(crate) fn look(&self, at: Duration) -> Option<Look> {
        let process = self.process.as_ref()?;
        let elapsed = self.clock.elapsed(at);
        Some(Look {
            held: process.held.clone(),
            elapsed,
            now: process
                .held
                .now(elapsed)
                .map_err(|_doubt| Rejection::VerifierClock),
        })
    }

    /// Whether calls of a class are decided at all.
    pub(crate) fn decides(&self, class: usize, at: Duration) -> bool {
        let trust = self.process.as_ref().and_then(|process| process.held.in_force());
        trust.is_some_and(|trust| {
            let overdue = trust.overdue(self.clock.elapsed(at));
            self.classes[class].class.budget.too_old(overdue).is_none()
        })
    }

    /// Decides about the token on `look`, of which nothing but this is read.
    pub(crate) fn decide(&mut self, shown: &Shown<'_>, class: usize, look: &Look) -> Result<(), Rejection> {
        let presented = Presentation {
            peer_certificate: shown.certificate,
            requirements: &self.classes[class],
        };
        let view = look.view();
        let process = self.process.as_mut().ok_or(Rejection::TrustCold)?;
        let name = if planted(Bug::CachedByTokenId) {
            shown.token_id
        } else {
            shown.text
        };
        if let Some(known) = process.known.get(name) {
            return judge(known.clone(), view?, &self.expected, &presented, look.now?).map(drop);
        }
        let budget = &presented.requirements.class.budget;
        let (view, authentic) = authenticate(shown.text.as_bytes(), view, budget)?;
        if process.known.len() >= KNOWN_TOKENS {
            process.known.clear();
        }
        judge(authentic.clone(), view, &self.expected, &presented, look.now?)?;
        process.known.insert(name.to_owned(), authentic);
        Ok(())
    }

    /// The same, on a look that began earlier; between its readings the process stood still.
    pub(crate) fn decide_late(
        &mut self,
        shown: &Shown<'_>,
        class: usize,
        begun: &Look,
        at: Duration,
    ) -> Result<(), Rejection> {
        let mut look = begun.clone();
        if planted(Bug::ClockReadTwice)
            && let Some(later) = self.look(at)
        {
            look = Look {
                now: begun.now,
                ..later
            };
        }
        self.decide(shown, class, &look)
    }

    /// The same without anything remembered.
    pub(crate) fn decide_anew(&self, shown: &Shown<'_>, class: usize, look: &Look) -> Result<(), Rejection> {
        let presented = Presentation {
            peer_certificate: shown.certificate,
            requirements: &self.classes[class],
        };
        let view = look.view();
        let budget = &presented.requirements.class.budget;
        let (view, authentic) = authenticate(shown.text.as_bytes(), view, budget)?;
        judge(authentic, view, &self.expected, &presented, look.now?).map(drop)
    }
}
