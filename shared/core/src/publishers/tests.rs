//! The rules one by one, and then all of them over random histories with a disk.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::test_util::{ToyHash, jwk};

/// A link as it was signed: by whom, and what it says.
#[derive(Clone, Debug)]
struct Signed {
    signer: u8,
    link: Link<u8>,
}

type Machine = Publishers<u8, Signed>;

fn issuer() -> Issuer {
    Issuer::parse("https://auth.example.org").expect("valid")
}

fn name(key: u8) -> KeyId {
    jwk(key).key_id().clone()
}

fn keys(names: &[u8]) -> Keys<u8> {
    names.iter().map(|key| (name(*key), *key)).collect()
}

/// The link to `generation` with the keys `names`, after `previous`, signed by `signer`.
fn signed(signer: u8, generation: Generation, names: &[u8], previous: Option<&Signed>) -> Signed {
    let previous = previous.map(|previous| previous.link.digest);
    let digest = crate::ports::Sha256::sha256(
        &ToyHash,
        &[
            &generation.to_be_bytes(),
            names,
            previous.as_ref().map_or(&[][..], |digest| digest),
        ],
    );
    Signed {
        signer,
        link: Link {
            issuer: issuer(),
            generation,
            previous,
            digest,
            keys: keys(names),
        },
    }
}

fn id(signed: &Signed) -> LinkId {
    LinkId {
        generation: signed.link.generation,
        digest: signed.link.digest,
    }
}

fn pinned(names: &[u8]) -> Machine {
    Machine::new(issuer(), keys(names))
}

fn offer(machine: &mut Machine, signed: &Signed) -> Result<Offered, LinkRefused> {
    machine.offer(signed.link.clone(), name(signed.signer).as_str(), signed.clone())
}

fn believes(machine: &Machine, key: u8) -> bool {
    machine.key(name(key).as_str()).is_some()
}

/// Two rotations: from key 1 to key 2, and on to key 3.
fn two_rotations() -> [Signed; 4] {
    let second = signed(1, 2, &[1, 2], None);
    let third = signed(2, 3, &[2], Some(&second));
    let fourth = signed(2, 4, &[2, 3], Some(&third));
    let fifth = signed(3, 5, &[3], Some(&fourth));
    [second, third, fourth, fifth]
}

/// Whoever pins any set of an authority comes to the one in force, from wherever he starts.
#[test]
fn every_pin_leads_to_the_set_in_force() {
    for pin in [&[1][..], &[1, 2], &[2], &[2, 3], &[3]] {
        let mut machine = pinned(pin);
        for link in two_rotations() {
            let _skipped = offer(&mut machine, &link);
        }
        assert_eq!(machine.generation(), 5, "{pin:?}");
        assert!(believes(&machine, 3) && !believes(&machine, 1) && !believes(&machine, 2));
        assert!(machine.holds(5) && !machine.holds(6));
    }
    let mut stranger = pinned(&[9]);
    for link in two_rotations() {
        assert_eq!(offer(&mut stranger, &link), Err(LinkRefused::Signer));
    }
    assert!(believes(&stranger, 9) && stranger.holds(FIRST_GENERATION) && !stranger.holds(2));
}

/// K11: a key that was retired leads nowhere any more, whatever generation it claims.
#[test]
fn a_retired_key_signs_no_link() {
    let mut machine = pinned(&[1]);
    let [second, third, ..] = two_rotations();
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Adopted));
    assert_eq!(offer(&mut machine, &third), Ok(Offered::Adopted));
    for generation in [2, 3, 4, 100] {
        let forged = signed(1, generation, &[1, 9], Some(&second));
        assert_eq!(offer(&mut machine, &forged), Err(LinkRefused::Signer));
    }
    assert_eq!(machine.generation(), 3);
    assert!(!believes(&machine, 1) && !believes(&machine, 9));
}

