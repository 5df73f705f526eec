//! Whether a token that we hold would be accepted, as far as we can know: we hear of revocations as every verifier does.

use countersign_core::claims::Confirmation;
use countersign_core::issuing::IssueError;
use countersign_wire::status::NoToken;

use super::Agent;
use super::token::Token;

/// What an app is told while our certificate is revoked. It is what the authority says to it, too.
pub(super) const DISOWNED: NoToken = NoToken::NotIssued(IssueError::InvalidClient);

/// What is known against a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing.
    Good,
    /// It is bound to a certificate, or to a SPIFFE ID, that we had before: good for connections that were made with that, and for
    /// no others.
    Outdated,
    /// It is bound to the SPIFFE ID of our certificate, which is revoked. Nobody accepts it over that, nor any other of that SPIFFE ID; over our
    /// next certificate it is good again.
    Disowned,
    /// It, or everything of its time, its client or its key, was taken back. Nobody accepts it.
    Revoked,
}

impl Standing {
    /// Whether it may be given out.
    pub(super) const fn is_served(self) -> bool {
        match self {
            Self::Good | Self::Outdated => true,
            Self::Disowned | Self::Revoked => false,
        }
    }
}

/// What is known against `token` now. That our trust may be old makes no difference: what was revoked stays so.
pub(super) fn standing(token: &Token, agent: &Agent) -> Standing {
    let current = agent.0.trust.current();
    let trust = current.in_force();
    let is_revoked = trust.is_some_and(|trust| {
        let key = trust.state.keys().find(token.key_id());
        key.is_some_and(|key| key.times.compromised_at.is_some())
            || trust.state.revocations().check(token.claims()).is_err()
    });
    let ours = agent.0.source.certificate();
    let is_ours_revoked =
        || trust.is_some_and(|trust| trust.state.revocations().holds_certificate(&ours.thumbprint));
    match &token.claims().confirmation {
        _ if is_revoked => Standing::Revoked,
        // The authority understands it, or it would not have given it.
        Confirmation::Unsupported => Standing::Good,
        confirmation if !confirmation.is_proven_by(Some(&ours)) => Standing::Outdated,
        Confirmation::SpiffeId(_) if is_ours_revoked() => Standing::Disowned,
        Confirmation::Certificate(_) | Confirmation::SpiffeId(_) | Confirmation::Unbound => Standing::Good,
    }
}
