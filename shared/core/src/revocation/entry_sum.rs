//! The digest of revocations: a sum over entries that is the same in any order, and is kept up to date without reading the
//! whole list. It finds divergence; that nobody forges a list is the work of whoever signs or seals it.

use twox_hash::XxHash3_128;

use super::{Revocation, RevokedSubject};
use crate::names::TokenSerial;
use crate::time::Timestamp;

/// The sum of the hashes of entries, modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntrySum(u128);

impl EntrySum {
    /// Counts one in.
    pub(super) const fn add(&mut self, entry: u128) {
        self.0 = self.0.wrapping_add(entry);
    }

    /// Counts out what was counted in.
    pub(super) const fn subtract(&mut self, entry: u128) {
        self.0 = self.0.wrapping_sub(entry);
    }

    /// This sum and `other` as one.
    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// The hash of a single token's entry.
pub(super) fn numbered(serial: TokenSerial, expires_at: Timestamp) -> u128 {
    let mut entry = [1; 25];
    let numbers = [serial.shard, serial.sequence, expires_at.as_seconds()];
    for (place, number) in entry
        .iter_mut()
        .skip(1)
        .zip(numbers.map(u64::to_be_bytes).as_flattened())
    {
        *place = *number;
    }
    XxHash3_128::oneshot(&entry)
}

/// The hash of any other entry.
pub(super) fn named(entry: &Revocation) -> u128 {
    let sub;
    let (kind, subject): (u8, &[u8]) = match &entry.subject {
        RevokedSubject::Token(token_id) => (2, token_id.as_str().as_bytes()),
        RevokedSubject::Client(client_id) => (3, client_id.as_str().as_bytes()),
        RevokedSubject::Subject(subject) => {
            sub = subject.to_string();
            (4, sub.as_bytes())
        }
        RevokedSubject::Audience(audience) => (5, audience.as_str().as_bytes()),
        RevokedSubject::Certificate(thumbprint) => (6, thumbprint.as_bytes()),
        RevokedSubject::Everything => (7, &[]),
    };
    let times = [entry.issued_before.as_seconds(), entry.expires_at.as_seconds()];
    let times = times.map(u64::to_be_bytes);
    XxHash3_128::oneshot(&[&[kind], times.as_flattened(), subject].concat())
}
