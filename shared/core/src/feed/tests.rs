//! Streams that begin anywhere, that are slow, that lie.

mod lossy;

use std::time::Duration;

use super::stream::MAX_UNACKNOWLEDGED;
use super::*;
use crate::key_set::{KeySet, KeyTimes};
use crate::names::Issuer;
use crate::revocation::RevocationList;
use crate::test_util::{NOW, ToyHash, jwk, key_set};
use crate::trust::Change;

/// What is sent, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Link(u64),
    Snapshot(Epoch),
    Delta(Epoch),
}

/// An authority that publishes, at epoch 1.
struct Authority {
    feed: Feed<Sent>,
    states: Vec<TrustState>,
    /// What each message takes.
    length: usize,
}

impl Authority {
    fn new() -> Self {
        let issuer = Issuer::parse("https://auth.example.org").expect("valid");
        let keys: Arc<KeySet> = Arc::new(key_set(&jwk(1), KeyTimes::default()));
        let trust = TrustState::new(issuer, 1, keys, RevocationList::default(), &ToyHash);
        Self {
            feed: Feed::new(trust.clone(), 1000),
            states: vec![trust],
            length: 1,
        }
    }

    fn at(epoch: Epoch) -> Self {
        let mut authority = Self::new();
        while authority.current() < epoch {
            let _nobody = authority.advance();
        }
        authority
    }

    fn current(&self) -> Epoch {
        self.feed.trust().epoch()
    }

    fn digest(&self, epoch: Epoch) -> StateDigest {
        let index = usize::try_from(epoch).expect("small") - 1;
        *self.states[index].digest()
    }

    fn held(&self, epoch: Epoch) -> Held {
        match epoch {
            0 => Held::default(),
            epoch => Held {
                epoch,
                digest: self.digest(epoch),
                highest_epoch: epoch,
                publishers: 0,
            },
        }
    }

    fn delta(&self) -> (Update, TrustState) {
        self.delta_of(Change::default())
    }

    fn delta_of(&self, change: Change) -> (Update, TrustState) {
        let base = self.feed.trust();
        let next = base.next(&change, &ToyHash);
        let content = UpdateContent::Delta {
            base_epoch: base.epoch(),
            base_digest: *base.digest(),
            change,
        };
        let update = Update {
            content,
            ..snapshot(&next, NOW)
        };
        (update, next)
    }

    /// Publishes the next epoch.
    fn advance(&mut self) -> Published<Sent> {
        self.advance_by(Change::default())
    }

    fn advance_by(&mut self, change: Change) -> Published<Sent> {
        let (update, next) = self.delta_of(change);
        self.states.push(next.clone());
        let frame = Frame::new(&update, Sent::Delta(update.epoch), self.length);
        self.feed.publish(&update, next, Some(frame))
    }

    /// The streams that are sent the next epoch.
    fn advance_to(&mut self) -> Vec<StreamId> {
        match self.advance() {
            Published::Sent { message, to, .. } => {
                assert_eq!(message, Sent::Delta(self.current()));
                to
            }
            Published::Broken(_) => panic!("is a delta"),
        }
    }

    fn make_snapshot(&mut self) {
        let trust = self.feed.wanted_snapshot().expect("is wanted");
        self.feed.keep_snapshot(self.frame(&trust));
        assert!(self.feed.wanted_snapshot().is_none());
    }

    fn frame(&self, trust: &TrustState) -> Frame<Sent> {
        Frame::new(&snapshot(trust, NOW), Sent::Snapshot(trust.epoch()), self.length)
    }

    fn join(&mut self, held: &Held) -> Begun<Sent> {
        let mut joined = self.feed.join(held);
        if joined == Join::NeedsSnapshot {
            self.make_snapshot();
            joined = self.feed.join(held);
        }
        match joined {
            Join::Begun(begun) => begun,
            Join::NeedsSnapshot | Join::Refused(_) => panic!("{joined:?}"),
        }
    }

    /// A stream that has acknowledged the current epoch.
    fn follower(&mut self) -> StreamId {
        self.join(&self.held(self.current())).stream
    }

    fn acknowledge(&mut self, stream: StreamId, epoch: Epoch) -> Result<(), AckRefused> {
        let digest = self.digest(epoch);
        self.feed.acknowledge(stream, epoch, &digest)
    }

