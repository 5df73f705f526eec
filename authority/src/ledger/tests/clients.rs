//! What becomes of clients.

use super::*;

/// F38, I-08: the client is stopped and its tokens are revoked in one commit and one epoch.
#[tokio::test]
async fn disabling_a_client_revokes_its_tokens_in_the_same_step() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    let revision = bench.store.revision().await.expect("reads");
    let done = ledger.disable_client(id.clone()).await.expect("disables");
    assert_eq!(bench.store.revision().await.expect("reads"), revision + 1);
    assert_eq!(done.books.trust.epoch(), 2);
    assert!(done.books.clients.find("orders").expect("is there").disabled);
    let entry = done
        .books
        .trust
        .revocations()
        .find(&RevokedSubject::Client(id.clone()))
        .expect("is revoked");
    assert_eq!(entry.issued_before.as_seconds(), START);
    assert_eq!(entry.expires_at.as_seconds(), START + 3600 + 5 + 900);

    ledger.enable_client(id.clone()).await.expect("enables");
    let books = ledger.books();
    assert!(!books.clients.find("orders").expect("is there").disabled);
    assert_eq!(books.trust.revocations().len(), 1, "nothing is un-revoked");
    ledger.enable_client(id).await.expect("does nothing");
    assert_eq!(books.trust.epoch(), 2);
}

#[tokio::test]
async fn a_deleted_client_leaves_its_identifier_taken_and_its_certificate_free() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("orders");
    let create = |name: &str| ledger.create_client(client_id(name), registration(Some("orders")), false);
    create("orders").await.expect("creates");
    assert_eq!(refused(create("orders").await), Failure::ClientExists);
    assert_eq!(refused(create("other").await), Failure::IdentityTaken);
    ledger.delete_client(id.clone()).await.expect("deletes");
    assert_eq!(refused(create("orders").await), Failure::ClientExists);
    assert_eq!(
        refused(ledger.delete_client(id.clone()).await),
        Failure::ClientUnknown
    );
    assert_eq!(
        refused(ledger.enable_client(id.clone()).await),
        Failure::ClientUnknown
    );
    assert_eq!(refused(ledger.add_secret(id).await), Failure::ClientUnknown);
    create("other").await.expect("the certificate is free");
    assert_eq!(ledger.books().clients.after(None).count(), 1);
}

#[tokio::test]
async fn secrets_overlap_by_two_at_most() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("billing");
    let (_, first) = ledger
        .create_client(id.clone(), registration(None), true)
        .await
        .expect("creates")
        .answer;
    let first = first.expect("asked for");
    let (second, _) = ledger.add_secret(id.clone()).await.expect("adds").answer;
    assert_eq!(
        refused(ledger.add_secret(id.clone()).await),
        Failure::TooManySecrets
    );
    let valid = |secret: &NewSecret| {
        let books = ledger.books();
        let client = books.clients.find("billing").expect("is there");
        let hashes: Vec<[u8; 32]> = client.secrets.iter().map(|secret| secret.hash).collect();
        ledger
            .hasher()
            .matches(secret.secret.expose().as_bytes(), &hashes)
    };
    assert!(valid(&first) && valid(&second));
    ledger
        .retire_secret(id.clone(), first.secret_id.clone())
        .await
        .expect("retires");
    assert!(!valid(&first) && valid(&second));
    let again = ledger.retire_secret(id, first.secret_id.clone()).await;
    assert_eq!(refused(again), Failure::SecretUnknown);
}

#[tokio::test]
async fn an_update_from_an_old_version_loses() {
    let ledger = Bench::new().open().await.ledger;
    let id = client_id("orders");
    ledger
        .create_client(id.clone(), registration(None), false)
        .await
        .expect("creates");
    let update = |version| ledger.update_client(id.clone(), version, registration(Some("orders")));
    assert_eq!(update(1).await.expect("updates").answer.version, 2);
    assert_eq!(refused(update(1).await), Failure::VersionMoved);
    assert_eq!(ledger.books().trust.epoch(), 1, "verifiers need not hear of it");
}
