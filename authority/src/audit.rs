//! The audit trail: who did what to whom, with what outcome. One structured event for each admin action and, up to a rate for
//! each caller ([`crate::limits`]), for each refusal,
//! under the target `audit`, so that a log pipeline can keep it apart, whatever the filter of the logs. Never a token, a secret
//! or a key.

use std::fmt;

use countersign_mtls::PeerIdentity;
use countersign_runtime::telemetry::AUDIT;

use crate::limits::Limits;
use crate::metrics::Metrics;

/// What became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, for this stable reason.
    Refused(&'static str),
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused(_) => "refused",
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Done => "",
            Self::Refused(reason) => reason,
        }
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Who, as the connection proves it.
    pub actor: &'a Actor,
    /// What.
    pub action: &'static str,
    /// To whom or what.
    pub subject: &'a str,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, in the operator's words; or the fine reason of a refusal that the caller is not told.
    pub note: &'a str,
}

/// Writes the event.
pub fn record(event: &Event<'_>) {
    tracing::info!(
        target: AUDIT,
        actor = %event.actor,
        action = event.action,
        subject = %Printable(event.subject),
        outcome = event.outcome.name(),
        reason = event.outcome.reason(),
        note = %Printable(event.note),
        "audit"
    );
}

/// Writes an event that only says that its actor was refused, unless he has caused too many of them: then it is counted.
pub fn record_refusal(event: &Event<'_>, limits: &Limits, metrics: &Metrics) {
    if limits.refusal(event.actor) {
        record(event);
    } else {
        metrics.count_unaudited();
    }
}

/// Who acted: by SPIFFE ID, or by certificate where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor(String);

impl Actor {
    /// Whoever holds this certificate.
    #[must_use]
    pub fn of(identity: Option<&PeerIdentity>) -> Self {
        Self(match identity {
            None => "unknown".to_owned(),
            Some(PeerIdentity {
                spiffe_id: Some(id), ..
            }) => id.as_str().to_owned(),
            Some(identity) => format!("certificate:{}", identity.thumbprint),
        })
    }

    /// The authority itself.
    #[must_use]
    pub fn authority() -> Self {
        Self("authority".to_owned())
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text from outside, as one line of bounded length: what it holds can neither end a line nor steer a terminal (T48).
struct Printable<'a>(&'a str);

const LONGEST: usize = 256;

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(LONGEST) {
            if character.is_ascii_graphic() || character == ' ' {
                write!(f, "{character}")?;
            } else {
                write!(f, "{}", character.escape_default())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T48, O02: whatever a name contains, the event is one line.
    #[test]
    fn text_from_outside_stays_in_its_place() {
        let shown = Printable("a\nactor=root \u{1b}[2J \u{202e}x\"").to_string();
        assert_eq!(shown, "a\\nactor=root \\u{1b}[2J \\u{202e}x\"");
        assert_eq!(Printable(&"x".repeat(10_000)).to_string().len(), LONGEST);
    }
}
