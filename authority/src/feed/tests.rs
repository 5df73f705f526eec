//! Streams that begin anywhere, that are slow, that lie. What is decided about them is tested in core.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::feed::{AckRefused, Held, JoinRefused, MAX_DELTAS, MAX_RESYNCS};
use countersign_core::key_set::KeySet;
use countersign_core::names::{Issuer, TokenId};
use countersign_core::publishers::MAX_LINKS;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{Change, Epoch, UpdateContent};
use countersign_crypto::AwsLc;
use countersign_proto::sync::v1::sync_response::Message;
use countersign_wire::trust::{read_heartbeat, read_update};
use futures_util::{FutureExt as _, StreamExt as _};

use super::*;
use crate::test_util::{Bench, said};

mod order;

/// A feed with its state, moved on by revocations.
struct Authority {
    bench: Bench,
    feed: Feed,
    states: Vec<TrustState>,
}

impl Authority {
    fn new() -> Self {
        let bench = Bench::new();
        let clock: Arc<dyn Clock> = Arc::<crate::test_util::ManualClock>::clone(&bench.clock);
        Self::with(bench, clock)
    }

    fn with(bench: Bench, clock: Arc<dyn Clock>) -> Self {
        // A real key set, because the border refuses an empty one.
        let key = SigningKey::generate(publishing::ALGORITHM).expect("generates");
        let status = countersign_core::key_set::KeyTimes {
            prepared_at: Timestamp::from_seconds(1),
            ..Default::default()
        };
        let jwks = countersign_core::jwk::write_set([key.jwk()]);
        let keys =
            KeySet::read(jwks.as_bytes(), &[(key.key_id().clone(), status)], &AwsLc).expect("a key set");
        let issuer = Issuer::parse("https://auth.example.org").expect("valid");
        let trust = TrustState::new(issuer, 1, Arc::new(keys), RevocationList::default(), &AwsLc);
        let signers = [Arc::new(key)];
        let publishing = PublishingRing::new(signers[0].key_id(), Vec::new(), &signers);
        let publishing = publishing.expect("reads").expect("signs");
        let feed = Feed::new(
            publishing,
            Machine::new(trust.clone(), 1000),
            clock,
            bench.fleet.clone(),
            Arc::clone(&bench.metrics),
        );
        Self {
            bench,
            feed,
            states: vec![trust],
        }
    }

    fn current(&self) -> &TrustState {
        self.states.last().expect("never empty")
    }

    fn advance(&mut self) {
        let base = self.current().clone();
        let token = TokenId::parse(&format!("1.{}", base.epoch())).expect("valid");
        let now = self.bench.clock.now();
        let change = Change {
            revoked: [Revocation {
                subject: RevokedSubject::Token(token),
                issued_before: Timestamp::default(),
                expires_at: now.saturating_add(Duration::from_secs(60)),
            }]
            .into(),
            ..Change::default()
        };
        let next = base.next(&change, &AwsLc);
        let update = Update {
            issuer: next.issuer().clone(),
            epoch: next.epoch(),
            state_digest: *next.digest(),
            published_at: now,
            content: UpdateContent::Delta {
                base_epoch: base.epoch(),
                base_digest: *base.digest(),
                change,
            },
        };
        let publishing = self.feed.lock().publishing.clone();
        self.feed.publish(&update, next.clone(), &publishing);
        self.states.push(next);
    }

    async fn join(&self, epoch: usize) -> Joined {
        let digest = match epoch {
            0 => [0; 32],
            epoch => *self.states[epoch - 1].digest(),
        };
        self.feed.join(&held(epoch, digest)).await.expect("joins")
    }
}

fn held(epoch: usize, digest: [u8; 32]) -> Held {
    let epoch = u64::try_from(epoch).expect("small");
    Held {
        epoch,
        digest,
        highest_epoch: epoch,
        publishers: 0,
    }
}

/// A ping of a verifier that is granted nothing.
fn ping(stream: &Subscription, sequence: u64) {
    stream.handle().answer(sequence, false, || None);
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Link,
    Snapshot(Epoch),
    Delta(Epoch),
    Pong(u64, Epoch, u64),
}

/// Everything that waits on a stream.
fn waiting(stream: &mut Subscription) -> Vec<Seen> {
    std::iter::from_fn(|| stream.next().now_or_never())
        .map(|message| seen(message.expect("goes on").expect("goes on")))
        .collect()
}

/// Why a stream has ended.
fn ended(stream: &mut Subscription) -> Ended {
    let next = stream.next().now_or_never().expect("is over").expect("a reason");
    next.expect_err("a reason")
}

