//! Whether a token that we hold would be accepted, as far as we can know: we hear of revocations as every verifier does.

use countersign_core::claims::Confirmation;
use countersign_core::issuing::IssueError;
use countersign_core::names::CertificateThumbprint;
use countersign_core::verifying::is_refused_over;
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
    /// It is bound to our certificate, which is revoked, or to the SPIFFE ID in it. Nobody accepts it over that, nor any other that we could get
    /// with it; over our next certificate what is bound to the SPIFFE ID is good again.
    Disowned,
    /// It, or everything of its time, its client, its key or the certificate that it is bound to, was taken back. Nobody accepts it.
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

/// What is known against `token` now. That our trust may be old makes no difference: what was revoked stays so. It is what decisions are
/// made on, so with what is revoked by more than the state in force.
pub(super) fn standing(token: &Token, agent: &Agent) -> Standing {
    let current = agent.0.trust.current();
    let trust = current.view(agent.clock().elapsed()).map(|view| view.state);
    let is_taken_back = trust.is_some_and(|trust| {
        let key = trust.keys().find(token.key_id());
        key.is_some_and(|key| key.times.compromised_at.is_some())
            || trust.revocations().check(token.claims()).is_err()
    });
    let is_refused_over = |certificate: &CertificateThumbprint| {
        trust.is_some_and(|trust| is_refused_over(token.claims(), certificate, trust.revocations()))
    };
    let ours = agent.0.source.certificate();
    let is_proven = token.claims().confirmation.is_proven_by(Some(&ours));
    match &token.claims().confirmation {
        _ if is_taken_back => Standing::Revoked,
        // The authority understands it, or it would not have given it.
        Confirmation::Unsupported | Confirmation::Unbound => Standing::Good,
        Confirmation::Certificate(_) | Confirmation::SpiffeId(_)
            if is_proven && is_refused_over(&ours.thumbprint) =>
        {
            Standing::Disowned
        }
        Confirmation::Certificate(_) | Confirmation::SpiffeId(_) if is_proven => Standing::Good,
        Confirmation::Certificate(before) if is_refused_over(before) => Standing::Revoked,
        Confirmation::Certificate(_) | Confirmation::SpiffeId(_) => Standing::Outdated,
    }
}
