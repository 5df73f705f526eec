//! A sidecar with a service behind it.

pub(crate) mod envoy;
pub(crate) mod pki;
pub(crate) mod plain;
pub(crate) mod raw;
pub(crate) mod service;
pub(crate) mod upstream;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::claims::Claims;
use countersign_core::jwk::write_set;
use countersign_core::ports::Clock;
use countersign_crypto::{SigningKey, publishing};
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_runtime::{Shutdown, Workers};
use countersign_sidecar::app::{Addresses, App};
use countersign_sidecar::config::Config;
use countersign_verifier::test_util::{self, SetClock, TestIssuer};
use countersign_verifier::trust::TrustStore;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use pki::Pki;
use service::Service;

/// The method that most tests call.
pub(crate) const ECHO: &str = "/countersign.demo.v1.DemoService/Echo";

/// What methods ask for in most tests.
pub(crate) const METHODS: &str = r#"
[[method]]
path = "/countersign.demo.v1.DemoService/*"
scopes = ["demo.call"]
[[method]]
path = "/test.Open/*"
open = true
[[method]]
path = "/test.Bound/*"
bound = true
[[method]]
path = "/test.Admin/*"
scopes = ["demo.admin"]
"#;

/// How a sidecar of a test differs from the usual one.
pub(crate) struct Setup {
    /// Before the first table of the configuration.
    pub(crate) top: String,
    /// After its last table.
    pub(crate) more: String,
    /// Instead of the address of the service. Empty: none.
    pub(crate) upstream: Option<String>,
    /// Instead of certificates of its own.
    pub(crate) pki: Option<Pki>,
    /// Tells the time.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    /// Whether listeners take nothing but gRPC.
    pub(crate) grpc_only: bool,
    /// Threads that serve calls. None: that of the test.
    pub(crate) workers: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            top: String::new(),
            more: METHODS.to_owned(),
            upstream: None,
            pki: None,
            clock: None,
            grpc_only: false,
            workers: 0,
        }
    }
}

/// A sidecar, the service behind it and the issuer that it trusts.
pub(crate) struct Sidecar {
    pub(crate) addresses: Addresses,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) service: Service,
    pub(crate) issuer: TestIssuer,
    pub(crate) clock: Arc<SetClock>,
    pub(crate) pki: Pki,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<()>,
    workers: Option<Workers>,
}

impl Sidecar {
    /// A sidecar that trusts its issuer at epoch 1.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// The same, set up otherwise.
    pub(crate) async fn with(setup: Setup) -> Self {
        let sidecar = Self::cold(setup).await;
        test_util::trust(&sidecar.trust, sidecar.issuer.state(1, []));
        sidecar
    }

    /// A sidecar that trusts nobody yet.
    pub(crate) async fn cold(setup: Setup) -> Self {
        let pki = setup.pki.unwrap_or_else(Pki::new);
        let folder = pki.folder();
        let service = Service::start().await;
        let upstream = setup
            .upstream
            .unwrap_or_else(|| format!("http://{}", service.address));
        let text = configuration(&setup.top, &upstream, &setup.more);
        let text = text.replace("GRPC_ONLY", &setup.grpc_only.to_string());
        let key = SigningKey::generate(publishing::ALGORITHM).expect("a key");
        std::fs::write(folder.join("publishing-keys.json"), write_set([key.jwk()])).expect("written");
        let config = Config::parse(&folder.join("sidecar.toml"), &text);
        let config = config.unwrap_or_else(|complaints| panic!("{complaints}"));
        let set_clock = SetClock::new();
        let clock = setup.clock.unwrap_or_else(|| Arc::<SetClock>::clone(&set_clock));
        let workers = (setup.workers > 0).then(|| Workers::start("calls", setup.workers).expect("started"));
        let calls = runtimes(workers.as_ref());
        let app = App::build(config, clock, &calls).await.expect("built");
        let shutdown = Shutdown::new();
        Self {
            addresses: app.addresses().clone(),
            trust: Arc::clone(app.trust()),
            service,
            issuer: TestIssuer::new("issuer"),
            clock: set_clock,
            pki,
            running: tokio::spawn(app.run_until(shutdown.clone())),
            shutdown,
            workers,
        }
    }

    /// What serves calls.
    pub(crate) fn runtimes(&self) -> Vec<Handle> {
        runtimes(self.workers.as_ref())
    }

