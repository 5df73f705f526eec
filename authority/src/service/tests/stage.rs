//! A whole authority without sockets: connections are pipes, and who is at their other end is said.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::issuing::IssuingPolicy;
use countersign_core::ports::Clock;
use countersign_core::spiffe::TrustDomain;
use countersign_mtls::Peer;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::drill_service_client::DrillServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::publishing_key_service_client::PublishingKeyServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::trust_service_client::TrustServiceClient;
use countersign_proto::sync::v1::sync_service_client::SyncServiceClient;
use countersign_proto::token::v1 as token;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::authorize::{Identities, Roles};
use crate::driller::Driller;
use crate::ledger::Opened;
use crate::limits::{Limits, Rate};
use crate::registrar;
use crate::server::{self, ServerLimits, Services};
use crate::service::Desk;
use crate::service::clients::Clients;
use crate::service::drills::Drills;
use crate::service::fleet::Verifiers;
use crate::service::issuing::Tokens;
use crate::service::keys::{KeyPolicy, Keys};
use crate::service::publishing::PublishingKeys;
use crate::service::revocations::Revocations;
use crate::service::sync::{StreamParts, Streams};
use crate::service::trust::Exports;
use crate::store::memory::MemoryStore;
use crate::store::{Commit, Page, Range, Revision, Store, StoreError};
use crate::test_util::{Bench, START, peer, spiffe_id};

pub(super) const OPERATOR: &str = "spiffe://example.org/operator/anna";
pub(super) const VERIFIER: &str = "spiffe://example.org/verifier/a";
pub(super) const ORDERS: &str = "spiffe://example.org/orders";
pub(super) const NOBODY: &str = "spiffe://example.org/nobody";

/// One end of a pipe, with the peer at the other.
#[derive(Debug)]
pub(super) struct Pipe {
    io: DuplexStream,
    peer: Peer,
}

impl Connected for Pipe {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A memory store whose commits take their time.
#[derive(Debug)]
pub(super) struct SlowStore(pub(super) MemoryStore, pub(super) Duration);

#[async_trait]
impl Store for SlowStore {
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.0.range(range).await
    }

    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError> {
        tokio::time::sleep(self.1).await;
        self.0.commit(commit).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }
}

/// The authority.
pub(super) struct Stage {
    pub(super) bench: Bench,
    pub(super) opened: Opened,
    /// What gives out trust files, for tests that look inside.
    pub(super) giver: Exports,
    connections: mpsc::Sender<io::Result<Pipe>>,
    _stop: DropGuard,
}

/// What a test may set.
pub(super) struct Setting {
    pub(super) bench: Bench,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) tokens: Rate,
    pub(super) timeout: Duration,
    pub(super) reflection: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            bench: Bench::new(),
            clock: None,
            tokens: Rate::new(10_000, 10_000),
            timeout: Duration::from_secs(10),
            reflection: false,
        }
    }
}

pub(super) fn policy(bench: &Bench) -> IssuingPolicy {
    IssuingPolicy {
        issuer: bench.issuer.clone(),
        trust_domain: TrustDomain::parse("example.org").expect("valid"),
        default_lifetime: Duration::from_secs(900),
        max_lifetime: Duration::from_secs(3600),
    }
}

fn streams(bench: &Bench, opened: &Opened, limits: &Arc<Limits>, roles: Arc<Roles>) -> Streams {
    Streams::new(StreamParts {
        roles,
        feed: opened.feed.clone(),
        fleet: bench.fleet.clone(),
        ledger: opened.ledger.clone(),
        limits: Arc::clone(limits),
        metrics: Arc::clone(&bench.metrics),
        timeline: Arc::clone(opened.ledger.timeline()),
        age: Duration::from_secs(1800),
    })
}

