//! What operators do, and that nobody else does it.

use std::time::Duration;

use countersign_core::names::TokenId;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject;
use tonic::Code;

use super::stage::{NOBODY, OPERATOR, ORDERS, Stage, VERIFIER, ask, reason, refusal};
use crate::test_util::{Logs, START, client_id, peer, registration};

fn create(client_id: &str) -> v1::CreateClientRequest {
    v1::CreateClientRequest {
        client_id: client_id.to_owned(),
        grants: vec![v1::Grant {
            audience: "shop".to_owned(),
            scopes: vec!["read".to_owned()],
            default_scopes: vec![],
        }],
        ..Default::default()
    }
}

fn revoke(subject: Subject) -> v1::RevokeRequest {
    v1::RevokeRequest {
        subject: Some(subject),
        reason: "a test".to_owned(),
    }
}

/// S11: every admin rpc, by everybody who is no operator. Nothing happens, and it is written down.
#[tokio::test]
async fn nobody_but_an_operator_is_served() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let nameless = peer(None, 1, START * 2);
    let expired = peer(Some(OPERATOR), 1, START - 1);
    let mut refusals = 0;
    for (who, expected) in [
        (peer(Some(ORDERS), 1, START * 2), "NOT_AN_OPERATOR"),
        (peer(Some(VERIFIER), 1, START * 2), "NOT_AN_OPERATOR"),
        (nameless, "NOT_AN_OPERATOR"),
        (expired, "NO_IDENTITY"),
    ] {
        let channel = stage.connect_as(who).await;
        let mut clients = ClientServiceClient::new(channel.clone());
        let mut keys = KeyServiceClient::new(channel.clone());
        let mut revocations = RevocationServiceClient::new(channel.clone());
        let mut fleet = FleetServiceClient::new(channel);
        let mut refused = Vec::new();
        macro_rules! call {
            ($client:ident.$method:ident($request:expr)) => {
                refused.push($client.$method($request).await.expect_err("is refused"));
            };
        }
        call!(clients.create_client(create("orders")));
        call!(clients.get_client(v1::GetClientRequest::default()));
        call!(clients.list_clients(v1::ListClientsRequest::default()));
        call!(clients.update_client(v1::UpdateClientRequest::default()));
        call!(clients.disable_client(v1::DisableClientRequest::default()));
        call!(clients.enable_client(v1::EnableClientRequest::default()));
        call!(clients.delete_client(v1::DeleteClientRequest::default()));
        call!(clients.add_secret(v1::AddSecretRequest::default()));
        call!(clients.retire_secret(v1::RetireSecretRequest::default()));
        call!(keys.list_keys(v1::ListKeysRequest::default()));
        call!(keys.prepare_key(v1::PrepareKeyRequest::default()));
        call!(keys.activate_key(v1::ActivateKeyRequest::default()));
        call!(keys.retire_key(v1::RetireKeyRequest::default()));
        call!(keys.compromise_key(v1::CompromiseKeyRequest::default()));
        call!(keys.get_publishing_keys(v1::GetPublishingKeysRequest::default()));
        call!(revocations.revoke(v1::RevokeRequest::default()));
        call!(revocations.list_revocations(v1::ListRevocationsRequest::default()));
        call!(fleet.list_verifiers(v1::ListVerifiersRequest::default()));
        for status in &refused {
            assert_eq!(reason(status), expected);
        }
        refusals += refused.len();
    }
    let books = stage.opened.ledger.books();
    assert_eq!((books.trust.epoch(), books.clients.len()), (1, 0));
    let text = logs.text();
    assert_eq!(text.matches(r#""target":"audit""#).count(), refusals, "{text}");
    assert!(
        text.contains(ORDERS) && text.contains("not_an_operator"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_is_created_and_updated() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    let created = clients
        .create_client(v1::CreateClientRequest {
            with_secret: true,
            spiffe_ids: vec![ORDERS.to_owned()],
            ..create("orders")
        })
        .await;
    let created = created.expect("creates").into_inner();
    let client = created.client.expect("a client");
    assert_eq!((client.client_id.as_str(), client.version), ("orders", 1));
    assert!(created.client_secret.len() > 40);
    assert_eq!(client.secrets.len(), 1);
    let again = refusal(clients.create_client(create("orders")).await);
    assert_eq!(again, (Code::AlreadyExists, "CLIENT_EXISTS".to_owned()));

    let update = v1::UpdateClientRequest {
        client_id: "orders".to_owned(),
        version: 1,
        description: "changed".to_owned(),
        grants: create("x").grants,
        ..Default::default()
    };
    let updated = clients
        .update_client(update.clone())
        .await
        .expect("updates")
        .into_inner();
    assert_eq!(
        updated.client.map(|client| client.description).as_deref(),
        Some("changed")
    );
    let stale = refusal(clients.update_client(update).await);
    assert_eq!(stale, (Code::Aborted, "VERSION_MOVED".to_owned()));

    let text = logs.text();
    assert!(!text.contains(&created.client_secret), "H11: {text}");
    assert!(text.contains(r#""action":"create_client""#), "{text}");
}

#[tokio::test]
async fn secrets_are_added_and_retired_and_never_logged() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    clients
        .create_client(v1::CreateClientRequest {
            with_secret: true,
            ..create("orders")
        })
        .await
        .expect("creates");
    let id = || "orders".to_owned();
    let added = clients.add_secret(v1::AddSecretRequest { client_id: id() }).await;
    let added = added.expect("adds").into_inner();
    let third = refusal(clients.add_secret(v1::AddSecretRequest { client_id: id() }).await);
    assert_eq!(third, (Code::FailedPrecondition, "TOO_MANY_SECRETS".to_owned()));
    let retire = v1::RetireSecretRequest {
        client_id: id(),
        secret_id: added.secret.expect("a secret").secret_id,
    };
    clients.retire_secret(retire.clone()).await.expect("retires");
    let gone = refusal(clients.retire_secret(retire).await);
    assert_eq!(gone, (Code::NotFound, "SECRET_UNKNOWN".to_owned()));

    assert!(!logs.text().contains(&added.client_secret), "H11");
}

#[tokio::test]
async fn a_client_is_stopped_started_and_deleted() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    clients.create_client(create("orders")).await.expect("creates");
    let id = || "orders".to_owned();
    let disabled = clients
        .disable_client(v1::DisableClientRequest { client_id: id() })
        .await;
    assert_eq!(disabled.expect("disables").into_inner().epoch, 2);
    let shown = clients.get_client(v1::GetClientRequest { client_id: id() }).await;
    assert!(
        shown
            .expect("shows")
            .into_inner()
            .client
            .expect("a client")
            .disabled
    );
    clients
        .enable_client(v1::EnableClientRequest { client_id: id() })
        .await
        .expect("enables");
    stage.bench.clock.advance(Duration::from_secs(1));
    let deleted = clients
        .delete_client(v1::DeleteClientRequest { client_id: id() })
        .await;
    assert_eq!(deleted.expect("deletes").into_inner().epoch, 3);
    let unknown = refusal(clients.get_client(v1::GetClientRequest { client_id: id() }).await);
    assert_eq!(unknown, (Code::NotFound, "CLIENT_UNKNOWN".to_owned()));

    let text = logs.text();
    for action in ["create_client", "disable_client", "delete_client"] {
        assert!(
            text.contains(&format!(r#""action":"{action}""#)),
            "{action}: {text}"
        );
    }
}

#[tokio::test]
async fn clients_are_listed_by_identifier_a_page_at_a_time() {
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    for name in ["c", "a", "e", "b", "d"] {
        clients.create_client(create(name)).await.expect("creates");
    }
    let deleted = v1::DeleteClientRequest {
        client_id: "c".to_owned(),
    };
    clients.delete_client(deleted).await.expect("deletes");
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListClientsRequest {
            page_size: 2,
            page_token,
        };
        let page = clients.list_clients(request).await.expect("lists").into_inner();
        assert!(page.clients.len() <= 2);
        names.extend(page.clients.into_iter().map(|client| client.client_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "d", "e"]);
    for (page_size, page_token) in [(-1, ""), (i32::MIN, ""), (1, "not a token"), (1, "*")] {
        let request = v1::ListClientsRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        let refused = refusal(clients.list_clients(request).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{page_size} {page_token}");
    }
    let all = v1::ListClientsRequest {
        page_size: i32::MAX,
        ..Default::default()
    };
    assert_eq!(
        clients
            .list_clients(all)
            .await
            .expect("lists")
            .into_inner()
            .clients
            .len(),
        4
    );
}

/// What is not of its form is refused with the field named, whatever the operator meant.
#[tokio::test]
async fn registrations_of_the_wrong_form_are_refused() {
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    let with = |change: fn(&mut v1::CreateClientRequest)| {
        let mut request = create("orders");
        change(&mut request);
        request
    };
    for request in [
        with(|request| request.client_id = "Orders\n".to_owned()),
        with(|request| request.client_id = String::new()),
        with(|request| request.grants.clear()),
        with(|request| request.grants[0].audience = "*".to_owned()),
        with(|request| request.grants[0].scopes = vec!["a b".to_owned()]),
        with(|request| request.grants[0].default_scopes = vec!["write".to_owned()]),
        with(|request| request.spiffe_ids = vec!["orders".to_owned()]),
        with(|request| request.spiffe_ids = vec!["spiffe://elsewhere.org/orders".to_owned()]),
        with(|request| request.certificate_thumbprints = vec!["zz".to_owned()]),
        with(|request| request.description = "x".repeat(257)),
    ] {
        let refused = refusal(clients.create_client(request.clone()).await);
        assert_eq!(
            refused,
            (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()),
            "{request:?}"
        );
    }
    assert!(stage.opened.ledger.books().clients.is_empty());
}

#[tokio::test]
async fn keys_are_prepared_activated_and_retired() {
    let stage = Stage::new().await;
    let mut keys = stage.keys().await;
    let prepare = |algorithm: &str| v1::PrepareKeyRequest {
        algorithm: algorithm.to_owned(),
    };
    let none = v1::PrepareKeyRequest {
        algorithm: "none".to_owned(),
    };
    assert_eq!(refusal(keys.prepare_key(none).await).0, Code::InvalidArgument);
    let prepared = keys
        .prepare_key(prepare("EdDSA"))
        .await
        .expect("prepares")
        .into_inner();
    let prepared_key = prepared.key.expect("a key");
    assert_eq!((prepared.epoch, prepared_key.algorithm.as_str()), (2, "EdDSA"));
    assert_eq!(prepared_key.state(), v1::KeyState::Prepared);
    assert!(!prepared_key.jwk.contains("\"d\""));
    let twice = refusal(keys.prepare_key(prepare("")).await);
    assert_eq!(
        twice,
        (Code::FailedPrecondition, "KEY_ALREADY_PREPARED".to_owned())
    );

    // Nobody is connected, but somebody may come back before it signs.
    let activated = keys.activate_key(v1::ActivateKeyRequest::default()).await;
    let activated = activated.expect("activates").into_inner().key.expect("a key");
    assert_eq!(activated.state(), v1::KeyState::Prepared);
    let signs = activated.active_from.expect("a time").seconds;
    assert_eq!(signs, i64::try_from(START + 2).expect("fits"));
    stage.bench.clock.advance(Duration::from_secs(2));
    let nothing = refusal(keys.activate_key(v1::ActivateKeyRequest::default()).await);
    assert_eq!(nothing, (Code::FailedPrecondition, "KEY_NOT_PREPARED".to_owned()));
    let retire = |kid: &str| v1::RetireKeyRequest { kid: kid.to_owned() };
    let active = refusal(keys.retire_key(retire(&activated.kid)).await);
    assert_eq!(active, (Code::FailedPrecondition, "KEY_NOT_RETIRABLE".to_owned()));
    assert_eq!(
        refusal(keys.retire_key(retire("../x")).await).0,
        Code::InvalidArgument
    );
    let unknown = refusal(keys.retire_key(retire(&"A".repeat(43))).await);
    assert_eq!(unknown, (Code::NotFound, "KEY_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn a_compromised_key_is_out_and_another_signs() {
    let stage = Stage::new().await;
    let mut keys = stage.keys().await;
    let kid = stage.opened.ledger.books().ring.keys()[0].key_id().clone();
    let compromise = |reason: &str| v1::CompromiseKeyRequest {
        kid: kid.as_str().to_owned(),
        reason: reason.to_owned(),
    };
    for reason in ["", "a\nb", &"x".repeat(257)] {
        let refused = refusal(keys.compromise_key(compromise(reason)).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{reason:?}");
    }
    let done = keys
        .compromise_key(compromise("seen in a paste"))
        .await
        .expect("compromises");
    let signing = done.into_inner().signing_key.expect("something signs");
    assert_eq!(
        (signing.state(), signing.algorithm.as_str()),
        (v1::KeyState::Active, "ES256")
    );
    let twice = refusal(keys.compromise_key(compromise("again")).await);
    assert_eq!(twice, (Code::FailedPrecondition, "KEY_COMPROMISED".to_owned()));

    let listed = keys
        .list_keys(v1::ListKeysRequest {})
        .await
        .expect("lists")
        .into_inner();
    assert_eq!((listed.keys.len(), listed.epoch), (2, 2));
    let published = keys.get_publishing_keys(v1::GetPublishingKeysRequest {}).await;
    let jwks = published.expect("publishes").into_inner().jwks;
    assert!(PinnedKeys::read(jwks.as_bytes(), &AwsLc).is_ok());
}

/// What `Revoke` says about a token: ours, expired, another's, garbage.
#[tokio::test]
async fn a_token_is_revoked_by_showing_it() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let ledger = &stage.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let token = issued.expect("issues").into_inner().access_token;
    let mut revocations = stage.revocations().await;

    let mut by_token = async |token: &str| revocations.revoke(revoke(Subject::Token(token.to_owned()))).await;
    let done = by_token(&token).await.expect("revokes").into_inner();
    assert_eq!(
        (done.epoch, done.token_id.as_str(), done.already),
        (2, "1.0", false)
    );
    assert_eq!((done.verifiers, done.in_force), (0, 0));
    let again = by_token(&token).await.expect("is done").into_inner();
    assert_eq!((again.epoch, again.already), (2, true));

    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let tampered = format!("{signed}.{}", "A".repeat(86));
    let other = Stage::new().await;
    let ledger = &other.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    let foreign = other.tokens(ORDERS).await.issue_token(ask()).await;
    let foreign = foreign.expect("issues").into_inner().access_token;
    for bad in [tampered.as_str(), "garbage", "a.b.c", &foreign] {
        let refused = refusal(by_token(bad).await);
        assert_eq!(refused, (Code::InvalidArgument, "TOKEN_NOT_OURS".to_owned()));
    }
    for bad in ["", &"x".repeat(9000)] {
        assert_eq!(refusal(by_token(bad).await).0, Code::InvalidArgument);
    }

    // One that has expired needs no revocation.
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let expired = issued.expect("issues").into_inner().access_token;
    stage.bench.clock.advance(Duration::from_secs(901));
    let done = by_token(&expired).await.expect("is done").into_inner();
    assert_eq!(
        (done.epoch, done.already, done.token_id.as_str()),
        (2, true, "1.1")
    );

    // Everything under a compromised key is refused already.
    let kid = stage.opened.ledger.books().ring.keys()[0].key_id().clone();
    let compromised = stage
        .revocations()
        .await
        .revoke(revoke(Subject::KeyId(kid.as_str().to_owned())))
        .await;
    assert!(!compromised.expect("revokes").into_inner().already);
    let done = by_token(&expired).await.expect("is done").into_inner();
    assert!(done.already && done.token_id.is_empty());
    assert!(!logs.text().contains(&token), "H11");
}

#[tokio::test]
async fn revocations_name_a_subject_of_the_right_form() {
    let stage = Stage::new().await;
    let mut revocations = stage.revocations().await;
    let at = |seconds: i64| Subject::IssuedBefore(prost_types::Timestamp { seconds, nanos: 0 });
    let now = i64::try_from(START).expect("fits");
    for subject in [
        Subject::TokenId(String::new()),
        Subject::TokenId("a b".to_owned()),
        Subject::ClientId("*".to_owned()),
        Subject::KeyId("x".to_owned()),
        at(now + 1),
        at(-1),
        at(0),
    ] {
        let refused = refusal(revocations.revoke(revoke(subject.clone())).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{subject:?}");
    }
    let missing = refusal(revocations.revoke(v1::RevokeRequest::default()).await);
    assert_eq!(missing.0, Code::InvalidArgument);
    let unknown = revoke(Subject::ClientId("nobody".to_owned()));
    let unknown = refusal(revocations.revoke(unknown).await);
    assert_eq!(unknown, (Code::NotFound, "CLIENT_UNKNOWN".to_owned()));
    let everything = revocations.revoke(revoke(at(now))).await.expect("revokes");
    assert_eq!(everything.into_inner().epoch, 2);
}

#[tokio::test]
async fn revocations_are_listed_a_page_at_a_time() {
    let stage = Stage::new().await;
    for n in 0..5 {
        let token = TokenId::parse(&format!("1.{n}")).expect("valid");
        stage.opened.ledger.revoke_token_id(token).await.expect("revokes");
    }
    let now = stage.opened.ledger.timeline().now();
    stage.opened.ledger.revoke_everything(now).await.expect("revokes");
    let mut revocations = stage.revocations().await;
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRevocationsRequest {
            page_size: 2,
            page_token,
        };
        let page = revocations
            .list_revocations(request)
            .await
            .expect("lists")
            .into_inner();
        assert_eq!(page.total, 6);
        found.extend(page.revocations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), 6);
    let everything = found
        .iter()
        .filter(|record| record.issued_before.is_some())
        .count();
    assert_eq!(everything, 1);
    for page_token in ["%", "/", "\u{e9}"] {
        let request = v1::ListRevocationsRequest {
            page_size: 2,
            page_token: page_token.to_owned(),
        };
        let refused = refusal(revocations.list_revocations(request).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{page_token}");
    }
}

/// H10: what callers write makes no metric.
#[tokio::test]
async fn actions_are_counted_by_names_of_ours_only() {
    let stage = Stage::new().await;
    let mut clients = ClientServiceClient::new(stage.connect(NOBODY).await);
    for n in 0..20 {
        let request = v1::GetClientRequest {
            client_id: format!("c{n}"),
        };
        clients.get_client(request).await.expect_err("is refused");
    }
    let mut registry = prometheus_client::registry::Registry::default();
    stage.bench.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    let line = r#"admin_actions_total{action="get_client",result="not_an_operator"} 20"#;
    assert!(text.contains(line), "{text}");
}
