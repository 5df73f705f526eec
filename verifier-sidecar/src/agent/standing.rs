//! Whether a token that we hold would be accepted, as far as we can know: we hear of revocations as every verifier does.

use countersign_core::claims::Confirmation;

use super::Agent;
use super::token::Token;

/// What is known against a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing.
    Good,
    /// It is bound to a certificate, or to a SPIFFE ID, that we had before: good for connections that were made with that, and for
    /// no others.
    Outdated,
    /// It, or everything of its time, its client or its key, was taken back. Nobody accepts it.
    Revoked,
}

/// What is known against `token` now. That our trust may be old makes no difference: what was revoked stays so.
pub(super) fn standing(token: &Token, agent: &Agent) -> Standing {
    let current = agent.0.trust.current();
    let is_revoked = current.in_force().is_some_and(|trust| {
        let key = trust.state.keys().find(token.key_id());
        key.is_some_and(|key| key.times.compromised_at.is_some())
            || trust.state.revocations().check(token.claims()).is_err()
    });
    let ours = agent.0.source.certificate();
    match &token.claims().confirmation {
        _ if is_revoked => Standing::Revoked,
        // The authority understands it, or it would not have given it.
        Confirmation::Unsupported => Standing::Good,
        confirmation if confirmation.is_proven_by(Some(&ours)) => Standing::Good,
        Confirmation::Certificate(_) | Confirmation::SpiffeId(_) | Confirmation::Unbound => {
            Standing::Outdated
        }
    }
}