fn services(bench: &Bench, opened: &Opened, limits: &Arc<Limits>, stop: &CancellationToken) -> Services {
    let roles = Arc::new(Roles {
        trust_domain: TrustDomain::parse("example.org").expect("valid"),
        operators: std::collections::BTreeSet::from([spiffe_id("operator/anna")]),
        verifiers: vec![Identities::parse("spiffe://example.org/verifier/").expect("valid")],
    });
    let desk = Desk {
        roles: Arc::clone(&roles),
        ledger: opened.ledger.clone(),
        limits: Arc::clone(limits),
        metrics: Arc::clone(&bench.metrics),
    };
    let keys = KeyPolicy {
        algorithm: countersign_core::jose::Algorithm::Es256,
        activation_lead: Duration::from_secs(2),
    };
    let driller = Driller::new(
        opened.ledger.clone(),
        bench.fleet.clone(),
        keys.algorithm,
        TaskTracker::new(),
        stop.clone(),
    );
    Services {
        tokens: Tokens::new(
            opened.ledger.clone(),
            policy(bench),
            opened.shard,
            Arc::clone(limits),
            Arc::clone(&bench.metrics),
        ),
        sync: streams(bench, opened, limits, roles),
        clients: Clients {
            desk: desk.clone(),
            fleet: bench.fleet.clone(),
        },
        keys: Keys {
            desk: desk.clone(),
            fleet: bench.fleet.clone(),
            policy: keys.clone(),
        },
        publishing: PublishingKeys {
            desk: desk.clone(),
            fleet: bench.fleet.clone(),
        },
        revocations: Revocations {
            desk: desk.clone(),
            fleet: bench.fleet.clone(),
            keys,
        },
        exports: Exports::new(desk.clone(), opened.feed.clone(), bench.fleet.clone()),
        verifiers: Verifiers {
            desk: desk.clone(),
            fleet: bench.fleet.clone(),
        },
        drills: Drills {
            desk,
            fleet: bench.fleet.clone(),
            driller,
        },
    }
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::with(Setting::default()).await
    }

    pub(super) async fn with(setting: Setting) -> Self {
        let bench = setting.bench;
        let mut opening = bench.opening();
        if let Some(clock) = &setting.clock {
            opening.clock = Arc::clone(clock);
        }
        let clock = Arc::clone(&opening.clock);
        let opened = crate::ledger::open(opening).await.expect("opens");
        let limits = Arc::new(Limits::new(setting.tokens, &clock));
        let stop = CancellationToken::new();
        let services = services(&bench, &opened, &limits, &stop);
        let giver = services.exports.clone();
        let (connections, incoming) = mpsc::channel(8);
        let stopping = stop.clone();
        let server_limits = ServerLimits {
            connections: 10,
            streams: 100,
            verifiers: 100,
            streams_per_verifier: 2,
            timeout: setting.timeout,
            connection_age: Duration::from_secs(1800),
            drain: Duration::from_secs(1),
        };
        tokio::spawn(registrar::run(
            bench.fleet.clone(),
            opened.ledger.clone(),
            stop.clone(),
        ));
        let reflection = setting.reflection;
        tokio::spawn(async move {
            let incoming = ReceiverStream::new(incoming);
            let served = server::serve(services, incoming, &server_limits, reflection, stopping).await;
            served.expect("serves");
        });
        Self {
            bench,
            opened,
            giver,
            connections,
            _stop: stop.drop_guard(),
        }
    }

    /// A raw connection of `peer`.
    pub(super) async fn pipe(&self, peer: Peer) -> DuplexStream {
        let (ours, io) = tokio::io::duplex(64 * 1024);
        self.connections
            .send(Ok(Pipe { io, peer }))
            .await
            .expect("serves");
        ours
    }

    /// A channel of whoever shows this certificate.
    pub(super) async fn connect_as(&self, peer: Peer) -> Channel {
        let pipe = std::sync::Mutex::new(Some(self.pipe(peer).await));
        let connector = tower::service_fn(move |_: http::Uri| {
            let pipe = pipe.lock().expect("not poisoned").take();
            async move {
                pipe.map(TokioIo::new)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
            }
        });
        Endpoint::from_static("http://authority")
            .connect_with_connector(connector)
            .await
            .expect("connects")
    }

    /// A channel of whoever has this SPIFFE ID.
    pub(super) async fn connect(&self, spiffe_id: &str) -> Channel {
        self.connect_as(peer(Some(spiffe_id), 1, START * 2)).await
    }

    pub(super) async fn tokens(&self, spiffe_id: &str) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.connect(spiffe_id).await)
    }

    pub(super) async fn clients(&self) -> ClientServiceClient<Channel> {
        ClientServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn publishing_keys(&self) -> PublishingKeyServiceClient<Channel> {
        PublishingKeyServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn revocations(&self) -> RevocationServiceClient<Channel> {
        RevocationServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn exports(&self) -> TrustServiceClient<Channel> {
        TrustServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn drills(&self) -> DrillServiceClient<Channel> {
        DrillServiceClient::new(self.connect(OPERATOR).await)
    }

    pub(super) async fn sync(&self, spiffe_id: &str) -> SyncServiceClient<Channel> {
        SyncServiceClient::new(self.connect(spiffe_id).await)
    }
}

/// The usual request.
pub(super) fn ask() -> token::IssueTokenRequest {
    token::IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        ..Default::default()
    }
}

/// The stable reason of a refusal.
pub(super) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).reason
}

/// Code and reason of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("is refused");
    (status.code(), reason(&status))
}

/// Waits until `holds`, for at most ten seconds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come about"));
}
