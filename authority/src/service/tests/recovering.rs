//! An authority whose store is not what was published from, as clients, operators and verifiers meet it.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::names::TokenId;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_proto::sync::v1 as sync;
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::sync::v1::sync_request::Message;
use tonic::{Code, Status};

use super::stage::{ORDERS, Setting, Stage, VERIFIER, ask, policy, refusal};
use super::sync::{Answer, Verifier, hello, join, message, open};
use crate::alarm::Alarm;
use crate::limits::{Limits, Rate};
use crate::service::issuing::Tokens;
use crate::test_util::{Bench, Published, client_id, registration};

/// An authority on a backup with one client, and what was published after the backup was taken.
pub(super) async fn restored() -> (Stage, Published) {
    let lost = Bench::new();
    let opened = lost.open().await;
    let registered = registration(Some("orders"));
    let created = opened
        .ledger
        .create_client(client_id("orders"), registered, false);
    created.await.expect("creates");
    let bench = lost.copied().await;
    let token = TokenId::parse("1.1").expect("valid");
    opened.ledger.revoke_token_id(token).await.expect("revokes");
    let later = Published::by(&opened).await;
    lost.clock.advance(Duration::from_secs(1));
    let setting = Setting {
        bench,
        ..Setting::default()
    };
    (Stage::with(setting).await, later)
}

fn tokens(stage: &Stage) -> Tokens {
    let clock = Arc::clone(stage.opened.ledger.timeline().clock());
    Tokens::new(
        stage.opened.ledger.clone(),
        policy(&stage.bench),
        stage.opened.shard,
        Arc::new(Limits::new(Rate::new(10, 10), &clock)),
        Arc::clone(&stage.bench.metrics),
    )
}

/// A verifier that says to hold epoch 2, and shows `proof` for it.
async fn come_back(stage: &Stage, proof: Option<Proof>) -> Result<Verifier, Status> {
    let first = sync::Hello {
        highest_epoch: 2,
        proof,
        instance_id: "i-2".to_owned(),
        ..hello(2, &[9; 32])
    };
    open(stage, VERIFIER, Some(message(Message::Hello(first)))).await
}

/// A verifier comes back and shows what it has. It is refused as it would be anyway.
pub(super) async fn prove(stage: &Stage, later: Published) {
    let proof = Proof::Heartbeat(later.heartbeat);
    let refused = come_back(stage, Some(proof)).await.map(drop);
    assert_eq!(refusal(refused).0, Code::InvalidArgument);
}

pub(super) fn required() -> (Code, String) {
    (Code::Unavailable, "RECOVERY_REQUIRED".to_owned())
}

/// G45: a verifier's certificate alone stops nobody; it is refused and alarmed.
#[tokio::test]
async fn a_verifier_that_only_says_so_stops_nobody() {
    let (stage, later) = restored().await;
    let misused = Proof::Update(later.heartbeat);
    for proof in [None, Some(misused)] {
        let refused = come_back(&stage, proof).await.map(drop);
        assert_eq!(refusal(refused).0, Code::InvalidArgument);
    }
    assert_eq!(stage.bench.alarms(Alarm::VerifierAhead), 2);
    assert_eq!(stage.bench.alarms(Alarm::RecoveryRequired), 0);
    assert_eq!(tokens(&stage).is_ready(), Ok(()));
    stage
        .tokens(ORDERS)
        .await
        .issue_token(ask())
        .await
        .expect("issues");
}

/// D17, F30: once it is proven, no token is issued and no lease is granted.
#[tokio::test]
async fn a_proof_stops_tokens_and_leases() {
    let (stage, later) = restored().await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, digest) = verifier.update().await;
    verifier.acknowledge(epoch, digest).await;
    assert!(verifier.lease().await > 0);
    prove(&stage, later).await;
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    assert_eq!(refusal(issued), required());
    assert_eq!(tokens(&stage).is_ready(), Err("recovery_required"));
    verifier.send(Message::Ping(sync::Ping::default())).await;
    let Answer::Pong(pong) = verifier.next().await else {
        panic!("a pong")
    };
    assert_eq!(pong.lease_ms, 0);
}

/// Is refused as long as the authority is not recovered.
macro_rules! refused {
    ($service:ident.$method:ident($request:ident { $($fields:tt)* })) => {
        let answer = $service.$method(v1::$request { $($fields)* }).await;
        assert_eq!(refusal(answer), required(), stringify!($method));
    };
}

/// D17, F30: nor is anything changed about clients, by any rpc; what is there can be read.
#[tokio::test]
async fn a_proof_stops_every_change_of_clients() {
    let (stage, later) = restored().await;
    prove(&stage, later).await;
    let mut clients = stage.clients().await;
    let listed = clients.list_clients(v1::ListClientsRequest::default()).await;
    let client = listed.expect("lists").into_inner().clients.pop();
    let client = client.expect("is there");
    let (id, grants) = (|| client.client_id.clone(), || client.grants.clone());
    let (version, secret_id) = (client.version, "1".to_owned());
    let other = "new".to_owned();
    refused!(clients.create_client(CreateClientRequest {
        client_id: other,
        grants: grants(),
        ..Default::default()
    }));
    refused!(clients.update_client(UpdateClientRequest {
        client_id: id(),
        version,
        grants: grants(),
        ..Default::default()
    }));
    refused!(clients.disable_client(DisableClientRequest { client_id: id() }));
    refused!(clients.enable_client(EnableClientRequest { client_id: id() }));
    refused!(clients.delete_client(DeleteClientRequest { client_id: id() }));
    refused!(clients.add_secret(AddSecretRequest { client_id: id() }));
    refused!(clients.retire_secret(RetireSecretRequest {
        client_id: id(),
        secret_id
    }));
}

/// The same of keys, revocations and the fleet.
#[tokio::test]
async fn a_proof_stops_every_change_of_keys_revocations_and_the_fleet() {
    let (stage, later) = restored().await;
    prove(&stage, later).await;
    let (mut keys, mut revocations, mut fleet) =
        (stage.keys().await, stage.revocations().await, stage.fleet().await);
    let listed = keys.list_keys(v1::ListKeysRequest::default()).await;
    let kid = listed
        .expect("lists")
        .into_inner()
        .keys
        .pop()
        .expect("is there")
        .kid;
    let list = v1::ListRevocationsRequest::default();
    revocations.list_revocations(list).await.expect("lists");
    let list = v1::ListVerifiersRequest::default();
    fleet.list_verifiers(list).await.expect("lists");

    let (spiffe_id, reason) = (|| VERIFIER.to_owned(), || "because".to_owned());
    let subject = Some(Subject::ClientId("orders".to_owned()));
    let verifier_id = "1".to_owned();
    refused!(keys.prepare_key(PrepareKeyRequest { ..Default::default() }));
    refused!(keys.activate_key(ActivateKeyRequest { ..Default::default() }));
    refused!(keys.retire_key(RetireKeyRequest { kid: kid.clone() }));
    refused!(keys.compromise_key(CompromiseKeyRequest {
        kid,
        reason: reason()
    }));
    refused!(revocations.revoke(RevokeRequest {
        subject,
        ..Default::default()
    }));
    refused!(fleet.quarantine_verifier(QuarantineVerifierRequest {
        spiffe_id: spiffe_id(),
        reason: reason()
    }));
    refused!(fleet.release_verifier(ReleaseVerifierRequest {
        spiffe_id: spiffe_id()
    }));
    refused!(fleet.forget_verifier(ForgetVerifierRequest {
        spiffe_id: spiffe_id(),
        verifier_id,
        reason: reason()
    }));
}
