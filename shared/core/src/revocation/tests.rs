//! Revocations at their boundaries. Against a model: `model`.

mod model;
mod prolonging;

use super::*;
use crate::test_util::{NOW, after};

fn token(name: &str) -> RevokedSubject {
    RevokedSubject::Token(TokenId::parse(name).expect("a token id"))
}

fn client(name: &str) -> RevokedSubject {
    RevokedSubject::Client(ClientId::parse(name).expect("a client id"))
}

fn audience(name: &str) -> RevokedSubject {
    RevokedSubject::Audience(Audience::parse(name).expect("an audience"))
}

fn certificate(byte: u8) -> RevokedSubject {
    RevokedSubject::Certificate(CertificateThumbprint::new([byte; 32]))
}

fn subject(text: &str) -> RevokedSubject {
    RevokedSubject::Subject(Subject::parse(text).expect("a subject"))
}

fn entry(subject: RevokedSubject, issued_before: i64, expires_at: i64) -> Revocation {
    Revocation {
        subject,
        issued_before: after(issued_before),
        expires_at: after(expires_at),
    }
}

fn list(entries: &[Revocation]) -> RevocationList {
    entries.iter().cloned().collect()
}

fn claims(client_id: &str, token_id: &str, issued: i64) -> Claims {
    let payload = format!(
        r#"{{"iss":"https://a","sub":"client:td/{client_id}","aud":"b","client_id":"{client_id}",
        "exp":{},"iat":{},"jti":"{token_id}"}}"#,
        after(issued + 600),
        after(issued),
    );
    Claims::read(payload.as_bytes()).expect("claims")
}

/// T87: a token of the very second is revoked too; one of the next is not.
#[test]
fn a_watermark_is_inclusive() {
    let list = list(&[entry(client("billing"), 0, 600)]);
    assert_eq!(
        list.check(&claims("billing", "a.1", -1)),
        Err(Rejection::ClientRevoked)
    );
    assert_eq!(
        list.check(&claims("billing", "a.1", 0)),
        Err(Rejection::ClientRevoked)
    );
    assert_eq!(list.check(&claims("billing", "a.1", 1)), Ok(()));
    assert_eq!(list.check(&claims("orders", "a.1", 0)), Ok(()));
}

#[test]
fn a_token_is_revoked_by_its_whole_name() {
    let list = list(&[entry(token("a.10"), 0, 600)]);
    assert_eq!(
        list.check(&claims("billing", "a.10", 0)),
        Err(Rejection::TokenRevoked)
    );
    assert_eq!(
        list.check(&claims("billing", "a.10", 5000)),
        Err(Rejection::TokenRevoked)
    );
    for other in ["a.1", "a.100", "A.10", "10", "0a.10", "a.010", "a.10."] {
        assert_eq!(list.check(&claims("billing", other, 0)), Ok(()), "{other}");
    }
}

#[test]
fn everything_means_every_client() {
    let list = list(&[entry(RevokedSubject::Everything, 0, 600)]);
    for name in ["billing", "orders"] {
        assert_eq!(list.check(&claims(name, "a.1", 0)), Err(Rejection::TokenRevoked));
        assert_eq!(list.check(&claims(name, "a.1", 1)), Ok(()));
    }
}

/// I-11: an entry is kept through its last second; that of a numbered token is the end of its five minutes.
#[test]
fn pruning_drops_what_expired_before() {
    // A multiple of the step.
    assert_eq!(NOW.as_seconds() % EXPIRY_STEP.as_secs(), 0);
    let list = list(&[
        entry(client("a"), 0, -1),
        entry(client("b"), 0, 0),
        entry(client("c"), 0, 1),
        entry(token("a.1"), 0, 0),
        entry(token("a.2"), 0, 1),
    ]);
    let kept = |time: i64| list.pruned(after(time)).len();
    assert_eq!((kept(-1), kept(0), kept(1), kept(2)), (5, 4, 2, 1));
    assert_eq!((kept(300), kept(301)), (1, 0));
    assert_eq!(list.len(), 5, "the list itself is as it was");
}

/// I-11: rounding up never shortens an entry's life, and by less than the step.
#[test]
fn the_end_of_a_numbered_token_is_rounded_up() {
    for (given, held) in [
        (-299, 0),
        (-300, -300),
        (0, 0),
        (1, 300),
        (299, 300),
        (300, 300),
        (301, 600),
    ] {
        let list = list(&[entry(token("a.1"), 0, given)]);
        let found = list.find(&token("a.1")).map(|entry| entry.expires_at);
        assert_eq!(found, Some(after(held)), "{given}");
        assert!(list.covers(&entry(token("a.1"), 0, held)));
        assert!(!list.covers(&entry(token("a.1"), 0, held + 1)));
    }
    let other = list(&[entry(token("of-another-form"), 0, 1)]);
    let found = other
        .find(&token("of-another-form"))
        .map(|entry| entry.expires_at);
    assert_eq!(found, Some(after(1)), "only numbers are packed");
}

/// The sum is taken back exactly: what is left is what would have come of the rest alone.
#[test]
fn an_empty_list_has_the_empty_digest_again() {
    let many: Vec<_> = (0..300)
        .map(|n| entry(token(&format!("a.{n:x}")), 0, n))
        .collect();
    let pruned = list(&many).pruned(after(1000));
    assert!(pruned.is_empty());
    assert_eq!(pruned.digest(), RevocationList::default().digest());
    let mixed: Vec<_> = (0..300).map(|n| entry(client(&format!("c{n}")), 0, n)).collect();
    let half = list(&mixed).pruned(after(150));
    assert_eq!(half.digest(), list(&mixed[150..]).digest());
}

