//! What operators do, and that nobody else does it: who is let in, and keys.

use std::time::Duration;

use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::drill_service_client::DrillServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::publishing_key_service_client::PublishingKeyServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::trust_service_client::TrustServiceClient;
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::stage::{NOBODY, OPERATOR, ORDERS, Stage, VERIFIER, reason, refusal};
use crate::test_util::{Logs, START, peer};

/// Calls, each with nothing in it, and keeps how it is refused.
macro_rules! refusals {
    ($($client:ident.$method:ident($request:ty);)*) => {
        vec![$($client.$method(<$request>::default()).await.expect_err("is refused")),*]
    };
}

async fn refusals_of_clients(channel: Channel) -> Vec<Status> {
    let mut clients = ClientServiceClient::new(channel);
    refusals! {
        clients.create_client(v1::CreateClientRequest);
        clients.get_client(v1::GetClientRequest);
        clients.list_clients(v1::ListClientsRequest);
        clients.update_client(v1::UpdateClientRequest);
        clients.disable_client(v1::DisableClientRequest);
        clients.enable_client(v1::EnableClientRequest);
        clients.delete_client(v1::DeleteClientRequest);
        clients.add_secret(v1::AddSecretRequest);
        clients.retire_secret(v1::RetireSecretRequest);
    }
}

async fn refusals_of_keys(channel: Channel) -> Vec<Status> {
    let mut keys = KeyServiceClient::new(channel.clone());
    let mut publishing = PublishingKeyServiceClient::new(channel);
    refusals! {
        keys.list_keys(v1::ListKeysRequest);
        keys.prepare_key(v1::PrepareKeyRequest);
        keys.activate_key(v1::ActivateKeyRequest);
        keys.retire_key(v1::RetireKeyRequest);
        keys.compromise_key(v1::CompromiseKeyRequest);
        keys.get_publishing_keys(v1::GetPublishingKeysRequest);
        publishing.list_publishing_keys(v1::ListPublishingKeysRequest);
        publishing.prepare_publishing_key(v1::PreparePublishingKeyRequest);
        publishing.activate_publishing_key(v1::ActivatePublishingKeyRequest);
        publishing.retire_publishing_key(v1::RetirePublishingKeyRequest);
    }
}

async fn refusals_of_all_else(channel: Channel) -> Vec<Status> {
    let mut revocations = RevocationServiceClient::new(channel.clone());
    let mut fleet = FleetServiceClient::new(channel.clone());
    let mut drills = DrillServiceClient::new(channel.clone());
    let mut exports = TrustServiceClient::new(channel);
    refusals! {
        revocations.revoke(v1::RevokeRequest);
        revocations.list_revocations(v1::ListRevocationsRequest);
        fleet.list_verifiers(v1::ListVerifiersRequest);
        fleet.watch_epoch(v1::WatchEpochRequest);
        fleet.quarantine_verifier(v1::QuarantineVerifierRequest);
        fleet.release_verifier(v1::ReleaseVerifierRequest);
        fleet.forget_verifier(v1::ForgetVerifierRequest);
        drills.run_drill(v1::RunDrillRequest);
        drills.abort_drill(v1::AbortDrillRequest);
        drills.list_drills(v1::ListDrillsRequest);
        drills.get_drill(v1::GetDrillRequest);
        exports.export_trust(v1::ExportTrustRequest);
    }
}

/// How many rpcs the admin services have.
fn admin_rpcs() -> usize {
    let set =
        prost_types::FileDescriptorSet::decode(countersign_proto::FILE_DESCRIPTOR_SET).expect("decodes");
    let admin = set
        .file
        .iter()
        .filter(|file| file.package() == "countersign.admin.v1");
    let services = admin.flat_map(|file| &file.service);
    services.map(|service| service.method.len()).sum()
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
        let mut refused = refusals_of_clients(channel.clone()).await;
        refused.extend(refusals_of_keys(channel.clone()).await);
        refused.extend(refusals_of_all_else(channel).await);
        assert_eq!(refused.len(), admin_rpcs(), "every one");
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

/// What a set says of its keys, oldest first.
fn states(publishers: Option<v1::PublisherSetView>) -> Vec<v1::KeyState> {
    let publishers = publishers.expect("a set");
    publishers.keys.iter().map(v1::PublishingKey::state).collect()
}

#[tokio::test]
async fn publishing_keys_are_prepared_activated_and_retired() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let mut keys = stage.publishing_keys().await;
    let activate = |reason: &str| v1::ActivatePublishingKeyRequest {
        kid: String::new(),
        force_reason: reason.to_owned(),
    };
    let early = refusal(keys.activate_publishing_key(activate("")).await);
    assert_eq!(early.1, "KEY_NOT_PREPARED");
    let single = refusal(
        keys.retire_publishing_key(v1::RetirePublishingKeyRequest {})
            .await,
    );
    assert_eq!(single.1, "KEY_NOT_RETIRABLE");
    let prepared = keys
        .prepare_publishing_key(v1::PreparePublishingKeyRequest {})
        .await;
    let publishers = prepared.expect("prepares").into_inner().publishers;
    assert_eq!(states(publishers), [v1::KeyState::Active, v1::KeyState::Prepared]);
    let twice = keys
        .prepare_publishing_key(v1::PreparePublishingKeyRequest {})
        .await;
    assert_eq!(refusal(twice).1, "KEY_ALREADY_PREPARED");
    let activated = keys.activate_publishing_key(activate("a leak of the file")).await;
    let publishers = activated.expect("activates").into_inner().publishers;
    assert_eq!(states(publishers), [v1::KeyState::Retired, v1::KeyState::Active]);
    let retired = keys
        .retire_publishing_key(v1::RetirePublishingKeyRequest {})
        .await;
    let publishers = retired.expect("retires").into_inner().publishers.expect("a set");
    assert_eq!((publishers.generation, publishers.epoch), (3, 3));
    let listed = keys.list_publishing_keys(v1::ListPublishingKeysRequest {}).await;
    let listed = listed.expect("lists").into_inner().publishers;
    assert_eq!(listed, Some(publishers));
    assert_eq!(states(listed), [v1::KeyState::Active]);
    let text = logs.text();
    assert!(text.contains("a leak of the file"), "{text}");
}
