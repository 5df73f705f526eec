//! What is taken back: single tokens, and everything issued to a client, or at all, until some time.
//!
//! An entry can only be added, be replaced by a stricter one, or be dropped after its `expires_at`, when no token that it
//! could affect is still valid anywhere. There is no way to un-revoke.

use std::sync::Arc;

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

/// Entries by what they are about, so that a token's claims are looked up as they are. Cloning is cheap: the parts are
/// shared.
#[derive(Clone, Debug, Default)]
struct Entries {
    tokens: HashTrieMapSync<TokenId, Revocation>,
    clients: HashTrieMapSync<ClientId, Revocation>,
    everything: Option<Arc<Revocation>>,
}

impl Entries {
    fn len(&self) -> usize {
        self.tokens.size() + self.clients.size() + usize::from(self.everything.is_some())
    }

    fn values(&self) -> impl Iterator<Item = &Revocation> {
        let many = self.tokens.values().chain(self.clients.values());
        many.chain(self.everything.as_deref())
    }

    fn get(&self, subject: &RevokedSubject) -> Option<&Revocation> {
        match subject {
            RevokedSubject::Token(token_id) => self.tokens.get(token_id),
            RevokedSubject::Client(client_id) => self.clients.get(client_id),
            RevokedSubject::Everything => self.everything.as_deref(),
        }
    }

    /// In place where nobody else holds that part, so that many entries cost little more than themselves.
    fn insert(&mut self, entry: Revocation) {
        match &entry.subject {
            RevokedSubject::Token(token_id) => {
                self.tokens.insert_mut(token_id.clone(), entry);
            }
            RevokedSubject::Client(client_id) => {
                self.clients.insert_mut(client_id.clone(), entry);
            }
            RevokedSubject::Everything => self.everything = Some(Arc::new(entry)),
        }
    }

    fn remove(&mut self, subject: &RevokedSubject) {
        match subject {
            RevokedSubject::Token(token_id) => {
                self.tokens.remove_mut(token_id);
            }
            RevokedSubject::Client(client_id) => {
                self.clients.remove_mut(client_id);
            }
            RevokedSubject::Everything => self.everything = None,
        }
    }
}

/// Every revocation in force. Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, Default)]
pub struct RevocationList {
    entries: Entries,
    sum: DigestSum,
}

impl RevocationList {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        self.entries.insert(entry);
    }

    /// Puts `revocation` in as [`RevocationList::add`] does, and leaves the digest as it was: for a list that is only
    /// decided on.
    pub(crate) fn add_undigested(&mut self, revocation: Revocation) {
        let earlier = self.entries.get(&revocation.subject);
        let entry = revocation.normal().strictest(earlier);
        self.entries.insert(entry);
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
            kept.entries.remove(&entry.subject);
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
        let Entries {
            tokens,
            clients,
            everything,
        } = &self.entries;
        // Inclusive: a token of the same second may have been issued before the revocation.
        let covers = |entry: &Revocation| claims.issued_at <= entry.issued_before;
        if tokens.contains_key(&claims.token_id) || everything.as_deref().is_some_and(covers) {
            return Err(Rejection::TokenRevoked);
        }
        if clients.get(&claims.client_id).is_some_and(covers) {
            return Err(Rejection::ClientRevoked);
        }
        Ok(())
    }
}

/// The sum of entry digests modulo 2^256: the same for the same entries in any order, and kept up to date without
/// reading the whole list. It finds divergence; that nobody forges a list is the work of whoever signs or seals the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestSum([u8; 32]);

impl DigestSum {
    /// The sum with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Counts `digest` in.
    pub fn add(&mut self, digest: &[u8; 32]) {
        let mut carry = 0_u16;
        for (sum, byte) in self.0.iter_mut().zip(digest) {
            let [low, high] = (u16::from(*sum) + u16::from(*byte) + carry).to_le_bytes();
            *sum = low;
            carry = u16::from(high);
        }
    }

    /// Counts `digest`, which was counted in, out again.
    pub fn subtract(&mut self, digest: &[u8; 32]) {
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
