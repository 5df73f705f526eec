//! The environment under attack: its ports, what a well-behaved caller gets from each, and what its processes use.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_harness::dev::Dev;
use countersign_harness::raw::Connection;
use countersign_harness::{PATIENCE, eventually};
use countersign_mtls::{ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::SystemClock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tonic::Code;

pub(crate) trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// Every port that the processes listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Proxy,
    ProxyPlaintext,
    VerifyTcp,
    VerifyUnix,
    ExternalAuthorization,
    Agent,
    SidecarAdmin,
    Authority,
    AuthorityMetrics,
}

impl Port {
    pub(crate) const ALL: [Self; 9] = [
        Self::Proxy,
        Self::ProxyPlaintext,
        Self::VerifyTcp,
        Self::VerifyUnix,
        Self::ExternalAuthorization,
        Self::Agent,
        Self::SidecarAdmin,
        Self::Authority,
        Self::AuthorityMetrics,
    ];

    /// A method that is served there, where calls are.
    pub(crate) const fn method(self) -> Option<&'static str> {
        match self {
            Self::Proxy | Self::ProxyPlaintext => Some(ECHO),
            Self::VerifyTcp | Self::VerifyUnix => Some(VERIFY),
            Self::ExternalAuthorization => Some(CHECK),
            Self::Agent => Some(STATUS),
            Self::Authority => Some(ISSUE),
            Self::SidecarAdmin | Self::AuthorityMetrics => None,
        }
    }

    const fn is_unix(self) -> bool {
        matches!(self, Self::VerifyUnix | Self::ExternalAuthorization | Self::Agent)
    }

    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Proxy | Self::Authority)
    }
}

const ECHO: &str = "/countersign.demo.v1.DemoService/Echo";
const VERIFY: &str = "/countersign.verify.v1.VerifyService/Verify";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const STATUS: &str = "/countersign.agent.v1.TokenAgentService/GetStatus";
const ISSUE: &str = "/countersign.token.v1.TokenService/IssueToken";

/// How long a well-behaved caller waits for an answer while somebody else floods.
const CALL: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) dev: Dev,
    tls: Arc<ClientTls>,
    /// Sockets of the sidecar.
    ask: PathBuf,
    agent: PathBuf,
}

