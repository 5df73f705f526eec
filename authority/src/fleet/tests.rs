use super::*;

fn fleet() -> Fleet {
    let limits = FleetLimits {
        streams_per_identity: 2,
        streams: 3,
    };
    Fleet::new(limits, Arc::default())
}

fn all(fleet: &Fleet) -> Vec<Verifier> {
    fleet.page(0, None, usize::MAX).verifiers
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org/{name}")).expect("valid")
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn join(fleet: &Fleet, name: &str, instance: &str) -> Result<Membership, Failure> {
    fleet.join(&id(name), instance.to_owned(), "1".to_owned(), at(10))
}

/// G46: one identity cannot take all places, and the places are bounded.
#[test]
fn streams_are_limited_for_one_identity_and_for_all() {
    let fleet = fleet();
    let first = join(&fleet, "a", "1").expect("joins");
    let _second = join(&fleet, "a", "2").expect("joins");
    assert_eq!(join(&fleet, "a", "3").err(), Some(Failure::TooManyStreams));
    let _other = join(&fleet, "b", "1").expect("joins");
    assert_eq!(join(&fleet, "c", "1").err(), Some(Failure::LimitReached));
    drop(first);
    let _third = join(&fleet, "c", "1").expect("joins");
}

#[test]
fn whoever_left_is_remembered_until_it_comes_back() {
    let fleet = fleet();
    let first = join(&fleet, "a", "1").expect("joins");
    first.acknowledged(7, true, at(11));
    drop(first);
    let list = all(&fleet);
    assert_eq!(list.len(), 1);
    assert!(!list[0].connected && list[0].acknowledged == 7 && list[0].durable);
    let _again = join(&fleet, "a", "2").expect("joins");
    let list = all(&fleet);
    assert_eq!((list.len(), list[0].instance_id.as_str()), (1, "2"));
}

#[test]
fn those_gone_are_forgotten_in_the_end() {
    let fleet = fleet();
    for n in 0..100 {
        drop(join(&fleet, &format!("n{n}"), "1").expect("joins"));
    }
    assert!(all(&fleet).len() <= 6);
}

#[test]
fn those_who_lack_an_epoch_are_found_connected_or_not() {
    let fleet = fleet();
    let there = join(&fleet, "a", "1").expect("joins");
    there.acknowledged(5, true, at(11));
    let _behind = join(&fleet, "b", "1").expect("joins");
    let away = join(&fleet, "c", "1").expect("joins");
    away.acknowledged(4, true, at(11));
    drop(away);
    let lacking = |epoch| {
        let page = fleet.page(epoch, None, usize::MAX);
        assert_eq!((page.total, page.next), (3, None));
        let found = page.verifiers.into_iter();
        found
            .map(|verifier| (verifier.spiffe_id, verifier.connected))
            .collect::<Vec<_>>()
    };
    assert_eq!(lacking(5), [(id("b"), true), (id("c"), false)]);
    assert_eq!(lacking(4), [(id("b"), true)]);
    assert_eq!(lacking(0).len(), 3);
}

/// I-41: however many are connected, what everybody who waits asks for with every acknowledgement is a few numbers.
#[test]
fn those_at_an_epoch_are_counted_by_their_epochs_and_not_one_by_one() {
    let fleet = Fleet::new(
        FleetLimits {
            streams_per_identity: 1,
            streams: 1000,
        },
        Arc::default(),
    );
    let mut members: Vec<_> = (0..100)
        .map(|n| join(&fleet, &format!("v{n}"), "1").expect("joins"))
        .collect();
    for (n, member) in members.iter().enumerate() {
        member.acknowledged(if n < 40 { 7 } else { 8 }, true, at(11));
    }
    assert_eq!(fleet.lock().connected, BTreeMap::from([(7, 40), (8, 60)]));
    let reached = |epoch| fleet.reach(epoch).acknowledged;
    assert_eq!(
        (reached(6), reached(7), reached(8), reached(9)),
        (100, 100, 60, 0)
    );
    members.truncate(10);
    assert_eq!(fleet.lock().connected, BTreeMap::from([(7, 10)]));
    assert_eq!((fleet.reach(8).connected, reached(8)), (10, 0));
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let fleet = fleet();
    let _members = ["a", "a", "b"].map(|name| join(&fleet, name, "1").expect("joins"));
    let first = fleet.page(0, None, 2);
    assert_eq!((first.verifiers.len(), first.total), (2, 3));
    let second = fleet.page(0, first.next, 2);
    assert_eq!((second.verifiers.len(), second.next), (1, None));
    assert_eq!(second.verifiers[0].spiffe_id, id("b"));
}

#[tokio::test]
async fn an_epoch_has_reached_all_when_all_who_are_connected_acknowledged_it() {
    let fleet = fleet();
    fleet.advance(5);
    let (a, b) = (join(&fleet, "a", "1").unwrap(), join(&fleet, "b", "1").unwrap());
    let waiting = {
        let fleet = fleet.clone();
        tokio::spawn(async move { fleet.reached_by_all(5).await })
    };
    a.acknowledged(5, true, at(11));
    assert_eq!(
        fleet.reach(5),
        Reach {
            connected: 2,
            acknowledged: 1
        }
    );
    b.acknowledged(6, false, at(11));
    waiting.await.expect("all are there");
    // An older acknowledgement that comes late takes nothing back.
    b.acknowledged(4, true, at(12));
    assert_eq!(fleet.reach(6).acknowledged, 1);
    fleet.advance(6);
    assert_eq!(fleet.reach(6).acknowledged, 1);
    drop(b);
    assert_eq!(
        fleet.reach(6),
        Reach {
            connected: 1,
            acknowledged: 0
        }
    );
}
