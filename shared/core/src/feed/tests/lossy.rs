//! A stream that loses, repeats and swaps what it is sent, and is cut.

use proptest::prelude::*;

use super::*;

/// What a verifier does that takes over what leads on from its state, and nothing else.
#[derive(Debug, Default)]
struct Verifier {
    epoch: Epoch,
    stream: Option<StreamId>,
    arriving: VecDeque<Sent>,
}

impl Verifier {
    /// False if it has to ask for a snapshot.
    fn take(&mut self, sent: Sent) -> bool {
        match sent {
            Sent::Link(_) => true,
            Sent::Snapshot(epoch) | Sent::Delta(epoch) if epoch <= self.epoch => true,
            Sent::Snapshot(epoch) => {
                self.epoch = epoch;
                true
            }
            Sent::Delta(epoch) if epoch == self.epoch + 1 => {
                self.epoch = epoch;
                true
            }
            Sent::Delta(_) => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Publish,
    Fail,
    Connect,
    Disconnect,
    Arrive,
    Lose,
    Repeat,
    Swap,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Publish),
        1 => Just(Event::Fail),
        3 => Just(Event::Connect),
        1 => Just(Event::Disconnect),
        6 => Just(Event::Arrive),
        1 => Just(Event::Lose),
        1 => Just(Event::Repeat),
        1 => Just(Event::Swap),
    ]
}

fn run(authority: &mut Authority, verifier: &mut Verifier, event: Event) {
    match event {
        Event::Publish => match authority.advance() {
            Published::Sent { message, to, cut } => {
                assert!(cut.is_empty());
                assert_eq!(to, Vec::from_iter(verifier.stream));
                verifier.arriving.extend(to.iter().map(|_| message));
            }
            Published::Broken(_) => panic!("is signed"),
        },
        Event::Fail => {
            let (update, next) = authority.delta();
            authority.states.push(next.clone());
            let published = authority.feed.publish(&update, next, None);
            assert_eq!(
                published,
                Published::Broken(verifier.stream.take().into_iter().collect())
            );
        }
        Event::Connect if verifier.stream.is_none() => {
            let begun = authority.join(&authority.held(verifier.epoch));
            verifier.stream = Some(begun.stream);
            verifier.arriving = begun.backlog.into();
        }
        Event::Disconnect => {
            if let Some(stream) = verifier.stream.take() {
                assert!(authority.feed.end(stream));
            }
        }
        Event::Arrive => arrive(authority, verifier),
        Event::Lose => drop(verifier.arriving.pop_front()),
        Event::Repeat => {
            if let Some(sent) = verifier.arriving.front().copied() {
                verifier.arriving.push_back(sent);
            }
        }
        Event::Swap if verifier.arriving.len() > 1 => verifier.arriving.swap(0, 1),
        Event::Connect | Event::Swap => {}
    }
}

fn arrive(authority: &mut Authority, verifier: &mut Verifier) {
    let (Some(stream), Some(sent)) = (verifier.stream, verifier.arriving.pop_front()) else {
        return;
    };
    if verifier.take(sent) {
        authority.acknowledge(stream, verifier.epoch).expect("was sent");
        let is_current = verifier.epoch == authority.current();
        assert_eq!(authority.may_grant(stream), is_current);
        return;
    }
    if authority.feed.wanted_snapshot().is_some() {
        authority.make_snapshot();
    }
    match authority.feed.resync(stream) {
        Resync::Backlog(backlog) => verifier.arriving.extend(backlog),
        Resync::TooOften => verifier.stream = None,
        asked @ (Resync::NeedsSnapshot | Resync::TooSlow | Resync::Ended) => panic!("{asked:?}"),
    }
}

proptest! {
    /// F33, I-10: whatever was lost, repeated or came in another order, whoever takes what is sent gets to the current epoch,
    /// and is granted a lease there and nowhere else.
    #[test]
    fn every_verifier_gets_to_the_current_epoch(events in prop::collection::vec(event(), 0..60)) {
        let (mut authority, mut verifier) = (Authority::new(), Verifier::default());
        for event in events {
            run(&mut authority, &mut verifier, event);
        }
        // Nothing is lost any more, and it comes back whenever it is cut.
        for _ in 0..1000 {
            run(&mut authority, &mut verifier, Event::Connect);
            if verifier.arriving.is_empty() {
                run(&mut authority, &mut verifier, Event::Disconnect);
            }
            run(&mut authority, &mut verifier, Event::Arrive);
        }
        prop_assert_eq!(verifier.epoch, authority.current());
    }
}