    fn may_grant(&mut self, stream: StreamId) -> bool {
        self.feed.answer(stream, 0, false).may_grant
    }
}

fn deltas(epochs: std::ops::RangeInclusive<Epoch>) -> impl Iterator<Item = Sent> {
    epochs.map(Sent::Delta)
}

#[test]
fn a_verifier_is_given_what_leads_from_its_state_to_the_current_one() {
    let mut authority = Authority::at(3);
    let mut forked = authority.held(2);
    forked.digest = [9; 32];
    for (held, holds, backlog) in [
        (authority.held(1), true, vec![Sent::Delta(2), Sent::Delta(3)]),
        (authority.held(2), true, vec![Sent::Delta(3)]),
        (authority.held(3), true, vec![]),
        (authority.held(0), false, vec![Sent::Snapshot(3)]),
        (forked, false, vec![Sent::Snapshot(3)]),
    ] {
        let begun = authority.join(&held);
        assert_eq!((begun.holds, begun.backlog), (holds, backlog), "{held:?}");
    }
    assert_eq!(authority.feed.streams(), 5);
}

/// F31, F32: a snapshot is made when it is asked for, and then serves whoever comes, with the deltas since.
#[test]
fn a_snapshot_serves_until_the_deltas_behind_it_are_gone() {
    let mut authority = Authority::at(2);
    assert_eq!(authority.feed.join(&Held::default()), Join::NeedsSnapshot);
    assert_eq!(authority.feed.streams(), 0);
    authority.make_snapshot();
    let _nobody = authority.advance();
    assert!(authority.feed.wanted_snapshot().is_none());
    let backlog = authority.join(&Held::default()).backlog;
    assert_eq!(backlog, [Sent::Snapshot(2), Sent::Delta(3)]);

    while authority.current() < 2 + Epoch::try_from(MAX_DELTAS).expect("small") {
        let _slow = authority.advance();
    }
    let backlog = authority.join(&Held::default()).backlog;
    let expected = [Sent::Snapshot(2)].into_iter().chain(deltas(3..=514));
    assert!(backlog.into_iter().eq(expected));
    let _slow = authority.advance();
    assert!(authority.feed.snapshot.is_none(), "its memory is free");
    assert_eq!(authority.feed.join(&Held::default()), Join::NeedsSnapshot);
}

/// Signing takes a while, and the authority does not wait for it.
#[test]
fn a_snapshot_is_of_use_although_epochs_went_by_while_it_was_signed() {
    let mut authority = Authority::at(2);
    let trust = authority.feed.wanted_snapshot().expect("is wanted");
    let _nobody = authority.advance();
    let frame = authority.frame(&trust);
    authority.feed.keep_snapshot(frame.clone());
    let begun = authority.join(&Held::default());
    assert_eq!(begun.backlog, [Sent::Snapshot(2), Sent::Delta(3)]);

    for _ in 0..MAX_DELTAS {
        let _slow = authority.advance();
    }
    authority.make_snapshot();
    authority.feed.keep_snapshot(frame);
    assert!(authority.feed.wanted_snapshot().is_none(), "the new one stays");
}

/// F34: a cursor that is too old is given a snapshot.
#[test]
fn deltas_are_bounded_in_number_and_in_bytes() {
    let most = Epoch::try_from(MAX_DELTAS).expect("small");
    let mut authority = Authority::at(most + 2);
    assert!(!authority.join(&authority.held(1)).holds);
    assert!(authority.join(&authority.held(2)).holds);

    let mut authority = Authority::new();
    authority.length = MAX_DELTA_BYTES / 4;
    for _ in 0..5 {
        let _nobody = authority.advance();
    }
    assert!(!authority.join(&authority.held(1)).holds);
    assert!(authority.join(&authority.held(2)).holds);

    // One that is larger than all may be is sent to those who are there, and not kept.
    let stream = authority.follower();
    authority.length = MAX_DELTA_BYTES + 1;
    assert!(authority.advance_to().contains(&stream));
    assert!(!authority.join(&authority.held(6)).holds);
    authority.length = 1;
    let _sent = authority.advance();
    assert!(!authority.join(&authority.held(6)).holds);
    assert!(authority.join(&authority.held(7)).holds);
}

