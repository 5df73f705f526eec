//! What the authority is told of the use of keys.

use countersign_core::names::{ClientId, KeyId};

use super::*;

/// Who still uses a key is told soon after an acknowledgement, and within a minute otherwise.
#[tokio::test(start_paused = true)]
async fn the_use_of_keys_is_told_with_acknowledgements_and_now_and_then() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    tokio::time::sleep(10 * SECOND).await;
    let kid = KeyId::from_thumbprint(&[1; 32]);
    let key_use = sidecar.key_uses.of(&kid, &ClientId::parse("orders").unwrap());
    let told = || -> u64 {
        let heard = authority.heard.lock().unwrap();
        assert!(heard.uses.iter().all(|told| told.kid == kid.as_str()));
        heard.uses.iter().map(|told| told.tokens).sum()
    };
    let until_told = async |wanted: u64| {
        while told() < wanted {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    key_use.count();
    let began = Instant::now();
    authority.revoke("a");
    until_told(1).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    key_use.count();
    let began = Instant::now();
    until_told(2).await;
    let (shortest, longest) = (LONGEST_TELLING - 3 * SECOND, LONGEST_TELLING + 3 * SECOND);
    assert!(
        (shortest..longest).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    sidecar.stop().await;
}