fn seen(message: Bytes) -> Seen {
    match said(&message) {
        Message::Update(signed) => {
            let update = read_update(&signed.payload, &AwsLc).expect("reads");
            match update.content {
                UpdateContent::Snapshot { .. } => Seen::Snapshot(update.epoch),
                UpdateContent::Delta { .. } => Seen::Delta(update.epoch),
            }
        }
        Message::Publishers(_) => Seen::Link,
        Message::Pong(pong) => {
            let signed = pong.heartbeat.expect("a heartbeat");
            let heartbeat = read_heartbeat(&signed.payload).expect("reads");
            Seen::Pong(pong.ping_sequence, heartbeat.epoch, heartbeat.sequence)
        }
    }
}

#[tokio::test]
async fn a_newcomer_is_given_a_snapshot_and_one_who_comes_back_the_deltas_it_lacks() {
    let mut authority = Authority::new();
    authority.advance();
    authority.advance();
    for (holds, expected) in [
        (0, vec![Seen::Snapshot(3)]),
        (1, vec![Seen::Delta(2), Seen::Delta(3)]),
        (2, vec![Seen::Delta(3)]),
        (3, vec![]),
    ] {
        let mut joined = authority.join(holds).await;
        assert_eq!(waiting(&mut joined.subscription), expected, "{holds}");
        assert_eq!(joined.holds, holds != 0);
    }
}

/// F31, F32: the snapshot is made once, and goes on being used with the deltas behind it.
#[tokio::test]
async fn a_snapshot_is_made_once_and_used_with_the_deltas_since() {
    let mut authority = Authority::new();
    let mut first = authority.join(0).await.subscription;
    assert_eq!(waiting(&mut first), [Seen::Snapshot(1)]);
    authority.advance();
    let mut second = authority.join(0).await.subscription;
    assert_eq!(waiting(&mut second), [Seen::Snapshot(1), Seen::Delta(2)]);
    assert_eq!(waiting(&mut first), [Seen::Delta(2)]);
    // Once its deltas are gone, it is made anew.
    for _ in 0..=MAX_DELTAS {
        authority.advance();
        waiting(&mut first);
    }
    let current = authority.current().epoch();
    let mut third = authority.join(0).await.subscription;
    assert_eq!(waiting(&mut third), [Seen::Snapshot(current)]);
    let mut fourth = authority.join(1).await.subscription;
    assert_eq!(waiting(&mut fourth), [Seen::Snapshot(current)], "too far behind");
}

/// G45: a verifier that claims to be ahead, or at another state of the same epoch.
#[tokio::test]
async fn who_holds_what_we_never_published_is_noticed() {
    let mut authority = Authority::new();
    authority.advance();
    for epoch in [3, usize::MAX] {
        let refused = authority.feed.join(&held(epoch, [0; 32])).await;
        let refused = refused.expect_err("is refused");
        assert_eq!(refused, NotJoined::Refused(JoinRefused::Ahead));
    }
    assert_eq!(authority.bench.alarms(Alarm::VerifierAhead), 2);
    let restored = Held {
        highest_epoch: 3,
        ..Held::default()
    };
    let refused = authority.feed.join(&restored).await.expect_err("is refused");
    assert_eq!(refused, NotJoined::Refused(JoinRefused::SeenLater));
    assert_eq!(authority.bench.alarms(Alarm::VerifierAhead), 3);
    let mut forked = authority.feed.join(&held(2, [9; 32])).await.expect("joins");
    assert!(!forked.holds);
    assert_eq!(waiting(&mut forked.subscription), [Seen::Snapshot(2)]);
    assert_eq!(authority.bench.alarms(Alarm::Fork), 1);
    let mut other = authority.feed.join(&held(1, [9; 32])).await.expect("joins");
    assert_eq!(waiting(&mut other.subscription), [Seen::Snapshot(2)]);
}

/// G47: nobody acknowledges what was not sent to it, nor with another digest.
#[tokio::test]
async fn only_what_was_sent_can_be_acknowledged() {
    let mut authority = Authority::new();
    let joined = authority.join(1).await;
    let handle = joined.subscription.handle();
    authority.advance();
    authority.advance();
    let digest = |epoch: usize| *authority.states[epoch - 1].digest();
    assert_eq!(handle.acknowledge(1, &digest(1)), Ok(()));
    assert_eq!(handle.acknowledge(4, &digest(3)), Err(AckRefused::NotSent));
    assert_eq!(handle.acknowledge(3, &digest(2)), Err(AckRefused::NotSent));
    assert_eq!(handle.acknowledge(3, &[]), Err(AckRefused::NotSent));
    assert_eq!(handle.acknowledge(3, &digest(3)), Ok(()));
    assert_eq!(handle.acknowledge(3, &digest(3)), Ok(()), "twice is no offence");
    assert_eq!(handle.acknowledge(2, &digest(2)), Err(AckRefused::NotSent));
    assert_eq!(authority.bench.alarms(Alarm::AckNotSent), 4);
    drop(joined);
    assert_eq!(handle.acknowledge(3, &digest(3)), Err(AckRefused::Ended));
}

