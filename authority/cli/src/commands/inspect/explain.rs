//! The decision about a token, one check at a time, in words.

mod wording;

use std::time::Duration;

use countersign_core::bearer::MAX_TOKEN_LENGTH;
use countersign_core::binding::PeerCertificate;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::jose::{CompactJws, decode_segment};
use countersign_core::key_set::{KeySet, PublishedKey};
use countersign_core::names::Scope;
use countersign_core::requirements::Requirements;
use countersign_core::revocation::RevocationList;
use countersign_core::verifying::{self, Expectations, Presentation};
use countersign_core::{Rejection, Timestamp};
use serde::Serialize;

use crate::output::{Paint, Text, Tone, escaped};
use crate::present;
use wording::plainly;

/// What is trusted.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) keys: KeySet,
    /// Nothing when they are not known.
    pub(super) revocations: Option<RevocationList>,
    /// Where it is from, for people.
    pub(super) source: String,
}

/// What the token should be good for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What a verifier would expect. Issuer, audience and trust domain count only where they are asked for.
    pub(super) expected: Expectations,
    pub(super) asks_issuer: bool,
    pub(super) asks_trust_domain: bool,
    pub(super) asks_audience: bool,
    pub(super) requirements: Requirements,
    /// The certificate of whoever presents it.
    pub(super) certificate: Option<PeerCertificate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Every check was made, and passed.
    Good,
    /// No check failed, but not all could be made.
    Unchecked,
    /// A check failed.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Form,
    Header,
    Key,
    Signature,
    Claims,
    Issuer,
    Audience,
    Time,
    Revocation,
    Binding,
    Scopes,
}

impl Step {
    pub(super) const ALL: [Self; 11] = [
        Self::Form,
        Self::Header,
        Self::Key,
        Self::Signature,
        Self::Claims,
        Self::Issuer,
        Self::Audience,
        Self::Time,
        Self::Revocation,
        Self::Binding,
        Self::Scopes,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Header => "header",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Time => "time",
            Self::Revocation => "revocation",
            Self::Binding => "binding",
            Self::Scopes => "scopes",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Pass,
    Fail,
    Skipped,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) check: Step,
    pub(super) result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    pub(super) detail: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    verdict: Verdict,
    reason: Option<&'static str>,
    trust: String,
    checks: Vec<Check>,
    /// False: what `claims` says may be anybody's invention.
    signature_verified: bool,
    header: Option<serde_json::Value>,
    claims: Option<serde_json::Value>,
}

/// Collects checks in their order.
#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, check: Step, result: Outcome, reason: Option<&'static str>, detail: String) {
        self.0.push(Check {
            check,
            result,
            reason,
            detail,
        });
    }

    fn pass(&mut self, step: Step, detail: impl Into<String>) {
        self.add(step, Outcome::Pass, None, detail.into());
    }

    fn fail(&mut self, step: Step, rejection: Rejection, detail: impl Into<String>) {
        self.add(step, Outcome::Fail, Some(rejection.reason()), detail.into());
    }

    fn skip(&mut self, step: Step, detail: impl Into<String>) {
        self.add(step, Outcome::Skipped, None, detail.into());
    }

    /// Either way `detail` says what was compared.
    fn judge(&mut self, step: Step, judged: Result<(), Rejection>, detail: String) {
        match judged {
            Ok(()) => self.pass(step, detail),
            Err(rejection) => self.fail(step, rejection, format!("{}: {detail}", plainly(rejection))),
        }
    }

    /// Skips every step that was not come to.
    fn rest(&mut self, why: &str) {
        for step in Step::ALL.into_iter().skip(self.0.len()) {
            self.skip(step, why);
        }
    }
}

/// Makes every check on `token` that can be made.
pub(super) fn explain(token: &[u8], trust: &Trust, wanted: &Wanted, now: Timestamp) -> Report {
    let mut checks = Checks::default();
    let claims = authenticate(token, trust, &mut checks);
    match &claims {
        Some((key, claims)) => judge(key, claims, trust, wanted, now, &mut checks),
        None => checks.rest("not looked at: what is not signed is not read"),
    }
    let signature_verified = checks
        .0
        .iter()
        .any(|c| c.check == Step::Signature && c.result == Outcome::Pass);
    let reason = checks.0.iter().find_map(|check| check.reason);
    let incomplete = checks.0.iter().any(|check| check.result == Outcome::Skipped);
    let mut segments = token.split(|byte| *byte == b'.');
    let mut shown = || serde_json::from_slice(&decode_segment(segments.next()?)?).ok();
    Report {
        verdict: match (reason, incomplete) {
            (Some(_), _) => Verdict::Refused,
            (None, true) => Verdict::Unchecked,
            (None, false) => Verdict::Good,
        },
        reason,
        trust: trust.source.clone(),
        signature_verified,
        header: shown(),
        claims: shown(),
        checks: checks.0,
    }
}

