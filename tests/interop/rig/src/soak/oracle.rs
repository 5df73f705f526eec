//! What an answer must be, known from what was issued and revoked when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use countersign_proto::admin::v1::EpochReach;

use crate::calling::{latest_bound, now_millis};

/// For how long a token is still shown after it has expired, in milliseconds.
const SHOWN_EXPIRED: u64 = 5_000;

/// How far a sidecar's time may be from this process's, in milliseconds. It counts on from its own start, and moves with what the
/// authority says (docs/staleness.md), so it is not the wall clock to the millisecond.
pub(super) const CLOCKS: u64 = 250;

/// A token that was issued. Times are in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) number: u64,
    pub(super) text: String,
    pub(super) client: String,
    pub(super) kid: String,
    pub(super) expires: u64,
    /// When it was asked for, and when it was there.
    pub(super) asked: u64,
    pub(super) given: u64,
}

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Token(u64),
    /// Every token that this client has so far.
    Client(String),
    Key(String),
}

/// A revocation, or a key that was declared compromised.
#[derive(Clone, Copy, Debug)]
struct Revocation {
    sent: u64,
    receipt: Option<Receipt>,
}

#[derive(Clone, Copy, Debug)]
struct Receipt {
    came: u64,
    /// From then on nobody decides without it.
    in_force: u64,
}

/// What must become of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Pass,
    Refusal,
    /// It expires meanwhile, or a revocation is on its way.
    Either,
}

/// Whether a revocation is about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concerns {
    Yes,
    No,
    /// Both were asked for at the same time.
    Perhaps,
}

/// Everything that was issued and is still shown, and everything that was revoked.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    tokens: VecDeque<Arc<Token>>,
    issued: u64,
    revocations: BTreeMap<Subject, Vec<Revocation>>,
}

