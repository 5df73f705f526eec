//! The server's side: which certificate we show, and whom we let finish a handshake.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::ports::Clock;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_util::sync::CancellationToken;

use crate::error::TlsError;
use crate::files::{Material, TlsFiles};
use crate::provider::{ALPN, ALPN_HTTP1, VERSIONS, WallClock, provider};
use crate::verifiers::ClientVerifier;
use crate::watch::{TlsHealth, Watched};

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Every client, from one of the trust roots; without it the handshake fails.
    Required,
    /// Those who have one, from one of the trust roots. One that does not hold fails the handshake as where they are required;
    /// who shows none has no identity.
    Optional,
    /// No client. Peers have no identity then, and the trust roots are not read.
    None,
}

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2, which clients have to name.
    Http2,
    /// HTTP/1.1 too. It is also what clients speak who name nothing.
    Any,
}

impl Protocols {
    /// Whether a connection may go on whose client agreed to this, or to nothing.
    pub(crate) fn include(self, agreed: Option<&[u8]>) -> bool {
        match self {
            Self::Http2 => agreed == Some(ALPN),
            // rustls agrees to none but these.
            Self::Any => true,
        }
    }

    fn offered(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2 => vec![ALPN.to_vec()],
            Self::Any => vec![ALPN.to_vec(), ALPN_HTTP1.to_vec()],
        }
    }
}

/// A server's TLS configuration, reloaded from its files.
pub struct ServerTls {
    watched: Arc<Watched<ServerConfig>>,
    clock: Arc<dyn Clock>,
    protocols: Protocols,
}

impl ServerTls {
    /// Reads and checks the files, for a server of HTTP/2. Validity periods are judged by `clock`.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(
        files: &TlsFiles,
        clients: ClientCertificates,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TlsError> {
        Self::speaking(Protocols::Http2, files, clients, clock)
    }

    /// The same for a server of these protocols.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn speaking(
        protocols: Protocols,
        files: &TlsFiles,
        clients: ClientCertificates,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TlsError> {
        let with_roots = clients != ClientCertificates::None;
        let judge = Arc::clone(&clock);
        let build = Box::new(move |material| configuration(material, clients, protocols, &judge));
        let watched = Arc::new(Watched::load("server", files, with_roots, build)?);
        Ok(Arc::new(Self {
            watched,
            clock,
            protocols,
        }))
    }

    /// Follows the files until `stop`: a change is in force for handshakes that begin after it was seen.
    ///
    /// Files that cannot be used are logged and counted, and the last good ones stay in force.
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

    /// How the files are doing.
    #[must_use]
    pub fn health(&self) -> TlsHealth {
        self.watched.health()
    }

    /// The configuration for the next handshake, for those who accept connections themselves.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.watched.current()
    }

    pub(crate) const fn protocols(&self) -> Protocols {
        self.protocols
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificate", &self.watched.certificate_path())
            .finish_non_exhaustive()
    }
}

fn configuration(
    material: Material,
    clients: ClientCertificates,
    protocols: Protocols,
    clock: &Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let time = Arc::new(WallClock(Arc::clone(clock)));
    let builder = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Rustls)?;
    let builder = match clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Required | ClientCertificates::Optional => {
            let roots = Arc::new(material.trust_roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match clients {
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
                ClientCertificates::Required | ClientCertificates::None => verifier,
            };
            let verifier = verifier.build();
            let verifier = verifier.map_err(|e| TlsError::Rustls(rustls::Error::General(e.to_string())))?;
            builder.with_client_cert_verifier(Arc::new(ClientVerifier(verifier)))
        }
    };
    let mut config = builder
        .with_single_cert(material.chain, material.private_key)
        .map_err(TlsError::Rustls)?;
    // INVARIANT (no resumption): a resumed session is not verified again, so it would outlive a withdrawn root. Early
    // data can be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = protocols.offered();
    Ok(config)
}
