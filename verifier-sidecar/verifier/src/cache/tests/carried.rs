//! What is revoked beside the state on disk is kept whatever becomes of the rest.

use super::*;

/// A cache with a snapshot beside which a certificate is revoked, and a delta.
async fn filled() -> Desk {
    let mut desk = Desk::filled().await;
    let opened = desk.open().await;
    let snapshot = desk.authority.snapshot();
    let saved = opened
        .cache
        .save_snapshot(&snapshot, &[], desk.reached(), &carried(), &desk.publishers)
        .await;
    assert!(saved.durable);
    assert!(desk.save_revocation(&opened.cache, "fourth").await.durable);
    assert!(opened.cache.close().await);
    desk
}

/// What is in it, of which nothing is used but this.
async fn left(desk: &Desk) -> (Unusable, Vec<Revocation>) {
    let opened = desk.open().await;
    let Found::Unusable(why) = opened.found else {
        panic!("used: {:?}", opened.found)
    };
    let trust = store(&desk.clock);
    opened.restore(&trust).unwrap();
    assert_eq!(trust.current().certificates().len(), opened.carried.len());
    assert!(opened.cache.close().await);
    (why, entries(&opened.carried))
}

fn remove(name: &str) -> Change<'static> {
    Change {
        put: vec![],
        remove: vec![name.to_owned()],
    }
}

/// I-09: a cold start forgets the trust, and not which certificates are revoked, nor does the next one before the authority has
/// answered.
#[tokio::test]
async fn a_cold_start_keeps_what_is_carried() {
    for (harm, reason) in [
        (put(replay::SNAPSHOT, b"torn"), Unusable::Malformed),
        (remove(replay::SNAPSHOT), Unusable::Malformed),
        (remove("delta/0000000000000005"), Unusable::BelowFloor),
        (put("delta/0000000000000009", b"torn"), Unusable::Malformed),
    ] {
        let desk = filled().await;
        desk.tamper(&harm);
        assert_eq!(left(&desk).await, (reason, entries(&carried())), "{harm:?}");
        // There is nothing but that now.
        assert_eq!(
            left(&desk).await,
            (Unusable::Lost, entries(&carried())),
            "{harm:?}"
        );
        let opened = desk.open().await;
        let snapshot = desk.authority.snapshot();
        let reached = desk.reached();
        let saved = opened
            .cache
            .save_snapshot(&snapshot, &[], reached, &opened.carried, &desk.publishers);
        assert!(saved.await.durable);
        assert!(opened.cache.close().await);
        let opened = desk.open().await;
        assert_eq!(trust(&opened).0.epoch(), reached.epoch);
        assert_eq!(entries(&opened.carried), entries(&carried()));
    }
}

/// It is the authority that revoked a certificate: what another verifier of it had here counts, and nothing of another authority.
#[tokio::test]
async fn what_is_carried_is_of_one_authority() {
    let text = str::to_owned;
    let mut desk = filled().await;
    desk.identity.sidecar = text("spiffe://example.com/sidecar/stock");
    desk.identity.audience = text("https://stock.example.com");
    assert_eq!(left(&desk).await, (Unusable::Identity, entries(&carried())));
    let mut desk = filled().await;
    desk.identity.trust_domain = text("example.net");
    assert_eq!(left(&desk).await, (Unusable::Identity, Vec::new()));
    let mut desk = filled().await;
    desk.identity.issuer = text("https://other.example.com");
    assert_eq!(left(&desk).await, (Unusable::Identity, Vec::new()));
}

/// Where it cannot be read itself, nothing can be kept of it, and nothing is decided either.
#[tokio::test]
async fn what_is_carried_and_cannot_be_read_is_lost() {
    let desk = filled().await;
    desk.tamper(&put(replay::CARRIED, b"torn"));
    assert_eq!(left(&desk).await, (Unusable::Malformed, Vec::new()));
}
