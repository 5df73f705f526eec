//! What an authority is shown that does not know how far it had come.

use super::*;

fn shown(desk: &Desk, cache: &TrustCache) -> Option<(&'static str, Epoch)> {
    let publishers = desk.authority.publishers();
    Some(match cache.proof()? {
        Proof::Heartbeat(signed) => ("heartbeat", publishers.heartbeat(&signed).unwrap().epoch),
        Proof::Update(signed) => ("update", publishers.update(&signed).unwrap().epoch),
    })
}

/// D17: it is the latest that was signed, and what is on disk will do after a restart.
#[tokio::test]
async fn the_latest_that_was_signed_is_shown_also_after_a_restart() {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    assert_eq!(
        shown(&desk, &opened.cache),
        Some(("update", 4)),
        "after the heartbeat"
    );
    desk.save_heartbeat(&opened.cache).await;
    assert_eq!(shown(&desk, &opened.cache), Some(("heartbeat", 4)));
    assert!(opened.cache.close().await);
    let opened = desk.open().await;
    assert_eq!(shown(&desk, &opened.cache), Some(("heartbeat", 4)));
    // Neither is older than what is known, and what is too long to be brought along is not.
    desk.save_revocation(&opened.cache, "fourth").await;
    let long = desk.authority.revoke_many("many-", 2000);
    opened
        .cache
        .save_delta(&long, desk.reached(), &desk.publishers)
        .await;
    assert_eq!(shown(&desk, &opened.cache), Some(("update", 5)));
    desk.save_heartbeat(&opened.cache).await;
    assert_eq!(shown(&desk, &opened.cache), Some(("heartbeat", 6)));
    assert!(opened.cache.close().await);
}

/// Nothing of what does not verify is shown; and without a disk, what is in memory is.
#[tokio::test]
async fn what_is_not_kept_is_not_shown() {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    assert!(opened.cache.close().await);
    desk.tamper(&put(replay::HEARTBEAT, b"garbage"));
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(_)));
    assert_eq!(shown(&desk, &opened.cache), None);
    assert!(opened.cache.close().await);

    let cache = TrustCache::in_memory(NotDurable::Unwritable);
    desk.save_revocation(&cache, "fourth").await;
    assert_eq!(shown(&desk, &cache), Some(("update", 5)));
    // Of a snapshot, the confirmation is shown, although there is nowhere to keep it.
    desk.save_snapshot(&cache).await;
    let now = desk.now_millis();
    let heartbeat = desk.authority.heartbeat(now);
    assert!(!cache.probe(&heartbeat, desk.reached().epoch).await.durable);
    assert_eq!(shown(&desk, &cache), Some(("heartbeat", 5)));
}
