//! A sidecar in this process, in front of the demo service. Its authority is never there: the test puts trust in force.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::demo;
use countersign_cli::pki::{CertificateFiles, Pki, Usage};
use countersign_core::jose::Algorithm;
use countersign_core::jwk::write_set;
use countersign_core::ports::Clock as _;
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::MAX_LEASE;
use countersign_core::trust::TrustState;
use countersign_core::verifier::Grant;
use countersign_crypto::SigningKey;
use countersign_mtls::{ClientTls, ExpectedServer, TlsFiles};
use countersign_runtime::{Shutdown, SystemClock};
use countersign_sidecar::app::{Addresses, App};
use countersign_sidecar::config::Config;
use countersign_verifier::trust::TrustStore;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::raw::Connection;

/// Whom the sidecar stands for, and what it asks for.
#[derive(Clone, Debug)]
pub struct Stance {
    /// `issuer`.
    pub issuer: String,
    /// `trust_domain`.
    pub trust_domain: String,
    /// `audience`.
    pub audience: String,
    /// The `[[method]]` entries, as TOML.
    pub methods: String,
}

/// The running sidecar. Stops with [`RunningSidecar::stop`]; the demo service stops with the runtime.
#[derive(Debug)]
pub struct RunningSidecar {
    /// Where it listens: the TLS listener first, then the plaintext one.
    pub addresses: Addresses,
    /// The trust that it decides on.
    pub trust: Arc<TrustStore>,
    /// A caller with a certificate.
    pub holder: Arc<ClientTls>,
    /// The same with another certificate of the same SPIFFE ID.
    pub renewed: Arc<ClientTls>,
    /// The same with a third, which is for the test to revoke.
    pub revoked: Arc<ClientTls>,
    shutdown: Shutdown,
    running: JoinHandle<()>,
    _folder: TempDir,
}

impl RunningSidecar {
    /// Starts the demo service and a sidecar in front of it.
    ///
    /// # Panics
    /// When something cannot be set up.
    pub async fn start(stance: &Stance) -> Self {
        countersign_mtls::install_default_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let upstream = start_demo().await;
        let certificates = Certificates::make(folder.path(), &stance.trust_domain);
        let text = configuration(stance, &certificates, upstream);
        let path = folder.path().join("sidecar.toml");
        fs::write(&path, text).expect("the configuration is written");
        let config = Config::load(&path).expect("the configuration is good");

        let app = App::build(config, Arc::new(SystemClock), &[Handle::current()])
            .await
            .expect("the sidecar starts");
        let (addresses, trust) = (app.addresses().clone(), Arc::clone(app.trust()));
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app.run_until(shutdown.clone()));
        let [holder, renewed, revoked] = certificates.holder.each_ref().map(|leaf| {
            let files = certificates.files(leaf);
            ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock)).expect("usable files")
        });
        Self {
            addresses,
            trust,
            holder,
            renewed,
            revoked,
            shutdown,
            running,
            _folder: folder,
        }
    }

    /// Puts `state` in force, confirmed just now.
    ///
    /// # Panics
    /// When the store refuses it.
    pub fn trust_now(&self, state: TrustState) {
        let (epoch, digest) = (state.epoch(), *state.digest());
        self.trust.install(state).expect("the state is new");
        let grant = Grant {
            sent_at: SystemClock.elapsed(),
            lease: MAX_LEASE,
        };
        self.trust.confirm(epoch, &digest, grant);
    }

    /// A connection with the certificate of `caller`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn connect_as(&self, caller: &ClientTls) -> Connection {
        let address = self.listener(0);
        let uri = format!("https://localhost:{}", address.port());
        let stream = caller
            .connect(&uri, PATIENCE)
            .await
            .expect("the TLS listener answers");
        Connection::over(stream, &format!("localhost:{}", address.port())).await
    }

    /// A connection without a certificate.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn connect_in_plaintext(&self) -> Connection {
        let address = self.listener(1);
        let stream = TcpStream::connect(address)
            .await
            .expect("the plaintext listener answers");
        Connection::over(stream, &address.to_string()).await
    }

    fn listener(&self, index: usize) -> SocketAddr {
        *self.addresses.listeners.get(index).expect("two listeners")
    }

    /// Stops it and waits until it has.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(self) {
        self.shutdown.request();
        let stopped = tokio::time::timeout(PATIENCE, self.running).await;
        stopped.expect("it stops").expect("it did not panic");
    }
}

async fn start_demo() -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = demo::listen(any).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        demo::serve(listener, std::future::pending())
            .await
            .expect("the demo serves")
    });
    address
}

struct Certificates {
    roots: PathBuf,
    sidecar: CertificateFiles,
    /// Several of one SPIFFE ID.
    holder: [CertificateFiles; 3],
    publishing_keys: PathBuf,
    state: PathBuf,
}

impl Certificates {
    fn make(folder: &Path, trust_domain: &str) -> Self {
        let now = SystemClock.now();
        let pki = Pki::open(&folder.join("pki"), now).expect("a certificate authority");
        let leaf = |name: &str, of: &str, usage| {
            let identity = SpiffeId::parse(&format!("spiffe://{trust_domain}/{of}")).expect("an identity");
            pki.leaf(name, &identity, usage, now).expect("a certificate")
        };
        let publishing = SigningKey::generate(Algorithm::EdDsa).expect("a key");
        let publishing_keys = folder.join("publishing-keys.json");
        fs::write(&publishing_keys, write_set([publishing.jwk()])).expect("the keys are written");
        Self {
            roots: pki.trust_roots().to_owned(),
            sidecar: leaf("sidecar", "sidecar", Usage::ServerAndClient),
            holder: ["holder", "renewed", "revoked"].map(|name| leaf(name, "holder", Usage::Client)),
            publishing_keys,
            state: folder.join("state"),
        }
    }

    fn files(&self, leaf: &CertificateFiles) -> TlsFiles {
        TlsFiles {
            certificate: leaf.certificate.clone(),
            private_key: leaf.key.clone(),
            trust_roots: self.roots.clone(),
        }
    }
}

fn configuration(stance: &Stance, certificates: &Certificates, upstream: SocketAddr) -> String {
    let files = certificates.files(&certificates.sidecar);
    let (certificate, key, roots) = (
        files.certificate.display(),
        files.private_key.display(),
        files.trust_roots.display(),
    );
    let Stance {
        issuer,
        trust_domain,
        audience,
        methods,
    } = stance;
    // An authority that never answers, and a budget that no test outlives.
    let budget = Duration::from_secs(3600).as_secs();
    format!(
        r#"
issuer = "{issuer}"
trust_domain = "{trust_domain}"
audience = "{audience}"
publishing_keys = "{publishing_keys}"
state_dir = "{state}"
upstream = "http://{upstream}"
admin = "127.0.0.1:0"

[authority]
uri = "https://localhost:1"
spiffe_id = "spiffe://{trust_domain}/authority"
certificate = "{certificate}"
private_key = "{key}"
trust_roots = "{roots}"

[[listener]]
address = "127.0.0.1:0"
tls = {{ certificate = "{certificate}", private_key = "{key}", trust_roots = "{roots}" }}

[[listener]]
address = "127.0.0.1:0"
plaintext = true
disclose_reasons = true

[staleness.class.normal]
revocations = "{budget}s"
keys = "{budget}s"

[verify]
grpc = "127.0.0.1:0"

{methods}
"#,
        publishing_keys = certificates.publishing_keys.display(),
        state = certificates.state.display(),
    )
}