#[test]
fn the_strictest_of_two_entries_holds() {
    for entries in [
        [
            entry(client("billing"), 0, 600),
            entry(client("billing"), 10, 500),
        ],
        [
            entry(client("billing"), 10, 500),
            entry(client("billing"), 0, 600),
        ],
    ] {
        let list = list(&entries);
        assert_eq!(
            list.find(&client("billing")),
            Some(entry(client("billing"), 10, 600))
        );
        assert_eq!(list.len(), 1);
    }
}

/// Each kind means exactly the tokens that carry its name, up to and with the second of the watermark.
#[test]
fn every_kind_means_its_own_tokens_only() {
    let mut claims = claims("billing", "a.1", 0);
    claims.confirmation = Confirmation::Certificate(CertificateThumbprint::new([1; 32]));
    claims.audiences.push("c".to_owned());
    let check = |revoked: RevokedSubject, at: i64| list(&[entry(revoked, at, 600)]).check(&claims);
    for revoked in [
        subject("client:td/billing"),
        audience("b"),
        audience("c"),
        certificate(1),
    ] {
        assert_eq!(
            check(revoked.clone(), 0),
            Err(Rejection::TokenRevoked),
            "{revoked:?}"
        );
        assert_eq!(check(revoked.clone(), -1), Ok(()), "{revoked:?}");
    }
    for other in [
        subject("client:td/orders"),
        subject("client:other/billing"),
        audience("d"),
        certificate(2),
    ] {
        assert_eq!(check(other.clone(), 0), Ok(()), "{other:?}");
    }
    let unbound = self::claims("billing", "a.1", 0);
    let list = list(&[entry(certificate(1), 0, 600)]);
    assert_eq!(list.check(&unbound), Ok(()));
    assert!(list.holds_certificate(&CertificateThumbprint::new([1; 32])));
    assert!(!list.holds_certificate(&CertificateThumbprint::new([2; 32])));
}

/// A set of sequences is read in one spelling only, and never from more or less than its bytes (K22).
#[test]
fn sequences_are_read_from_exactly_their_bytes() {
    let sequences = Sequences::from_iter([0, 1, 5, 1 << 20, (1 << 32) + 7, u64::MAX]);
    let bytes = sequences.write();
    assert_eq!(Sequences::read(&bytes), Some(sequences.clone()));
    for end in 0..bytes.len() {
        assert_eq!(Sequences::read(&bytes[..end]), None, "cut at {end}");
    }
    assert_eq!(Sequences::read(&[&bytes[..], &[0]].concat()), None);
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        assert_ne!(Sequences::read(&damaged), Some(sequences.clone()), "byte {index}");
    }
    assert_eq!(Sequences::read(&[]), None);
    assert_eq!(Sequences::read(&[0; 8]), Some(Sequences::default()));
}

/// K09: a few bytes that stand for four billion entries are counted without going through them.
#[test]
fn a_bomb_is_counted_and_not_expanded() {
    let mut bomb = roaring::RoaringBitmap::from_iter(0..=u32::MAX >> 16);
    bomb.insert_range(..);
    bomb.optimize();
    let mut bytes = [1_u64.to_le_bytes().as_slice(), &[0; 4]].concat();
    bomb.serialize_into(&mut bytes).expect("a vector");
    assert!(bytes.len() < 1_000_000);
    let sequences = Sequences::read(&bytes).expect("well-formed");
    assert_eq!(sequences.len(), 1 << 32);
}

/// I-09: of a million names that are not in the list, none is refused; of those in it, each one.
#[test]
fn no_token_is_refused_for_another_one() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) % below
    };
    let revoked: std::collections::HashSet<u64> = (0..50_000).map(|_| random(10_000_000)).collect();
    let mut list = RevocationList::default();
    list.add_tokens(&RevokedTokens {
        expires_at: after(600),
        shard: 0xa,
        sequences: revoked.iter().copied().collect(),
    });
    assert_eq!(list.len(), revoked.len());
    let mut claims = claims("billing", "a.1", 0);
    for _ in 0..1_000_000 {
        let serial = TokenSerial {
            shard: 9 + random(3),
            sequence: random(10_000_000),
        };
        claims.token_id = serial.into();
        let refused = list.check(&claims).is_err();
        assert_eq!(
            refused,
            serial.shard == 0xa && revoked.contains(&serial.sequence),
            "{serial}"
        );
    }
    for sequence in revoked {
        claims.token_id = TokenSerial { shard: 0xa, sequence }.into();
        assert!(list.check(&claims).is_err());
    }
}

/// Holders read a token's entry from the wire without a watermark, so none is kept.
#[test]
fn a_single_token_has_no_watermark() {
    let with = list(&[entry(token("a.1"), 7, 600)]);
    let without = list(&[Revocation {
        issued_before: Timestamp::default(),
        ..entry(token("a.1"), 0, 600)
    }]);
    assert_eq!(with.digest(), without.digest());
    assert_eq!(with.find(&token("a.1")), without.find(&token("a.1")));
}

#[test]
fn the_digest_covers_every_part_of_an_entry() {
    let base = list(&[entry(client("a"), 0, 600)]).digest();
    for other in [
        entry(client("b"), 0, 600),
        entry(token("a"), 0, 600),
        entry(RevokedSubject::Everything, 0, 600),
        entry(client("a"), 1, 600),
        entry(client("a"), 0, 601),
        entry(audience("a"), 0, 600),
    ] {
        assert_ne!(list(&[other]).digest(), base);
    }
    assert_eq!(NOW, after(0));
}
