//! Leave is taken only when nothing is held any more, on disk neither.

use super::*;
use crate::cache::NotDurable;
use crate::trust::StateId;

/// What the next start finds, and the floor.
async fn next_start(authority: &FakeAuthority, state: &std::path::Path) -> (Found, Option<StateId>) {
    authority.leave();
    let sidecar = Sidecar::start(authority, state).await;
    let found = (sidecar.found.clone(), sidecar.floor);
    assert_eq!(
        sidecar.trust.status().decides(),
        matches!(found.0, Found::Trust { .. })
    );
    sidecar.stop().await;
    found
}

/// A sidecar with trust in force and on disk, which the authority's fake looks at.
async fn settled(authority: &FakeAuthority, on_stop: OnStop, state: &std::path::Path) -> Sidecar {
    let sidecar = Sidecar::start_to(on_stop, authority, state).await;
    *authority.disk.lock().unwrap() = Some(Arc::clone(&sidecar.cache));
    authority.revoke("a");
    sidecar.until_fresh(2).await;
    // The heartbeat for it is on disk, too.
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(sidecar.cache.durable_epoch(), 2);
    sidecar
}

async fn stop(authority: &FakeAuthority, sidecar: Sidecar) {
    let trust = Arc::clone(&sidecar.trust);
    sidecar.stop.cancel();
    sidecar.running.await.unwrap();
    assert!(!trust.status().decides() || authority.heard.lock().unwrap().leaves.is_empty());
    authority.disk.lock().unwrap().take();
    assert!(Arc::into_inner(sidecar.cache).unwrap().close().await);
}

/// At the moment at which the authority hears the leave, nothing is on disk; and a start after it decides nothing and takes
/// nothing from before.
#[tokio::test(start_paused = true)]
async fn leave_is_taken_after_everything_is_let_go_of() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = settled(&authority, OnStop::Forget, state.path()).await;
    let trust = Arc::clone(&sidecar.trust);
    stop(&authority, sidecar).await;
    assert_eq!(authority.heard.lock().unwrap().leaves, [0]);
    assert_eq!(trust.epoch(), 0);
    let (found, floor) = next_start(&authority, state.path()).await;
    assert!(matches!(found, Found::Nothing), "{found:?}");
    assert_eq!(floor.map(|floor| floor.epoch), Some(2));

    // With the authority it is as ever.
    authority.come_back();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(2).await;
    sidecar.stop().await;
    let (found, _) = next_start(&authority, state.path()).await;
    assert!(matches!(found, Found::Trust { .. }), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn no_leave_is_taken_where_the_trust_is_kept() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = settled(&authority, OnStop::Keep, state.path()).await;
    stop(&authority, sidecar).await;
    assert_eq!(authority.heard.lock().unwrap().leaves, [0; 0]);
    let (found, _) = next_start(&authority, state.path()).await;
    assert!(matches!(found, Found::Trust { .. }), "{found:?}");
}

/// What is on a disk that cannot be written, a later start may find. So the authority goes on waiting.
#[tokio::test(start_paused = true)]
async fn no_leave_is_taken_when_the_disk_does_not_let_go() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    // In the way of the lock.
    std::fs::create_dir(state.path().join("lock")).unwrap();
    let sidecar = Sidecar::start_to(OnStop::Forget, &authority, state.path()).await;
    sidecar.until_fresh(1).await;
    assert_eq!(sidecar.cache.problem(), Some(NotDurable::Unwritable));
    let trust = Arc::clone(&sidecar.trust);
    stop(&authority, sidecar).await;
    assert_eq!(authority.heard.lock().unwrap().leaves, [0; 0]);
    assert!(!trust.status().decides(), "it has stopped deciding all the same");
}

/// An authority that is away hears nothing, and one that says nothing is not waited for.
#[tokio::test(start_paused = true)]
async fn an_authority_that_does_not_hear_holds_up_nothing() {
    for frozen in [true, false] {
        let authority = FakeAuthority::new(&TimerClock::shared());
        let state = tempfile::tempdir().unwrap();
        let sidecar = settled(&authority, OnStop::Forget, state.path()).await;
        if frozen {
            authority.set_mood(Mood::Frozen);
        } else {
            authority.leave();
            tokio::time::sleep(SECOND).await;
        }
        let began = Instant::now();
        stop(&authority, sidecar).await;
        assert!(began.elapsed() <= 3 * SECOND, "{:?}", began.elapsed());
        authority.set_mood(Mood::Well);
        let (found, _) = next_start(&authority, state.path()).await;
        assert!(matches!(found, Found::Nothing), "{found:?}");
    }
}
