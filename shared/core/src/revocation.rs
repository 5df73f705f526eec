//! What is taken back: single tokens, and everything issued to a client, or at all, until some time.
//!
//! An entry can only be added, be replaced by a stricter one, or be dropped after its `expires_at`, when no token that it
//! could affect is still valid anywhere. There is no way to un-revoke.

use rpds::HashTrieMapSync;

use crate::claims::Claims;
use crate::names::{ClientId, TokenId};
use crate::ports::Sha256;
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// Whose tokens are revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokedSubject {
    /// The token with this `jti`.
    Token(TokenId),
    /// This client's tokens, up to the watermark.
    Client(ClientId),
    /// All tokens of the issuer, up to the watermark.
    Everything,
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub subject: RevokedSubject,
    /// Tokens with `iat` at or before this are refused. Without meaning for a single token.
    pub issued_before: Timestamp,
    /// When the entry may be forgotten.
    pub expires_at: Timestamp,
}

impl Revocation {
    /// The entry's part of the list's digest.
    fn digest(&self, sha256: &dyn Sha256) -> [u8; 32] {
        let (kind, subject): (&[u8], &str) = match &self.subject {
            RevokedSubject::Token(token_id) => (b"token\0", token_id.as_str()),
            RevokedSubject::Client(client_id) => (b"client\0", client_id.as_str()),
            RevokedSubject::Everything => (b"everything\0", ""),
        };
        sha256.sha256(&[
            b"countersign/revocation/v1\0",
            kind,
            subject.as_bytes(),
            b"\0",
            &self.issued_before.as_seconds().to_be_bytes(),
            &self.expires_at.as_seconds().to_be_bytes(),
        ])
    }

    /// The entry as every holder writes it: a single token has no watermark.
    fn normal(self) -> Self {
        let issued_before = match &self.subject {
            RevokedSubject::Token(_) => Timestamp::default(),
            RevokedSubject::Client(_) | RevokedSubject::Everything => self.issued_before,
        };
        Self {
            issued_before,
            ..self
        }
    }

    /// This entry and an earlier one for the same subject as one: the stricter watermark, the longer life.
    fn strictest(self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        Self {
            subject: self.subject,
            issued_before: self.issued_before.max(earlier.issued_before),
            expires_at: self.expires_at.max(earlier.expires_at),
        }
    }
}

/// Every revocation in force. Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, Default)]
pub struct RevocationList {
    entries: HashTrieMapSync<RevokedSubject, Revocation>,
    sum: DigestSum,
}

impl RevocationList {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.size()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.entries.values()
    }

    /// The entry for `subject`.
    #[must_use]
    pub fn find(&self, subject: &RevokedSubject) -> Option<&Revocation> {
        self.entries.get(subject)
    }

    /// Puts `revocation` in. Together with an entry that is there, the strictest of both holds.
    pub fn add(&mut self, revocation: Revocation, sha256: &dyn Sha256) {
        let earlier = self.entries.get(&revocation.subject);
        let entry = revocation.normal().strictest(earlier);
        if let Some(earlier) = earlier {
            self.sum.subtract(&earlier.digest(sha256));
        }
        self.sum.add(&entry.digest(sha256));
        // In place where nobody else holds that part of the list, so that many entries cost little more than themselves.
        self.entries.insert_mut(entry.subject.clone(), entry);
    }

    /// Puts `revocation` in as [`RevocationList::add`] does, and leaves the digest as it was: for a list that is only
    /// decided on.
    pub(crate) fn add_undigested(&mut self, revocation: Revocation) {
        let earlier = self.entries.get(&revocation.subject);
        let entry = revocation.normal().strictest(earlier);
        self.entries.insert_mut(entry.subject.clone(), entry);
    }

    /// The list with `revocation` in it, as [`RevocationList::add`] puts it there.
    #[must_use]
    pub fn with(&self, revocation: Revocation, sha256: &dyn Sha256) -> Self {
        let mut list = self.clone();
        list.add(revocation, sha256);
        list
    }

    /// Whether `revocation` would change nothing: what is held for its subject is as strict, for as long.
    #[must_use]
    pub fn covers(&self, revocation: &Revocation) -> bool {
        self.entries.get(&revocation.subject).is_some_and(|held| {
            held.issued_before >= revocation.issued_before && held.expires_at >= revocation.expires_at
        })
    }

    /// The list without the entries whose `expires_at` is before `time`.
    #[must_use]
    pub fn pruned(&self, time: Timestamp, sha256: &dyn Sha256) -> Self {
        let mut kept = self.clone();
        for entry in self.entries.values().filter(|entry| entry.expires_at < time) {
            kept.sum.subtract(&entry.digest(sha256));
            kept.entries.remove_mut(&entry.subject);
        }
        kept
    }

    /// The digest of the whole list, whatever the order in which it came about.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.sum.0
    }

    /// Whether a token with these claims is revoked. The strictest entry wins, in whatever order they came.
    ///
    /// # Errors
    /// [`Rejection::TokenRevoked`] or [`Rejection::ClientRevoked`].
    pub fn check(&self, claims: &Claims) -> Result<(), Rejection> {
        if self.entries.is_empty() {
            return Ok(());
        }
        // Inclusive: a token of the same second may have been issued before the revocation.
        let covers = |entry: &Revocation| claims.issued_at <= entry.issued_before;
        if self
            .entries
            .contains_key(&RevokedSubject::Token(claims.token_id.clone()))
            || self.entries.get(&RevokedSubject::Everything).is_some_and(covers)
        {
            return Err(Rejection::TokenRevoked);
        }
        if self
            .entries
            .get(&RevokedSubject::Client(claims.client_id.clone()))
            .is_some_and(covers)
        {
            return Err(Rejection::ClientRevoked);
        }
        Ok(())
    }
}

/// The sum of entry digests modulo 2^256: the same for the same entries in any order, and kept up to date without
/// reading the whole list. It finds divergence; that nobody forges a list is the signature's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DigestSum([u8; 32]);

impl DigestSum {
    fn add(&mut self, digest: &[u8; 32]) {
        let mut carry = 0_u16;
        for (sum, byte) in self.0.iter_mut().zip(digest) {
            let [low, high] = (u16::from(*sum) + u16::from(*byte) + carry).to_le_bytes();
            *sum = low;
            carry = u16::from(high);
        }
    }

    fn subtract(&mut self, digest: &[u8; 32]) {
        let mut borrow = 0_u16;
        for (sum, byte) in self.0.iter_mut().zip(digest) {
            let [low, high] = (0x100 + u16::from(*sum) - u16::from(*byte) - borrow).to_le_bytes();
            *sum = low;
            borrow = 1 - u16::from(high);
        }
    }
}

#[cfg(test)]
mod tests;
