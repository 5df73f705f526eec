//! SHA-256 digests of tokens that were found authentic: 32 bytes for each, and a tenth more to find and to keep their group.
//!
//! ```text
//! digest --> part (one lock each) --> group of 8, the latest first --> there, or not
//! ```
//!
//! A digest has one group where it can be. When that is full, the one that was not seen for longest makes room. Digests spread evenly,
//! so few groups are full before the whole is: of 20,000 tokens in room for 32,768, two of a hundred do not find room.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use countersign_core::ports::Sha256 as _;
use countersign_crypto::AwsLc;

/// The SHA-256 digest of a whole token. Nobody can make two tokens that have the same (T90).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; LENGTH]);

const LENGTH: usize = 32;

impl Digest {
    /// The digest of `token`.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(AwsLc.sha256(&[token]))
    }

    /// A number as good as any.
    fn number(&self) -> usize {
        let [a, b, c, d, ..] = self.0;
        usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// Digests among which one is looked for.
const GROUP: usize = 8;

/// Where no digest is, there are zeros: nobody can make a token that has this digest either.
type Group = [[u8; LENGTH]; GROUP];

/// Groups by number. One takes no memory before it has a digest.
type Groups = Vec<Option<Box<Group>>>;

/// Locks: more than there usually are cores.
const PARTS: usize = 16;

/// A bounded set of digests.
pub(super) struct Digests([Mutex<Groups>; PARTS]);

impl Digests {
    /// A set of up to `bytes` of digests.
    pub(super) fn new(bytes: usize) -> Self {
        let groups = bytes / PARTS / size_of::<Group>();
        Self(std::array::from_fn(|_| Mutex::new(vec![None; groups])))
    }

    /// Whether `digest` is in it. If so, it stays for longer.
    pub(super) fn contain(&self, digest: &Digest) -> bool {
        let found = self.at_group(digest, |group| {
            let group = group.as_deref_mut()?;
            let place = place(group, digest)?;
            move_first(group, place);
            Some(())
        });
        found.flatten().is_some()
    }

    /// Puts `digest` in.
    pub(super) fn insert(&self, digest: &Digest) {
        let _put = self.at_group(digest, |group| {
            let group = group.get_or_insert_with(|| Box::new([[0; LENGTH]; GROUP]));
            move_first(group, place(group, digest).unwrap_or(GROUP - 1));
            if let Some(first) = group.first_mut() {
                *first = digest.0;
            }
        });
    }

    /// What `act` gives on the group of `digest`. Nothing where there is no room at all.
    fn at_group<T>(&self, digest: &Digest, act: impl FnOnce(&mut Option<Box<Group>>) -> T) -> Option<T> {
        let number = digest.number();
        let part = self.0.get(number % PARTS)?;
        let mut groups = part.lock().unwrap_or_else(PoisonError::into_inner);
        let index = (number / PARTS).checked_rem(groups.len())?;
        groups.get_mut(index).map(act)
    }
}

fn place(group: &Group, digest: &Digest) -> Option<usize> {
    group.iter().position(|held| *held == digest.0)
}

fn move_first(group: &mut Group, place: usize) {
    if let Some(until) = group.get_mut(..=place) {
        until.rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    fn digests(count: u32) -> Vec<Digest> {
        (0..count)
            .map(|number| Digest::of(&number.to_be_bytes()))
            .collect()
    }

    fn held(set: &Digests, digests: &[Digest]) -> usize {
        digests.iter().filter(|digest| set.contain(digest)).count()
    }

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        let set = Digests::new(MEBIBYTE);
        let all = digests(2_000);
        let (put, others) = all.split_at(1_000);
        for digest in put.iter().chain(put) {
            set.insert(digest);
        }
        assert_eq!((held(&set, put), held(&set, others)), (1_000, 0));
    }

    /// Half of each is a quarter of what there is by default.
    #[test]
    fn a_mebibyte_is_enough_for_twenty_thousand() {
        let set = Digests::new(MEBIBYTE);
        let all = digests(20_000);
        for digest in &all {
            set.insert(digest);
        }
        let held_of = |count: usize| held(&set, &all[..count]);
        assert!(held_of(20_000) > 19_400, "{}", held_of(20_000));
    }

    #[test]
    fn the_one_not_seen_for_longest_makes_room() {
        // One group in each part.
        let set = Digests::new(PARTS * size_of::<Group>());
        let of_one_group = |digest: &Digest| digest.number().is_multiple_of(PARTS);
        let all: Vec<Digest> = digests(1_000).into_iter().filter(of_one_group).collect();
        let (eight, more) = all.split_at(GROUP);
        for digest in eight {
            set.insert(digest);
        }
        // The first is seen again, so the second is the oldest.
        assert!(set.contain(&eight[0]));
        set.insert(&more[0]);
        assert!(!set.contain(&eight[1]));
        assert_eq!(held(&set, eight), GROUP - 1);
        // What is put in again takes no second place.
        set.insert(&more[0]);
        assert_eq!(held(&set, eight), GROUP - 1);
    }

    #[test]
    fn without_room_nothing_is_held() {
        let set = Digests::new(PARTS * size_of::<Group>() - 1);
        let one = Digest::of(b"one");
        set.insert(&one);
        assert!(!set.contain(&one));
    }

    #[test]
    fn nothing_of_a_token_is_shown() {
        assert_eq!(format!("{:?}", Digest::of(b"token")), "Digest(..)");
    }
}
