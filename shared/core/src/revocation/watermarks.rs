//! Revocations that are not single tokens with numbers: few, by what they are about, so that a token's claims are looked up
//! as they are.

use rpds::RedBlackTreeMapSync;

use super::entry_sum::{self, EntrySum};
use super::{Revocation, RevokedSubject};
use crate::claims::{Claims, Confirmation, Subject};
use crate::names::{Audience, CertificateThumbprint, ClientId, TokenId};
use crate::planted::{Bug, planted};
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// What holds for one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watermark {
    issued_before: Timestamp,
    expires_at: Timestamp,
}

impl Watermark {
    /// Inclusive: a token of the same second may have been issued before the revocation.
    fn covers(self, claims: &Claims) -> bool {
        let same_second = claims.issued_at == self.issued_before && !planted(Bug::SameSecondSpared);
        claims.issued_at < self.issued_before || same_second
    }

    fn on(self, subject: RevokedSubject) -> Revocation {
        Revocation {
            subject,
            issued_before: self.issued_before,
            expires_at: self.expires_at,
        }
    }
}

type ByName<K> = RedBlackTreeMapSync<K, Watermark>;

/// Watermarks with the digest over them. Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Watermarks {
    tokens: ByName<TokenId>,
    clients: ByName<ClientId>,
    subjects: ByName<Subject>,
    audiences: ByName<Audience>,
    certificates: ByName<CertificateThumbprint>,
    everything: Option<Watermark>,
    sum: EntrySum,
}

impl Watermarks {
    pub(super) fn len(&self) -> usize {
        self.tokens.size()
            + self.clients.size()
            + self.subjects.size()
            + self.audiences.size()
            + self.certificates.size()
            + usize::from(self.everything.is_some())
    }

    pub(super) fn certificates_len(&self) -> usize {
        self.certificates.size()
    }

    pub(super) const fn sum(&self) -> EntrySum {
        self.sum
    }

    /// Every entry, in the order of [`RevokedSubject`].
    pub(super) fn iter(&self) -> impl Iterator<Item = Revocation> {
        fn entries<K: Ord + Clone>(
            held: &ByName<K>,
            subject: fn(K) -> RevokedSubject,
        ) -> impl Iterator<Item = Revocation> {
            held.iter()
                .map(move |(name, held)| held.on(subject(name.clone())))
        }
        let everything = self.everything.map(|held| held.on(RevokedSubject::Everything));
        entries(&self.tokens, RevokedSubject::Token)
            .chain(entries(&self.clients, RevokedSubject::Client))
            .chain(entries(&self.subjects, RevokedSubject::Subject))
            .chain(entries(&self.audiences, RevokedSubject::Audience))
            .chain(entries(&self.certificates, RevokedSubject::Certificate))
            .chain(everything)
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = Revocation> {
        let certificates = self.certificates.iter();
        certificates.map(|(thumbprint, held)| held.on(RevokedSubject::Certificate(*thumbprint)))
    }

    pub(super) fn find(&self, subject: &RevokedSubject) -> Option<Revocation> {
        let held = match subject {
            RevokedSubject::Token(token_id) => self.tokens.get(token_id),
            RevokedSubject::Client(client_id) => self.clients.get(client_id),
            RevokedSubject::Subject(subject) => self.subjects.get(subject),
            RevokedSubject::Audience(audience) => self.audiences.get(audience),
            RevokedSubject::Certificate(thumbprint) => self.certificates.get(thumbprint),
            RevokedSubject::Everything => self.everything.as_ref(),
        };
        held.map(|held| held.on(subject.clone()))
    }

    pub(super) fn holds_certificate(&self, thumbprint: &CertificateThumbprint) -> bool {
        self.certificates.contains_key(thumbprint)
    }

    /// Puts `entry` in. Together with one that is there, the strictest of both holds.
    pub(super) fn add(&mut self, entry: Revocation) {
        let held = self.find(&entry.subject);
        let entry = held.iter().fold(entry, Revocation::strictest);
        if let Some(held) = held {
            self.sum.subtract(entry_sum::named(&held));
        }
        self.sum.add(entry_sum::named(&entry));
        let watermark = Watermark {
            issued_before: entry.issued_before,
            expires_at: entry.expires_at,
        };
        match entry.subject {
            RevokedSubject::Token(token_id) => self.tokens.insert_mut(token_id, watermark),
            RevokedSubject::Client(client_id) => self.clients.insert_mut(client_id, watermark),
            RevokedSubject::Subject(subject) => self.subjects.insert_mut(subject, watermark),
            RevokedSubject::Audience(audience) => self.audiences.insert_mut(audience, watermark),
            RevokedSubject::Certificate(thumbprint) => self.certificates.insert_mut(thumbprint, watermark),
            RevokedSubject::Everything => self.everything = Some(watermark),
        }
    }

    /// Drops the entries that expire before `time`.
    pub(super) fn prune(&mut self, time: Timestamp) {
        let gone: Vec<Revocation> = self.iter().filter(|entry| entry.expires_at < time).collect();
        for entry in gone {
            self.sum.subtract(entry_sum::named(&entry));
            self.remove(&entry.subject);
        }
    }

    /// Takes the entry about `subject` out, if there is one.
    pub(super) fn take_out(&mut self, subject: &RevokedSubject) {
        if let Some(held) = self.find(subject) {
            self.sum.subtract(entry_sum::named(&held));
            self.remove(subject);
        }
    }

    fn remove(&mut self, subject: &RevokedSubject) {
        let _was_there = match subject {
            RevokedSubject::Token(token_id) => self.tokens.remove_mut(token_id),
            RevokedSubject::Client(client_id) => self.clients.remove_mut(client_id),
            RevokedSubject::Subject(subject) => self.subjects.remove_mut(subject),
            RevokedSubject::Audience(audience) => self.audiences.remove_mut(audience),
            RevokedSubject::Certificate(thumbprint) => self.certificates.remove_mut(thumbprint),
            RevokedSubject::Everything => self.everything.take().is_some(),
        };
    }

    /// Whether an entry here is about a token with these claims.
    pub(super) fn check(&self, claims: &Claims) -> Result<(), Rejection> {
        let covers = |held: &Watermark| held.covers(claims);
        let mut audiences = claims.audiences.iter();
        let revoked = self.everything.as_ref().is_some_and(covers)
            || self.tokens.contains_key(&claims.token_id)
            || self.subjects.get(&claims.subject).is_some_and(covers)
            || audiences.any(|audience| self.audiences.get(audience.as_str()).is_some_and(covers))
            || self.bound_certificate(claims).is_some_and(covers);
        if revoked {
            return Err(Rejection::TokenRevoked);
        }
        if self.clients.get(&claims.client_id).is_some_and(covers) {
            return Err(Rejection::ClientRevoked);
        }
        Ok(())
    }

    fn bound_certificate(&self, claims: &Claims) -> Option<&Watermark> {
        match &claims.confirmation {
            Confirmation::Certificate(thumbprint) => self.certificates.get(thumbprint),
            // That is a matter of who presents it.
            Confirmation::SpiffeId(_) | Confirmation::Unbound | Confirmation::Unsupported => None,
        }
    }
}
