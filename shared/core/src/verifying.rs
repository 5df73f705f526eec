//! The decision about a token, as one function of everything that it depends on.
//!
//! The order is fixed, and the first refusal wins: form and size, header, freshness of the trust, key by `kid`, signature,
//! claims, then `iss`, `aud` and time, revocation, the binding to who presents it, scopes. The payload is not read
//! before its signature is verified.
//!
//! It falls into two halves. [`authenticate`] answers "did this key sign these bytes, and what do they say"; a `kid` is the
//! thumbprint of its key, so that answer never changes and may be remembered. [`judge`] answers "is that good here and
//! now", and is made anew for every request. [`verify`] is both.

use std::sync::Arc;
use std::time::Duration;

use crate::bearer::MAX_TOKEN_LENGTH;
use crate::binding::PeerCertificate;
use crate::claims::{Claims, Confirmation};
use crate::jose::CompactJws;
use crate::key_set::{KeySet, KeyTimes};
use crate::names::{Audience, CertificateThumbprint, Issuer, KeyId};
use crate::planted::{Bug, planted};
use crate::rejection::{Claim, Rejection};
use crate::requirements::Requirements;
use crate::revocation::{RevocationList, RevokedSubject};
use crate::spiffe::TrustDomain;
use crate::staleness::StalenessBudget;
use crate::time::Timestamp;
use crate::trust::TrustState;

/// What this verifier accepts.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The issuer trusted. Compared byte for byte.
    pub issuer: Issuer,
    /// The trust domain that subjects are registered in.
    pub trust_domain: TrustDomain,
    /// The service that this verifier stands for. Compared byte for byte.
    pub audience: Audience,
    /// The longest `exp - iat` accepted.
    pub max_lifetime: Duration,
    /// How far `iat` and `nbf` may be ahead of this clock. `exp` is given none.
    pub leeway: Duration,
    /// Whether a token may name other audiences beside this one.
    pub several_audiences: bool,
}

/// The trust that a decision is made on: one consistent state, and whether it is still known to be the authority's.
#[derive(Clone, Copy, Debug)]
pub struct TrustView<'a> {
    /// Keys and revocations of one epoch.
    pub state: &'a TrustState,
    /// How long ago the lease on it ended: zero while it lasts, nothing when the authority never confirmed it. What that
    /// means depends on the class of the method.
    pub overdue: Option<Duration>,
}

impl<'a> TrustView<'a> {
    /// `state` as the authority itself sees it, and a verifier while its lease lasts.
    #[must_use]
    pub const fn current(state: &'a TrustState) -> Self {
        Self {
            state,
            overdue: Some(Duration::ZERO),
        }
    }
}

/// Who presents the token, to what.
#[derive(Clone, Copy, Debug)]
pub struct Presentation<'a> {
    /// The certificate of the connection, when there is one.
    pub peer_certificate: Option<&'a PeerCertificate>,
    /// What the method asks for.
    pub requirements: &'a Requirements,
}

/// A token that its key signed, with what it says. Not yet good for anything.
#[derive(Clone, Debug)]
pub struct AuthenticToken {
    key_id: KeyId,
    claims: Arc<Claims>,
}

impl AuthenticToken {
    /// The key that signed it.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// A token that was found good. There is no other way to make one, so holding one is the proof.
#[derive(Clone, Debug)]
pub struct VerifiedToken(AuthenticToken);

impl VerifiedToken {
    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The key that signed it.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        &self.0.key_id
    }
}

/// Whether `token` is good at `now` for what `expected` and `presented` say, under `trust`. Where there is none to decide on,
/// `trust` says why, and nothing is good.
///
/// # Errors
/// The first [`Rejection`] in the order above.
pub fn verify(
    token: &[u8],
    trust: Result<TrustView<'_>, Rejection>,
    expected: &Expectations,
    presented: &Presentation<'_>,
    now: Timestamp,
) -> Result<VerifiedToken, Rejection> {
    let budget = &presented.requirements.class.budget;
    let (view, authentic) = authenticate(token, trust, budget)?;
    judge(authentic, view, expected, presented, now)
}

/// Whether a key in force signed `token`, and what it says, on `trust` that is within `budget`.
///
/// # Errors
/// The reasons up to and including the claims' form. The token's own form comes before what `trust` says.
pub fn authenticate<'a>(
    token: &[u8],
    trust: Result<TrustView<'a>, Rejection>,
    budget: &StalenessBudget,
) -> Result<(TrustView<'a>, AuthenticToken), Rejection> {
    authenticate_known(token, trust, budget, || false)
}

