//! What the authority keeps, and the promises under which it is kept.
//!
//! A store is a sorted map from short names to small records. It knows nothing of clients and keys: the domain's records
//! are written and read in the modules below, the same over every backend. Every backend keeps these promises, and
//! `contract` checks them all:
//!
//! 1. *Durable*: a commit that returned `Ok` survives a crash of the process and of the machine.
//! 2. *Whole*: a commit takes effect with all its writes and deletes, or not at all.
//! 3. *Conditional*: of two commits that expect the same version of a record and change it, exactly one succeeds.
//! 4. *Versions only grow*: a record's version is the revision of the commit that wrote it, and no revision is given twice.
//! 5. *Current*: a read sees every commit that returned before it began, and a page is one consistent view.
//!
//! A commit that failed with [`StoreError::Unavailable`] is in doubt: it may have taken effect. Whoever made it reads
//! before deciding again.

pub mod clients;
#[cfg(test)]
pub(crate) mod contract;
pub mod drills;
#[cfg(test)]
pub(crate) mod faulty;
pub mod keys;
pub mod memory;
pub mod meta;
pub mod publishers;
pub mod record;
pub mod redb;
pub mod revocations;
pub mod verifiers;

use std::fmt::Debug;

use async_trait::async_trait;

/// Counts commits. Zero is before the first.
pub type Revision = u64;

/// The revision of the commit that wrote a record. Zero stands for "there is no such record".
pub type Version = u64;

/// The longest name of a record, in bytes: that of a revoked `sub`, with the longest trust domain, fits.
pub const MAX_NAME_LENGTH: usize = 512;

/// The largest record, in bytes. etcd takes 1.5 MiB in a whole request.
pub const MAX_VALUE_LENGTH: usize = 1024 * 1024;

/// The most writes and deletes in one commit: more revocations than are kept can end in one second.
pub const MAX_WRITES: usize = 512 * 1024;

/// Whatever error a backend met.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do as asked. Each says what the caller should do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record is not of the version expected: read and decide again.
    #[error("another commit came first")]
    Conflict,
    /// The backend does not work now, and the outcome of a commit is not known: read before trying again.
    #[error("the store cannot be used now")]
    Unavailable(#[source] BoxError),
    /// What is stored was damaged: an operator has to restore it.
    #[error("the store is damaged")]
    Damaged(#[source] BoxError),
    /// A name, a record or the commit is over the limits: our own fault.
    #[error("a write is over the limits of the store")]
    TooLarge,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name, such as `clients/orders`.
    pub name: String,
    /// Which commit wrote it.
    pub version: Version,
    /// Its content.
    pub value: Vec<u8>,
}

/// Which records to read: those whose names begin with `prefix`, in the order of their names.
#[derive(Clone, Debug)]
pub struct Range {
    /// The beginning of the names.
    pub prefix: String,
    /// Only names after this one.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

impl Range {
    /// The first `limit` records under `prefix`.
    #[must_use]
    pub fn first(prefix: &str, limit: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            after: None,
            limit,
        }
    }

    /// The first name that can be in the range, and whether it is itself in it.
    fn start(&self) -> (&str, bool) {
        match &self.after {
            Some(after) if after.as_str() >= self.prefix.as_str() => (after, false),
            _ => (&self.prefix, true),
        }
    }
}

/// A part of a range.
#[derive(Clone, Debug)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Whether there are more.
    pub more: bool,
}

/// Writes and deletes that are done together, if every expectation holds.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Names with the versions that they must have.
    pub expected: Vec<(String, Version)>,
    /// Names with what to write there.
    pub puts: Vec<(String, Vec<u8>)>,
    /// Names to delete, whether they are there or not.
    pub deletes: Vec<String>,
}

impl Commit {
    /// Asks for `name` to be of `version` (zero: not there).
    pub fn expect(&mut self, name: &str, version: Version) {
        self.expected.push((name.to_owned(), version));
    }

    /// Writes `value` at `name`.
    pub fn put(&mut self, name: String, value: Vec<u8>) {
        self.puts.push((name, value));
    }

    /// Deletes `name`.
    pub fn delete(&mut self, name: String) {
        self.deletes.push(name);
    }

    /// Whether it is within the limits.
    fn check(&self) -> Result<(), StoreError> {
        let named = |name: &str| (1..=MAX_NAME_LENGTH).contains(&name.len());
        let names_fit = self.expected.iter().all(|(name, _)| named(name))
            && self.puts.iter().all(|(name, _)| named(name))
            && self.deletes.iter().all(|name| named(name));
        let values_fit = self.puts.iter().all(|(_, value)| value.len() <= MAX_VALUE_LENGTH);
        if names_fit && values_fit && self.puts.len() + self.deletes.len() <= MAX_WRITES {
            Ok(())
        } else {
            Err(StoreError::TooLarge)
        }
    }
}

/// A store that keeps the promises above.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// A page of records.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Does all of `commit`, or nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]; all but [`StoreError::Unavailable`] mean that nothing was done.
    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError>;

    /// The revision of the last commit.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    async fn revision(&self) -> Result<Revision, StoreError>;
}

/// The record called `name`.
///
/// # Errors
/// As [`Store::range`].
pub async fn find(store: &dyn Store, name: &str) -> Result<Option<Record>, StoreError> {
    let page = store.range(Range::first(name, 1)).await?;
    Ok(page.records.into_iter().find(|record| record.name == name))
}

/// How many records are read at a time.
const PAGE: usize = 1000;

/// Every record under `prefix`, page by page. Nothing else may write meanwhile.
///
/// # Errors
/// As [`Store::range`].
pub async fn read_all(store: &dyn Store, prefix: &str) -> Result<Vec<Record>, StoreError> {
    let mut range = Range::first(prefix, PAGE);
    let mut records = Vec::new();
    loop {
        let page = store.range(range.clone()).await?;
        range.after = page.records.last().map(|record| record.name.clone());
        records.extend(page.records);
        if !page.more || range.after.is_none() {
            return Ok(records);
        }
    }
}
