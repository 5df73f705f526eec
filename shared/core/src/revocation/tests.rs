//! Revocations at their boundaries.

use super::*;
use crate::names::{ClientId, TokenId};
use crate::test_util::{NOW, ToyHash, after};

fn token(name: &str) -> RevokedSubject {
    RevokedSubject::Token(TokenId::parse(name).expect("a token id"))
}

fn client(name: &str) -> RevokedSubject {
    RevokedSubject::Client(ClientId::parse(name).expect("a client id"))
}

fn entry(subject: RevokedSubject, issued_before: i64, expires_at: i64) -> Revocation {
    Revocation {
        subject,
        issued_before: after(issued_before),
        expires_at: after(expires_at),
    }
}

fn list(entries: &[Revocation]) -> RevocationList {
    entries.iter().fold(RevocationList::default(), |list, entry| {
        list.with(entry.clone(), &ToyHash)
    })
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
    for other in ["a.1", "a.100", "A.10", "10"] {
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

/// I-11: an entry is kept through its last second.
#[test]
fn pruning_drops_what_expired_before() {
    let list = list(&[
        entry(token("a.1"), 0, -1),
        entry(token("a.2"), 0, 0),
        entry(token("a.3"), 0, 1),
    ]);
    let kept = |time: i64| list.pruned(after(time), &ToyHash).len();
    assert_eq!((kept(-1), kept(0), kept(1), kept(2)), (3, 2, 1, 0));
    assert_eq!(list.len(), 3, "the list itself is as it was");
}

/// The sum is taken back exactly: what is left is what would have come of the rest alone.
#[test]
fn an_empty_list_has_the_empty_digest_again() {
    let many: Vec<_> = (0..300).map(|n| entry(token(&format!("a.{n}")), 0, n)).collect();
    let pruned = list(&many).pruned(after(1000), &ToyHash);
    assert!(pruned.is_empty());
    assert_eq!(pruned.digest(), RevocationList::default().digest());
    let half = list(&many).pruned(after(150), &ToyHash);
    assert_eq!(half.digest(), list(&many[150..]).digest());
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
            Some(&entry(client("billing"), 10, 600))
        );
        assert_eq!(list.len(), 1);
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
    ] {
        assert_ne!(list(&[other]).digest(), base);
    }
    assert_eq!(NOW, after(0));
}