/// The same for who remembers of which tokens this has found the signature good: of a token that `is_known` its signature is not
/// checked again, and everything else is. It is asked where the signature would be checked, and nowhere else.
///
/// It may say yes of exactly these bytes alone, never of others that say the same.
///
/// # Errors
/// Those of [`authenticate`].
pub fn authenticate_known<'a>(
    token: &[u8],
    trust: Result<TrustView<'a>, Rejection>,
    budget: &StalenessBudget,
    is_known: impl FnOnce() -> bool,
) -> Result<(TrustView<'a>, AuthenticToken), Rejection> {
    if token.len() > MAX_TOKEN_LENGTH {
        return Err(Rejection::TokenTooLarge);
    }
    let jws = CompactJws::parse(token)?;
    let view = trusted(trust?, budget)?;
    let claims = authentic_claims(&jws, view.state.keys(), is_known)?;
    Ok((
        view,
        AuthenticToken {
            key_id: jws.key_id,
            claims: Arc::new(claims),
        },
    ))
}

/// `trust`, if it may be decided on within `budget`.
///
/// # Errors
/// [`Rejection::TrustStale`].
pub fn trusted<'a>(trust: TrustView<'a>, budget: &StalenessBudget) -> Result<TrustView<'a>, Rejection> {
    match budget.too_old(trust.overdue) {
        None => Ok(trust),
        Some(_data) => Err(Rejection::TrustStale),
    }
}

fn authentic_claims(
    jws: &CompactJws<'_>,
    keys: &KeySet,
    is_known: impl FnOnce() -> bool,
) -> Result<Claims, Rejection> {
    let key = keys.find(&jws.key_id).ok_or(Rejection::KidUnknown)?;
    if key.times.compromised_at.is_some() && !planted(Bug::WithdrawnKeyVerifies) {
        return Err(Rejection::KeyRevoked);
    }
    // RFC 8725, section 3.1: the key decides the algorithm, the header must merely agree.
    if key.public_key.algorithm() != jws.algorithm {
        return Err(Rejection::AlgNotAllowed);
    }
    let verifies = is_known() || key.public_key.verifies(jws.signing_input, &jws.signature);
    if !verifies && !planted(Bug::FailedCheckPasses) {
        return Err(Rejection::SigInvalid);
    }
    Claims::read(&jws.payload)
}

/// Whether an authentic token is good at `now`. Looks at the trust and the key again, because the token may have been
/// authenticated under an earlier epoch.
///
/// # Errors
/// [`Rejection::TrustStale`], then the first [`Rejection`] of key state, `iss`, `aud`, time, revocation, binding, scopes.
pub fn judge(
    token: AuthenticToken,
    trust: TrustView<'_>,
    expected: &Expectations,
    presented: &Presentation<'_>,
    now: Timestamp,
) -> Result<VerifiedToken, Rejection> {
    let trust = trusted(trust, &presented.requirements.class.budget)?.state;
    let claims = token.claims();
    let key = trust.keys().find(&token.key_id).ok_or(Rejection::KidUnknown)?;
    check_key(&key.times, claims, expected, now)?;
    check_issuer(claims, expected)?;
    check_audience(claims, expected)?;
    check_time(claims, expected, now)?;
    trust.revocations().check(claims)?;
    check_binding(claims, presented, trust.revocations())?;
    check_scopes(claims, presented.requirements)?;
    Ok(VerifiedToken(token))
}

/// Whether the key may have signed such a token: one step of [`judge`], by itself for who explains a decision.
///
/// # Errors
/// [`Rejection::KeyRevoked`], [`Rejection::KidUnknown`] for a key whose last token has ended, [`Rejection::KeyNotActive`] for
/// a token from before the key was to sign or from after it had ceased to.
pub fn check_key(
    key: &KeyTimes,
    claims: &Claims,
    expected: &Expectations,
    now: Timestamp,
) -> Result<(), Rejection> {
    if key.compromised_at.is_some() && !planted(Bug::WithdrawnKeyVerifies) {
        return Err(Rejection::KeyRevoked);
    }
    // Also when the authority is away and cannot say that the key is gone.
    let retention = expected.max_lifetime.saturating_add(expected.leeway);
    if KeySet::gone_from(key, retention).is_some_and(|gone| gone <= now) {
        return Err(Rejection::KidUnknown);
    }
    // Both times are the authority's, so no leeway belongs here.
    if key.good_from().is_none_or(|good| claims.issued_at < good) {
        return Err(Rejection::KeyNotActive);
    }
    // Here some does: a key signs on until the authority has stored that it is retired, and a slow store takes its time.
    let signs_no_more = |retired: Timestamp| claims.issued_at >= retired.saturating_add(expected.leeway);
    if key.retired_from.is_some_and(signs_no_more) {
        return Err(Rejection::KeyNotActive);
    }
    Ok(())
}

