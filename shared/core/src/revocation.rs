//! What is taken back: single tokens, and everything of a client, a subject, an audience, a certificate, or at all, that
//! was issued until some time.
//!
//! An entry can only be added, be replaced by a stricter one, or be dropped after its `expires_at`, when no token that it
//! could affect is still valid anywhere. There is no way to un-revoke. Only an entry about a certificate affects what is issued
//! later, too, and a certificate may be good for longer than its entry is kept.

mod entry_sum;
mod sequences;
mod tokens;
mod watermarks;

use std::sync::Arc;
use std::time::Duration;

use crate::claims::{Claims, Confirmation, Subject};
use crate::names::{Audience, CertificateThumbprint, ClientId, TokenId, TokenSerial};
use crate::planted::{Bug, planted};
use crate::rejection::Rejection;
use crate::time::Timestamp;
use tokens::{TokenSet, rounded_up};
use watermarks::Watermarks;

pub use sequences::Sequences;
pub use tokens::{ChunkName, EXPIRY_STEP, RevokedTokens};

/// Whose tokens are revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokedSubject {
    /// The token with this `jti`.
    Token(TokenId),
    /// This client's tokens, up to the watermark.
    Client(ClientId),
    /// Tokens with this `sub`, up to the watermark.
    Subject(Subject),
    /// Tokens for this audience, up to the watermark.
    Audience(Audience),
    /// Tokens bound to this certificate, up to the watermark. As long as the entry is there, the certificate proves neither itself nor its
    /// SPIFFE ID: tokens that are bound to one of them are refused over it, whenever they were issued until the end of the entry.
    Certificate(CertificateThumbprint),
    /// All tokens of the issuer, up to the watermark.
    Everything,
}

impl RevokedSubject {
    /// Whether the token with these claims is one of them, whenever it was issued.
    #[must_use]
    pub fn concerns(&self, claims: &Claims) -> bool {
        match self {
            Self::Token(token_id) => *token_id == claims.token_id,
            Self::Client(client_id) => *client_id == claims.client_id,
            Self::Subject(subject) => *subject == claims.subject,
            Self::Audience(audience) => claims.audiences.iter().any(|named| named == audience.as_str()),
            Self::Certificate(thumbprint) => claims.confirmation == Confirmation::Certificate(*thumbprint),
            Self::Everything => true,
        }
    }

