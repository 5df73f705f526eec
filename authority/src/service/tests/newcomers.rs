//! Verifiers that the authority does not know: what their streams wait for, and what may have been granted to them before.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::sync::v1;
use countersign_proto::sync::v1::sync_request::Message;

use super::stage::{Setting, SlowStore, Stage, VERIFIER};
use super::sync::{Answer, Verifier, hello, join, message, open};
use crate::store::memory::MemoryStore;
use crate::test_util::{Bench, spiffe_id};

/// An authority whose store takes so long for every commit.
async fn slow(takes: Duration) -> Stage {
    let store = SlowStore(MemoryStore::default(), takes);
    let setting = Setting {
        bench: Bench::over(Arc::new(store)),
        ..Setting::default()
    };
    Stage::with(setting).await
}

/// The lease of the next answer to a ping.
async fn ping(verifier: &mut Verifier) -> u64 {
    verifier.send(Message::Ping(v1::Ping::default())).await;
    let Answer::Pong(pong) = verifier.next().await else {
        panic!("a pong")
    };
    pong.lease_ms
}

/// A verifier decides from its first answer on, not from its second, which may be seconds later.
#[tokio::test(start_paused = true)]
async fn a_newcomers_first_ping_is_granted_a_lease_by_a_store_that_takes_its_time() {
    let stage = slow(Duration::from_millis(200)).await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, digest) = verifier.update().await;
    verifier.acknowledge(epoch, digest).await;
    assert_ne!(ping(&mut verifier).await, 0);
}

/// F17: a store that hangs keeps nobody from being told what is revoked.
#[tokio::test(start_paused = true)]
async fn a_newcomers_stream_does_not_wait_for_a_store_that_hangs_and_nothing_is_granted_meanwhile() {
    let stage = slow(Duration::from_secs(5)).await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, digest) = verifier.update().await;
    verifier.acknowledge(epoch, digest).await;
    assert_eq!(ping(&mut verifier).await, 0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_ne!(ping(&mut verifier).await, 0);
}

/// I-08: one whose log on disk is full says that it holds nothing, and goes on deciding on what it holds. An authority that does
/// not know it may have granted it a lease before it forgot, so that is what its bounds count on.
#[tokio::test]
async fn one_that_has_held_something_is_counted_as_deciding_though_it_asks_for_all_of_it() {
    let stage = Stage::new().await;
    let says = |highest_epoch| {
        let hello = v1::Hello {
            highest_epoch,
            ..hello(0, &[])
        };
        Some(message(Message::Hello(hello)))
    };
    let _new = open(&stage, VERIFIER, says(0)).await.expect("opens");
    let other = "spiffe://example.org/verifier/b";
    let _back = open(&stage, other, says(1)).await.expect("opens");
    let ends = |name: &str| stage.bench.fleet.ends(&spiffe_id(name));
    assert!(ends("verifier/a").is_empty());
    assert!(!ends("verifier/b").is_empty());
}
