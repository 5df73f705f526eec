//! The store: what is held is seen whole, by everybody, and the time that it tells does not go back.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use countersign_core::verifier::TimeStated;
use countersign_crypto::AwsLc;

use super::*;
use crate::sync::scripted::{ScriptedAuthority, TestClock, granted, revocation, rules, store};

const SECOND: Duration = Duration::from_secs(1);

fn state(authority: &ScriptedAuthority) -> TrustState {
    authority.state.clone()
}

#[test]
fn a_store_tells_what_is_in_force_and_how_old_it_is() {
    let clock = TestClock::new();
    let store = store(&clock);
    let authority = ScriptedAuthority::new();
    assert!(store.current().view(clock.elapsed()).is_none());
    assert_eq!(store.status().freshness_name(), "cold");
    assert_eq!(store.install(state(&authority)), Ok(Offered::Installed));
    assert_eq!(store.status().freshness_name(), "expired");
    let sent_at = clock.elapsed();
    clock.advance(4 * SECOND);
    store.confirm(1, authority.state.digest(), granted(sent_at));
    let status = store.status();
    assert_eq!(
        (status.epoch, status.age, status.freshness_name()),
        (1, Some(4 * SECOND), "fresh")
    );
    let current = store.current();
    assert_eq!(
        current.view(clock.elapsed()).unwrap().overdue,
        Some(Duration::ZERO)
    );
}

/// What holds nothing and was told by the authority, just now, that it is `millis`.
fn heard(clock: &TestClock, millis: u64) -> HeldTrust {
    let mut time = VerifierClock::start(None, moment(clock));
    let stated = TimeStated {
        authority_millis: millis,
        sent_at: clock.elapsed(),
    };
    time.hear(stated, moment(clock)).unwrap();
    HeldTrust::new(rules(), time)
}

/// X03, I-17: also a reader that is late does not make the time go back, and nobody who sets the wall clock.
#[test]
fn the_time_that_is_told_does_not_go_back() {
    let clock = TestClock::new();
    let store = store(&clock);
    let (now, millis) = (store.now().unwrap(), clock.now_millis());
    store.held.store(Arc::new(heard(&clock, millis + 100_000)));
    assert_eq!(store.now().unwrap().since(now), 100 * SECOND);
    store.held.store(Arc::new(heard(&clock, millis + 50_000)));
    assert_eq!(store.now().unwrap().since(now), 100 * SECOND);
    clock.set_millis(0);
    assert_eq!(store.now().unwrap().since(now), 100 * SECOND);
}

/// X01: what a wrong wall clock said before the authority was heard binds nobody.
#[test]
fn a_time_that_only_the_wall_clock_told_is_corrected() {
    let clock = TestClock::new();
    let right = clock.now();
    let millis = clock.now_millis();
    clock.set_millis(millis + 3_600_000);
    let store = store(&clock);
    assert_eq!(store.now().unwrap().since(right), 3600 * SECOND);
    store.held.store(Arc::new(heard(&clock, millis)));
    assert!(store.now().unwrap().since(right) <= SECOND);
    assert!(store.status().wall_ahead_millis > 3_598_000);
}

/// K16: whoever waits for a newer epoch is told.
#[tokio::test]
async fn waiters_are_told_of_a_new_epoch_after_it_is_in_force() {
    let clock = TestClock::new();
    let store = Arc::new(store(&clock));
    let mut changed = store.changed();
    let authority = ScriptedAuthority::new();
    let installed = Arc::clone(&store);
    let waiter = tokio::spawn(async move {
        changed.changed().await.unwrap();
        assert_eq!(installed.epoch(), *changed.borrow());
    });
    store.install(state(&authority)).unwrap();
    waiter.await.unwrap();
}

/// K23: a large update comes into force as a whole. Whoever looks meanwhile sees all of it or nothing of it, and a reader
/// that does not let go of what was before holds up nobody.
#[test]
fn a_large_update_is_seen_whole_or_not_at_all() {
    const MANY: usize = 20_000;
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    store.install(state(&authority)).unwrap();
    let before = *authority.state.digest();
    let signed = authority.revoke_many("t", MANY);
    let after = *authority.state.digest();
    let first_and_last = [revocation("t0"), revocation("t19999")];
    let look = || {
        let current = store.current();
        let state = current.view(clock.elapsed()).unwrap().state;
        let list = state.revocations();
        let found = first_and_last.each_ref().map(|entry| list.covers(entry));
        let whole = (*state.digest(), list.len(), found) == (after, MANY, [true; 2]);
        let nothing = (*state.digest(), list.len(), found) == (before, 0, [false; 2]);
        assert!(whole || nothing, "{} {found:?} {}", state.epoch(), list.len());
        whole
    };
    let (done, begun) = (AtomicBool::new(false), Barrier::new(3));
    let read = || {
        assert!(!look());
        begun.wait();
        let mut looks = 0;
        while !done.load(Ordering::Acquire) {
            look();
            looks += 1;
        }
        assert!(look());
        looks
    };
    let held = store.snapshot();
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        begun.wait();
        let update = authority.publishers().update(&signed).unwrap();
        let Ok(Considered::Advance(next)) = store.consider(&update, &AwsLc) else {
            panic!("not taken over")
        };
        assert_eq!(store.install(next), Ok(Offered::Installed));
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "nobody looked meanwhile");
        }
    });
    assert_eq!(held.id().digest, before);
}