impl World {
    pub(crate) async fn start() -> Self {
        let mut dev = Dev::start(env!("CARGO_BIN_EXE_countersign-under-test").as_ref()).await;
        let (ask, agent) = (dev.path("ask.sock"), dev.path("agent.sock"));
        serve_more(&mut dev, &ask, &agent).await;
        let orders = &dev.environment.clients.orders;
        let files = TlsFiles {
            certificate: orders.cert.clone(),
            private_key: orders.key.clone(),
            trust_roots: dev.environment.ca_cert.clone(),
        };
        let tls = ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock));
        let world = Self {
            tls: tls.expect("usable files"),
            dev,
            ask,
            agent,
        };
        eventually("the sidecar decides", async || {
            world.get(Port::SidecarAdmin, "/ready").await
        })
        .await;
        world
    }

    fn address(&self, port: Port) -> &str {
        let environment = &self.dev.environment;
        match port {
            Port::Proxy => &environment.sidecar.proxy,
            Port::ProxyPlaintext => &environment.sidecar.proxy_plaintext,
            Port::VerifyTcp => &environment.sidecar.verify_grpc,
            Port::VerifyUnix => environment.sidecar.verify_uds.to_str().expect("text"),
            Port::ExternalAuthorization => self.ask.to_str().expect("text"),
            Port::Agent => self.agent.to_str().expect("text"),
            Port::SidecarAdmin => &environment.sidecar.admin,
            Port::Authority => &environment.authority.grpc,
            Port::AuthorityMetrics => &environment.authority.metrics,
        }
    }

    /// A connection on which nothing has been said.
    pub(crate) async fn connect(&self, port: Port) -> io::Result<Box<dyn Pipe>> {
        let address = self.address(port);
        if port.is_unix() {
            return Ok(Box::new(UnixStream::connect(address).await?));
        }
        Ok(Box::new(TcpStream::connect(address).await?))
    }

    /// A connection on which HTTP is to be said next, with a good certificate where one is asked for.
    pub(crate) async fn connect_well(&self, port: Port) -> Box<dyn Pipe> {
        if !port.is_tls() {
            return self.connect(port).await.expect("accepted");
        }
        let uri = format!("https://{}", self.address(port));
        Box::new(self.tls.connect(&uri, PATIENCE).await.expect("a handshake"))
    }

    pub(crate) async fn token(&self) -> String {
        let request = IssueTokenRequest {
            grant_type: "client_credentials".to_owned(),
            audience: self.dev.environment.demo.audience.clone(),
            ..Default::default()
        };
        let issued = TokenServiceClient::new(self.dev.orders())
            .issue_token(request)
            .await;
        issued.expect("a token is issued").into_inner().access_token
    }

    /// What a well-behaved caller is answered at every port, each over a connection of its own. The longest wait.
    pub(crate) async fn answers(&self, token: &str, while_what: &str) -> Duration {
        let mut longest = Duration::ZERO;
        for port in Port::ALL {
            let began = Instant::now();
            let good = timeout(CALL, self.answers_at(port, token)).await;
            assert_eq!(good, Ok(true), "{port:?} during {while_what}");
            longest = longest.max(began.elapsed());
        }
        longest
    }

    async fn answers_at(&self, port: Port, token: &str) -> bool {
        match port {
            Port::Authority => !self.token().await.is_empty(),
            Port::SidecarAdmin => self.get(port, "/live").await,
            Port::AuthorityMetrics => self.get(port, "/metrics").await,
            Port::Proxy
            | Port::ProxyPlaintext
            | Port::VerifyTcp
            | Port::VerifyUnix
            | Port::ExternalAuthorization
            | Port::Agent => {
                let stream = self.connect_well(port).await;
                let bearer = format!("Bearer {token}").into_bytes();
                let connection = Connection::over(stream, "localhost").await;
                let method = port.method().expect("a port for calls");
                let code = connection.call(method, &[bearer]).await.code;
                // In plaintext nobody holds the certificate that the token is bound to.
                let expected = if port == Port::ProxyPlaintext {
                    Code::Unauthenticated
                } else {
                    Code::Ok
                };
                code == expected
            }
        }
    }

    /// Whether `GET` of this path is answered with 200.
    pub(crate) async fn get(&self, port: Port, path: &str) -> bool {
        let mut stream = self.connect(port).await.expect("accepted");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answered");
        answer.starts_with(b"HTTP/1.1 200")
    }

    /// The sidecar's process.
    pub(crate) const fn sidecar(&self) -> u32 {
        self.dev.environment.processes.sidecar.pid
    }

    /// The processes under attack.
    pub(crate) fn processes(&self) -> [(&'static str, u32); 2] {
        let processes = &self.dev.environment.processes;
        [
            ("authority", processes.authority.pid),
            ("sidecar", processes.sidecar.pid),
        ]
    }
}

/// Starts the environment's sidecar again, with external authorization at `ask` and an agent.
async fn serve_more(dev: &mut Dev, ask: &Path, agent: &Path) {
    let sidecar = &dev.environment.processes.sidecar;
    let (pid, config) = (sidecar.pid, sidecar.config.clone());
    dev.kill(pid).await;
    let more = format!(
        "\n[ext_authz]\nunix = \"{}\"\n[agent]\nunix = \"{}\"\n",
        ask.display(),
        agent.display()
    );
    let file = fs::OpenOptions::new().append(true).open(&config);
    let written = file.and_then(|mut file| file.write_all(more.as_bytes()));
    written.expect("the configuration can be changed");
    dev.restart(&["run", "sidecar", "--config", config.to_str().expect("text")]);
    dev.environment.processes.sidecar.pid = dev.last();
    eventually("the sidecar is there", async || {
        UnixStream::connect(agent).await.is_ok()
    })
    .await;
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Resident, in MiB.
    pub(crate) memory: u64,
    /// Open descriptors: connections, and what it has besides.
    pub(crate) descriptors: usize,
}

impl Usage {
    /// Of `pid`, which lives.
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .expect("its memory");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
        Self {
            memory: resident.parse::<u64>().expect("a number") / 1024,
            descriptors: descriptors.count(),
        }
    }
}
