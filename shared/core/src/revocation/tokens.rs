//! Single tokens revoked, by the two numbers that their `jti` is made of: some bytes for each, however many there are.
//!
//! The sequences of a shard are cut into chunks of 2^20. A chunk is shared until it is changed, so a list is cloned in no
//! time, and one more entry copies one chunk, not the list.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;
use rpds::RedBlackTreeMapSync;

use super::entry_sum::{self, EntrySum};
use super::sequences::Sequences;
use crate::names::TokenSerial;
use crate::time::Timestamp;

/// The end of a token's entry is rounded up to a multiple of this, so that tokens which were revoked at about the same time
/// share it.
pub const EXPIRY_STEP: Duration = Duration::from_secs(300);

const CHUNK_BITS: u32 = 20;

/// Single tokens of one shard whose revocations expire together.
#[derive(Clone, Debug, PartialEq)]
pub struct RevokedTokens {
    /// When the entries may be forgotten: a multiple of [`EXPIRY_STEP`].
    pub expires_at: Timestamp,
    /// The shard.
    pub shard: u64,
    /// The sequences.
    pub sequences: Sequences,
}

/// The name of a part of a list that is stored by itself: what expires together within a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkName {
    /// When its entries may be forgotten.
    pub expires_at: Timestamp,
    /// The shard.
    pub shard: u64,
    /// The sequences over 2^20.
    pub chunk: u64,
}

/// `expires_at`, rounded up to a multiple of [`EXPIRY_STEP`].
pub(super) const fn rounded_up(expires_at: Timestamp) -> Timestamp {
    let step = EXPIRY_STEP.as_secs();
    Timestamp::from_seconds(expires_at.as_seconds().div_ceil(step).saturating_mul(step))
}

/// Which chunk of which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    shard: u64,
    chunk: u64,
}

impl Place {
    const FIRST: Self = Self { shard: 0, chunk: 0 };

    /// Where a token is, and the lower half of its sequence.
    fn of(serial: TokenSerial) -> (Self, u32) {
        let place = Self {
            shard: serial.shard,
            chunk: serial.sequence >> CHUNK_BITS,
        };
        let low = serial.sequence & u64::from(u32::MAX);
        // Thirty-two bits always fit.
        (place, u32::try_from(low).unwrap_or_default())
    }

    fn serial(self, low: u32) -> TokenSerial {
        TokenSerial {
            shard: self.shard,
            sequence: u64::from(self.upper()) << 32 | u64::from(low),
        }
    }

    /// The upper half of the sequences here.
    fn upper(self) -> u32 {
        // Of the 44 bits of a chunk's number 32 are left.
        u32::try_from(self.chunk >> (32 - CHUNK_BITS)).unwrap_or_default()
    }

    const fn name(self, expires_at: Timestamp) -> ChunkName {
        ChunkName {
            expires_at,
            shard: self.shard,
            chunk: self.chunk,
        }
    }
}

/// What is in a chunk, by the lower halves of the sequences.
///
/// INVARIANT: the sets by expiry have nothing in common, none is empty, and together they are `all`.
#[derive(Clone, Debug, Default)]
struct Chunk {
    all: RoaringBitmap,
    by_expiry: BTreeMap<Timestamp, RoaringBitmap>,
}

impl Chunk {
    /// Puts `added` in until `expires_at`. What is there for longer stays so.
    fn add(&mut self, added: &RoaringBitmap, expires_at: Timestamp) -> Added {
        let fresh = added - &self.all;
        let mut prolonged = Vec::new();
        if fresh.len() < added.len() {
            for (until, held) in self.by_expiry.range_mut(..expires_at) {
                let moved = &*held & added;
                if !moved.is_empty() {
                    *held -= &moved;
                    prolonged.push((*until, moved));
                }
            }
        }
        self.all |= &fresh;
        let parts = prolonged.iter().map(|(_, moved)| moved).chain([&fresh]);
        let parts = parts.fold(RoaringBitmap::new(), |whole, part| whole | part);
        if !parts.is_empty() {
            self.by_expiry.retain(|_, held| !held.is_empty());
            *self.by_expiry.entry(expires_at).or_default() |= parts;
        }
        Added { fresh, prolonged }
    }

    fn expiry(&self, low: u32) -> Option<Timestamp> {
        let mut held = self.by_expiry.iter();
        held.find(|(_, held)| held.contains(low)).map(|(until, _)| *until)
    }