/// G45, K14, D17: what a verifier says to hold can say something about this authority.
#[test]
fn who_holds_what_was_never_published_here_is_told_apart() {
    let mut authority = Authority::at(3);
    authority.make_snapshot();
    let nothing = Held::default();
    let (ours, current) = (authority.held(2), authority.held(3));
    let at = |epoch, highest_epoch| Held {
        epoch,
        digest: [9; 32],
        highest_epoch,
        publishers: 0,
    };
    let seen = |held: Held, highest_epoch| Held {
        highest_epoch,
        ..held
    };
    let snapshot = || Ok(vec![Sent::Snapshot(3)]);
    for (held, standing, joins) in [
        (nothing, Standing::Consistent, snapshot()),
        (ours, Standing::Consistent, Ok(vec![Sent::Delta(3)])),
        (current, Standing::Consistent, Ok(vec![])),
        (seen(nothing, 3), Standing::Consistent, snapshot()),
        // An earlier state that is not ours, as long as it is known what that was.
        (at(2, 2), Standing::Fork, snapshot()),
        (at(1, 1), Standing::Fork, snapshot()),
        (at(3, 3), Standing::Fork, snapshot()),
        (at(4, 4), Standing::Ahead, Err(JoinRefused::Ahead)),
        (at(4, 0), Standing::Ahead, Err(JoinRefused::Ahead)),
        (at(u64::MAX, u64::MAX), Standing::Ahead, Err(JoinRefused::Ahead)),
        (seen(current, 4), Standing::SeenLater, Err(JoinRefused::SeenLater)),
        (at(3, 4), Standing::SeenLater, Err(JoinRefused::SeenLater)),
        (
            seen(nothing, u64::MAX),
            Standing::SeenLater,
            Err(JoinRefused::SeenLater),
        ),
    ] {
        assert_eq!(authority.feed.standing(&held), standing, "{held:?}");
        let got = match authority.feed.join(&held) {
            Join::Begun(begun) => Ok(begun.backlog),
            Join::Refused(refused) => Err(refused),
            Join::NeedsSnapshot => panic!("has one"),
        };
        assert_eq!(got, joins, "{held:?}");
    }
    assert_eq!(
        authority.feed.streams(),
        7,
        "who is refused leaves nothing behind"
    );
}

/// F71.
#[test]
fn draining_ends_every_stream_and_lets_nobody_in() {
    let mut authority = Authority::new();
    let streams = [authority.follower(), authority.follower()];
    assert_eq!(authority.feed.drain(), streams);
    assert_eq!(authority.feed.streams(), 0);
    for epoch in [0, 1] {
        let held = authority.held(epoch);
        assert_eq!(authority.feed.join(&held), Join::Refused(JoinRefused::Draining));
    }
    assert!(authority.advance_to().is_empty());
}

/// G47: nobody acknowledges what was not sent to it, nor with another digest.
#[test]
fn only_what_was_sent_on_a_stream_can_be_acknowledged_on_it() {
    let mut authority = Authority::at(2);
    let early = authority.follower();
    let _sent = (authority.advance(), authority.advance());
    let late = authority.follower();
    let wrong = authority.digest(3);
    for (stream, epoch, digest, expected) in [
        (late, 3, authority.digest(3), Err(AckRefused::NotSent)),
        (late, 4, authority.digest(4), Ok(())),
        (early, 1, authority.digest(1), Err(AckRefused::NotSent)),
        (early, 4, wrong, Err(AckRefused::NotSent)),
        (early, 5, wrong, Err(AckRefused::NotSent)),
        (early, u64::MAX, wrong, Err(AckRefused::NotSent)),
        (early, 0, [0; 32], Err(AckRefused::NotSent)),
        (early, 2, authority.digest(2), Ok(())),
        (early, 3, authority.digest(3), Ok(())),
        // F33: what comes twice is no offence, what comes late is not taken.
        (early, 3, authority.digest(3), Ok(())),
        (early, 2, authority.digest(2), Err(AckRefused::NotSent)),
        (early, 4, authority.digest(4), Ok(())),
        (99, 4, authority.digest(4), Err(AckRefused::Ended)),
    ] {
        let taken = authority.feed.acknowledge(stream, epoch, &digest);
        assert_eq!(taken, expected, "{stream} {epoch}");
    }
    let digest = authority.digest(4);
    for cut in [0, 31] {
        let taken = authority.feed.acknowledge(early, 4, &digest[..cut]);
        assert_eq!(taken, Err(AckRefused::NotSent), "{cut}");
    }
    // Saying so is not acknowledging it: none of the above gave a lease to who had not reached the epoch.
    let _sent = authority.advance();
    let wrong = authority.feed.acknowledge(early, 5, &digest);
    assert_eq!(wrong, Err(AckRefused::NotSent));
    assert!(!authority.may_grant(early));
}

