//! Clients: registered, changed, stopped, deleted; and what is no registration.

use std::time::Duration;

use countersign_proto::admin::v1;
use tonic::Code;

use super::stage::{OPERATOR, ORDERS, Stage, refusal};
use crate::test_util::{Logs, introduction, spiffe_id, verifier_key};

pub(super) fn create(client_id: &str) -> v1::CreateClientRequest {
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

/// What is left out is the usual at first, and stays as it is in a change, also one by somebody who does not know of it; and nobody's
/// tokens are bound to what he does not have.
#[tokio::test]
async fn tokens_are_bound_to_what_is_registered() {
    use v1::TokenBinding::{Certificate, SpiffeId, Unspecified};
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    let created = clients.create_client(create("billing")).await.expect("creates");
    let client = created.into_inner().client.expect("a client");
    assert_eq!(client.token_binding(), Certificate);
    for (version, binding, registered) in [
        (1, SpiffeId, SpiffeId),
        (2, Certificate, Certificate),
        (3, Unspecified, Certificate),
        (4, SpiffeId, SpiffeId),
        (5, Unspecified, SpiffeId),
    ] {
        let update = v1::UpdateClientRequest {
            client_id: "billing".to_owned(),
            version,
            grants: create("x").grants,
            spiffe_ids: vec![ORDERS.to_owned()],
            token_binding: binding.into(),
            ..Default::default()
        };
        let updated = clients.update_client(update).await.expect("updates").into_inner();
        let client = updated.client.expect("a client");
        assert_eq!(client.token_binding(), registered, "{binding:?}");
    }
    // Nor may what they are bound to be taken away by who does not say that they are to be bound to something else.
    let bare = |client_id: &str, version| v1::UpdateClientRequest {
        client_id: client_id.to_owned(),
        version,
        grants: create("x").grants,
        ..Default::default()
    };
    let refused = refusal_of_field(clients.update_client(bare("billing", 6)).await);
    assert!(refused.contains("token_binding"), "{refused}");
    let moved = refusal(clients.update_client(bare("billing", 5)).await);
    assert_eq!(moved, (Code::Aborted, "VERSION_MOVED".to_owned()));
    let unknown = refusal(clients.update_client(bare("nobody", 1)).await);
    assert_eq!(unknown, (Code::NotFound, "CLIENT_UNKNOWN".to_owned()));
    for token_binding in [SpiffeId.into(), 3, -1] {
        let request = v1::CreateClientRequest {
            token_binding,
            ..create("nobody")
        };
        let refused = refusal_of_field(clients.create_client(request).await);
        assert!(refused.contains("token_binding"), "{token_binding}: {refused}");
    }
}

fn refusal_of_field<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> String {
    let status = result.expect_err("is refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    status.message().to_owned()
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
    for (page_size, page_token) in [
        (-1, ""),
        (i32::MIN, ""),
        (1, "not a token"),
        (1, "*"),
        (1, "garbage"),
    ] {
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
        with(|request| request.description = "a\u{1b}[31mb".to_owned()),
        with(|request| request.description = "turned \u{202e}dnuor".to_owned()),
        with(|request| request.description = "\u{2066}kept apart".to_owned()),
        with(|request| request.description = "hid\u{200b}den".to_owned()),
        with(|request| request.description = "two\u{2028}lines".to_owned()),
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

/// S11: nobody is an operator and a client, by the same certificate. A service and its sidecar may be one workload.
#[tokio::test]
async fn an_operators_identity_is_not_registered_for_a_client() {
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    let named = |spiffe_id: &str| v1::CreateClientRequest {
        spiffe_ids: vec![ORDERS.to_owned(), spiffe_id.to_owned()],
        ..create("orders")
    };
    let taken = (Code::AlreadyExists, "IDENTITY_TAKEN".to_owned());
    assert_eq!(refusal(clients.create_client(named(OPERATOR)).await), taken);
    clients
        .create_client(named("spiffe://example.org/verifier/orders"))
        .await
        .expect("creates");
    let update = v1::UpdateClientRequest {
        client_id: "orders".to_owned(),
        version: 1,
        grants: create("orders").grants,
        spiffe_ids: vec![OPERATOR.to_owned()],
        ..Default::default()
    };
    assert_eq!(refusal(clients.update_client(update).await), taken);
}

/// Whoever stops a client is told whether its tokens are refused everywhere by now, as whoever revokes is.
#[tokio::test(start_paused = true)]
async fn an_answer_waits_a_moment_for_the_verifiers_and_counts_them() {
    let stage = Stage::new().await;
    let mut clients = stage.clients().await;
    for name in ["quick", "slow"] {
        clients.create_client(create(name)).await.expect("creates");
    }
    let now = stage.opened.ledger.timeline().now();
    let fleet = stage.bench.fleet.clone();
    let join = |name: &str| {
        let member = fleet
            .join(verifier_key(name), introduction("1"), now)
            .expect("joins");
        member.acknowledged(1, true, now);
        fleet.told(&fleet.to_tell());
        assert!(member.grant().is_some());
        member
    };
    let (near, far) = (join("verifier/near"), join("verifier/far"));
    let disable = v1::DisableClientRequest {
        client_id: "quick".to_owned(),
    };
    let (disabled, ()) = tokio::join!(clients.disable_client(disable), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        near.acknowledged(2, true, now);
        far.acknowledged(2, true, now);
    });
    let disabled = disabled.expect("disables").into_inner();
    let reach = disabled.reach.expect("is told");
    assert_eq!((disabled.epoch, reach.live, reach.in_force), (2, 2, 2));
    assert_eq!((reach.bounds.len(), reach.laggards.len()), (0, 0));
    let delete = v1::DeleteClientRequest {
        client_id: "slow".to_owned(),
    };
    let (deleted, ()) = tokio::join!(clients.delete_client(delete), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        near.acknowledged(3, true, now);
    });
    let deleted = deleted.expect("deletes").into_inner();
    let reach = deleted.reach.expect("is told");
    assert_eq!((deleted.epoch, reach.live, reach.in_force), (3, 2, 1));
    assert_eq!(reach.laggards[0].spiffe_id, spiffe_id("verifier/far").as_str());
}
