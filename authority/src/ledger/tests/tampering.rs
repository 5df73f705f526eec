//! A store that somebody changed, or that is another's.

use countersign_core::jose::Algorithm;
use countersign_core::names::Issuer;
use countersign_wire::status::Failure;

use super::*;
use crate::store::meta::IDENTITY;
use crate::store::{Commit, read_all};
use crate::test_util::{Bench, client_id, in_turn, registration};

/// C16: the wrong key-encryption key changes nothing.
#[tokio::test]
async fn another_key_encryption_key_or_issuer_is_refused_and_nothing_overwritten() {
    let bench = Bench::new();
    bench.open().await;
    let before = read_all(bench.store.as_ref(), "").await.expect("reads");
    let mut other_key = bench.clone();
    other_key.kek[5] = 99;
    let error = open(other_key.opening()).await.expect_err("is refused");
    assert!(
        matches!(error, StartError::OtherKeyEncryptionKey { .. }),
        "{error:?}"
    );
    let mut other_issuer = bench.clone();
    other_issuer.issuer = Issuer::parse("https://other.example.org").expect("valid");
    let error = open(other_issuer.opening()).await.expect_err("is refused");
    assert!(matches!(error, StartError::OtherOwner { .. }), "{error:?}");
    assert_eq!(read_all(bench.store.as_ref(), "").await.expect("reads"), before);
}

async fn replace(bench: &Bench, name: &str, value: Option<Vec<u8>>) {
    let mut commit = Commit::default();
    match value {
        Some(value) => commit.put(name.to_owned(), value),
        None => commit.delete(name.to_owned()),
    }
    bench.store.commit(commit).await.expect("tampers");
}

async fn records_of(bench: &Bench, prefix: &str) -> Vec<store::Record> {
    read_all(bench.store.as_ref(), prefix).await.expect("reads")
}

/// An authority with two keys, two clients and a revocation, to be tampered with.
async fn furnished() -> Bench {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    for name in ["billing", "orders"] {
        ledger
            .create_client(client_id(name), registration(Some(name)), true)
            .await
            .expect("creates");
    }
    ledger.prepare_key(Algorithm::Es256).await.expect("prepares");
    ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    ledger.close().await;
    bench
}

/// D10, D15, I-09: what was published cannot be changed by changing records.
#[tokio::test]
async fn records_that_do_not_add_up_to_the_published_state_stop_the_start() {
    let bench = furnished().await;
    let key = records_of(&bench, "keys/").await.remove(0);
    let revocation = records_of(&bench, "revocations/").await.remove(0);
    let resurrected = String::from_utf8(key.value.clone())
        .expect("text")
        .replace("\"retired_from\":null", "\"retired_from\":1800000000");
    let made_up = br#"{"format":1,"record":{"issued_before":0,"expires_at":9}}"#;
    replace(&bench, &revocation.name, Some(made_up.to_vec())).await;
    let error = open(bench.opening()).await.expect_err("is refused");
    assert!(
        matches!(error, StartError::Record(_)),
        "it is not sealed: {error:?}"
    );
    replace(&bench, &revocation.name, Some(revocation.value.clone())).await;
    for (record, value) in [
        (&revocation, None),
        (&key, None),
        (&key, Some(resurrected.into_bytes())),
    ] {
        replace(&bench, &record.name, value).await;
        let error = open(bench.opening()).await.expect_err("is refused");
        assert!(
            matches!(error, StartError::StateMismatch { epoch: 3 }),
            "{error:?}"
        );
        replace(&bench, &record.name, Some(record.value.clone())).await;
    }
    bench.open().await;
}

/// D13, D14, D16: a client's record that is garbage, another client's, or another installation's is left alone.
#[tokio::test]
async fn a_client_record_that_cannot_be_used_is_refused_and_the_others_work() {
    let bench = furnished().await;
    let [billing, orders] = records_of(&bench, "clients/").await.try_into().expect("two");
    let foreign = records_of(&furnished().await, "clients/").await.remove(1);
    for value in [
        b"garbage".to_vec(),
        Vec::new(),
        vec![b'x'; 1024 * 1024],
        billing.value.clone(),
        foreign.value,
    ] {
        replace(&bench, &orders.name, Some(value)).await;
        let before = bench.alarms(Alarm::RecordRefused);
        let ledger = bench.open().await.ledger;
        assert_eq!(bench.alarms(Alarm::RecordRefused), before + 1);
        let books = ledger.books();
        assert!(books.clients.find("orders").is_none());
        assert!(books.clients.find("billing").is_some());
        let again = ledger
            .create_client(client_id("orders"), registration(None), false)
            .await;
        assert!(again.is_err(), "the record is not overwritten");
    }
}

