//! The store: it goes forward only, and tells its age.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_crypto::AwsLc;

use super::*;
use crate::sync::scripted::{BUDGET, ScriptedAuthority, TestClock, revocation, rules, store};

const SECOND: Duration = Duration::from_secs(1);

fn state(authority: &ScriptedAuthority) -> TrustState {
    authority.state.clone()
}

/// Another state of the same epoch.
fn fork(authority: &ScriptedAuthority) -> TrustState {
    TrustState::new(
        authority.state.issuer().clone(),
        authority.state.epoch(),
        Arc::clone(authority.state.keys()),
        authority.state.revocations().with(revocation("forked"), &AwsLc),
        &AwsLc,
    )
}

#[test]
fn without_a_state_there_is_nothing_to_decide_on() {
    let clock = TestClock::new();
    let store = store(&clock);
    assert!(store.current().view(clock.elapsed()).is_none());
    let status = store.status();
    assert_eq!((status.epoch, status.freshness_name()), (0, "cold"));
    assert!(!status.decides());
    assert_eq!(
        store.confirm(1, &StateDigest::default(), clock.elapsed()),
        Confirmation::Cold
    );
}

#[test]
fn a_state_that_was_never_confirmed_counts_as_expired() {
    let clock = TestClock::new();
    let store = store(&clock);
    let authority = ScriptedAuthority::new();
    assert_eq!(store.install(state(&authority)), Ok(Offered::Installed));
    assert_eq!(store.install(state(&authority)), Ok(Offered::Confirmed));
    let status = store.status();
    assert_eq!((status.age, status.freshness), (None, Some(Freshness::Expired)));
    assert_eq!(status.refuses_in, Some(Duration::ZERO));
}

/// F15: age counts from when the ping was sent, not from when the answer came.
#[test]
fn age_counts_from_the_ping() {
    let clock = TestClock::new();
    let store = store(&clock);
    let authority = ScriptedAuthority::new();
    store.install(state(&authority)).unwrap();
    let sent_at = clock.elapsed();
    clock.advance(4 * SECOND);
    assert_eq!(
        store.confirm(1, authority.state.digest(), sent_at),
        Confirmation::Confirmed
    );
    assert_eq!(store.status().age, Some(4 * SECOND));
    // A late answer to an earlier ping makes nothing older.
    store.confirm(1, authority.state.digest(), sent_at.saturating_sub(SECOND));
    assert_eq!(store.status().age, Some(4 * SECOND));
    clock.advance(56 * SECOND);
    assert_eq!(store.status().freshness, Some(Freshness::Stale));
    clock.advance(BUDGET.refuse_after);
    assert!(!store.status().decides());
}

#[test]
fn a_newer_state_keeps_the_age_of_the_one_that_it_contains() {
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    store.install(state(&authority)).unwrap();
    store.confirm(1, authority.state.digest(), clock.elapsed());
    clock.advance(3 * SECOND);
    authority.revoke("a");
    store.install(state(&authority)).unwrap();
    assert_eq!(store.status().age, Some(3 * SECOND));
}

/// F42: what was on disk has the age that the disk says, also when this clock's own count is shorter.
#[test]
fn a_cached_state_is_as_old_as_its_heartbeat() {
    let clock = TestClock::new();
    let authority = ScriptedAuthority::new();
    let just_short = BUDGET.refuse_after - SECOND;
    for (age, decides) in [
        (Some(just_short), true),
        (Some(BUDGET.refuse_after), false),
        (None, false),
    ] {
        let store = store(&clock);
        store.install_cached(state(&authority), age).unwrap();
        assert_eq!(store.status().age, age);
        assert_eq!(store.status().decides(), decides, "{age:?}");
    }
}

