use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use countersign_core::Timestamp;
use countersign_proto::admin::v1::fleet_service_server::{FleetService, FleetServiceServer};
use countersign_proto::admin::v1::key_service_server::{KeyService, KeyServiceServer};
use countersign_wire::status::{self, Failure as Wire};
use countersign_wire::write_time;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::output::ColourChoice;

const NOW: u64 = 1_800_021_600;

fn key(kid: &str, state: v1::KeyState, algorithm: &str, told: bool) -> v1::Key {
    v1::Key {
        kid: kid.to_owned(),
        algorithm: algorithm.to_owned(),
        state: state.into(),
        active_from: told.then(prost_types::Timestamp::default),
        published_in: 7,
        ..v1::Key::default()
    }
}

#[test]
fn a_rotation_takes_over_what_is_prepared() {
    let keys = [
        key("a", v1::KeyState::Active, "ES256", true),
        key("b", v1::KeyState::Prepared, "ES256", true),
        v1::Key {
            shadow: true,
            ..key("drill", v1::KeyState::Prepared, "ES256", false)
        },
        key("c", v1::KeyState::Prepared, "ES256", false),
    ];
    let found = |algorithm| standby(&keys, algorithm).map(|key| key.map(|key| key.kid.as_str()));
    assert_eq!(found(None).expect("one"), Some("c"));
    assert_eq!(found(Some("ES256")).expect("one"), Some("c"));
    assert!(
        found(Some("EdDSA"))
            .expect_err("another")
            .next
            .is_some_and(|next| next.contains("retire c"))
    );
    assert!(standby(&keys[..3], None).expect("none").is_none());
}

/// Two verifiers lack the key.
fn lacking() -> v1::EpochReach {
    let laggard = |name: &str| v1::Laggard {
        spiffe_id: format!("spiffe://dev.test/{name}"),
        verifier_id: "3f2a91c0d4e5".to_owned(),
        acknowledged_epoch: 6,
        ..v1::Laggard::default()
    };
    v1::EpochReach {
        epoch: 7,
        live: 3,
        in_force: 1,
        bounds: vec![v1::ClassBound {
            class: "normal".to_owned(),
            by: Some(write_time(Timestamp::from_seconds(NOW + 200))),
        }],
        laggards: vec![laggard("b"), laggard("c")],
        ..v1::EpochReach::default()
    }
}

/// An authority with one key that signs and one that is prepared, which not everybody holds.
#[derive(Clone)]
struct Scripted {
    refuses: Option<Wire>,
    watched: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl KeyService for Scripted {
    async fn list_keys(
        &self,
        _: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        Ok(Response::new(v1::ListKeysResponse {
            keys: vec![
                key("a", v1::KeyState::Active, "ES256", true),
                key("b", v1::KeyState::Prepared, "ES256", false),
            ],
            epoch: 7,
        }))
    }

    async fn prepare_key(
        &self,
        _: Request<v1::PrepareKeyRequest>,
    ) -> Result<Response<v1::PrepareKeyResponse>, Status> {
        Err(status::failed(self.refuses.unwrap_or(Wire::KeyAlreadyPrepared)))
    }

    async fn activate_key(
        &self,
        _: Request<v1::ActivateKeyRequest>,
    ) -> Result<Response<v1::ActivateKeyResponse>, Status> {
        Err(status::failed(self.refuses.unwrap_or(Wire::VerifiersBehind)))
    }

    async fn retire_key(
        &self,
        _: Request<v1::RetireKeyRequest>,
    ) -> Result<Response<v1::RetireKeyResponse>, Status> {
        Err(status::failed(Wire::KeyNotRetirable))
    }

    async fn compromise_key(
        &self,
        _: Request<v1::CompromiseKeyRequest>,
    ) -> Result<Response<v1::CompromiseKeyResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn get_publishing_keys(
        &self,
        _: Request<v1::GetPublishingKeysRequest>,
    ) -> Result<Response<v1::GetPublishingKeysResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }
}

#[tonic::async_trait]
impl FleetService for Scripted {
    type WatchEpochStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEpochResponse, Status>> + Send>>;