/// F78: a stream that acknowledges nothing is cut, and the others have everything.
#[test]
fn a_stream_that_acknowledges_nothing_is_cut() {
    let mut authority = Authority::new();
    let silent = authority.follower();
    let good = authority.follower();
    // The state that it came with counts among what it may have.
    for _ in 1..MAX_UNACKNOWLEDGED {
        assert_eq!(authority.advance_to(), [silent, good]);
        authority
            .acknowledge(good, authority.current())
            .expect("was sent");
    }
    let published = authority.advance();
    let expected = Published::Sent {
        message: Sent::Delta(authority.current()),
        to: vec![good],
        cut: vec![silent],
    };
    assert_eq!(published, expected);
    assert!(!authority.feed.end(silent), "has ended");
    assert_eq!(authority.advance_to(), [good]);
}

#[test]
fn a_message_may_wait_for_half_a_minute() {
    assert!(!is_too_slow(Duration::from_secs(30)));
    assert!(is_too_slow(Duration::from_millis(30_001)));
}

/// An update that could not be signed, or that is no delta, leads on from nothing that anybody holds.
#[test]
fn an_update_that_cannot_be_sent_ends_every_stream() {
    for is_signed in [false, true] {
        let mut authority = Authority::at(2);
        authority.make_snapshot();
        let streams = [authority.follower(), authority.follower()];
        let (delta, next) = authority.delta();
        let published = if is_signed {
            let frame = authority.frame(&next);
            authority
                .feed
                .publish(&snapshot(&next, NOW), next.clone(), Some(frame))
        } else {
            authority.feed.publish(&delta, next.clone(), None)
        };
        assert_eq!(published, Published::Broken(streams.to_vec()));
        assert_eq!(authority.feed.streams(), 0);
        assert!(authority.feed.snapshot.is_none(), "its memory is free");
        authority.states.push(next);
        // Those who come back are given what is true now, and go on from there.
        for epoch in [1, 2] {
            let stream = authority.join(&authority.held(epoch));
            assert_eq!(stream.backlog, [Sent::Snapshot(3)], "{epoch}");
        }
        assert_eq!(authority.join(&Held::default()).backlog, [Sent::Snapshot(3)]);
        assert_eq!(authority.advance_to().len(), 3);
        assert_eq!(authority.join(&authority.held(3)).backlog, [Sent::Delta(4)]);
    }
}

/// F33: a verifier that has lost something asks, and is sent all that it needs.
#[test]
fn a_stream_that_asks_is_sent_a_snapshot_again_but_not_for_ever() {
    let mut authority = Authority::at(2);
    let stream = authority.follower();
    assert_eq!(authority.feed.resync(stream), Resync::NeedsSnapshot);
    authority.make_snapshot();
    let _sent = authority.advance();
    for _ in 0..MAX_RESYNCS {
        let backlog = vec![Sent::Snapshot(2), Sent::Delta(3)];
        assert_eq!(authority.feed.resync(stream), Resync::Backlog(backlog));
    }
    assert_eq!(authority.acknowledge(stream, 3), Ok(()));
    assert!(authority.may_grant(stream));
    assert_eq!(authority.feed.resync(stream), Resync::TooOften);
    assert_eq!(authority.feed.resync(stream), Resync::Ended);
    assert_eq!(authority.feed.streams(), 0);
}

/// A snapshot that does not fit is not sent in part: what follows on it could not be taken over.
#[test]
fn a_stream_that_acknowledges_nothing_is_sent_no_snapshot() {
    let mut authority = Authority::new();
    authority.make_snapshot();
    let stream = authority.follower();
    while authority.current() < Epoch::try_from(MAX_DELTAS).expect("small") {
        assert_eq!(authority.advance_to(), [stream]);
    }
    // As many as are left: a snapshot and the deltas behind it.
    assert!(matches!(authority.feed.resync(stream), Resync::Backlog(sent) if sent.len() == MAX_DELTAS));
    assert_eq!(authority.feed.resync(stream), Resync::TooSlow);
    assert_eq!(authority.feed.streams(), 0);
}

