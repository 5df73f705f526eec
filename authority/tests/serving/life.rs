//! From the first start to the last stop.

use std::time::Duration;

use countersign_proto::admin::v1 as admin;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::sync::v1::sync_request::Message;
use countersign_proto::sync::v1::sync_service_client::SyncServiceClient;
use countersign_proto::sync::v1::{Hello, SyncRequest, SyncResponse};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::deployment::{Ca, Deployment, OPERATOR, ORDERS, Running, VERIFIER, eventually};

async fn register_orders(channel: Channel) {
    let request = admin::CreateClientRequest {
        client_id: "orders".to_owned(),
        grants: vec![admin::Grant {
            audience: "shop".to_owned(),
            scopes: vec!["read".to_owned()],
            default_scopes: vec!["read".to_owned()],
        }],
        spiffe_ids: vec![ORDERS.to_owned()],
        ..Default::default()
    };
    let created = ClientServiceClient::new(channel).create_client(request).await;
    created.expect("creates");
}

fn ask() -> IssueTokenRequest {
    IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        ..Default::default()
    }
}

async fn follow(channel: Channel) -> (mpsc::Sender<SyncRequest>, Streaming<SyncResponse>) {
    let (requests, outgoing) = mpsc::channel(4);
    let hello = Hello {
        instance_id: "i".to_owned(),
        ..Default::default()
    };
    let first = SyncRequest {
        message: Some(Message::Hello(hello)),
    };
    requests.send(first).await.expect("has room");
    let answers = SyncServiceClient::new(channel)
        .sync(ReceiverStream::new(outgoing))
        .await;
    (requests, answers.expect("opens").into_inner())
}

#[tokio::test]
async fn an_authority_serves_stops_and_starts_again_with_everything_kept() {
    let deployment = Deployment::new();
    let running = deployment.start().await;
    let operator = deployment.channel(&running, &deployment.ca, OPERATOR);
    let orders = deployment.channel(&running, &deployment.ca, ORDERS);
    let refused = TokenServiceClient::new(orders.clone()).issue_token(ask()).await;
    assert_eq!(refused.expect_err("is unknown").code(), Code::Unauthenticated);
    register_orders(operator.clone()).await;
    let issued = TokenServiceClient::new(orders).issue_token(ask()).await;
    assert_eq!(
        issued
            .expect("issues")
            .into_inner()
            .access_token
            .split('.')
            .count(),
        3
    );
    let keys = KeyServiceClient::new(operator)
        .list_keys(admin::ListKeysRequest {})
        .await
        .expect("lists")
        .into_inner();

    let (ready, metrics) = (running.get("/ready").await, running.get("/metrics").await.1);
    assert_eq!(ready, (200, "ok\n".to_owned()));
    assert_eq!(running.get("/live").await.0, 200);
    for line in [
        r#"countersign_tokens_issued_total{grant="client_credentials",result="issued"} 1"#,
        r#"countersign_tokens_issued_total{grant="client_credentials",result="invalid_client"} 1"#,
        "countersign_connections_accepted_total 2",
        "countersign_clients 1",
        "countersign_build_info{",
        r#"countersign_handshakes_refused_total{reason="no_certificate"} 0"#,
        // 4096-01-01, as the deployment's certificates say.
        "countersign_certificate_expiry_timestamp_seconds 67090118400\n",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let publishing_keys = running.publishing_keys.clone();
    running.stop().await;

    let running = deployment.start().await;
    assert_eq!(running.publishing_keys, publishing_keys);
    let operator = deployment.channel(&running, &deployment.ca, OPERATOR);
    let orders = deployment.channel(&running, &deployment.ca, ORDERS);
    TokenServiceClient::new(orders)
        .issue_token(ask())
        .await
        .expect("issues");
    let again = KeyServiceClient::new(operator)
        .list_keys(admin::ListKeysRequest {})
        .await
        .expect("lists")
        .into_inner();
    assert_eq!((again.epoch, again.keys.len()), (keys.epoch, keys.keys.len()));
    assert_eq!(again.keys[0].kid, keys.keys[0].kid);
    running.stop().await;
}

/// S01 to S03: nobody gets as far as a handler without a certificate from our roots.
#[tokio::test]
async fn certificates_of_others_do_not_connect() {
    let deployment = Deployment::new();
    let running = deployment.start().await;
    let strangers = Ca::new();
    let stranger = deployment.channel(&running, &strangers, OPERATOR);
    let refused = FleetServiceClient::new(stranger)
        .list_verifiers(admin::ListVerifiersRequest::default())
        .await;
    assert_eq!(refused.expect_err("is refused").code(), Code::Unavailable);
    eventually("the count", async || {
        let metrics = running.get("/metrics").await.1;
        metrics.contains(r#"countersign_handshakes_refused_total{reason="certificate_untrusted"} 1"#)
    })
    .await;
    running.stop().await;
}

/// F63, C14: roots and certificate change without a restart; connections that there are go on.
#[tokio::test]
async fn certificates_are_taken_over_without_a_restart() {
    let deployment = Deployment::new();
    let running = deployment.start().await;
    let before = deployment.channel(&running, &deployment.ca, OPERATOR);
    register_orders(before.clone()).await;

    let second = Ca::new();
    let list = async |channel: Channel| {
        FleetServiceClient::new(channel)
            .list_verifiers(admin::ListVerifiersRequest::default())
            .await
    };
    assert!(
        list(deployment.channel(&running, &second, OPERATOR))
            .await
            .is_err()
    );
    let both = format!("{}{}", deployment.ca.pem, second.pem);
    std::fs::write(deployment.path("ca.crt"), both).expect("writes");
    deployment.certify(&second, "authority", crate::deployment::AUTHORITY);
    reload(&running).await;
    list(deployment.channel(&running, &second, OPERATOR))
        .await
        .expect("is trusted now");
    list(before).await.expect("goes on");
    running.stop().await;
}

async fn reload(running: &Running) {
    let tls = std::sync::Arc::clone(&running.tls);
    let reloaded = tokio::task::spawn_blocking(move || tls.reload()).await;
    assert!(reloaded.expect("runs").expect("loads"));
}

/// F71: an open trust stream does not hold up the stop, and is told why it ends.
#[tokio::test]
async fn stopping_ends_trust_streams_and_is_quick() {
    let deployment = Deployment::new();
    let running = deployment.start().await;
    let verifier = deployment.channel(&running, &deployment.ca, VERIFIER);
    let (_requests, mut answers) = follow(verifier).await;
    assert!(answers.message().await.expect("goes on").is_some());
    running.request_stop();
    let ended = answers.message().await.expect_err("ends");
    assert_eq!(ended.code(), Code::Unavailable);
    drop((_requests, answers));
    let took = running.stop().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// G25, F71: a peer that holds on to its connection is cut when the time is over.
#[tokio::test]
async fn a_peer_that_does_not_let_go_is_cut() {
    let deployment = Deployment::new();
    let running = deployment.start().await;
    let channel = deployment.channel(&running, &deployment.ca, ORDERS);
    let watching = tonic_health::pb::health_client::HealthClient::new(channel)
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect("watches");
    let mut watching = watching.into_inner();
    assert_eq!(
        watching.message().await.expect("goes on").expect("says").status,
        1
    );
    running.request_stop();
    // 2 is NOT_SERVING: whoever watches is told at once.
    assert_eq!(
        watching.message().await.expect("goes on").expect("says").status,
        2
    );
    let took = running.stop().await;
    assert!(took < Duration::from_secs(8), "{took:?}");
}
