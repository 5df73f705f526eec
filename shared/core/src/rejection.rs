//! Every way to refuse a request, each with one stable reason.

use std::fmt;

/// A claim that the access-token profile requires or knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// `iss`
    Iss,
    /// `sub`
    Sub,
    /// `aud`
    Aud,
    /// `exp`
    Exp,
    /// `iat`
    Iat,
    /// `nbf`
    Nbf,
    /// `jti`
    Jti,
    /// `client_id`
    ClientId,
    /// `scope`
    Scope,
    /// `roles`
    Roles,
    /// `cnf`
    Cnf,
    /// `act`
    Act,
}

impl Claim {
    /// Every claim.
    pub const ALL: [Self; 12] = [
        Self::Iss,
        Self::Sub,
        Self::Aud,
        Self::Exp,
        Self::Iat,
        Self::Nbf,
        Self::Jti,
        Self::ClientId,
        Self::Scope,
        Self::Roles,
        Self::Cnf,
        Self::Act,
    ];

    /// The claim's name in a token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iss => "iss",
            Self::Sub => "sub",
            Self::Aud => "aud",
            Self::Exp => "exp",
            Self::Iat => "iat",
            Self::Nbf => "nbf",
            Self::Jti => "jti",
            Self::ClientId => "client_id",
            Self::Scope => "scope",
            Self::Roles => "roles",
            Self::Cnf => "cnf",
            Self::Act => "act",
        }
    }
}

/// Why a request is refused. The order is that of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The method's path is not of the form `/package.Service/Method`, or the request contradicts itself.
    RequestMalformed,
    /// No bearer token.
    TokenMissing,
    /// The token is longer than is looked at.
    TokenTooLarge,
    /// The token is not a compact JWS of strict form, or there are several.
    TokenMalformed,
    /// The header has a member that has no place in an access token.
    HeaderForbidden,
    /// The header's `alg` is not the key's, or not one that is accepted at all.
    AlgNotAllowed,
    /// The header's `typ` is not `at+jwt`.
    TypNotAllowed,
    /// The header has `crit` (RFC 7515, section 4.1.11): no extension is understood.
    CritUnsupported,
    /// The header has no `kid`.
    KidMissing,
    /// No key in force has this `kid`.
    KidUnknown,
    /// The key is prepared and does not sign yet, or did not when the token was issued.
    KeyNotActive,
    /// The key is compromised.
    KeyRevoked,
    /// The signature is not the key's.
    SigInvalid,
    /// A required claim is missing.
    ClaimMissing(Claim),
    /// A claim is not of its form.
    ClaimMalformed(Claim),
    /// `iss` is not the issuer trusted here.
    IssMismatch,
    /// `aud` is not the audience that this verifier stands for.
    AudMismatch,
    /// `exp` is reached.
    TokenExpired,
    /// `nbf` is not reached.
    TokenNotYetValid,
    /// `iat` is in the future.
    IatInFuture,
    /// `exp - iat` is over the ceiling.
    LifetimeExcessive,
    /// The token is revoked: by its `jti`, by a watermark for everything, its `sub`, its audience or the certificate that it is bound
    /// to; or it is presented over a certificate that is revoked, which proves neither itself nor its SPIFFE ID.
    TokenRevoked,
    /// The client's tokens issued until some time after this one are revoked.
    ClientRevoked,
    /// The token is bound to another certificate than the caller showed, or to another SPIFFE ID than is in it; or the caller showed
    /// no certificate, or `cnf` names something that is not understood here.
    CnfMismatch,
    /// The method demands a bound token.
    CnfMissing,
    /// The token lacks a scope that the method needs.
    ScopeInsufficient,
    /// The verifier holds no trust yet.
    TrustCold,
    /// The verifier's trust is older than the staleness budget of the method's class.
    TrustStale,
    /// The verifier does not know what time it is.
    VerifierClock,
}

/// What a refusal means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request itself is wrong: INVALID_ARGUMENT, 400.
    Invalid,
    /// Who calls is not proven: UNAUTHENTICATED, 401.
    Unauthenticated,
    /// Who calls is proven, and may not: PERMISSION_DENIED, 403.
    Denied,
    /// Over a limit: RESOURCE_EXHAUSTED, 431.
    TooLarge,
    /// This verifier cannot decide now: UNAVAILABLE, 503.
    Unavailable,
}

