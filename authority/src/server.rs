//! The gRPC server: which services there are, and what a caller is granted of connections, streams, bytes and time.

mod border;
mod prompt;

use std::io;
use std::time::Duration;

use countersign_mtls::Peer;
use countersign_proto::admin::v1::client_service_server::ClientServiceServer;
use countersign_proto::admin::v1::drill_service_server::DrillServiceServer;
use countersign_proto::admin::v1::fleet_service_server::FleetServiceServer;
use countersign_proto::admin::v1::key_service_server::KeyServiceServer;
use countersign_proto::admin::v1::publishing_key_service_server::PublishingKeyServiceServer;
use countersign_proto::admin::v1::revocation_service_server::RevocationServiceServer;
use countersign_proto::admin::v1::trust_service_server::TrustServiceServer;
use countersign_proto::token::v1::token_service_server::TokenServiceServer;
use countersign_runtime::trace_context::ServerLayer;
use countersign_wire::{MAX_REQUEST_LENGTH, reflection};
use futures_util::{Stream, TryStreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::service::clients::Clients;
use crate::service::drills::Drills;
use crate::service::fleet::Verifiers;
use crate::service::issuing::Tokens;
use crate::service::keys::Keys;
use crate::service::publishing::PublishingKeys;
use crate::service::revocations::Revocations;
use crate::service::sync::Streams;
use crate::service::trust::Exports;
use prompt::Prompt;

/// What the server grants its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections.
    pub connections: usize,
    /// Calls at one time on one connection.
    pub streams: u32,
    /// Trust streams in all.
    pub verifiers: usize,
    /// Trust streams of one identity.
    pub streams_per_verifier: usize,
    /// The longest that a call may take, other than a trust stream.
    pub timeout: Duration,
    /// When connections and trust streams are renewed.
    pub connection_age: Duration,
    /// How long calls may go on after the request to stop.
    pub drain: Duration,
}

/// All header fields of a request together (G18).
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// How long a connection may be silent before it is asked whether it is still there, and how long it may take to answer:
/// 30 s together, with time to spare (G25).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// How long calls may go on on a connection that is to be renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// Bytes that a caller may send ahead on one stream, and on a connection: requests are small.
const WINDOWS: (u32, u32) = (MAX_WINDOW, 8 * MAX_WINDOW);
const MAX_WINDOW: u32 = 128 * 1024;

/// How soon health follows what it tells of.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);

/// Streams that a caller may open and reset again before the connection is closed (G19).
const MAX_RESETS: usize = 32;

/// The services.
#[derive(Clone, Debug)]
pub struct Services {
    /// Tokens.
    pub tokens: Tokens,
    /// Trust.
    pub sync: Streams,
    /// Clients.
    pub clients: Clients,
    /// Keys.
    pub keys: Keys,
    /// Publishing keys.
    pub publishing: PublishingKeys,
    /// Revocations.
    pub revocations: Revocations,
    /// Verifiers.
    pub verifiers: Verifiers,
    /// Drills.
    pub drills: Drills,
    /// The trust as a file.
    pub exports: Exports,
}

/// The server could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Reflection cannot read our own descriptors.
    #[error("the descriptors of the services cannot be read")]
    Descriptors(#[source] reflection::Error),
    /// The server failed.
    #[error("the server failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Answers the connections of `incoming` until `stop`, and then lets calls come to their end. Who is at the other end of
/// a connection is its [`Peer`].
///
/// # Errors
/// [`ServeError`].
pub async fn serve<I, C>(
    services: Services,
    incoming: I,
    limits: &ServerLimits,
    reflection: bool,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    I: Stream<Item = io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
{
    let tokens = services.tokens.clone();
    let served = routes(services, reflection).await?;
    let stopping = async move {
        let following = follow(&tokens, &served.health);
        stop.run_until_cancelled(following).await;
        drain(&served.health, &served.names).await;
    };
    builder(limits)
        .layer(ServerLayer)
        .layer(border::BorderLayer {
            timeout: limits.timeout,
        })
        .add_routes(served.routes)
        .serve_with_incoming_shutdown(incoming.map_ok(Prompt::new), stopping)
        .await
        .map_err(ServeError::Transport)
}

fn builder(limits: &ServerLimits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .max_connection_age(limits.connection_age)
        .max_connection_age_grace(RENEWAL)
}

/// What is served.
struct Served {
    routes: Routes,
    health: HealthReporter,
    /// The full names of our services.
    names: Vec<&'static str>,
}

async fn routes(services: Services, reflection: bool) -> Result<Served, ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(health_service);
    let mut names = Vec::new();
    macro_rules! add {
        ($server:expr) => {
            let server = $server;
            names.push(serving(&health, &server).await);
            routes = routes.add_service(server);
        };
        ($server:ident, $service:expr) => {
            add!($server::new($service).max_decoding_message_size(MAX_REQUEST_LENGTH));
        };
    }
    add!(TokenServiceServer, services.tokens);
    add!(services.sync);
    add!(ClientServiceServer, services.clients);
    add!(KeyServiceServer, services.keys);
    add!(PublishingKeyServiceServer, services.publishing);
    add!(RevocationServiceServer, services.revocations);
    add!(FleetServiceServer, services.verifiers);
    add!(DrillServiceServer, services.drills);
    add!(TrustServiceServer, services.exports);
    if reflection {
        routes = reflection::add(routes, &names).map_err(ServeError::Descriptors)?;
    }
    Ok(Served {
        routes,
        health,
        names,
    })
}

async fn serving<S: NamedService>(health: &HealthReporter, _service: &S) -> &'static str {
    health.set_serving::<S>().await;
    S::NAME
}

/// Lets gRPC health say what `/ready` says of issuing: of the service that issues, and of the whole server.
async fn follow(tokens: &Tokens, health: &HealthReporter) {
    loop {
        let status = match tokens.is_ready() {
            Ok(()) => ServingStatus::Serving,
            Err(_reason) => ServingStatus::NotServing,
        };
        for name in [TokenServiceServer::<Tokens>::NAME, ""] {
            health.set_service_status(name, status).await;
        }
        tokio::time::sleep(HEALTH_PERIOD).await;
    }
}

/// Health checks name a service, or the whole server by no name.
async fn drain(health: &HealthReporter, names: &[&str]) {
    for name in names.iter().copied().chain([""]) {
        health.set_service_status(name, ServingStatus::NotServing).await;
    }
}
