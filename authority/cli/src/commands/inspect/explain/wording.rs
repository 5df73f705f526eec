//! Refusals in words.

use countersign_core::Rejection;

/// What a refusal means, for people.
pub(super) const fn plainly(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::RequestMalformed => "the request is malformed",
        Rejection::TokenMissing => "there is no token",
        Rejection::TokenTooLarge => "it is longer than any verifier looks at",
        Rejection::TokenMalformed => {
            "it is not three segments of canonical base64url with strict JSON in them"
        }
        Rejection::HeaderForbidden => "its header has a member that has no place in an access token",
        Rejection::AlgNotAllowed => "its `alg` is none that is accepted for this key",
        Rejection::TypNotAllowed => "its `typ` is not `at+jwt`: it is no access token",
        Rejection::CritUnsupported => "its header has `crit`, and no extension is understood",
        Rejection::KidMissing => "its header has no `kid`: which key signed it is not known",
        Rejection::KidUnknown => {
            "no key in force has its `kid`: the key was dropped, or the token is from elsewhere"
        }
        Rejection::KeyNotActive => "the key did not sign when the token was issued: not yet, or no longer",
        Rejection::KeyRevoked => "the key is compromised: every token under it is refused",
        Rejection::SigInvalid => "it was changed after it was signed, or another key signed it",
        Rejection::ClaimMissing(_) => "a claim is missing",
        Rejection::ClaimMalformed(_) => "a claim is not of its form",
        Rejection::IssMismatch => "it is from another issuer",
        Rejection::AudMismatch => "it is for another service",
        Rejection::TokenExpired => "it has expired: get a new one",
        Rejection::TokenNotYetValid => "it is not valid yet: do the clocks agree?",
        Rejection::IatInFuture => "it was issued in the future: do the clocks agree?",
        Rejection::LifetimeExcessive => "it lives longer than verifiers accept",
        Rejection::TokenRevoked => "it is revoked",
        Rejection::ClientRevoked => "its client was revoked after it was issued",
        Rejection::CnfMismatch => {
            "whoever presents it does not hold the certificate, or the SPIFFE ID, that it is bound to"
        }
        Rejection::CnfMissing => "it is bound to nothing, and the method asks for that",
        Rejection::ScopeInsufficient => "it lacks a scope that the method needs",
        Rejection::TrustCold => "the verifier holds no keys yet",
        Rejection::TrustStale => "the verifier has not heard of the authority for too long",
        Rejection::VerifierClock => "the verifier does not know what time it is",
    }
}