/// K12, K13: neither an older epoch nor other content for the same one takes the place of what is in force.
#[test]
fn the_store_never_steps_back() {
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    let older = state(&authority);
    authority.revoke("a");
    store.install(state(&authority)).unwrap();
    assert_eq!(store.install(older), Err(UpdateRefused::Regressed));
    assert_eq!(store.status().alarm, Some(TrustAlarm::Regressed));
    assert_eq!(store.install(fork(&authority)), Err(UpdateRefused::Fork));
    assert_eq!(store.status().alarm, Some(TrustAlarm::Fork));
    assert_eq!(store.status().digest, *authority.state.digest());
}

/// K13: after a fork nothing is confirmed, so that the trust grows old; a later epoch ends it.
#[test]
fn a_fork_stops_confirmation_until_a_later_epoch() {
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    store.install(state(&authority)).unwrap();
    let digest = *authority.state.digest();
    let other = *fork(&authority).digest();
    assert_eq!(
        store.confirm(1, &digest, clock.elapsed()),
        Confirmation::Confirmed
    );
    assert_eq!(store.confirm(1, &other, clock.elapsed()), Confirmation::Fork);
    clock.advance(BUDGET.refuse_after);
    assert_eq!(store.confirm(1, &digest, clock.elapsed()), Confirmation::Fork);
    assert!(!store.status().decides());
    authority.revoke("a");
    store.install(state(&authority)).unwrap();
    assert_eq!(store.status().alarm, None);
    let digest = *authority.state.digest();
    assert_eq!(
        store.confirm(2, &digest, clock.elapsed()),
        Confirmation::Confirmed
    );
}

/// D04, K13: the floor holds over a restart, for content as well as for the epoch.
#[test]
fn nothing_below_or_beside_the_floor_is_taken_over() {
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    let older = state(&authority);
    authority.revoke("a");
    let floor = Floor {
        epoch: 2,
        digest: *authority.state.digest(),
    };
    store.raise_floor(floor);
    store.raise_floor(Floor::default());
    assert_eq!(store.floor(), floor);
    assert_eq!(store.install(older), Err(UpdateRefused::Regressed));
    assert_eq!(store.install(fork(&authority)), Err(UpdateRefused::Fork));
    let forked = authority
        .publishers()
        .update(&{
            let mut other = ScriptedAuthority::new();
            other.state = fork(&authority);
            authority.sign_update(&other.update(countersign_core::trust::UpdateContent::Snapshot {
                key_set: Arc::clone(other.state.keys()),
                revocations: other.state.revocations().iter().cloned().collect(),
            }))
        })
        .unwrap();
    assert_eq!(store.consider(&forked, &AwsLc).err(), Some(UpdateRefused::Fork));
    assert_eq!(store.install(state(&authority)), Ok(Offered::Installed));
}

/// An answer that was on its way while an update arrived is no sign of a restored authority; one to a later ping is.
#[test]
fn a_heartbeat_from_before_the_state_was_in_force_is_no_alarm() {
    let clock = TestClock::new();
    let store = store(&clock);
    let mut authority = ScriptedAuthority::new();
    let older = *authority.state.digest();
    store.install(state(&authority)).unwrap();
    let sent_at = clock.elapsed();
    clock.advance(SECOND);
    authority.revoke("a");
    store.install(state(&authority)).unwrap();
    assert_eq!(store.confirm(1, &older, sent_at), Confirmation::Superseded);
    assert_eq!(store.status().alarm, None);
    assert_eq!(store.confirm(1, &older, clock.elapsed()), Confirmation::Regressed);
    assert_eq!(store.status().alarm, Some(TrustAlarm::Regressed));
    assert_eq!(store.confirm(9, &older, clock.elapsed()), Confirmation::Behind);
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

#[test]
fn trust_of_another_issuer_is_refused() {
    let clock = TestClock::new();
    let mut other = rules();
    other.issuer = Issuer::parse("https://other.example.com").unwrap();
    let store = TrustStore::new(other, BUDGET, clock);
    assert_eq!(
        store.install(state(&ScriptedAuthority::new())),
        Err(UpdateRefused::Issuer)
    );
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
    let held = store.snapshot().unwrap();
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
    assert_eq!(*held.state.digest(), before);
}
