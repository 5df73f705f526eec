//! Where calls look for a connection, and what there is room for.

use std::sync::atomic::Ordering;

use tokio::time::timeout;

use super::connection::{GIVEN_UP_FOR, MOST_ENDED, Share, UNANSWERED, UNREAD};
use super::*;

fn upstream(connections: usize) -> Upstream {
    let nowhere = UpstreamAddress::Tcp(Vec::new());
    Upstream::dialling(Dial::Plaintext(nowhere), connections)
}

fn seats(upstream: &Upstream, lane: usize, small: Option<u32>) -> Vec<Seat> {
    let places = upstream.places(Lane(lane), small);
    places.map(|(_slot, seat)| seat).collect()
}

#[test]
fn what_may_stop_a_connection_goes_over_none_for_small_requests() {
    let upstream = upstream(20);
    for lane in 0..40 {
        let others: Vec<_> = upstream.places(Lane(lane), None).collect();
        assert_eq!(others.len(), 24, "{lane}");
        for (slot, _) in others {
            assert!(!upstream.shared.iter().any(|shared| std::ptr::eq(shared, slot)));
        }
        let own = [[Seat::Granted; 12], [Seat::Waiting; 12]].concat();
        assert_eq!(seats(&upstream, lane, None), own, "{lane}");
        let small = [[Seat::Small(7); 8].as_slice(), &own].concat();
        assert_eq!(seats(&upstream, lane, Some(7)), small, "{lane}");
    }
}

#[test]
fn callers_begin_at_one_after_the_other() {
    let upstream = upstream(20);
    let first = |lane: Lane| upstream.places(lane, None).next().map(|(slot, _)| slot);
    for n in 0..40 {
        let begins = first(upstream.lane());
        let expected = upstream.slots.get(n % 12);
        assert!(
            begins.zip(expected).is_some_and(|(a, b)| std::ptr::eq(a, b)),
            "{n}"
        );
    }
}

#[test]
fn few_connections_are_for_all_requests() {
    for connections in [1, 2, 15] {
        let upstream = upstream(connections);
        let own = [vec![Seat::Granted; connections], vec![Seat::Waiting; connections]].concat();
        assert_eq!(seats(&upstream, 3, Some(7)), own);
    }
}

/// A service that is busy may not have looked yet at what was given up meanwhile.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_without_an_answer_keeps_its_seat_for_a_while() {
    let (ours, _theirs) = tokio::io::duplex(65_536);
    let connection = handshake(ours).await.expect("begun");
    let small = || connection.reserve(Seat::Small(7));
    let mut taken: Vec<_> = std::iter::from_fn(small).collect();
    assert_eq!(Ok(taken.len()), usize::try_from(UNANSWERED));
    assert!(connection.reserve(Seat::Granted).is_some());
    // What is answered makes room at once.
    taken.pop().expect("one").answered();
    let mut again = small().expect("room");
    again.answered();
    drop((taken, again));
    let mut only = small().expect("room for one");
    assert!(small().is_none());
    only.answered();
    tokio::time::sleep(2 * GIVEN_UP_FOR).await;
    assert_eq!(Ok(std::iter::from_fn(small).count()), usize::try_from(UNANSWERED));
}

/// A service may be there for those who have a connection, and for no others.
#[tokio::test]
async fn a_connection_that_is_to_be_replaced_goes_on_where_no_other_comes_about() {
    let (ours, _theirs) = tokio::io::duplex(65_536);
    let slot = Slot::default();
    let connection = Arc::new(handshake(ours).await.expect("begun"));
    slot.connection.store(Some(Arc::clone(&connection)));
    for _ in 0..MOST_ENDED {
        assert!(slot.open_connection().is_some());
        drop(connection.reserve(Seat::Granted).expect("a seat"));
    }
    assert!(slot.open_connection().is_none());
    let nowhere = Dial::Plaintext(UpstreamAddress::Tcp(Vec::new()));
    for _ in 0..3 {
        let found = slot.connect(&nowhere).await.expect("the same");
        assert!(Arc::ptr_eq(&found, &connection));
        assert!(found.reserve(Seat::Granted).is_some() && found.reserve(Seat::Waiting).is_none());
    }
}

/// There are never more than two in one place, whatever keeps the older one: a stream that goes on, or a service that reads nothing.
#[tokio::test]
async fn a_connection_is_replaced_once_the_one_before_it_is_gone() {
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = service.local_addr().expect("an address");
    let dial = Dial::Plaintext(UpstreamAddress::Tcp(vec![address]));
    let slot = Slot::default();
    let mut two = Vec::new();
    for _ in 0..2 {
        let connection = slot.connect(&dial).await.expect("connected");
        assert!(!two.iter().any(|other| Arc::ptr_eq(other, &connection)));
        for _ in 0..MOST_ENDED {
            drop(connection.reserve(Seat::Granted).expect("a seat"));
        }
        two.push(connection);
    }
    let stays = slot.open_connection().expect("the second one");
    assert!(Arc::ptr_eq(&stays, &two[1]));
    two.remove(0);
    let gone = async {
        while slot.open_connection().is_some() {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(Duration::from_secs(20), gone).await;
    waited.expect("the first one is gone");
}

#[test]
fn no_more_goes_unread_than_every_service_lets_through() {
    let unread = Arc::default();
    let largest: Vec<_> = (0..10)
        .map_while(|_| Share::take(&unread, SMALL, UNREAD))
        .collect();
    assert_eq!(largest.len(), 7);
    assert!(Share::take(&unread, 0, UNREAD).is_some());
    drop(largest);
    assert_eq!(unread.load(Ordering::Relaxed), 0);
}
