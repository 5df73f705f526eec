//! A folder with certificates, a key and a configuration; an authority started from it; callers with certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_authority::app::{App, AppError};
use countersign_authority::config::Config;
use countersign_core::spiffe::SpiffeId;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, ServerTls, TlsFiles};
use countersign_runtime::{Shutdown, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub(crate) const AUTHORITY: &str = "spiffe://example.org/authority";
pub(crate) const OPERATOR: &str = "spiffe://example.org/operator/anna";
pub(crate) const VERIFIER: &str = "spiffe://example.org/verifier/a";
pub(crate) const ORDERS: &str = "spiffe://example.org/orders";

/// Who signs certificates.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("signs");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The certificate and key of `spiffe_id`, in PEM.
    fn leaf(&self, spiffe_id: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params
            .subject_alt_names
            .push(SanType::URI(spiffe_id.try_into().expect("ASCII")));
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        (certificate.pem(), key.serialize_pem())
    }
}

pub(crate) fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .expect("opens");
    std::io::Write::write_all(&mut file, content.as_bytes()).expect("writes");
}

/// The folder.
pub(crate) struct Deployment {
    folder: TempDir,
    pub(crate) ca: Ca,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        let deployment = Self {
            folder: tempfile::tempdir().expect("a folder"),
            ca: Ca::new(),
        };
        std::fs::write(deployment.path("ca.crt"), &deployment.ca.pem).expect("writes");
        deployment.certify(&deployment.ca, "authority", AUTHORITY);
        write_private(
            &deployment.path("kek"),
            &format!("{}\n", "0123456789abcdef".repeat(4)),
        );
        std::fs::write(deployment.config(), CONFIG).expect("writes");
        deployment
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("authority.toml")
    }

    /// Writes `name.crt` and `name.key` for `spiffe_id`, signed by `ca`.
    pub(crate) fn certify(&self, ca: &Ca, name: &str, spiffe_id: &str) {
        let (certificate, key) = ca.leaf(spiffe_id);
        std::fs::write(self.path(&format!("{name}.crt")), certificate).expect("writes");
        write_private(&self.path(&format!("{name}.key")), &key);
    }

    pub(crate) async fn build(&self) -> Result<App, AppError> {
        let config = Config::load(&self.config()).expect("is a configuration");
        App::build(config, Arc::new(SystemClock)).await
    }

    pub(crate) async fn start(&self) -> Running {
        let app = self.build().await.expect("starts");
        let shutdown = Shutdown::new();
        Running {
            address: app.grpc_address(),
            admin: app.admin_address(),
            publishing_keys: app.publishing_keys().to_owned(),
            tls: Arc::clone(app.tls()),
            serving: tokio::spawn(Box::pin(app.run_until(shutdown.clone()))),
            shutdown,
        }
    }

    /// A channel of `spiffe_id`, with a certificate signed by `ca`.
    pub(crate) fn channel(&self, running: &Running, ca: &Ca, spiffe_id: &str) -> Channel {
        let name = format!("client-{}", spiffe_id.replace(['/', ':'], "-"));
        self.certify(ca, &name, spiffe_id);
        let files = TlsFiles {
            certificate: self.path(&format!("{name}.crt")),
            private_key: self.path(&format!("{name}.key")),
            trust_roots: self.path("ca.crt"),
        };
        let server = ExpectedServer {
            spiffe_id: Some(SpiffeId::parse(AUTHORITY).expect("valid")),
            server_name: Some("localhost".to_owned()),
        };
        let tls = ClientTls::load(&files, server, Arc::new(SystemClock)).expect("loads");
        let uri = format!("https://{}", running.address);
        tls.channel(&uri, ChannelOptions::default()).expect("an address")
    }
}

/// An authority that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) publishing_keys: String,
    pub(crate) tls: Arc<ServerTls>,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), AppError>>,
}

impl Running {
    /// Stops it, and says how long that took.
    pub(crate) async fn stop(self) -> Duration {
        let started = tokio::time::Instant::now();
        self.shutdown.request();
        self.serving.await.expect("runs").expect("stops");
        started.elapsed()
    }

    pub(crate) fn request_stop(&self) {
        self.shutdown.request();
    }

    /// What the admin port answers: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.admin)
            .await
            .expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = text.split_once("\r\n\r\n").expect("a body");
        (status.expect("a status"), body.to_owned())
    }
}

/// Waits until `holds`, for at most ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come about"));
}

const CONFIG: &str = r#"
issuer = "https://auth.example.org"
trust_domain = "example.org"
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = 1

[tls]
certificate = "authority.crt"
private_key = "authority.key"
trust_roots = "ca.crt"

[store]
path = "store.redb"

[keys]
key_encryption_key = "kek"

[access]
operators = ["spiffe://example.org/operator/anna"]
verifiers = ["spiffe://example.org/verifier/"]

[limits]
drain = "3s"
"#;
