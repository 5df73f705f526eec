use countersign_core::fleet::assumed_budgets;
use countersign_core::names::VerifierId;

use super::membership::MAX_KEYS;
use super::*;
use crate::test_util::{Bench, ManualClock, START, introduction, verifier_key};

const LEASE: Duration = Duration::from_secs(10);

struct Stage {
    fleet: Fleet,
    clock: Arc<ManualClock>,
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

impl Stage {
    fn new() -> Self {
        let limits = FleetLimits {
            streams_per_identity: 2,
            streams: 3,
        };
        let clock = Arc::new(ManualClock::at(START));
        let told_by = Arc::<ManualClock>::clone(&clock);
        Self {
            fleet: Fleet::new(limits, LEASE, told_by, Arc::default()),
            clock,
        }
    }

    fn join(&self, name: &str) -> Result<Membership, Failure> {
        self.fleet.join(verifier_key(name), introduction("1"), at(10))
    }

    /// Connected, at `epoch`, with a lease.
    fn settled(&self, name: &str, epoch: Epoch) -> Membership {
        self.fleet.advance(epoch);
        let member = self.join(name).expect("joins");
        member.acknowledged(epoch, true, at(11));
        self.fleet.told(&self.fleet.to_tell());
        assert_eq!(member.grant(), Some(LEASE));
        member
    }
}

/// G46: one identity cannot take all places, and the places are bounded.
#[test]
fn streams_are_limited_for_one_identity_and_for_all() {
    let stage = Stage::new();
    let replica = |id: &str| VerifierKey {
        verifier_id: VerifierId::parse(id).expect("valid"),
        ..verifier_key("a")
    };
    let join = |key| stage.fleet.join(key, introduction("1"), at(10));
    let first = join(replica("1")).expect("joins");
    let _second = join(replica("2")).expect("joins");
    assert_eq!(join(replica("3")).err(), Some(Failure::TooManyStreams));
    let _other = stage.join("b").expect("joins");
    assert_eq!(stage.join("c").err(), Some(Failure::LimitReached));
    drop(first);
    let _third = stage.join("c").expect("joins");
}

/// Known before granted: a verifier waits for the store, whatever it has acknowledged.
#[test]
fn nothing_is_granted_before_the_store_is_told() {
    let stage = Stage::new();
    stage.fleet.advance(7);
    let member = stage.join("a").expect("joins");
    member.acknowledged(7, true, at(11));
    assert_eq!(member.grant(), None);
    let untold = stage.fleet.to_tell();
    let known = Known {
        key: verifier_key("a"),
        budgets: assumed_budgets(),
    };
    assert_eq!(
        (untold.known.as_slice(), untold.gone.len()),
        ([known].as_slice(), 0)
    );
    assert!(!stage.fleet.told(&untold));
    assert_eq!(stage.fleet.to_tell(), Untold::default());
    assert_eq!(member.grant(), Some(LEASE));
}

/// Who comes back while the store strikes it has to be stored anew.
#[test]
fn who_comes_back_while_it_is_forgotten_is_granted_nothing_until_it_is_known_again() {
    let stage = Stage::new();
    drop(stage.settled("a", 1));
    stage.clock.advance(Duration::from_secs(2 * 24 * 3600));
    let untold = stage.fleet.to_tell();
    assert_eq!(untold.gone, [verifier_key("a")]);
    let member = stage.join("a").expect("joins");
    member.acknowledged(1, true, at(12));
    assert!(stage.fleet.told(&untold), "there is more");
    assert_eq!(member.grant(), None);
    stage.fleet.told(&stage.fleet.to_tell());
    assert_eq!(member.grant(), Some(LEASE));
}

#[tokio::test]
async fn a_second_stream_of_a_verifier_ends_the_first() {
    let stage = Stage::new();
    let first = stage.join("a").expect("joins");
    let second = stage.join("a").expect("joins");
    first.superseded().await;
    drop(first);
    assert_eq!(stage.fleet.connected(), 1);
    drop(second);
    assert_eq!(stage.fleet.connected(), 0);
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let stage = Stage::new();
    let _members = ["a", "b", "c"].map(|name| stage.join(name).expect("joins"));
    let first = stage.fleet.page(0, None, 2);
    assert_eq!((first.verifiers.len(), first.total), (2, 3));
    let second = stage.fleet.page(0, first.next.as_ref(), 2);
    assert_eq!((second.verifiers.len(), second.next), (1, None));
    assert_eq!(second.verifiers[0].key, verifier_key("c"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_those_who_are_connected_and_no_longer_than_a_moment() {
    let stage = Stage::new();
    let (a, b) = (stage.settled("a", 4), stage.settled("b", 4));
    stage.fleet.advance(5);
    a.acknowledged(5, true, at(12));
    let waiting = {
        let fleet = stage.fleet.clone();
        tokio::spawn(async move { fleet.reach_soon(5).await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    b.acknowledged(5, false, at(12));
    let reach = waiting.await.expect("waits");
    assert_eq!((reach.live, reach.in_force, reach.durable), (2, 2, 1));
    drop(b);
    stage.fleet.advance(6);
    let started = tokio::time::Instant::now();
    let reach = stage.fleet.reach_soon(6).await;
    assert_eq!(started.elapsed(), ACKNOWLEDGEMENT_WAIT);
    assert_eq!((reach.live, reach.in_force), (2, 0));
}

/// What an operator is told is never earlier than what holds.
#[test]
fn times_are_rounded_up_to_the_second() {
    let stage = Stage::new();
    let elapsed = stage.fleet.0.clock.elapsed();
    assert_eq!(stage.fleet.time_of(elapsed), at(START));
    assert_eq!(
        stage.fleet.time_of(elapsed + Duration::from_millis(1)),
        at(START + 1)
    );
    assert_eq!(stage.fleet.time_of(elapsed + LEASE), at(START + 10));
}

#[test]
fn the_use_of_keys_is_remembered_for_as_many_keys_as_there_may_be() {
    let stage = Stage::new();
    let member = stage.join("a").expect("joins");
    for n in 0..=MAX_KEYS {
        let key_id = KeyId::from_thumbprint(&[u8::try_from(n).expect("small"); 32]);
        member.used(
            key_id.clone(),
            1,
            vec![],
            at(100 + u64::try_from(n).expect("small")),
        );
        member.used(key_id, 2, vec![], at(100 + u64::try_from(n).expect("small")));
    }
    let usage = &stage.fleet.page(0, None, 1).verifiers[0].usage;
    assert_eq!(usage.len(), MAX_KEYS);
    assert!(
        !usage.contains_key(&KeyId::from_thumbprint(&[0; 32])),
        "the oldest went"
    );
    assert!(usage.values().all(|usage| usage.tokens == 3));
}

/// What is granted survives a restart of the authority as a bound: whoever was known may hold a lease from right before it.
#[tokio::test]
async fn after_a_restart_who_was_known_is_waited_for() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let member = bench.fleet.join(verifier_key("a"), introduction("1"), at(10));
    let untold = bench.fleet.to_tell();
    opened.ledger.enrol(untold.clone()).await.expect("stores");
    drop(member);
    let again = Bench {
        fleet: Bench::over(Arc::clone(&bench.store)).fleet,
        ..bench.clone()
    };
    let opened = again.open().await;
    let reach = again.fleet.reach(1);
    assert_eq!((reach.live, reach.in_force, reach.bounds.len()), (1, 0, 3));
    opened
        .ledger
        .enrol(Untold {
            gone: vec![verifier_key("a")],
            ..Untold::default()
        })
        .await
        .expect("stores");
    let third = Bench {
        fleet: Bench::over(Arc::clone(&bench.store)).fleet,
        ..bench.clone()
    };
    third.open().await;
    assert_eq!(third.fleet.reach(1), Reach::default());
}