/// Whether the token is from the issuer trusted here, about a subject of its trust domain: one step of [`judge`].
///
/// # Errors
/// [`Rejection::IssMismatch`], [`Rejection::ClaimMalformed`] for `sub`.
pub fn check_issuer(claims: &Claims, expected: &Expectations) -> Result<(), Rejection> {
    if claims.issuer != expected.issuer.as_str() {
        return Err(Rejection::IssMismatch);
    }
    if claims.subject.trust_domain != expected.trust_domain {
        return Err(Rejection::ClaimMalformed(Claim::Sub));
    }
    Ok(())
}

/// Whether the token is for this service: one step of [`judge`].
///
/// # Errors
/// [`Rejection::AudMismatch`].
pub fn check_audience(claims: &Claims, expected: &Expectations) -> Result<(), Rejection> {
    let named = claims
        .audiences
        .iter()
        .any(|audience| audience == expected.audience.as_str());
    if named && (claims.audiences.len() == 1 || expected.several_audiences) {
        Ok(())
    } else {
        Err(Rejection::AudMismatch)
    }
}

/// Whether the token is valid at `now`, and not for longer than is accepted: one step of [`judge`].
///
/// # Errors
/// [`Rejection::LifetimeExcessive`], [`Rejection::TokenExpired`], [`Rejection::TokenNotYetValid`],
/// [`Rejection::IatInFuture`].
pub fn check_time(claims: &Claims, expected: &Expectations, now: Timestamp) -> Result<(), Rejection> {
    let latest = now.saturating_add(expected.leeway);
    if claims.expires_at.since(claims.issued_at) > expected.max_lifetime {
        return Err(Rejection::LifetimeExcessive);
    }
    // RFC 7519, section 4.1.4: on or after `exp` it must not be accepted.
    let in_its_last_second = planted(Bug::AcceptedAtExpiry) && claims.expires_at == now;
    if claims.expires_at <= now && !in_its_last_second {
        return Err(Rejection::TokenExpired);
    }
    if claims.not_before.is_some_and(|not_before| not_before > latest) {
        return Err(Rejection::TokenNotYetValid);
    }
    if claims.issued_at > latest {
        return Err(Rejection::IatInFuture);
    }
    Ok(())
}

/// Whether whoever presents the token holds what it is bound to: one step of [`judge`].
///
/// # Errors
/// [`Rejection::CnfMissing`], [`Rejection::CnfMismatch`]; [`Rejection::TokenRevoked`] over a certificate that is revoked, as
/// [`is_refused_over`] says.
pub fn check_binding(
    claims: &Claims,
    presented: &Presentation<'_>,
    revocations: &RevocationList,
) -> Result<(), Rejection> {
    let confirmation = &claims.confirmation;
    if *confirmation == Confirmation::Unbound && presented.requirements.bound {
        return Err(Rejection::CnfMissing);
    }
    if !confirmation.is_proven_by(presented.peer_certificate) {
        return Err(Rejection::CnfMismatch);
    }
    let is_revoked = |shown: &PeerCertificate| is_refused_over(claims, &shown.thumbprint, revocations);
    match confirmation {
        Confirmation::SpiffeId(_) | Confirmation::Certificate(_)
            if presented.peer_certificate.is_some_and(is_revoked) =>
        {
            Err(Rejection::TokenRevoked)
        }
        Confirmation::SpiffeId(_)
        | Confirmation::Certificate(_)
        | Confirmation::Unbound
        | Confirmation::Unsupported => Ok(()),
    }
}

/// Whether a token with these claims, which is bound to the certificate or to the SPIFFE ID in it, is refused over it because
/// the certificate is revoked.
///
/// That is also so of one that was issued since: by an authority that has forgotten the revocation, or to the workload over its
/// next certificate, for which who has stolen this one has no use. A token from after the end of the entry is good, also where
/// the entry is still held: from then on the certificate gets tokens again. Both times are the authority's.
#[must_use]
pub fn is_refused_over(
    claims: &Claims,
    certificate: &CertificateThumbprint,
    revocations: &RevocationList,
) -> bool {
    let held = revocations.find(&RevokedSubject::Certificate(*certificate));
    held.is_some_and(|held| claims.issued_at <= held.expires_at) && !planted(Bug::RevokedCertificateProves)
}

/// Whether the token has every scope asked for: one step of [`judge`].
///
/// # Errors
/// [`Rejection::ScopeInsufficient`].
pub fn check_scopes(claims: &Claims, requirements: &Requirements) -> Result<(), Rejection> {
    if requirements
        .scopes
        .iter()
        .all(|scope| claims.scopes.contains(scope))
    {
        Ok(())
    } else {
        Err(Rejection::ScopeInsufficient)
    }
}

#[cfg(test)]
mod tests;
