//! Sets of sequence numbers, compressed (Roaring bitmaps).

use roaring::{RoaringBitmap, RoaringTreemap};

/// A set of sequence numbers of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences(RoaringTreemap);

impl Sequences {
    /// How many there are. Nothing is expanded for it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter()
    }

    /// Cut into pieces of 2^`bits` sequences: the number of each, and the lower halves of what is in it.
    pub(super) fn pieces(&self, bits: u32) -> impl Iterator<Item = (u64, RoaringBitmap)> {
        self.0.bitmaps().flat_map(move |(upper, lows)| {
            let mut next = lows.min();
            std::iter::from_fn(move || {
                let first = next? >> bits << bits;
                let last = first | ((1 << bits) - 1);
                let mut piece = RoaringBitmap::new();
                piece.insert_range(first..=last);
                piece &= lows;
                let behind = last.checked_add(1);
                next = behind.and_then(|behind| lows.range(behind..).next());
                Some(((u64::from(upper) << 32 | u64::from(first)) >> bits, piece))
            })
        })
    }

    /// Puts in those with this upper half and these lower ones.
    pub(super) fn insert(&mut self, upper: u32, lows: &RoaringBitmap) {
        self.0 |= RoaringTreemap::from_bitmaps([(upper, lows.clone())]);
    }

    /// In the portable format of 64-bit Roaring bitmaps (RoaringFormatSpec, "extension for 64-bit implementations").
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.serialized_size());
        // A vector takes everything.
        let written = self.0.serialize_into(&mut bytes);
        debug_assert!(written.is_ok());
        bytes
    }

    /// Reads what [`Sequences::write`] wrote. Nothing for bytes that are anything else, also those that say the same in
    /// another way or have others after them. A short text can stand for a very large set; reading takes memory for the
    /// text only, so look at [`Sequences::len`] before going through it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let sequences = RoaringTreemap::deserialize_from(bytes).ok().map(Self)?;
        (sequences.write() == bytes).then_some(sequences)
    }
}

impl Extend<u64> for Sequences {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, sequences: I) {
        self.0.extend(sequences);
    }
}

impl FromIterator<u64> for Sequences {
    fn from_iter<I: IntoIterator<Item = u64>>(sequences: I) -> Self {
        Self(sequences.into_iter().collect())
    }
}