/// I-30: one update in memory, however many are sent it.
#[tokio::test]
async fn streams_share_the_bytes_of_what_they_are_sent() {
    let mut authority = Authority::new();
    authority.advance();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(authority.join(0).await.subscription);
    }
    authority.advance();
    for expected in [Seen::Snapshot(2), Seen::Delta(3)] {
        let next = |stream: &mut Subscription| stream.next().now_or_never().expect("waits");
        let sent = streams.iter_mut().map(next);
        let sent: Vec<Bytes> = sent
            .map(|message| message.expect("goes on").expect("goes on"))
            .collect();
        assert!(sent.iter().all(|one| one.as_ptr() == sent[0].as_ptr()));
        assert_eq!(seen(sent[0].clone()), expected);
    }
}

#[tokio::test]
async fn a_heartbeat_is_signed_once_a_second_and_once_an_epoch() {
    let mut authority = Authority::new();
    let mut a = authority.join(1).await.subscription;
    let mut b = authority.join(1).await.subscription;
    ping(&a, 7);
    ping(&b, 8);
    assert_eq!(waiting(&mut a), [Seen::Pong(7, 1, 1001)]);
    assert_eq!(waiting(&mut b), [Seen::Pong(8, 1, 1001)]);
    authority.advance();
    ping(&a, 9);
    assert_eq!(waiting(&mut a), [Seen::Delta(2), Seen::Pong(9, 2, 1002)]);
    authority.bench.clock.advance(Duration::from_secs(1));
    ping(&a, 10);
    assert_eq!(waiting(&mut a), [Seen::Pong(10, 2, 1003)]);
}

/// F78: who does not read is cut, its memory freed, and the others have everything.
#[tokio::test]
async fn a_slow_stream_is_cut_and_the_others_do_not_notice() {
    let mut authority = Authority::new();
    let mut slow = authority.join(1).await.subscription;
    let mut good = authority.join(1).await.subscription;
    let mut count = 0;
    while authority.feed.streams() == 2 {
        authority.advance();
        count += waiting(&mut good).len();
        assert!(count < 10_000, "is cut some time");
    }
    assert_eq!(ended(&mut slow), Ended::TooSlow);
    authority.advance();
    assert_eq!(waiting(&mut good), [Seen::Delta(authority.current().epoch())]);
}

#[tokio::test]
async fn a_stream_that_leaves_an_update_lying_is_cut_after_a_while() {
    let mut authority = Authority::new();
    let mut slow = authority.join(1).await.subscription;
    let mut idle = authority.join(1).await.subscription;
    authority.advance();
    waiting(&mut idle);
    authority.bench.clock.advance(Duration::from_secs(30));
    authority.feed.cut_the_slow();
    assert_eq!(authority.feed.streams(), 2);
    authority.bench.clock.advance(Duration::from_secs(1));
    authority.feed.cut_the_slow();
    assert_eq!(ended(&mut slow), Ended::TooSlow);
    assert_eq!(authority.feed.streams(), 1);
}

/// A verifier that reads and never acknowledges keeps no more than its share of memory.
#[tokio::test]
async fn a_stream_that_never_acknowledges_is_cut() {
    let mut authority = Authority::new();
    let mut silent = authority.join(1).await.subscription;
    while authority.feed.streams() == 1 {
        waiting(&mut silent);
        authority.advance();
        assert!(authority.states.len() < 10_000, "is cut some time");
    }
    assert_eq!(ended(&mut silent), Ended::TooSlow);
}

/// F71: draining ends every stream and lets nobody in.
#[tokio::test]
async fn draining_ends_every_stream() {
    let authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    authority.feed.drain();
    assert_eq!(ended(&mut stream), Ended::Draining);
    let refused = authority.feed.join(&Held::default()).await;
    let refused = refused.expect_err("is refused");
    assert_eq!(refused, NotJoined::Refused(JoinRefused::Draining));
}

#[tokio::test]
async fn a_verifier_that_asks_for_it_is_sent_a_snapshot_again() {
    let mut authority = Authority::new();
    authority.advance();
    let mut stream = authority.join(2).await.subscription;
    stream.handle().resync().await.expect("is sent");
    assert_eq!(waiting(&mut stream), [Seen::Snapshot(2)]);
    let digest = *authority.current().digest();
    assert_eq!(stream.handle().acknowledge(2, &digest), Ok(()));
}

