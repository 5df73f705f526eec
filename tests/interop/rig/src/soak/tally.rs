//! What answers came to, compared with what they had to be.

use countersign_core::ports::Clock as _;
use countersign_runtime::SystemClock;
use tonic::Code;

use super::oracle::{Due, Token};
use crate::calling::Answer;
use crate::report::say;

/// Wrong verdicts that are told in full.
const TOLD: u64 = 20;

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) allowed: u64,
    pub(super) denied: u64,
    /// Asked of a sidecar that was stopped, or not there yet.
    pub(super) unanswered: u64,
    pub(super) wrong: u64,
    /// Those that had to pass.
    pub(super) good: u64,
    /// Those that had to be refused.
    pub(super) bad: u64,
    /// The longest after its end that a token was accepted, in milliseconds.
    pub(super) longest_after_end: u64,
    /// Streams that have ended as they must.
    pub(super) streams: u64,
    /// Tokens that the authority did not issue.
    pub(super) not_issued: u64,
    pub(super) tokens_revoked: u64,
    pub(super) clients_revoked: u64,
    pub(super) keys_compromised: u64,
    /// Receipts that were in force everywhere when they came.
    pub(super) in_force_at_once: u64,
    pub(super) rotations: u64,
    pub(super) restarts: u64,
}

impl Counts {
    pub(super) const fn calls(&self) -> u64 {
        self.allowed + self.denied + self.unanswered
    }

    /// Judges the answer to a call of that time. `steady` is whether the sidecar was there, and knew the latest tokens, from before the call until after it.
    pub(super) fn judge(
        &mut self,
        where_and_how: &str,
        token: &Token,
        (due, began): (Due, u64),
        answer: &Answer,
        steady: bool,
    ) {
        if answer.is_through() {
            let late = began.saturating_sub(token.expires);
            self.longest_after_end = self.longest_after_end.max(late);
        }
        match due {
            Due::Pass => self.good += 1,
            Due::Refusal => self.bad += 1,
            Due::Either => {}
        }
        // A refusal of a sidecar's has a reason. Without one, nobody was there to decide.
        let decided = answer.is_through() || !answer.reason.is_empty();
        let right = match (due, answer.is_through()) {
            (Due::Refusal, true) => false,
            (Due::Pass | Due::Either, true) => true,
            (Due::Refusal | Due::Either, false) => !steady || answer.code == Code::Unauthenticated,
            (Due::Pass, false) => !steady,
        };
        match (answer.is_through(), decided) {
            (true, _) => self.allowed += 1,
            (false, true) => self.denied += 1,
            (false, false) => self.unanswered += 1,
        }
        if !right {
            self.is_wrong(
                &format!("{where_and_how}: {due:?} was due, and it was {answer:?}"),
                token,
            );
        }
    }

    pub(super) fn is_wrong(&mut self, what: &str, token: &Token) {
        self.wrong += 1;
        if self.wrong <= TOLD {
            say(&format!(
                "WRONG {} {what}; token {} of {}, key {}, asked for {} ms before, given {} ms before, expires in {} ms",
                SystemClock.now_millis(),
                token.number,
                token.client,
                token.kid,
                ago(token.asked),
                ago(token.given),
                -ago(token.expires)
            ));
        }
    }
}

/// How long ago, in milliseconds.
fn ago(then: u64) -> i64 {
    let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    signed(SystemClock.now_millis()) - signed(then)
}
