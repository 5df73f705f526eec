//! The floor: the stream to verifiers over the same mutual TLS and the same gRPC library, with nothing decided and nothing kept.
//!
//! Each ping is answered with the same bytes, and each revocation is signed and sent to everybody: what is left is what
//! connections cost.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_core::jose::Algorithm;
use countersign_core::jwk::write_set;
use countersign_core::names::{Issuer, TokenId};
use countersign_core::ports::Clock as _;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::time::Timestamp;
use countersign_core::trust::{Change, Heartbeat, Update, UpdateContent};
use countersign_crypto::SigningKey;
use countersign_crypto::publishing::{self, Context};
use countersign_mtls::{ClientCertificates, Limits, ServerTls, TlsListener};
use countersign_proto::admin::v1::revocation_service_server::{RevocationService, RevocationServiceServer};
use countersign_proto::admin::v1::{
    ListRevocationsRequest, ListRevocationsResponse, RevokeRequest, RevokeResponse,
};
use countersign_proto::sync::v1::sync_request::Message as Asked;
use countersign_proto::sync::v1::sync_response::Message as Said;
use countersign_proto::sync::v1::sync_service_server::{SyncService, SyncServiceServer};
use countersign_proto::sync::v1::{Pong, SyncRequest, SyncResponse};
use countersign_proto::trust::v1::Signed;
use countersign_runtime::SystemClock;
use countersign_wire::trust::{write_heartbeat, write_update};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::authority::{Certificates, PUBLISHING_KEYS, Place};
use crate::fixture::ISSUER;
use crate::{Failure, child};

/// Messages that a stream has not sent yet.
const WAITING: usize = 16;

/// What a lease is by default.
const LEASE_MILLIS: u64 = 10_000;

struct Bare {
    key: SigningKey,
    issuer: Issuer,
    epoch: AtomicU64,
    heartbeat: Signed,
    updates: broadcast::Sender<Signed>,
}

impl Bare {
    fn new(key: SigningKey) -> Result<Self, Failure> {
        let heartbeat = write_heartbeat(&Heartbeat {
            issuer: Issuer::parse(ISSUER)?,
            epoch: 1,
            state_digest: [0; 32],
            authority_time_millis: SystemClock.now_millis(),
            sequence: 1,
            revocation_count: 0,
            expires_at_millis: None,
        });
        Ok(Self {
            heartbeat: sign(&key, Context::Heartbeat, heartbeat)?,
            key,
            issuer: Issuer::parse(ISSUER)?,
            epoch: AtomicU64::new(1),
            updates: broadcast::Sender::new(WAITING),
        })
    }

    /// What the authority would publish for one token.
    fn update(&self, epoch: u64) -> Result<Signed, Failure> {
        let revocation = Revocation {
            subject: RevokedSubject::Token(TokenId::parse(&format!("1.{epoch:x}"))?),
            issued_before: Timestamp::default(),
            expires_at: Timestamp::from_seconds(2_000_000_100),
        };
        let update = Update {
            issuer: self.issuer.clone(),
            epoch,
            state_digest: [0; 32],
            published_at: SystemClock.now(),
            content: UpdateContent::Delta {
                base_epoch: epoch - 1,
                base_digest: [0; 32],
                change: Change {
                    revoked: RevocationList::default().with(revocation),
                    ..Change::default()
                },
            },
        };
        sign(&self.key, Context::Update, write_update(&update))
    }
}

/// The key in the file `path`, made when there is none: after a restart it is the same.
fn key(path: &Path) -> Result<SigningKey, Failure> {
    if !path.exists() {
        fs::write(path, SigningKey::generate(Algorithm::EdDsa)?.to_pkcs8()?)?;
    }
    Ok(SigningKey::from_pkcs8(Algorithm::EdDsa, &fs::read(path)?)?)
}

fn sign(key: &SigningKey, context: Context, payload: Vec<u8>) -> Result<Signed, Failure> {
    Ok(Signed {
        signature: publishing::sign(key, context, &payload)?.into(),
        payload: payload.into(),
        key_id: key.key_id().as_str().to_owned(),
    })
}

/// Answers pings and passes on what is published, until either end is gone.
async fn talk(
    mut requests: Streaming<SyncRequest>,
    mut updates: broadcast::Receiver<Signed>,
    heartbeat: Signed,
    answers: mpsc::Sender<Result<SyncResponse, Status>>,
) {
    loop {
        let message = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(SyncRequest { message: Some(Asked::Ping(ping)) })) => Said::Pong(Pong {
                    ping_sequence: ping.sequence,
                    heartbeat: Some(heartbeat.clone()),
                    lease_ms: LEASE_MILLIS,
                    quarantined: false,
                }),
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => return,
            },
            update = updates.recv() => match update {
                Ok(update) => Said::Update(update),
                Err(_behind) => return,
            },
        };
        let response = SyncResponse {
            message: Some(message),
        };
        if answers.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

/// The service. Clones share it.
#[derive(Clone)]
struct Service(Arc<Bare>);

#[tonic::async_trait]
impl SyncService for Service {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (sender, answers) = mpsc::channel(WAITING);
        tokio::spawn(talk(
            request.into_inner(),
            self.0.updates.subscribe(),
            self.0.heartbeat.clone(),
            sender,
        ));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[tonic::async_trait]
impl RevocationService for Service {
    async fn revoke(&self, _: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let epoch = self.0.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let update = self.0.update(epoch).map_err(Status::from_error)?;
        // Nobody to hear it is no error.
        let _heard = self.0.updates.send(update);
        Ok(Response::new(RevokeResponse {
            epoch,
            ..RevokeResponse::default()
        }))
    }

    async fn list_revocations(
        &self,
        _: Request<ListRevocationsRequest>,
    ) -> Result<Response<ListRevocationsResponse>, Status> {
        Ok(Response::new(ListRevocationsResponse::default()))
    }
}

/// Serves until the parent has gone.
pub(crate) fn serve_bare(place: &Place) -> Result<(), Failure> {
    countersign_mtls::install_default_provider();
    let certificates = Certificates::open(&place.folder)?;
    let bare = Bare::new(key(&place.folder.join("bare-key"))?)?;
    fs::write(place.folder.join(PUBLISHING_KEYS), write_set([bare.key.jwk()]))?;
    let service = Service(Arc::new(bare));
    let tls = ServerTls::load(
        &certificates.server(),
        ClientCertificates::Required,
        Arc::new(SystemClock),
    )?;
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let runtime = countersign_runtime::build(place.workers.unwrap_or(cores))?;
    let listener = runtime.block_on(TlsListener::bind(place.listen, tls, Limits::default()))?;
    let address = listener.local_addr();
    std::thread::spawn(move || {
        runtime.block_on(
            Server::builder()
                .add_service(SyncServiceServer::new(service.clone()))
                .add_service(RevocationServiceServer::new(service))
                .serve_with_incoming(listener),
        )
    });
    child::report(address, None)
}
