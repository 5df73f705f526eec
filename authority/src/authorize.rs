//! Who may call what: operators the admin services, verifiers the trust stream. Nobody is both, and a client is neither by
//! being a client (S11).

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::Timestamp;
use countersign_core::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use countersign_mtls::{Peer, PeerIdentity};
use countersign_wire::status::Failure;

/// One or many identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identities {
    /// Exactly this one.
    One(SpiffeId),
    /// Every one whose path is below this one: `spiffe://example.org/verifier/` stands for
    /// `spiffe://example.org/verifier/a` and `spiffe://example.org/verifier/a/b`.
    Below(SpiffeId),
}

impl Identities {
    /// Reads an identity, or a prefix that ends in `/`. A whole trust domain is no prefix.
    ///
    /// # Errors
    /// [`SpiffeIdError`].
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        match text.strip_suffix('/') {
            Some(prefix) => SpiffeId::parse(prefix).map(Self::Below),
            None => SpiffeId::parse(text).map(Self::One),
        }
    }

    /// Whether `spiffe_id` is one of them. Compared segment by segment, as bytes (G06).
    #[must_use]
    pub fn contain(&self, spiffe_id: &SpiffeId) -> bool {
        match self {
            Self::One(one) => one == spiffe_id,
            Self::Below(prefix) => spiffe_id
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.starts_with('/')),
        }
    }

    /// The trust domain that they are of.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::One(id) | Self::Below(id) => id.trust_domain(),
        }
    }
}

/// The roles.
#[derive(Clone, Debug)]
pub struct Roles {
    /// Those of another trust domain have no role, whatever the lists say.
    pub trust_domain: TrustDomain,
    /// Operators: each by its whole identity.
    pub operators: BTreeSet<SpiffeId>,
    /// Verifiers.
    pub verifiers: Vec<Identities>,
}

impl Roles {
    /// The operator at the other end.
    ///
    /// # Errors
    /// [`Failure::NoIdentity`], [`Failure::NotAnOperator`].
    pub fn operator<'a>(&self, peer: Option<&'a Peer>, now: Timestamp) -> Result<&'a SpiffeId, Failure> {
        let spiffe_id = self.named(peer, now)?.ok_or(Failure::NotAnOperator)?;
        if self.operators.contains(spiffe_id) {
            Ok(spiffe_id)
        } else {
            Err(Failure::NotAnOperator)
        }
    }

    /// The verifier at the other end.
    ///
    /// # Errors
    /// [`Failure::NoIdentity`], [`Failure::NotAVerifier`].
    pub fn verifier<'a>(&self, peer: Option<&'a Peer>, now: Timestamp) -> Result<&'a SpiffeId, Failure> {
        let spiffe_id = self.named(peer, now)?.ok_or(Failure::NotAVerifier)?;
        if self.verifiers.iter().any(|ids| ids.contain(spiffe_id)) {
            Ok(spiffe_id)
        } else {
            Err(Failure::NotAVerifier)
        }
    }

    fn named<'a>(&self, peer: Option<&'a Peer>, now: Timestamp) -> Result<Option<&'a SpiffeId>, Failure> {
        let spiffe_id = identity(peer, now)?.spiffe_id.as_ref();
        Ok(spiffe_id.filter(|id| id.trust_domain() == &self.trust_domain))
    }
}

/// Who is at the other end of a connection, if the certificate is still valid (S22).
///
/// # Errors
/// [`Failure::NoIdentity`].
pub fn identity(peer: Option<&Peer>, now: Timestamp) -> Result<&Arc<PeerIdentity>, Failure> {
    let peer = peer.filter(|peer| !peer.is_expired(now));
    peer.and_then(|peer| peer.identity.as_ref())
        .ok_or(Failure::NoIdentity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{peer, spiffe_id};

    fn roles() -> Roles {
        let ids = |text| Identities::parse(text).expect("valid");
        Roles {
            trust_domain: TrustDomain::parse("example.org").expect("valid"),
            operators: BTreeSet::from([spiffe_id("operator/anna")]),
            verifiers: vec![
                ids("spiffe://example.org/verifier/"),
                ids("spiffe://example.org/edge"),
                ids("spiffe://elsewhere.org/verifier/"),
            ],
        }
    }

    const NOW: Timestamp = Timestamp::from_seconds(1000);

    /// S11, G06: each role opens its own door, and names are no patterns.
    #[test]
    fn a_role_is_held_by_those_who_are_named_and_nobody_else() {
        for (id, operator, verifier) in [
            ("spiffe://example.org/operator/anna", true, false),
            ("spiffe://example.org/operator/anna/x", false, false),
            ("spiffe://example.org/operator/ann", false, false),
            ("spiffe://example.org/verifier/a", false, true),
            ("spiffe://example.org/verifier/a/b", false, true),
            ("spiffe://example.org/verifier", false, false),
            ("spiffe://example.org/verifierx/a", false, false),
            ("spiffe://example.org/edge", false, true),
            ("spiffe://example.org/edge/a", false, false),
            ("spiffe://elsewhere.org/operator/anna", false, false),
            // Even a verifier of another trust domain who is listed.
            ("spiffe://elsewhere.org/verifier/a", false, false),
        ] {
            let peer = peer(Some(id), 1, 2000);
            assert_eq!(roles().operator(Some(&peer), NOW).is_ok(), operator, "{id}");
            assert_eq!(roles().verifier(Some(&peer), NOW).is_ok(), verifier, "{id}");
        }
    }

    /// S22: a certificate that expired while its connection lives opens nothing.
    #[test]
    fn without_a_certificate_that_is_valid_now_there_is_no_identity() {
        let anna = "spiffe://example.org/operator/anna";
        let expired = peer(Some(anna), 1, 999);
        let last_second = peer(Some(anna), 1, 1000);
        let nameless = peer(None, 1, 2000);
        assert!(roles().operator(Some(&last_second), NOW).is_ok());
        for (peer, failure) in [
            (None, Failure::NoIdentity),
            (Some(&expired), Failure::NoIdentity),
            (Some(&nameless), Failure::NotAnOperator),
        ] {
            assert_eq!(roles().operator(peer, NOW), Err(failure));
        }
    }

    /// C04: what could be read as everybody is refused.
    #[test]
    fn a_prefix_names_a_path() {
        for text in [
            "spiffe://example.org/",
            "spiffe://example.org",
            "*",
            "",
            "/",
            "spiffe://example.org/a//",
        ] {
            assert!(Identities::parse(text).is_err(), "{text:?}");
        }
    }
}