fn authenticate(token: &[u8], trust: &Trust, checks: &mut Checks) -> Option<(PublishedKey, Claims)> {
    if token.len() > MAX_TOKEN_LENGTH {
        let rejection = Rejection::TokenTooLarge;
        checks.fail(
            Step::Form,
            rejection,
            format!("{} ({} bytes)", plainly(rejection), token.len()),
        );
        return None;
    }
    let jws = match CompactJws::parse(token) {
        Ok(jws) => jws,
        Err(rejection) => {
            let step = if rejection == Rejection::TokenMalformed {
                Step::Form
            } else {
                Step::Header
            };
            if step == Step::Header {
                checks.pass(Step::Form, format!("three segments, {} bytes", token.len()));
            }
            checks.fail(step, rejection, plainly(rejection));
            return None;
        }
    };
    checks.pass(Step::Form, format!("three segments, {} bytes", token.len()));
    checks.pass(
        Step::Header,
        format!("an access token, signed with {}", jws.algorithm.name()),
    );
    let key = check_key(&jws, trust, checks)?;
    if !key.public_key.verifies(jws.signing_input, &jws.signature) {
        checks.fail(
            Step::Signature,
            Rejection::SigInvalid,
            plainly(Rejection::SigInvalid),
        );
        return None;
    }
    checks.pass(Step::Signature, "the key signed exactly these bytes");
    match Claims::read(&jws.payload) {
        Ok(claims) => {
            checks.pass(
                Step::Claims,
                format!("about `{}`, `jti` {}", claims.subject, claims.token_id),
            );
            Some((key, claims))
        }
        Err(rejection) => {
            let claim = rejection
                .claim()
                .map_or_else(String::new, |claim| format!(": `{}`", claim.name()));
            checks.fail(Step::Claims, rejection, format!("{}{claim}", plainly(rejection)));
            None
        }
    }
}

/// The key by itself. When it signed is looked at once the claims are read, as the decision does.
fn check_key(jws: &CompactJws<'_>, trust: &Trust, checks: &mut Checks) -> Option<PublishedKey> {
    let kid = &jws.key_id;
    let Some(key) = trust.keys.find(kid) else {
        let detail = format!(
            "{}: `{kid}` is not in {}",
            plainly(Rejection::KidUnknown),
            trust.source
        );
        checks.fail(Step::Key, Rejection::KidUnknown, detail);
        return None;
    };
    if let Some(since) = key.times.compromised_at {
        let detail = format!(
            "{}, since {}",
            plainly(Rejection::KeyRevoked),
            present::time(since)
        );
        checks.fail(Step::Key, Rejection::KeyRevoked, detail);
        return None;
    }
    if key.public_key.algorithm() != jws.algorithm {
        let detail = format!("key `{kid}` is for {} only", key.public_key.algorithm().name());
        checks.fail(Step::Key, Rejection::AlgNotAllowed, detail);
        return None;
    }
    checks.pass(Step::Key, format!("`{kid}`, from {}", trust.source));
    Some(key.clone())
}

/// The steps after the signature. They are independent, so one that fails hides no other.
fn judge(
    key: &PublishedKey,
    claims: &Claims,
    trust: &Trust,
    wanted: &Wanted,
    now: Timestamp,
    checks: &mut Checks,
) {
    let mut expected = wanted.expected.clone();
    if !wanted.asks_trust_domain {
        expected.trust_domain = claims.subject.trust_domain.clone();
    }
    if let Err(rejection) = verifying::check_key(&key.times, claims, &expected, now)
        && let Some(check) = checks.0.iter_mut().find(|check| check.check == Step::Key)
    {
        check.result = Outcome::Fail;
        check.reason = Some(rejection.reason());
        check.detail = format!(
            "{}; the token was issued {}",
            plainly(rejection),
            moment(claims.issued_at, now)
        );
    }
    check_issuer(claims, wanted, &expected, checks);
    check_audience(claims, wanted, &expected, checks);
    let judged = verifying::check_time(claims, &expected, now);
    checks.judge(Step::Time, judged, validity(claims, now));
    check_revocation(claims, trust.revocations.as_ref(), checks);
    check_binding(claims, trust.revocations.as_ref(), wanted, checks);
    check_scopes(claims, &wanted.requirements, checks);
}

fn check_issuer(claims: &Claims, wanted: &Wanted, expected: &Expectations, checks: &mut Checks) {
    let says = format!("issued by `{}`", claims.issuer);
    if wanted.asks_issuer {
        let judged = verifying::check_issuer(claims, expected);
        let says = format!(
            "{says}; trusted are `{}` and subjects of `{}`",
            expected.issuer, expected.trust_domain
        );
        checks.judge(Step::Issuer, judged, says);
    } else {
        checks.skip(Step::Issuer, format!("{says}; say who is trusted: `--issuer`"));
    }
}