/// K13: two sets for one generation, and one that follows on another link, are two authorities.
#[test]
fn a_twin_is_refused() {
    let mut machine = pinned(&[1]);
    let [second, third, ..] = two_rotations();
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Adopted));
    let twin = signed(1, 2, &[1, 9], None);
    assert_eq!(offer(&mut machine, &twin), Err(LinkRefused::Fork));
    let of_twin = signed(1, 3, &[9], Some(&twin));
    assert_eq!(offer(&mut machine, &of_twin), Err(LinkRefused::Fork));
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Repeated));
    assert_eq!(offer(&mut machine, &third), Ok(Offered::Adopted));
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Repeated));
}

/// K14: an impossible generation does not keep out those that follow.
#[test]
fn an_impossible_generation_is_refused() {
    let mut machine = pinned(&[1]);
    for generation in [MAX_STEP + 1, 1 << 63, u64::MAX] {
        let jump = signed(1, generation, &[1], None);
        assert_eq!(offer(&mut machine, &jump), Err(LinkRefused::Jump));
    }
    let [second, ..] = two_rotations();
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Adopted));
}

#[test]
fn what_is_no_link_of_this_authority_is_refused() {
    let mut machine = pinned(&[1]);
    for generation in [0, 1] {
        let early = signed(1, generation, &[9], None);
        assert_eq!(offer(&mut machine, &early), Err(LinkRefused::Malformed));
    }
    let empty = signed(1, 2, &[], None);
    assert_eq!(offer(&mut machine, &empty), Err(LinkRefused::Malformed));
    let mut of_another = signed(1, 2, &[9], None);
    of_another.link.issuer = Issuer::parse("https://other.example.org").expect("valid");
    assert_eq!(offer(&mut machine, &of_another), Err(LinkRefused::Issuer));
    assert_eq!(machine.generation(), 0);
}

/// K12: with the same pin, nothing is believed below what was durable once, but the links that lead back there.
#[test]
fn below_the_highest_that_was_durable_only_links_are_believed() {
    let mut machine = pinned(&[1]);
    let [second, third, ..] = two_rotations();
    machine.require(id(&third));
    assert!(machine.lacks_links() && !believes(&machine, 1));
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Adopted));
    assert!(!believes(&machine, 1) && !believes(&machine, 2));
    assert_eq!(offer(&mut machine, &third), Ok(Offered::Adopted));
    assert!(believes(&machine, 2) && !machine.lacks_links());
}

/// K12, D17: with nothing left but what the floor says, a key that was dropped leads nowhere: neither past the last link that
/// was here, nor beside it; and what it led to keeps nobody out.
#[test]
fn a_dropped_key_leads_nowhere_where_only_the_floor_is_left() {
    let [second, third, fourth, fifth] = two_rotations();
    for generation in [2, 3, 4, 5, 6, 100] {
        let mut machine = pinned(&[1]);
        machine.require(id(&fifth));
        let forged = signed(1, generation, &[9], None);
        let past = signed(9, generation.max(5) + 1, &[9], Some(&forged));
        let before = if generation < 5 {
            Ok(Offered::Adopted)
        } else {
            Err(LinkRefused::Fork)
        };
        assert_eq!(offer(&mut machine, &forged), before);
        assert!(offer(&mut machine, &past).is_err());
        assert!(!believes(&machine, 1) && !believes(&machine, 9), "{generation}");
        assert!(machine.forget_astray());
        for link in [&second, &third, &fourth, &fifth] {
            assert_eq!(offer(&mut machine, link), Ok(Offered::Adopted));
        }
        assert!(!machine.forget_astray() && machine.last_link() == Some(id(&fifth)));
        assert!(believes(&machine, 3) && !believes(&machine, 1));
    }
}

#[test]
fn what_is_unsaved_says_whether_the_log_would_still_verify() {
    let mut machine = pinned(&[1]);
    let [second, third, ..] = two_rotations();
    assert!(machine.unsaved().is_none());
    assert_eq!(offer(&mut machine, &second), Ok(Offered::Adopted));
    assert!(!machine.unsaved().expect("unsaved").drops_keys);
    machine.saved(2);
    assert!(machine.unsaved().is_none());
    assert_eq!(offer(&mut machine, &third), Ok(Offered::Adopted));
    let unsaved = machine.unsaved().expect("unsaved");
    assert!(unsaved.drops_keys && unsaved.links.len() == 2 && unsaved.last == id(&third));
    machine.saved(3);
    assert!(machine.unsaved().is_none() && !machine.drops_keys());
}