    /// What of `sequences` is not held until `expires_at` or longer.
    fn lacks(&self, sequences: &RoaringBitmap, expires_at: Timestamp) -> RoaringBitmap {
        let as_long = self.by_expiry.range(expires_at..).map(|(_, held)| held);
        as_long.fold(sequences.clone(), |left, held| left - held)
    }
}

/// What became of entries that were added.
struct Added {
    /// Those that were not there.
    fresh: RoaringBitmap,
    /// Those that were there until earlier.
    prolonged: Vec<(Timestamp, RoaringBitmap)>,
}

/// Revoked tokens with the digest over them. Cloning is cheap: the parts are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenSet {
    chunks: RedBlackTreeMapSync<Place, Arc<Chunk>>,
    len: u64,
    sum: EntrySum,
}

impl TokenSet {
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn sum(&self) -> EntrySum {
        self.sum
    }

    /// The look-up that every request makes.
    pub(super) fn contains(&self, serial: TokenSerial) -> bool {
        let (place, low) = Place::of(serial);
        self.chunks
            .get(&place)
            .is_some_and(|chunk| chunk.all.contains(low))
    }

    pub(super) fn expiry(&self, serial: TokenSerial) -> Option<Timestamp> {
        let (place, low) = Place::of(serial);
        self.chunks.get(&place).and_then(|chunk| chunk.expiry(low))
    }

    /// Puts one token in until `expires_at`, a multiple of the step.
    pub(super) fn add(&mut self, serial: TokenSerial, expires_at: Timestamp) {
        let (place, low) = Place::of(serial);
        self.add_at(place, &RoaringBitmap::from_iter([low]), expires_at);
    }

    pub(super) fn add_all(&mut self, tokens: &RevokedTokens) {
        let shard = tokens.shard;
        for (chunk, sequences) in tokens.sequences.pieces(CHUNK_BITS) {
            self.add_at(Place { shard, chunk }, &sequences, tokens.expires_at);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (place, expires_at, sequences) in other.parts() {
            self.add_at(place, sequences, expires_at);
        }
    }

    fn add_at(&mut self, place: Place, sequences: &RoaringBitmap, expires_at: Timestamp) {
        if !self.chunks.contains_key(&place) {
            self.chunks.insert_mut(place, Arc::default());
        }
        let Some(chunk) = self.chunks.get_mut(&place) else {
            return;
        };
        let Added { fresh, prolonged } = Arc::make_mut(chunk).add(sequences, expires_at);
        self.count_in(place, expires_at, &fresh);
        for (until, moved) in &prolonged {
            self.count_out(place, *until, moved);
            self.count_in(place, expires_at, moved);
        }
    }

    fn count_in(&mut self, place: Place, expires_at: Timestamp, sequences: &RoaringBitmap) {
        self.len = self.len.saturating_add(sequences.len());
        for low in sequences {
            self.sum.add(entry_sum::numbered(place.serial(low), expires_at));
        }
    }

    fn count_out(&mut self, place: Place, expires_at: Timestamp, sequences: &RoaringBitmap) {
        self.len = self.len.saturating_sub(sequences.len());
        for low in sequences {
            self.sum
                .subtract(entry_sum::numbered(place.serial(low), expires_at));
        }
    }

    /// Drops the entries that expire before `time`.
    pub(super) fn prune(&mut self, time: Timestamp) {
        let ends = |chunk: &Chunk| chunk.by_expiry.range(..time).next().is_some();
        let concerned = self.chunks.iter().filter(|(_, chunk)| ends(chunk));
        let concerned: Vec<Place> = concerned.map(|(place, _)| *place).collect();
        for place in concerned {
            let Some(chunk) = self.chunks.get_mut(&place).map(Arc::make_mut) else {
                continue;
            };
            let kept = chunk.by_expiry.split_off(&time);
            let gone = std::mem::replace(&mut chunk.by_expiry, kept);
            for held in gone.values() {
                chunk.all -= held;
            }
            if chunk.by_expiry.is_empty() {
                self.chunks.remove_mut(&place);
            }
            for (expires_at, held) in &gone {
                self.count_out(place, *expires_at, held);
            }
        }
    }

    /// What of this `other` does not hold for as long.
    pub(super) fn beyond(&self, other: &Self) -> Self {
        let mut beyond = Self::default();
        for (place, chunk) in &self.chunks {
            let theirs = other.chunks.get(place);
            if theirs.is_some_and(|theirs| Arc::ptr_eq(theirs, chunk)) {
                continue;
            }
            for (expires_at, held) in &chunk.by_expiry {
                let left = theirs.map_or_else(|| held.clone(), |theirs| theirs.lacks(held, *expires_at));
                if !left.is_empty() {
                    beyond.add_at(*place, &left, *expires_at);
                }
            }
        }
        beyond
    }

    /// The same, with nothing held for longer than `latest`, a multiple of the step.
    pub(super) fn capped(&self, latest: Timestamp) -> Self {
        let mut capped = Self::default();
        for (place, expires_at, sequences) in self.parts() {
            capped.add_at(place, sequences, expires_at.min(latest));
        }
        capped
    }

    /// Every entry after the one of `after`, in the order of shard and sequence.
    pub(super) fn after(&self, after: Option<TokenSerial>) -> impl Iterator<Item = (TokenSerial, Timestamp)> {
        let first = after.map_or(Place::FIRST, |after| Place::of(after).0);
        self.chunks.range(first..).flat_map(move |(place, chunk)| {
            let passed = after.map(Place::of).filter(|(passed, _)| passed == place);
            let rest = match passed {
                Some((_, low)) => chunk.all.range((Bound::Excluded(low), Bound::Unbounded)),
                None => chunk.all.iter(),
            };
            rest.filter_map(|low| Some((place.serial(low), chunk.expiry(low)?)))
        })
    }

    /// How many expire when.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (Timestamp, u64)> {
        self.parts()
            .map(|(_, expires_at, sequences)| (expires_at, sequences.len()))
    }