    async fn watch_epoch(
        &self,
        _: Request<v1::WatchEpochRequest>,
    ) -> Result<Response<Self::WatchEpochStream>, Status> {
        self.watched.fetch_add(1, Ordering::Relaxed);
        let answer = v1::WatchEpochResponse {
            reach: Some(lacking()),
        };
        let answers = stream::iter([Ok(answer)]).chain(stream::pending());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_verifiers(
        &self,
        _: Request<v1::ListVerifiersRequest>,
    ) -> Result<Response<v1::ListVerifiersResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn quarantine_verifier(
        &self,
        _: Request<v1::QuarantineVerifierRequest>,
    ) -> Result<Response<v1::QuarantineVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn release_verifier(
        &self,
        _: Request<v1::ReleaseVerifierRequest>,
    ) -> Result<Response<v1::ReleaseVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn forget_verifier(
        &self,
        _: Request<v1::ForgetVerifierRequest>,
    ) -> Result<Response<v1::ForgetVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }
}

/// How a rotation ends that waits for `wait`, and how often it watched verifiers.
async fn rotated(refuses: Option<Wire>, wait: Duration) -> (Failure, u32) {
    let service = Scripted {
        refuses,
        watched: Arc::default(),
    };
    let watched = Arc::clone(&service.watched);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tonic::transport::Server::builder()
        .add_service(KeyServiceServer::new(service.clone()))
        .add_service(FleetServiceServer::new(service));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let connection = Connection::plain(address, Duration::from_secs(10));
    let args = RotateArgs {
        algorithm: None,
        wait,
        force: None,
        connection: ConnectionArgs::default(),
    };
    let rotating = rotate(&connection, &args, Output::new(true, ColourChoice::Never));
    let ended = tokio::time::timeout(Duration::from_secs(30), rotating).await;
    let failure = ended.expect("it ends").expect_err("it does not rotate");
    (failure, watched.load(Ordering::Relaxed))
}

/// A key that is prepared is there to be waited for, but nothing will come of it.
#[tokio::test]
async fn an_authority_in_recovery_says_so_before_anybody_is_waited_for() {
    let (failure, watched) = rotated(Some(Wire::RecoveryRequired), Duration::from_secs(3600)).await;
    assert_eq!(failure.reason.as_deref(), Some("recovery_required"));
    assert_eq!(watched, 0);
}

#[tokio::test]
async fn a_rotation_that_takes_over_a_key_ends_with_the_wait() {
    let (failure, watched) = rotated(None, Duration::ZERO).await;
    assert_eq!((failure.exit, watched), (Exit::Unavailable, 1));
    assert_eq!(
        failure.to_string(),
        "key b does not sign yet: it is not held everywhere"
    );
    assert!(failure.next.is_some_and(|next| next.contains("--force")));
}

/// Whoever waits in a script finds out for whom, without reading prose.
#[test]
fn programs_are_told_who_is_waited_for() {
    let reach = Reach::read(lacking());
    let pending = Rotated {
        kid: "b".to_owned(),
        algorithm: "ES256".to_owned(),
        signs: false,
        previous: Some("a".to_owned()),
        active_from: None,
        epoch: None,
        holders: Holders::of(&reach),
        forced: false,
    };
    let laggard = |name: &str| {
        json!({
            "spiffe_id": format!("spiffe://dev.test/{name}"), "verifier_id": "3f2a91c0d4e5", "state": "away",
            "acknowledged_epoch": 6, "until": null,
        })
    };
    let expected = json!({
        "kid": "b", "algorithm": "ES256", "signs": false, "previous": "a", "active_from": null, "epoch": null,
        "verifiers": 1, "live": 3, "by": "2027-01-15T14:03:20Z", "trust_files_until": null,
        "laggards": [laggard("b"), laggard("c")], "not_on_disk": [], "forced": false,
    });
    assert_eq!(serde_json::to_value(&pending).expect("JSON"), expected);
}

#[test]
fn people_are_told_of_each_laggard_on_a_line() {
    let reach = Reach::read(lacking());
    let lines = Holders::of(&reach).lines(&reach, Timestamp::from_seconds(NOW));
    assert_eq!(
        lines,
        "epoch 7: in force on 1 of 3 verifiers now; on all by 14:03:20 UTC\n  \
         spiffe://dev.test/b (3f2a91c0): away at epoch 6\n  \
         spiffe://dev.test/c (3f2a91c0): away at epoch 6"
    );
}