#[test]
fn no_more_links_are_held_than_there_is_room_for() {
    let mut machine = pinned(&[1]);
    let mut last: Option<Signed> = None;
    for generation in (2..).take(MAX_HELD) {
        let link = signed(1, generation, &[1], last.as_ref());
        assert_eq!(offer(&mut machine, &link), Ok(Offered::Adopted));
        last = Some(link);
    }
    let next = signed(1, machine.generation() + 1, &[1], last.as_ref());
    assert_eq!(offer(&mut machine, &next), Err(LinkRefused::TooMany));
}

/// What happens to one verifier and its authority.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// The authority adds a key, lets it sign, or drops the one before: whichever comes next.
    Rotates,
    /// A stream begins: the links that the verifier lacks on disk, and a snapshot.
    Connects,
    /// What was published since comes, as a link and a delta.
    Hears,
    /// The same, and the disk does not take it.
    HearsInVain,
    /// The authority sends a new snapshot.
    Renews,
    /// The verifier starts again from its disk.
    Restarts,
    /// Somebody with all keys that were ever retired, and one of his own, signs a link of this generation.
    Forges(Generation),
    /// Nothing is left on disk but the floor, and the same somebody is the first to offer links at the start after that.
    Loses(Generation),
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Rotates),
        2 => Just(Happening::Connects),
        4 => Just(Happening::Hears),
        1 => Just(Happening::HearsInVain),
        2 => Just(Happening::Renews),
        2 => Just(Happening::Restarts),
        1 => (0..20_u64).prop_map(Happening::Forges),
        1 => (0..20_u64).prop_map(Happening::Loses),
    ]
}

/// The authority: every set that it had, and who signs.
#[derive(Debug)]
struct Authority {
    sets: Vec<Vec<u8>>,
    links: Vec<Signed>,
    signs: u8,
}

impl Authority {
    fn generation(&self) -> Generation {
        u64::try_from(self.sets.len()).expect("fits")
    }

    fn rotate(&mut self) {
        let set = self.sets.last().expect("a set").clone();
        match set.as_slice() {
            [only] => self.link(vec![*only, only + 1]),
            [old, new] if self.signs == *old => self.signs = *new,
            [_, new] => self.link(vec![*new]),
            other => panic!("no such set: {other:?}"),
        }
    }

    fn link(&mut self, set: Vec<u8>) {
        let generation = self.generation() + 1;
        self.links
            .push(signed(self.signs, generation, &set, self.links.last()));
        self.sets.push(set);
    }
}

/// The disk of a verifier: who signed the records of the log, the links, and the floor outside of both.
#[derive(Debug, Default)]
struct Disk {
    log: Vec<u8>,
    links: Vec<Signed>,
    floor: Option<LinkId>,
}

#[derive(Debug)]
struct Verifier {
    pin: Vec<u8>,
    machine: Machine,
    disk: Disk,
    log_is_whole: bool,
}

impl Verifier {
    /// Starts from the disk. Everything on it has to verify.
    fn restart(&mut self) {
        self.machine = pinned(&self.pin);
        if let Some(floor) = self.disk.floor {
            self.machine.require(floor);
        }
        for link in &self.disk.links {
            let adopted = offer(&mut self.machine, link);
            assert_eq!(adopted, Ok(Offered::Adopted), "a link on disk");
        }
        assert!(!self.machine.lacks_links(), "the floor is above the links");
        for signer in &self.disk.log {
            assert!(believes(&self.machine, *signer), "a record would not verify");
        }
        self.machine.saved(self.machine.generation());
        self.log_is_whole = true;
    }

    /// Starts with the floor and nothing else. What keys that were dropped sign for `generation` comes first.
    fn lose(&mut self, authority: &Authority, generation: Generation) {
        self.machine = pinned(&self.pin);
        (self.disk.log, self.disk.links) = (Vec::new(), Vec::new());
        self.log_is_whole = false;
        let Some(floor) = self.disk.floor else { return };
        self.machine.require(floor);
        let held = usize::try_from(floor.generation).expect("fits");
        let current = &authority.sets[held - 1];
        for key in (1..20).filter(|key| !current.contains(key)) {
            let forged = signed(key, generation, &[key, 69], None);
            let _refused_or_astray = offer(&mut self.machine, &forged);
            assert!(
                (0..70).all(|key| !believes(&self.machine, key)),
                "nothing is believed"
            );
        }
        assert!(self.machine.forget_astray());
        self.hear_links(authority);
    }