    /// All of them, by expiry and shard.
    pub(super) fn groups(&self) -> Vec<RevokedTokens> {
        let mut groups: BTreeMap<(Timestamp, u64), Sequences> = BTreeMap::new();
        for (place, expires_at, sequences) in self.parts() {
            let group = groups.entry((expires_at, place.shard)).or_default();
            group.insert(place.upper(), sequences);
        }
        let groups = groups.into_iter();
        groups
            .map(|((expires_at, shard), sequences)| RevokedTokens {
                expires_at,
                shard,
                sequences,
            })
            .collect()
    }

    /// The parts that are not as they were in `before`, each with what is in it now.
    pub(super) fn changes_since(&self, before: &Self) -> Vec<(ChunkName, Sequences)> {
        let mut changes = Vec::new();
        let none = Chunk::default();
        let places: BTreeSet<&Place> = self.chunks.keys().chain(before.chunks.keys()).collect();
        for place in places {
            let (now, then) = (self.chunks.get(place), before.chunks.get(place));
            if now.zip(then).is_some_and(|(now, then)| Arc::ptr_eq(now, then)) {
                continue;
            }
            let now = now.map_or(&none, Arc::as_ref);
            let then = then.map_or(&none, Arc::as_ref);
            let expiries: BTreeSet<&Timestamp> = now.by_expiry.keys().chain(then.by_expiry.keys()).collect();
            for expires_at in expiries {
                let held = now.by_expiry.get(expires_at);
                if held != then.by_expiry.get(expires_at) {
                    let mut sequences = Sequences::default();
                    if let Some(held) = held {
                        sequences.insert(place.upper(), held);
                    }
                    changes.push((place.name(*expires_at), sequences));
                }
            }
        }
        changes
    }

    fn parts(&self) -> impl Iterator<Item = (Place, Timestamp, &RoaringBitmap)> {
        self.chunks.iter().flat_map(|(place, chunk)| {
            let held = chunk.by_expiry.iter();
            held.map(|(expires_at, sequences)| (*place, *expires_at, sequences))
        })
    }
}

#[cfg(test)]
impl TokenSet {
    /// How many chunks take no memory of their own.
    pub(super) fn chunks_shared_with(&self, other: &Self) -> usize {
        let shared = |(place, chunk): (&Place, &Arc<Chunk>)| {
            other
                .chunks
                .get(place)
                .is_some_and(|theirs| Arc::ptr_eq(theirs, chunk))
        };
        self.chunks.iter().filter(|entry| shared(*entry)).count()
    }
}