impl Rejection {
    /// One of each reason; claims by their first.
    pub const ALL: [Self; 29] = [
        Self::RequestMalformed,
        Self::TokenMissing,
        Self::TokenTooLarge,
        Self::TokenMalformed,
        Self::HeaderForbidden,
        Self::AlgNotAllowed,
        Self::TypNotAllowed,
        Self::CritUnsupported,
        Self::KidMissing,
        Self::KidUnknown,
        Self::KeyNotActive,
        Self::KeyRevoked,
        Self::SigInvalid,
        Self::ClaimMissing(Claim::Iss),
        Self::ClaimMalformed(Claim::Iss),
        Self::IssMismatch,
        Self::AudMismatch,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::IatInFuture,
        Self::LifetimeExcessive,
        Self::TokenRevoked,
        Self::ClientRevoked,
        Self::CnfMismatch,
        Self::CnfMissing,
        Self::ScopeInsufficient,
        Self::TrustCold,
        Self::TrustStale,
        Self::VerifierClock,
    ];

    /// The stable name: metric label and log field; in upper case, the `ErrorInfo.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestMalformed => "request_malformed",
            Self::TokenMissing => "token_missing",
            Self::TokenTooLarge => "token_too_large",
            Self::TokenMalformed => "token_malformed",
            Self::HeaderForbidden => "header_forbidden",
            Self::AlgNotAllowed => "alg_not_allowed",
            Self::TypNotAllowed => "typ_not_allowed",
            Self::CritUnsupported => "crit_unsupported",
            Self::KidMissing => "kid_missing",
            Self::KidUnknown => "kid_unknown",
            Self::KeyNotActive => "key_not_active",
            Self::KeyRevoked => "key_revoked",
            Self::SigInvalid => "sig_invalid",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimMalformed(_) => "claim_malformed",
            Self::IssMismatch => "iss_mismatch",
            Self::AudMismatch => "aud_mismatch",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::IatInFuture => "iat_in_future",
            Self::LifetimeExcessive => "lifetime_excessive",
            Self::TokenRevoked => "token_revoked",
            Self::ClientRevoked => "client_revoked",
            Self::CnfMismatch => "cnf_mismatch",
            Self::CnfMissing => "cnf_missing",
            Self::ScopeInsufficient => "scope_insufficient",
            Self::TrustCold => "trust_cold",
            Self::TrustStale => "trust_stale",
            Self::VerifierClock => "verifier_clock",
        }
    }

    /// The claim concerned, where one is.
    #[must_use]
    pub const fn claim(self) -> Option<Claim> {
        match self {
            Self::ClaimMissing(claim) | Self::ClaimMalformed(claim) => Some(claim),
            Self::RequestMalformed
            | Self::TokenMissing
            | Self::TokenTooLarge
            | Self::TokenMalformed
            | Self::HeaderForbidden
            | Self::AlgNotAllowed
            | Self::TypNotAllowed
            | Self::CritUnsupported
            | Self::KidMissing
            | Self::KidUnknown
            | Self::KeyNotActive
            | Self::KeyRevoked
            | Self::SigInvalid
            | Self::IssMismatch
            | Self::AudMismatch
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::IatInFuture
            | Self::LifetimeExcessive
            | Self::TokenRevoked
            | Self::ClientRevoked
            | Self::CnfMismatch
            | Self::CnfMissing
            | Self::ScopeInsufficient
            | Self::TrustCold
            | Self::TrustStale
            | Self::VerifierClock => None,
        }
    }

    /// What it means to the caller.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::RequestMalformed => Outcome::Invalid,
            Self::TokenTooLarge => Outcome::TooLarge,
            Self::ScopeInsufficient => Outcome::Denied,
            Self::TrustCold | Self::TrustStale | Self::VerifierClock => Outcome::Unavailable,
            Self::TokenMissing
            | Self::TokenMalformed
            | Self::HeaderForbidden
            | Self::AlgNotAllowed
            | Self::TypNotAllowed
            | Self::CritUnsupported
            | Self::KidMissing
            | Self::KidUnknown
            | Self::KeyNotActive
            | Self::KeyRevoked
            | Self::SigInvalid
            | Self::ClaimMissing(_)
            | Self::ClaimMalformed(_)
            | Self::IssMismatch
            | Self::AudMismatch
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::IatInFuture
            | Self::LifetimeExcessive
            | Self::TokenRevoked
            | Self::ClientRevoked
            | Self::CnfMismatch
            | Self::CnfMissing => Outcome::Unauthenticated,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.claim() {
            Some(claim) => write!(f, "{}:{}", self.reason(), claim.name()),
            None => f.write_str(self.reason()),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reasons_are_distinct_and_fit_error_info() {
        let reasons: BTreeSet<_> = Rejection::ALL.iter().map(|r| r.reason()).collect();
        assert_eq!(reasons.len(), Rejection::ALL.len());
        for reason in reasons {
            // google.rpc.ErrorInfo.reason: [A-Z][A-Z0-9_]+[A-Z0-9], at most 63 characters.
            assert!(
                reason.len() <= 63 && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{reason}"
            );
        }
    }
}