fn check_audience(claims: &Claims, wanted: &Wanted, expected: &Expectations, checks: &mut Checks) {
    let says = format!("for `{}`", claims.audiences.join("`, `"));
    if wanted.asks_audience {
        let judged = verifying::check_audience(claims, expected);
        checks.judge(
            Step::Audience,
            judged,
            format!("{says}; the verifier is `{}`", expected.audience),
        );
    } else {
        checks.skip(
            Step::Audience,
            format!("{says}; say who the verifier is: `--audience`"),
        );
    }
}

fn check_revocation(claims: &Claims, revocations: Option<&RevocationList>, checks: &mut Checks) {
    match revocations {
        None => checks.skip(Step::Revocation, "revocations are known to a live authority only"),
        Some(list) => {
            let others = present::count(list.len(), "revocation");
            let detail = format!("neither it nor its client is revoked; in force: {others}");
            match list.check(claims) {
                Ok(()) => checks.pass(Step::Revocation, detail),
                Err(rejection) => checks.fail(Step::Revocation, rejection, plainly(rejection)),
            }
        }
    }
}

fn check_binding(
    claims: &Claims,
    revocations: Option<&RevocationList>,
    wanted: &Wanted,
    checks: &mut Checks,
) {
    let presentation = Presentation {
        peer_certificate: wanted.certificate.as_ref(),
        requirements: &wanted.requirements,
    };
    let (bound, is_provable) = match &claims.confirmation {
        Confirmation::Certificate(bound) => (format!("bound to certificate `{bound}`"), true),
        Confirmation::SpiffeId(bound) => (format!("bound to SPIFFE ID `{bound}`"), true),
        Confirmation::Unbound => ("bound to nothing: whoever holds it may use it".to_owned(), false),
        Confirmation::Unsupported => ("bound to something that is not understood".to_owned(), false),
    };
    if is_provable && wanted.certificate.is_none() {
        let detail = format!("{bound}; name the certificate that presents it: `--peer-cert`");
        return checks.skip(Step::Binding, detail);
    }
    let none = RevocationList::default();
    let judged = verifying::check_binding(claims, &presentation, revocations.unwrap_or(&none));
    checks.judge(Step::Binding, judged, bound);
}

fn check_scopes(claims: &Claims, requirements: &Requirements, checks: &mut Checks) {
    let names = |scopes: &[Scope]| match scopes {
        [] => "none".to_owned(),
        scopes => format!("`{}`", countersign_core::claims::join(scopes)),
    };
    let has = format!("has {}", names(&claims.scopes));
    if requirements.scopes.is_empty() {
        checks.skip(
            Step::Scopes,
            format!("{has}; say what the method needs: `--scope`"),
        );
    } else {
        let judged = verifying::check_scopes(claims, requirements);
        checks.judge(
            Step::Scopes,
            judged,
            format!("{has}; needs {}", names(&requirements.scopes)),
        );
    }
}

fn validity(claims: &Claims, now: Timestamp) -> String {
    let expiry = if claims.expires_at <= now {
        "expired"
    } else {
        "expires"
    };
    let lifetime = present::duration(claims.expires_at.since(claims.issued_at));
    let (issued, ends) = (moment(claims.issued_at, now), moment(claims.expires_at, now));
    format!("issued {issued}, {expiry} {ends}, lives {lifetime}")
}

/// A time as people see it from `now`.
fn moment(time: Timestamp, now: Timestamp) -> String {
    let away = |distance: Duration| present::duration(distance);
    match time.cmp(&now) {
        std::cmp::Ordering::Less => format!("{} ago", away(now.since(time))),
        std::cmp::Ordering::Equal => "now".to_owned(),
        std::cmp::Ordering::Greater => format!("in {}", away(time.since(now))),
    }
}

impl Report {
    /// Why the token is not good, if it is not.
    pub(super) const fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// The report for people.
    pub(super) fn render(&self, paint: Paint) -> String {
        let verdict = match self.verdict {
            Verdict::Refused => {
                let reason = self.reason.unwrap_or_default();
                paint.text(Tone::Bad, &format!("refused: {reason}"))
            }
            Verdict::Unchecked => paint.text(Tone::Warning, "good, as far as it was checked"),
            Verdict::Good => paint.text(Tone::Good, "good"),
        };
        let rows = self.checks.iter().map(Check::row).collect();
        let mut text = format!("{verdict}\n\n{}", paint.table(&["CHECK", "RESULT", "WHY"], rows));
        let unverified = if self.signature_verified {
            ""
        } else {
            " (not verified: may be anybody's invention)"
        };
        for (name, part) in [("header", &self.header), ("claims", &self.claims)] {
            if let Some(part) = part {
                text.push_str(&escaped(&format!("\n\n{name}{unverified}\n{part:#}")));
            }
        }
        text
    }
}

impl Check {
    fn row(&self) -> Vec<Text> {
        let result = match self.result {
            Outcome::Pass => Text::toned("pass", Tone::Good),
            Outcome::Fail => Text::toned("FAIL", Tone::Bad),
            Outcome::Skipped => Text::toned("skipped", Tone::Faint),
        };
        vec![self.check.name().into(), result, self.detail.as_str().into()]
    }
}

#[cfg(test)]
mod tests;