/// I-08: the bound on a revocation rests on this.
#[test]
fn a_lease_is_for_who_has_acknowledged_the_current_epoch() {
    let mut authority = Authority::at(2);
    let current = authority.follower();
    let newcomer = authority.join(&Held::default()).stream;
    let behind = authority.join(&authority.held(1)).stream;
    assert!(authority.may_grant(current));
    for stream in [newcomer, behind] {
        assert!(!authority.may_grant(stream));
        authority.acknowledge(stream, 2).expect("was sent");
        assert!(authority.may_grant(stream));
    }
    // From the moment of the next epoch on, nobody who has not acknowledged that.
    let _sent = authority.advance();
    for stream in [current, newcomer, behind] {
        assert!(!authority.may_grant(stream));
    }
    authority.acknowledge(newcomer, 2).expect("twice is no offence");
    assert!(!authority.may_grant(newcomer));
    authority.acknowledge(newcomer, 3).expect("was sent");
    assert!(authority.may_grant(newcomer));
    assert!(!authority.may_grant(current));
    authority.feed.end(newcomer);
    assert!(!authority.may_grant(newcomer), "has ended");
}

#[test]
fn in_quarantine_nothing_is_confirmed() {
    let mut authority = Authority::new();
    let stream = authority.follower();
    let answer = authority.feed.answer(stream, 0, true);
    assert_eq!((answer.heartbeat, answer.may_grant), (None, false));
    assert!(authority.may_grant(stream), "released");
}

#[test]
fn a_heartbeat_is_made_once_a_second_and_once_an_epoch() {
    let mut authority = Authority::new();
    let stream = authority.follower();
    let beat = |authority: &mut Authority, millis| {
        let answer = authority.feed.answer(stream, millis, false);
        let heartbeat = answer.heartbeat.expect("is not in quarantine");
        assert_eq!(
            heartbeat.state_digest,
            authority.digest(heartbeat.epoch),
            "{millis}"
        );
        (
            heartbeat.sequence,
            heartbeat.epoch,
            heartbeat.authority_time_millis,
        )
    };
    assert_eq!(beat(&mut authority, 5_100), (1001, 1, 5_100));
    // Its time errs on the old side.
    assert_eq!(beat(&mut authority, 5_999), (1001, 1, 5_100));
    assert_eq!(beat(&mut authority, 6_000), (1002, 1, 6_000));
    let _sent = authority.advance();
    assert_eq!(beat(&mut authority, 6_001), (1003, 2, 6_001));
    // A clock that was set back is not hidden.
    assert_eq!(beat(&mut authority, 5_999), (1004, 2, 5_999));
}

/// K11: whoever comes is sent the links that he lacks first, and nothing that was signed before the set changed.
#[test]
fn links_come_first_and_the_log_from_before_is_forgotten() {
    let mut authority = Authority::at(3);
    authority.make_snapshot();
    let open = authority.follower();
    assert_eq!(authority.feed.introduce(2, Sent::Link(2)), [open]);
    assert!(
        authority.feed.introduce(2, Sent::Link(2)).is_empty(),
        "it is known"
    );
    let change = Change {
        publishers: Some(2),
        ..Change::default()
    };
    let _sent = authority.advance_by(change);
    let behind = authority.held(3);
    assert_eq!(authority.feed.join(&behind), Join::NeedsSnapshot);
    let begun = authority.join(&behind);
    assert_eq!(begun.backlog, [Sent::Link(2), Sent::Snapshot(4)]);
    assert_eq!((begun.links, begun.holds), (1, false));
    let forked = Held {
        digest: [9; 32],
        ..authority.held(2)
    };
    assert_eq!(
        authority.feed.standing(&forked),
        Standing::Fork,
        "what was, is known"
    );
    let current = Held {
        publishers: 2,
        ..authority.held(4)
    };
    assert_eq!(authority.join(&current).backlog, []);
    let ahead = Held {
        publishers: 3,
        ..current
    };
    let refused = Join::Refused(JoinRefused::PublishersAhead);
    assert_eq!(authority.feed.join(&ahead), refused);
}