/// A snapshot for which there is no room is not sent in part: what follows on it could not be taken over.
#[tokio::test]
async fn a_stream_without_room_for_a_snapshot_is_cut() {
    let mut authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    while authority.states.len() <= MAX_DELTAS {
        authority.advance();
    }
    // Room for nothing more: heartbeats lie in it, too.
    for sequence in 0..64 + u64::try_from(MAX_LINKS).expect("small") {
        ping(&stream, sequence);
    }
    assert_eq!(authority.feed.streams(), 1);
    stream.handle().resync().await.expect("is signed");
    assert_eq!(ended(&mut stream), Ended::TooSlow);
    assert_eq!(authority.feed.streams(), 0);
}

/// The same for one that has acknowledged nothing for long.
#[tokio::test]
async fn a_stream_that_acknowledges_nothing_is_sent_no_other_snapshot() {
    let mut authority = Authority::new();
    drop(authority.join(0).await);
    let mut stream = authority.join(1).await.subscription;
    while authority.states.len() < MAX_DELTAS {
        authority.advance();
    }
    waiting(&mut stream);
    stream.handle().resync().await.expect("is signed");
    assert_eq!(waiting(&mut stream).len(), MAX_DELTAS);
    stream.handle().resync().await.expect("is signed");
    assert_eq!(ended(&mut stream), Ended::TooSlow);
}

#[tokio::test]
async fn a_stream_that_asks_for_snapshots_for_ever_is_cut() {
    let authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    for _ in 0..MAX_RESYNCS {
        stream.handle().resync().await.expect("is signed");
        assert_eq!(waiting(&mut stream), [Seen::Snapshot(1)]);
    }
    stream.handle().resync().await.expect("is signed");
    assert_eq!(ended(&mut stream), Ended::Misbehaved);
}

fn pong(stream: &mut Subscription) -> sync::Pong {
    let message = stream.next().now_or_never().expect("waits").expect("goes on");
    match said(&message.expect("goes on")) {
        Message::Pong(pong) => pong,
        Message::Update(_) | Message::Publishers(_) => panic!("is no answer"),
    }
}

/// An acknowledgement that came before a ping counts for its answer, one that comes after it does not.
#[tokio::test]
async fn a_lease_is_asked_for_when_the_current_epoch_was_acknowledged() {
    let mut authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    let handle = stream.handle();
    let lease = Duration::from_millis(10_500);
    handle.answer(1, false, || Some(lease));
    assert_eq!(pong(&mut stream).lease_ms, 10_500);
    authority.advance();
    assert_eq!(waiting(&mut stream), [Seen::Delta(2)]);
    handle.answer(2, false, || panic!("nothing may be granted"));
    let digest = *authority.current().digest();
    handle.acknowledge(2, &digest).expect("was sent");
    assert_eq!(pong(&mut stream).lease_ms, 0);
    handle.answer(3, false, || Some(lease));
    let pong = pong(&mut stream);
    assert_eq!((pong.ping_sequence, pong.lease_ms), (3, 10_500));
}

/// Who is not in the register, or is in quarantine, is granted nothing; in quarantine nothing is confirmed either.
#[tokio::test]
async fn without_the_register_there_is_no_lease() {
    let authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    ping(&stream, 1);
    let unknown = pong(&mut stream);
    assert!(unknown.heartbeat.is_some() && !unknown.quarantined && unknown.lease_ms == 0);
    stream
        .handle()
        .answer(2, true, || panic!("nothing may be granted"));
    let quarantined = pong(&mut stream);
    assert!(quarantined.heartbeat.is_none() && quarantined.quarantined && quarantined.lease_ms == 0);
}

/// I-08: there is no later epoch while a lease is granted, and nobody has a lease that is not written down.
#[tokio::test]
async fn a_lease_is_written_down_before_it_is_sent_and_before_another_epoch() {
    let authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    stream.handle().answer(1, false, || {
        assert!(authority.feed.0.state.try_lock().is_err(), "an epoch could come");
        assert!(waiting(&mut stream).is_empty(), "it is sent already");
        Some(Duration::from_secs(10))
    });
    assert_eq!(pong(&mut stream).lease_ms, 10_000);
}

#[tokio::test]
async fn a_dropped_stream_is_forgotten() {
    let authority = Authority::new();
    let stream = authority.join(1).await.subscription;
    assert_eq!(authority.feed.streams(), 1);
    drop(stream);
    assert_eq!(authority.feed.streams(), 0);
}