/// D15: a client's record that was sealed here, and is not the last one; or that is gone, which frees its identifier.
#[tokio::test]
async fn a_client_record_that_was_rolled_back_or_deleted_stops_the_start() {
    let bench = furnished().await;
    let [_, orders] = records_of(&bench, "clients/").await.try_into().expect("two");
    let ledger = bench.open().await.ledger;
    ledger
        .disable_client(client_id("orders"))
        .await
        .expect("disables");
    ledger.close().await;
    let last = records_of(&bench, "clients/").await.remove(1);
    for value in [Some(orders.value), None] {
        replace(&bench, &last.name, value).await;
        let error = open(bench.opening()).await.expect_err("is refused");
        assert!(matches!(error, StartError::ClientsMismatch), "{error:?}");
    }
    // What was damaged and mended is as good as before; so is what was changed since.
    replace(&bench, &last.name, Some(b"garbage".to_vec())).await;
    let ledger = bench.open().await.ledger;
    ledger
        .disable_client(client_id("billing"))
        .await
        .expect("disables");
    ledger.close().await;
    replace(&bench, &last.name, Some(last.value.clone())).await;
    let ledger = bench.open().await.ledger;
    assert!(
        ledger
            .books()
            .clients
            .find("orders")
            .is_some_and(|client| client.disabled)
    );
}

/// D13, D14: a private key that cannot be opened does not sign; its public half goes on verifying.
#[tokio::test]
async fn swapped_private_keys_do_not_sign() {
    let bench = furnished().await;
    let [first, second] = records_of(&bench, "signers/").await.try_into().expect("two");
    replace(&bench, &first.name, Some(second.value.clone())).await;
    replace(&bench, &second.name, Some(first.value.clone())).await;
    let ledger = bench.open().await.ledger;
    let books = ledger.books();
    assert_eq!(books.ring.keys().len(), 2);
    assert!(books.ring.keys().iter().all(|key| key.signer.is_none()));
    assert_eq!(bench.alarms(Alarm::RecordRefused), 2);
    let activated = ledger.activate_key(None, in_turn(0)).await;
    assert_eq!(refused(activated), Failure::KeyNotPrepared);
    // The way out: let another sign, and withdraw the useless one.
    assert!(books.ring.signing(ledger.timeline().now()).is_none());
    ledger.prepare_key(Algorithm::Es256).await.expect("prepares");
    let mut useless = books.ring.keys().iter();
    let useless = useless
        .find(|key| key.times().active_from.is_none())
        .expect("is there");
    let useless = useless.key_id().clone();
    ledger.retire_key(useless).await.expect("retires");
    ledger.activate_key(None, in_turn(0)).await.expect("activates");
    let now = ledger.timeline().now();
    let books = ledger.books();
    assert!(books.ring.signing(now).is_some_and(|key| key.signer.is_some()));
}

/// C18, D11: records of a newer version stop the start, whatever they are, with the version named.
#[tokio::test]
async fn records_of_a_newer_version_stop_the_start() {
    let bench = furnished().await;
    for prefix in [
        "meta/",
        "keys/",
        "signers/",
        "publishers/",
        "clients/",
        "revocations/",
    ] {
        let record = records_of(&bench, prefix).await.remove(0);
        let newer = br#"{"format":9,"record":{}}"#.to_vec();
        replace(&bench, &record.name, Some(newer)).await;
        let error = open(bench.opening()).await.expect_err("is refused");
        assert!(
            matches!(error, StartError::Record(RecordError::Newer { found: 9, .. })),
            "{prefix} {error:?}"
        );
        replace(&bench, &record.name, Some(record.value)).await;
    }
    bench.open().await;
}

#[tokio::test]
async fn records_without_an_identity_or_a_publishing_key_stop_the_start() {
    let bench = furnished().await;
    let publisher = records_of(&bench, "publishers/").await.remove(0);
    replace(&bench, &publisher.name, Some(b"garbage".to_vec())).await;
    let error = open(bench.opening()).await.expect_err("is refused");
    assert!(matches!(error, StartError::NoPublisher), "{error:?}");
    replace(&bench, IDENTITY, None).await;
    let error = open(bench.opening()).await.expect_err("is refused");
    assert!(matches!(error, StartError::Unidentified), "{error:?}");
}

/// I-35: nothing in the store contains a secret in the clear.
#[tokio::test]
async fn no_record_contains_a_secret() {
    let bench = Bench::new();
    let ledger = bench.open().await.ledger;
    let (_, secret) = ledger
        .create_client(client_id("billing"), registration(None), true)
        .await
        .expect("creates")
        .answer;
    let secret = secret.expect("asked for").secret.expose().to_owned();
    let key = ledger.books().ring.keys()[0].signer.clone().expect("signs");
    let pkcs8 = key.to_pkcs8().expect("writes");
    for record in records_of(&bench, "").await {
        let text = String::from_utf8_lossy(&record.value).into_owned();
        assert!(
            !text.contains(secret.trim_start_matches("csk_")),
            "{}",
            record.name
        );
        let window = |bytes: &[u8]| record.value.windows(8).any(|found| found == bytes);
        // The public half is part of PKCS#8 and is in the store in another encoding.
        assert!(!pkcs8[..68].windows(8).any(window), "{}", record.name);
    }
}