impl Oracle {
    /// The number of the next token.
    pub(super) const fn next_number(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    pub(super) const fn issued(&self) -> u64 {
        self.issued
    }

    /// Takes note of a new token, and forgets those that have expired.
    pub(super) fn add(&mut self, token: Token) {
        self.tokens.push_back(Arc::new(token));
        let now = now_millis();
        let revocations = &mut self.revocations;
        self.tokens.retain(|token| {
            let shown = now < token.expires + SHOWN_EXPIRED;
            if !shown {
                revocations.remove(&Subject::Token(token.number));
            }
            shown
        });
    }

    /// One of those that are shown.
    pub(super) fn any(&self, random: u64) -> Option<Arc<Token>> {
        let count = u64::try_from(self.tokens.len()).ok()?;
        let index = usize::try_from(random.checked_rem(count)?).ok()?;
        self.tokens.get(index).cloned()
    }

    /// The latest that must pass.
    pub(super) fn latest_good(&self) -> Option<Arc<Token>> {
        let now = now_millis();
        let mut latest_first = self.tokens.iter().rev();
        latest_first
            .find(|token| self.due(token, now, now + 1_000) == Due::Pass)
            .cloned()
    }

    /// Takes note of a revocation that is about to be sent.
    pub(super) fn sends(&mut self, subject: Subject) {
        let revocation = Revocation {
            sent: now_millis(),
            receipt: None,
        };
        self.revocations.entry(subject).or_default().push(revocation);
    }

    /// Takes note of the receipt for the last revocation of `subject`. Whether it was in force everywhere when it came.
    pub(super) fn receives(&mut self, subject: &Subject, reach: &EpochReach) -> bool {
        let (came, bound) = (now_millis(), latest_bound(reach));
        let last = self
            .revocations
            .get_mut(subject)
            .and_then(|revocations| revocations.last_mut());
        if let Some(last) = last {
            let in_force = bound.unwrap_or(came).max(came);
            last.receipt = Some(Receipt { came, in_force });
        }
        bound.is_none()
    }

    /// What must become of a call with `token` that began and ended then.
    pub(super) fn due(&self, token: &Token, began: u64, ended: u64) -> Due {
        if began >= token.expires + CLOCKS {
            return Due::Refusal;
        }
        let mut due = if ended + CLOCKS >= token.expires {
            Due::Either
        } else {
            Due::Pass
        };
        for (concerns, revocation) in self.concerning(token) {
            let in_force = revocation.receipt.is_some_and(|receipt| receipt.in_force < began);
            if concerns == Concerns::Yes && in_force {
                return Due::Refusal;
            }
            if concerns != Concerns::No && revocation.sent <= ended {
                due = Due::Either;
            }
        }
        due
    }

    fn concerning(&self, token: &Token) -> impl Iterator<Item = (Concerns, &Revocation)> {
        let subjects = [
            Subject::Token(token.number),
            Subject::Client(token.client.clone()),
            Subject::Key(token.kid.clone()),
        ];
        let (given, asked) = (token.given, token.asked);
        subjects.into_iter().flat_map(move |subject| {
            let of_client = matches!(subject, Subject::Client(_));
            let revocations = self.revocations.get(&subject).map(Vec::as_slice);
            revocations.unwrap_or_default().iter().map(move |revocation| {
                let concerns = match revocation.receipt {
                    _ if !of_client || given <= revocation.sent => Concerns::Yes,
                    Some(receipt) if asked >= receipt.came => Concerns::No,
                    Some(_) | None => Concerns::Perhaps,
                };
                (concerns, revocation)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64, asked: u64, given: u64, expires: u64) -> Token {
        Token {
            number,
            text: String::new(),
            client: "a".to_owned(),
            kid: "k".to_owned(),
            expires,
            asked,
            given,
        }
    }

    fn revoked(subject: Subject, sent: u64, receipt: Option<(u64, u64)>) -> Oracle {
        let receipt = receipt.map(|(came, in_force)| Receipt { came, in_force });
        Oracle {
            revocations: BTreeMap::from([(subject, vec![Revocation { sent, receipt }])]),
            ..Oracle::default()
        }
    }

    #[test]
    fn a_token_passes_until_it_expires() {
        let (oracle, token) = (Oracle::default(), token(1, 10, 20, 1000));
        assert_eq!(oracle.due(&token, 30, 749), Due::Pass);
        assert_eq!(oracle.due(&token, 749, 750), Due::Either);
        assert_eq!(oracle.due(&token, 1249, 1250), Due::Either);
        assert_eq!(oracle.due(&token, 1250, 1250), Due::Refusal);
    }

    #[test]
    fn a_revoked_token_is_refused_from_the_time_that_the_receipt_tells() {
        let token = token(1, 10, 20, 2000);
        let oracle = revoked(Subject::Token(1), 100, Some((110, 150)));
        assert_eq!(oracle.due(&token, 80, 99), Due::Pass);
        assert_eq!(oracle.due(&token, 80, 100), Due::Either);
        assert_eq!(oracle.due(&token, 150, 160), Due::Either);
        assert_eq!(oracle.due(&token, 151, 160), Due::Refusal);
        let other = revoked(Subject::Token(2), 100, Some((110, 150)));
        assert_eq!(other.due(&token, 151, 160), Due::Pass);
        let unanswered = revoked(Subject::Key("k".to_owned()), 100, None);
        assert_eq!(unanswered.due(&token, 900, 900), Due::Either);
    }

    #[test]
    fn of_a_client_that_was_revoked_the_tokens_from_before_are_refused_and_those_from_after_pass() {
        let oracle = revoked(Subject::Client("a".to_owned()), 100, Some((110, 110)));
        assert_eq!(oracle.due(&token(1, 10, 20, 1000), 200, 200), Due::Refusal);
        assert_eq!(oracle.due(&token(1, 90, 120, 1000), 200, 200), Due::Either);
        assert_eq!(oracle.due(&token(1, 110, 120, 1000), 200, 200), Due::Pass);
    }
}