    /// The listener that wants client certificates.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.addresses.listeners[0]
    }

    /// The listener without TLS that tells reasons.
    pub(crate) fn plaintext(&self) -> SocketAddr {
        self.addresses.listeners[1]
    }

    /// The listener without TLS that does not.
    pub(crate) fn coarse(&self) -> SocketAddr {
        self.addresses.listeners[2]
    }

    /// A good token.
    pub(crate) fn token(&self) -> String {
        self.issuer.token(&test_util::claims("1.1"))
    }

    /// A client of the service through the plaintext listener.
    pub(crate) fn client(&self) -> DemoServiceClient<Channel> {
        DemoServiceClient::new(channel(self.plaintext()))
    }

    /// A client that shows the certificate of `name`.
    pub(crate) fn tls_client(&self, name: &str) -> DemoServiceClient<Channel> {
        DemoServiceClient::new(self.tls_channel(name))
    }

    /// A channel that shows the certificate of `name`.
    pub(crate) fn tls_channel(&self, name: &str) -> Channel {
        let channel = self
            .tls_of(name)
            .channel(&self.tls_uri(), ChannelOptions::default());
        channel.expect("a channel")
    }

    /// TLS with the certificate of `name`.
    pub(crate) fn tls_of(&self, name: &str) -> Arc<ClientTls> {
        let tls = ClientTls::load(
            &self.pki.files(name),
            ExpectedServer::default(),
            Arc::<SetClock>::clone(&self.clock),
        );
        tls.expect("TLS")
    }

    /// Where the listener is that wants client certificates.
    pub(crate) fn tls_uri(&self) -> String {
        format!("https://localhost:{}", self.tls().port())
    }

    /// Stops the sidecar and waits until it has.
    pub(crate) async fn stop(self) {
        self.shutdown.request();
        within("the end", self.running).await.expect("no panic");
    }
}

fn runtimes(workers: Option<&Workers>) -> Vec<Handle> {
    workers.map_or_else(|| vec![Handle::current()], Workers::runtimes)
}

fn configuration(top: &str, upstream: &str, more: &str) -> String {
    let upstream = match upstream {
        "" => String::new(),
        upstream => format!("upstream = \"{upstream}\""),
    };
    format!(
        r#"
issuer = "{issuer}"
trust_domain = "{domain}"
audience = "{audience}"
publishing_keys = "publishing-keys.json"
state_dir = "state"
{upstream}
admin = "127.0.0.1:0"
{top}
[authority]
# Nobody is there.
uri = "https://127.0.0.1:9"
spiffe_id = "spiffe://{domain}/authority"
certificate = "sidecar.crt"
private_key = "sidecar.key"
trust_roots = "ca.crt"
[[listener]]
address = "127.0.0.1:0"
grpc_only = GRPC_ONLY
tls = {{ certificate = "sidecar.crt", private_key = "sidecar.key", trust_roots = "ca.crt" }}
[[listener]]
address = "127.0.0.1:0"
grpc_only = GRPC_ONLY
plaintext = true
disclose_reasons = true
[[listener]]
address = "127.0.0.1:0"
grpc_only = GRPC_ONLY
plaintext = true
[verify]
unix = "verify.sock"
grpc = "127.0.0.1:0"
[ext_authz]
unix = "ext-authz.sock"
grpc = "127.0.0.1:0"
disclose_reasons = true
{more}
"#,
        issuer = test_util::ISSUER,
        domain = test_util::TRUST_DOMAIN,
        audience = test_util::AUDIENCE,
    )
}

/// A channel without TLS that connects when it is used.
pub(crate) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_lazy()
}

/// `message` with a token.
pub(crate) fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a value");
    request.metadata_mut().insert("authorization", value);
    request
}

/// The stable reason in a status.
pub(crate) fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info();
    info.map(|info| info.metadata["reason"].clone())
        .unwrap_or_default()
}

/// The claims of a good token, changed.
pub(crate) fn claims_with(change: impl FnOnce(&mut Claims)) -> Claims {
    let mut claims = test_util::claims("1.7");
    change(&mut claims);
    claims
}

/// Waits for `future`, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, future)
        .await
        .unwrap_or_else(|_elapsed| panic!("{what} did not come in time"))
}

/// Waits until `condition` holds, but not for ever.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The files of a certificate in `folder`.
pub(crate) fn files_in(folder: &std::path::Path, name: &str) -> TlsFiles {
    let file = |name: String| -> PathBuf { folder.join(name) };
    TlsFiles {
        certificate: file(format!("{name}.crt")),
        private_key: file(format!("{name}.key")),
        trust_roots: file("ca.crt".to_owned()),
    }
}