    fn hear_links(&mut self, authority: &Authority) {
        let known = self.machine.durable().max(FIRST_GENERATION);
        for link in authority
            .links
            .iter()
            .filter(|signed| signed.link.generation > known)
        {
            let _repeated_or_skipped = offer(&mut self.machine, link);
        }
    }

    /// A record that `signer` signed comes and is saved, if the disk works.
    fn hear(&mut self, signer: u8, replaces_log: bool, disk_works: bool) {
        assert!(
            believes(&self.machine, signer),
            "what the authority signs is believed"
        );
        let unsaved = self.machine.unsaved();
        let drops_keys = unsaved.as_ref().is_some_and(|unsaved| unsaved.drops_keys);
        self.log_is_whole &= disk_works && !drops_keys;
        if !disk_works || (!replaces_log && !self.log_is_whole) {
            return;
        }
        if replaces_log {
            self.disk.log.clear();
            self.log_is_whole = true;
        }
        self.disk.log.push(signer);
        if let Some(unsaved) = unsaved {
            self.disk.links = unsaved.links;
            self.machine.saved(unsaved.last.generation);
            self.disk.floor = Some(unsaved.last);
        }
    }
}

proptest! {
    /// K11, K12: whatever happens in whatever order, what is believed is exactly one of the authority's sets, it never goes
    /// back, and what is on disk verifies at the next start.
    #[test]
    fn the_set_in_force_is_one_of_the_authority_and_never_an_earlier_one(
        history in vec(happenings(), 1..120),
    ) {
        let mut authority = Authority { sets: vec![vec![1]], links: Vec::new(), signs: 1 };
        let mut verifier = Verifier {
            pin: vec![1],
            machine: pinned(&[1]),
            disk: Disk::default(),
            log_is_whole: false,
        };
        let mut durable = 0;
        for happening in history {
            let before = verifier.machine.generation();
            match happening {
                Happening::Rotates => authority.rotate(),
                Happening::Connects => {
                    verifier.hear_links(&authority);
                    verifier.hear(authority.signs, true, true);
                }
                Happening::Hears | Happening::HearsInVain => {
                    verifier.hear_links(&authority);
                    verifier.hear(authority.signs, false, matches!(happening, Happening::Hears));
                }
                Happening::Renews => {
                    verifier.hear_links(&authority);
                    verifier.hear(authority.signs, true, true);
                }
                Happening::Restarts if verifier.disk.log.is_empty() => verifier.lose(&authority, 0),
                Happening::Restarts => verifier.restart(),
                Happening::Loses(generation) => verifier.lose(&authority, generation),
                Happening::Forges(generation) => {
                    let current = authority.sets.last().expect("a set");
                    let held = verifier.machine.generation().max(1);
                    let set = &authority.sets[usize::try_from(held).expect("fits") - 1];
                    let retired = (1..20).filter(|key| !current.contains(key) && !set.contains(key));
                    for key in retired {
                        let forged = signed(key, generation, &[key, 69], authority.links.last());
                        prop_assert_eq!(offer(&mut verifier.machine, &forged), Err(LinkRefused::Signer));
                    }
                }
            }
            let held = verifier.machine.generation();
            let starts = matches!(happening, Happening::Restarts | Happening::Loses(_));
            let floor = if starts { durable } else { before };
            prop_assert!(held >= floor, "went back from {floor} to {held}");
            durable = durable.max(verifier.machine.durable());
            let set = &authority.sets[usize::try_from(held.max(1)).expect("fits") - 1];
            for key in 0..70 {
                let believed = believes(&verifier.machine, key);
                prop_assert_eq!(believed, set.contains(&key), "key {} in generation {}", key, held);
            }
        }
    }
}
