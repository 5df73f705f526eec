//! Servers, clients and a clock for tests.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::ports::Clock;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::{Authority, Leaf, NOW};
use crate::{
    ClientCertificates, HandshakeFailure, Limits, ListenerStats, Protocols, ServerTls, TlsFiles, TlsListener,
};

/// A wall clock that is set by hand.
#[derive(Debug)]
pub(crate) struct SetClock(AtomicU64);

impl SetClock {
    pub(crate) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0.load(Ordering::SeqCst))
    }

    fn now_millis(&self) -> u64 {
        self.now().as_seconds() * 1_000
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.now().as_seconds())
    }
}

/// The three files in a folder of their own.
pub(crate) struct Folder {
    pub(crate) files: TlsFiles,
    _folder: TempDir,
}

impl Folder {
    pub(crate) fn with(leaf: &Leaf, roots: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name| folder.path().join(name);
        let files = TlsFiles {
            certificate: path("cert.pem"),
            private_key: path("key.pem"),
            trust_roots: path("roots.pem"),
        };
        write(&files.certificate, &leaf.chain_pem);
        write(&files.private_key, &leaf.key_pem);
        write(&files.trust_roots, roots);
        Self {
            files,
            _folder: folder,
        }
    }
}

/// Writes a file that only we can read.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("mode");
}

/// A server that takes certificates of one root, with its listener.
pub(crate) struct Server {
    pub(crate) root: Authority,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) folder: Folder,
    pub(crate) listener: TlsListener,
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) clock: Arc<SetClock>,
}

pub(crate) async fn server() -> Server {
    server_with(Limits::default()).await
}

pub(crate) async fn server_with(limits: Limits) -> Server {
    server_for(ClientCertificates::Required, limits).await
}

pub(crate) async fn server_for(clients: ClientCertificates, limits: Limits) -> Server {
    server_speaking(Protocols::Http2, clients, limits).await
}

pub(crate) async fn server_speaking(
    protocols: Protocols,
    clients: ClientCertificates,
    limits: Limits,
) -> Server {
    let root = Authority::root("root");
    let folder = Folder::with(&root.workload("server"), &root.pem);
    let clock = SetClock::at(NOW);
    let judge = Arc::<SetClock>::clone(&clock);
    let tls = ServerTls::speaking(protocols, &folder.files, clients, judge).expect("loaded");
    let any_port = "127.0.0.1:0".parse().expect("address");
    let listener = TlsListener::bind(any_port, Arc::clone(&tls), limits)
        .await
        .expect("bound");
    let (address, stats) = (listener.local_addr(), listener.stats());
    Server {
        root,
        tls,
        folder,
        listener,
        address,
        stats,
        clock,
    }
}

/// A client that is not ours: it says what it is told, and trusts the server's root.
#[derive(Clone)]
pub(crate) struct Stranger {
    pub(crate) config: ClientConfig,
}

impl Stranger {
    pub(crate) fn new(root: &Authority, leaf: Option<&Leaf>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root.certificate.clone()).expect("root");
        let time = Arc::new(crate::provider::WallClock(SetClock::at(NOW)));
        let builder = ClientConfig::builder_with_details(crate::provider::provider(), time)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = crate::provider::provider()
                    .key_provider
                    .load_private_key(leaf.key.clone_key());
                let certified = rustls::sign::CertifiedKey::new(leaf.chain.clone(), key.expect("key"));
                let resolver = rustls::sign::SingleCertAndKey::from(certified);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").expect("name");
        TlsConnector::from(Arc::new(self.config.clone()))
            .connect(name, tcp)
            .await
    }

    /// Connects and reads once: a TLS 1.3 client learns only then that it was refused.
    pub(crate) async fn is_refused(&self, address: SocketAddr) -> bool {
        let Ok(mut stream) = self.connect(address).await else {
            return true;
        };
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

/// Sends a byte through a finished connection in both directions.
pub(crate) async fn echo(client: &mut TlsStream<TcpStream>, server: &mut crate::TlsStream) -> io::Result<()> {
    let mut byte = [0];
    client.write_all(b"x").await?;
    client.flush().await?;
    server.read_exact(&mut byte).await?;
    server.write_all(&byte).await?;
    server.flush().await?;
    client.read_exact(&mut byte).await.map(drop)
}

pub(crate) fn refused(stats: &ListenerStats, failure: HandshakeFailure) -> u64 {
    stats
        .refused()
        .iter()
        .find(|one| one.failure == failure)
        .map_or(0, |one| one.count)
}

/// Waits until `holds`, at most ten seconds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .is_ok(),
        "never: {what}"
    );
}
