//! The client's side: our certificate, the one server that is meant, and gRPC channels to it.
//!
//! A TLS 1.3 client has finished its handshake before the server has looked at its certificate, and learns of a refusal
//! only when it reads. So [`ClientTls::connect`] waits for the first byte of the server, which in HTTP/2 speaks at
//! once; the refusal is then the error of connecting, and not a mysterious one of the first call.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::binding::PeerCertificate;
use countersign_core::ports::Clock;
use countersign_core::spiffe::SpiffeId;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls_pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::connect::ConnectError;
use crate::error::TlsError;
use crate::files::{Material, TlsFiles};
use crate::provider::{ALPN, ALPN_HTTP1, VERSIONS, WallClock, provider};
use crate::verifiers::ServerVerifier;
use crate::watch::{TlsHealth, Watched};

/// How long the server's first byte is waited for. A server that waits for the client to speak first is not refused.
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// The server that is meant. Its certificate always has to come from the trust roots as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedServer {
    /// The SPIFFE ID that it must have. Without one, the name alone decides.
    pub spiffe_id: Option<SpiffeId>,
    /// The DNS name or IP address that its certificate must have, when it is not the host of the address.
    pub server_name: Option<String>,
}

/// How channels connect and stay connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    /// For name, connection and handshake together.
    pub connect_timeout: Duration,
    /// How long a connection may be silent before it is asked whether it lives. Half-open connections are found within
    /// this and [`ChannelOptions::keepalive_timeout`].
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

/// A client's TLS configuration, reloaded from its files.
pub struct ClientTls {
    watched: Arc<Watched<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Reads and checks the files. Validity periods are judged by `clock`.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(
        files: &TlsFiles,
        server: ExpectedServer,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TlsError> {
        let server_name = server.server_name.as_deref().map(server_name).transpose()?;
        let expected = server.spiffe_id;
        let build = Box::new(move |material| configuration(material, expected.as_ref(), &clock));
        let watched = Arc::new(Watched::load("client", files, true, build)?);
        Ok(Arc::new(Self { watched, server_name }))
    }

    /// Follows the files until `stop`: a change is in force for connections that begin after it was seen.
    pub fn watch(
        self: &Arc<Self>,
        interval: Duration,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.watched).watch(interval, stop)
    }

    /// Looks at the files now. True when changed ones came into force.
    ///
    /// # Errors
    /// [`TlsError`], once for each unusable state of the files. Reads files: not for an async task.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.watched.reload()
    }

    /// Our certificate, which connections that begin now show.
    #[must_use]
    pub fn certificate(&self) -> PeerCertificate {
        self.watched.certificate()
    }

    /// How the files are doing.
    #[must_use]
    pub fn health(&self) -> TlsHealth {
        self.watched.health()
    }

    /// A gRPC channel to `uri` (`https://host[:port]`). Connects at the first call and again whenever the connection is
    /// lost, each time with the configuration then in force.
    ///
    /// # Errors
    /// [`TlsError::Address`], [`TlsError::ServerName`].
    pub fn channel(self: &Arc<Self>, uri: &str, options: ChannelOptions) -> Result<Channel, TlsError> {
        let target = Arc::new(self.target(uri)?);
        let endpoint = Endpoint::from_shared(uri.to_owned())
            .map_err(|_error| address_error(uri))?
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let tls = Arc::clone(self);
        let connector = tower::service_fn(move |_uri: Uri| {
            let (tls, target) = (Arc::clone(&tls), Arc::clone(&target));
            async move {
                tls.connect_to(&target, ALPN, options.connect_timeout)
                    .await
                    .map(TokioIo::new)
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// One connection to `uri` for HTTP/2, without tonic.
    ///
    /// # Errors
    /// [`ConnectError`]; a wrong address is [`ConnectError::Unreachable`].
    pub async fn connect(&self, uri: &str, within: Duration) -> Result<TlsStream<TcpStream>, ConnectError> {
        self.connect_for(ALPN, uri, within).await
    }

    /// The same for HTTP/1.1.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_http1(
        &self,
        uri: &str,
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        self.connect_for(ALPN_HTTP1, uri, within).await
    }

    async fn connect_for(
        &self,
        protocol: &'static [u8],
        uri: &str,
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let target = self.target(uri).map_err(|error| ConnectError::Unreachable {
            address: uri.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        self.connect_to(&target, protocol, within).await
    }

    async fn connect_to(
        &self,
        target: &Target,
        protocol: &'static [u8],
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let connecting = self.connect_unbounded(target, protocol);
        let connected = tokio::time::timeout(within, connecting).await;
        connected.unwrap_or_else(|_elapsed| {
            Err(ConnectError::TimedOut {
                address: target.address(),
                within,
            })
        })
    }

    async fn connect_unbounded(
        &self,
        target: &Target,
        protocol: &'static [u8],
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable {
            address: target.address(),
            source,
        };
        let tcp = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let connector = TlsConnector::from(self.configuration_for(protocol));
        let connecting = connector.connect(target.server_name.clone(), tcp).await;
        let mut stream = connecting.map_err(ConnectError::of_handshake)?;
        // HTTP/1.1 is also what a server speaks that agrees to nothing.
        let agreed = stream.get_ref().1.alpn_protocol().unwrap_or(ALPN_HTTP1);
        if agreed != protocol {
            return Err(ConnectError::NoHttp2);
        }
        // There, nobody speaks before he is asked.
        if agreed == ALPN_HTTP1 {
            return Ok(stream);
        }
        match tokio::time::timeout(FIRST_BYTE, first_byte(&mut stream)).await {
            Ok(Err(error)) => Err(ConnectError::of_handshake(error)),
            Ok(Ok(())) | Err(_) => Ok(stream),
        }
    }

    fn configuration_for(&self, protocol: &'static [u8]) -> Arc<ClientConfig> {
        let mut config = self.watched.current();
        if protocol != ALPN {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
        }
        config
    }

    fn target(&self, uri: &str) -> Result<Target, TlsError> {
        let parsed: Uri = uri.parse().map_err(|_error| address_error(uri))?;
        let bare = matches!(parsed.path(), "" | "/") && parsed.query().is_none();
        let host = parsed
            .host()
            .filter(|_| bare && parsed.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| address_error(uri))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        Ok(Target {
            host: host.to_owned(),
            port: parsed.port_u16().unwrap_or(443),
            server_name: name,
        })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("certificate", &self.watched.certificate_path())
            .finish_non_exhaustive()
    }
}

/// Where to connect, and the name that the certificate there must have.
struct Target {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

impl Target {
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_error| TlsError::ServerName {
        name: name.to_owned(),
    })
}

fn address_error(uri: &str) -> TlsError {
    TlsError::Address { uri: uri.to_owned() }
}

/// Waits until the server said something, which stays to be read.
async fn first_byte(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let said = Pin::new(stream).fill_buf().await?.len();
    if said == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}

fn configuration(
    material: Material,
    expected: Option<&SpiffeId>,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(material.trust_roots);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    let inner = verifier.map_err(|e| TlsError::Rustls(rustls::Error::General(e.to_string())))?;
    let verifier = Arc::new(ServerVerifier {
        inner,
        expected: expected.cloned(),
    });
    let time = Arc::new(WallClock(Arc::clone(clock)));
    let mut config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Rustls)?
        // "Dangerous" because a verifier may verify nothing; ours asks rustls' own first, then for more.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(material.chain, material.private_key)
        .map_err(TlsError::Rustls)?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