    /// The numbers of the one token, if it has some.
    fn serial(&self) -> Option<TokenSerial> {
        match self {
            Self::Token(token_id) => token_id.serial(),
            Self::Client(_)
            | Self::Subject(_)
            | Self::Audience(_)
            | Self::Certificate(_)
            | Self::Everything => None,
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub subject: RevokedSubject,
    /// Tokens with `iat` at or before this are refused. Without meaning for a single token.
    pub issued_before: Timestamp,
    /// When the entry may be forgotten. That of a numbered token is rounded up to a multiple of [`EXPIRY_STEP`] when it is
    /// put into a list.
    pub expires_at: Timestamp,
}

impl Revocation {
    /// The revocation of one token, until `expires_at`.
    fn token(token_id: TokenId, expires_at: Timestamp) -> Self {
        Self {
            subject: RevokedSubject::Token(token_id),
            issued_before: Timestamp::default(),
            expires_at,
        }
    }

    /// The entry as every holder writes it: a single token has no watermark, and a numbered one a rounded end.
    fn normal(self) -> Self {
        let is_token = matches!(self.subject, RevokedSubject::Token(_));
        let is_numbered = self.subject.serial().is_some();
        Self {
            issued_before: if is_token {
                Timestamp::default()
            } else {
                self.issued_before
            },
            expires_at: if is_numbered {
                rounded_up(self.expires_at)
            } else {
                self.expires_at
            },
            subject: self.subject,
        }
    }

    /// This entry and an earlier one for the same subject as one: the stricter watermark, the longer life.
    fn strictest(self, earlier: &Self) -> Self {
        if planted(Bug::FirstRevocationWins) {
            return earlier.clone();
        }
        Self {
            subject: self.subject,
            issued_before: self.issued_before.max(earlier.issued_before),
            expires_at: self.expires_at.max(earlier.expires_at),
        }
    }
}

/// A set of revocations: all that are in force, or those of one update. Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, Default)]
pub struct RevocationList {
    tokens: TokenSet,
    others: Arc<Watermarks>,
}

impl RevocationList {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let tokens = usize::try_from(self.tokens.len()).unwrap_or(usize::MAX);
        tokens.saturating_add(self.others.len())
    }

    /// How many of them are not numbered tokens.
    #[must_use]
    pub fn others_len(&self) -> usize {
        self.others.len()
    }

    /// How many of those are about certificates.
    #[must_use]
    pub fn certificates_len(&self) -> usize {
        self.others.certificates_len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry: numbered tokens in the order of their numbers, then the others in the order of [`RevokedSubject`].
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        self.after(None)
    }

    /// The entries after the one for `last`, in the order of [`RevocationList::iter`], whether or not that one is there.
    pub fn after(&self, last: Option<&RevokedSubject>) -> impl Iterator<Item = Revocation> {
        let serial = last.and_then(RevokedSubject::serial);
        let other = last.filter(|_| serial.is_none()).cloned();
        let tokens = other.is_none().then(|| self.tokens.after(serial));
        let tokens = tokens.into_iter().flatten();
        tokens
            .map(|(serial, expires_at)| Revocation::token(serial.into(), expires_at))
            .chain(
                self.others
                    .iter()
                    .filter(move |entry| other.as_ref().is_none_or(|last| entry.subject > *last)),
            )
    }

    /// The numbered tokens, by expiry and shard.
    #[must_use]
    pub fn tokens(&self) -> Vec<RevokedTokens> {
        self.tokens.groups()
    }

    /// The entries that are not numbered tokens.
    pub fn others(&self) -> impl Iterator<Item = Revocation> {
        self.others.iter()
    }

    /// How many entries expire when; a time may come more than once.
    pub fn expiries(&self) -> impl Iterator<Item = (Timestamp, usize)> {
        let others = self.others.iter().map(|entry| (entry.expires_at, 1));
        let tokens = self.tokens.expiries();
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        tokens
            .map(move |(expires_at, tokens)| (expires_at, count(tokens)))
            .chain(others)
    }

    /// The entries about certificates: they matter to tokens that are issued later, too, so long as such a certificate is shown.
    #[must_use]
    pub fn about_certificates(&self) -> Self {
        self.others.certificates().collect()
    }

    /// Those of them that `other` does not cover.
    pub(crate) fn certificates_beyond(&self, other: &Self) -> impl Iterator<Item = Revocation> {
        self.others.certificates().filter(|entry| !other.covers(entry))
    }

    /// The entry for `subject`.
    #[must_use]
    pub fn find(&self, subject: &RevokedSubject) -> Option<Revocation> {
        match (subject, subject.serial()) {
            (RevokedSubject::Token(token_id), Some(serial)) => self
                .tokens
                .expiry(serial)
                .map(|expires_at| Revocation::token(token_id.clone(), expires_at)),
            _ => self.others.find(subject),
        }
    }

    /// Puts `revocation` in. Together with an entry that is there, the strictest of both holds.
    pub fn add(&mut self, revocation: Revocation) {
        let entry = revocation.normal();
        match entry.subject.serial() {
            Some(serial) => self.tokens.add(serial, entry.expires_at),
            None => Arc::make_mut(&mut self.others).add(entry),
        }
    }

    /// Puts every one of `tokens` in, as [`RevocationList::add`] does.
    pub fn add_tokens(&mut self, tokens: &RevokedTokens) {
        self.tokens.add_all(tokens);
    }

    /// Puts every entry of `other` in, as [`RevocationList::add`] does.
    pub fn merge(&mut self, other: &Self) {
        self.tokens.merge(&other.tokens);
        self.extend(other.others.iter());
    }

    /// The list with `revocation` in it, as [`RevocationList::add`] puts it there.
    #[must_use]
    pub fn with(&self, revocation: Revocation) -> Self {
        let mut list = self.clone();
        list.add(revocation);
        list
    }

    /// Whether `revocation` would change nothing: what is held for its subject is as strict, for as long.
    #[must_use]
    pub fn covers(&self, revocation: &Revocation) -> bool {
        let entry = revocation.clone().normal();
        self.find(&entry.subject).is_some_and(|held| {
            held.issued_before >= entry.issued_before && held.expires_at >= entry.expires_at
        })
    }

    /// The entries that `other` does not cover.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let mut beyond = Self {
            tokens: self.tokens.beyond(&other.tokens),
            others: Arc::default(),
        };
        beyond.extend(self.others.iter().filter(|entry| !other.covers(entry)));
        beyond
    }

    /// Drops what `other` covers, of which nothing is new but what is about `told`. Untouched where that is nothing here.
    pub(crate) fn settle(&mut self, told: &Self, other: &Self) {
        if !self.tokens.is_empty() && !told.tokens.is_empty() {
            self.tokens = self.tokens.beyond(&other.tokens);
        }
        for entry in told.others.iter() {
            if self
                .others
                .find(&entry.subject)
                .is_some_and(|held| other.covers(&held))
            {
                Arc::make_mut(&mut self.others).take_out(&entry.subject);
            }
        }
    }

    /// Drops so many entries about certificates, those that end first. How many there were.
    pub(crate) fn drop_certificates(&mut self, count: usize) -> usize {
        let mut entries: Vec<Revocation> = self.others.certificates().collect();
        entries.sort_by_key(|entry| entry.expires_at);
        entries.truncate(count);
        for entry in &entries {
            Arc::make_mut(&mut self.others).take_out(&entry.subject);
        }
        entries.len()
    }

    /// Whether both share what they hold that is not numbered tokens.
    #[cfg(test)]
    pub(crate) fn shares_others_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.others, &other.others)
    }

    /// The list without the entries whose `expires_at` is before `time`.
    #[must_use]
    pub fn pruned(&self, time: Timestamp) -> Self {
        let early = if planted(Bug::DroppedEarly) {
            EXPIRY_STEP
        } else {
            Duration::ZERO
        };
        let time = time.saturating_add(early);
        let mut kept = self.clone();
        kept.tokens.prune(time);
        Arc::make_mut(&mut kept.others).prune(time);
        kept
    }

    /// How many entries are held for longer than `latest`, and the rounding of [`EXPIRY_STEP`].
    #[must_use]
    pub fn outlasting(&self, latest: Timestamp) -> usize {
        let tokens = self.tokens.expiries();
        let tokens = tokens.filter(|(expires_at, _)| *expires_at > rounded_up(latest));
        let tokens: u64 = tokens.map(|(_, count)| count).sum();
        let others = self.others.iter().filter(|entry| entry.expires_at > latest);
        usize::try_from(tokens)
            .unwrap_or(usize::MAX)
            .saturating_add(others.count())
    }

    /// The list with no entry held for longer than `latest`, and the rounding of [`EXPIRY_STEP`].
    #[must_use]
    pub fn capped(&self, latest: Timestamp) -> Self {
        let mut capped = Self {
            tokens: self.tokens.capped(rounded_up(latest)),
            others: Arc::default(),
        };
        capped.extend(self.others.iter().map(|entry| Revocation {
            expires_at: entry.expires_at.min(latest),
            ..entry
        }));
        capped
    }

    /// The parts of the numbered tokens that are not as they were in `before`, each with what is in it now, which may be
    /// nothing: for whoever stores a list part by part.
    #[must_use]
    pub fn chunks_changed_since(&self, before: &Self) -> Vec<(ChunkName, Sequences)> {
        self.tokens.changes_since(&before.tokens)
    }

    /// The digest of the whole list, whatever the order in which it came about.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.tokens.sum().with(self.others.sum()).to_bytes()
    }

    /// Whether a token with these claims is revoked. The strictest entry wins, in whatever order they came.
    ///
    /// # Errors
    /// [`Rejection::TokenRevoked`] or [`Rejection::ClientRevoked`].
    pub fn check(&self, claims: &Claims) -> Result<(), Rejection> {
        let serial = claims.token_id.serial();
        if serial.is_some_and(|serial| self.tokens.contains(serial)) {
            return Err(Rejection::TokenRevoked);
        }
        self.others.check(claims)
    }

    /// Whether tokens bound to this certificate are revoked. As long as they are, it is good for no token.
    #[must_use]
    pub fn holds_certificate(&self, thumbprint: &CertificateThumbprint) -> bool {
        self.others.holds_certificate(thumbprint)
    }
}

impl Extend<Revocation> for RevocationList {
    fn extend<I: IntoIterator<Item = Revocation>>(&mut self, revocations: I) {
        for revocation in revocations {
            self.add(revocation);
        }
    }
}

impl FromIterator<Revocation> for RevocationList {
    fn from_iter<I: IntoIterator<Item = Revocation>>(revocations: I) -> Self {
        let mut list = Self::default();
        list.extend(revocations);
        list
    }
}

impl<const N: usize> From<[Revocation; N]> for RevocationList {
    fn from(revocations: [Revocation; N]) -> Self {
        Self::from_iter(revocations)
    }
}

/// A sum of digests modulo 2^256: the same for the same records in any order, and kept up to date without reading all of
/// them. It finds divergence; that nobody forges a list is the work of whoever signs or seals the sum.
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
