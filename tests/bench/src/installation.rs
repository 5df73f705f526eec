//! An authority and sidecars as they are installed: each the program that is shipped, in a process of its own, with a
//! configuration, certificates and a state on disk. They can be killed, stopped and started again.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use countersign_authority::config::Config;
use countersign_cli::pki::{CertificateFiles, Pki, Usage, thumbprint};
use countersign_core::names::CertificateThumbprint;
use countersign_core::ports::{Clock as _, Entropy as _};
use countersign_core::spiffe::SpiffeId;
use countersign_crypto::AwsLc;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{VerifyBatchRequest, VerifyRequest};
use countersign_runtime::SystemClock;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::fixture::{AUDIENCE, ISSUER, SCOPE, TRUST_DOMAIN};
use crate::load::PATH;
use crate::program::Program;
use crate::{Failure, authority};

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked whether something has happened that nobody tells of.
const LOOK: Duration = Duration::from_millis(1);

/// A program of ours, in the process that it gets.
fn shipped(role: &str, config: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", role, "--config"]).arg(config);
    Ok(command)
}

/// In the process: runs the authority that `config` describes.
pub(crate) fn run_authority(config: &Path) -> Result<(), Failure> {
    let arguments = [Path::new("countersign-authority"), Path::new("serve")];
    let arguments = arguments.into_iter().chain([Path::new("--config"), config]);
    succeeded(countersign_authority::commands::run(arguments))
}

/// In the process: runs the sidecar that `config` describes.
pub(crate) fn run_sidecar(config: &Path) -> Result<(), Failure> {
    let arguments = [Path::new("countersign-sidecar"), Path::new("--config"), config];
    succeeded(countersign_sidecar::commands::run(arguments))
}

fn succeeded(code: ExitCode) -> Result<(), Failure> {
    if code == ExitCode::SUCCESS {
        Ok(())
    } else {
        Err("the program failed".into())
    }
}

/// What of the configuration is not as always.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Special {
    /// Added to the authority's `[keys]`.
    pub(crate) keys: &'static str,
}

/// What a sidecar stands before.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Where it is.
    pub(crate) upstream: SocketAddr,
    /// Where its callers go.
    pub(crate) listener: SocketAddr,
    /// More of the configuration.
    pub(crate) more: String,
}

impl Default for Service {
    /// Nobody is there, and nobody calls.
    fn default() -> Self {
        Self {
            upstream: (Ipv4Addr::LOCALHOST, 1).into(),
            listener: (Ipv4Addr::LOCALHOST, 0).into(),
            more: String::new(),
        }
    }
}

/// One authority, its sidecars, and what they need in a folder.
#[derive(Debug)]
pub(crate) struct Installation {
    folder: TempDir,
    pki: Pki,
    port: u16,
    operator: Arc<ClientTls>,
    client: Arc<ClientTls>,
    client_certificate: CertificateThumbprint,
}

/// Names in the trust domain.
const AUTHORITY: &str = "authority";
const OPERATOR: &str = "operator";

impl Installation {
    /// Makes the folder, the store in it, and the file with the publishing keys.
    pub(crate) async fn make(special: Special) -> Result<Self, Failure> {
        countersign_mtls::install_default_provider();
        let folder = tempfile::tempdir()?;
        let pki = Pki::open(&folder.path().join("pki"), SystemClock.now())?;
        let operator = client_tls(&pki, &leaf(&pki, OPERATOR, Usage::Client)?)?;
        let client = leaf(&pki, authority::CLIENT, Usage::Client)?;
        let port = free_address()?.port();
        let installation = Self {
            folder,
            port,
            operator,
            client_certificate: thumbprint(&client.certificate)?,
            client: client_tls(&pki, &client)?,
            pki,
        };
        installation.write_sealing_key()?;
        fs::write(
            installation.path("authority.toml"),
            installation.authority(special)?,
        )?;
        let config = installation.authority_config()?;
        let keys = countersign_authority::app::publishing_keys(&config, Arc::new(SystemClock)).await?;
        fs::write(installation.path("publishing-keys.json"), keys)?;
        Ok(installation)
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the authority is built from.
    pub(crate) fn authority_config(&self) -> Result<Config, Failure> {
        Config::load(&self.path("authority.toml")).map_err(|complaints| complaints.to_string().into())
    }

    /// Starts the authority, which may take a moment to answer.
    pub(crate) fn start_authority(&self) -> Result<Program, Failure> {
        let log = self.path("authority.log");
        let mut command = shipped("shipped-authority", &self.path("authority.toml"))?;
        Program::start(&mut command, &log)
    }

    /// What a sidecar of this name needs that only decides.
    pub(crate) fn sidecar(&self, name: &str) -> Result<Sidecar, Failure> {
        self.sidecar_with(name, &Service::default())
    }

    /// What a sidecar of this name needs before `service`.
    pub(crate) fn sidecar_with(&self, name: &str, service: &Service) -> Result<Sidecar, Failure> {
        let config = self.path(&format!("{name}.toml"));
        let sidecar = Sidecar {
            log: self.path(&format!("{name}.log")),
            socket: self.path(&format!("{name}.sock")),
            state: self.path(&format!("{name}.state")),
            config,
            caller: self.client_certificate,
        };
        let files = leaf(&self.pki, &format!("sidecar/{name}"), Usage::ServerAndClient)?;
        fs::write(
            &sidecar.config,
            self.sidecar_configuration(&sidecar, &files, service)?,
        )?;
        Ok(sidecar)
    }

    /// A connection to the authority as its operator.
    pub(crate) fn as_operator(&self) -> Result<Channel, Failure> {
        self.channel(&self.operator)
    }

    /// A connection to the authority as the client that gets tokens.
    pub(crate) fn as_client(&self) -> Result<Channel, Failure> {
        self.channel(&self.client)
    }

    fn channel(&self, tls: &Arc<ClientTls>) -> Result<Channel, Failure> {
        let uri = format!("https://localhost:{}", self.port);
        Ok(tls.channel(&uri, ChannelOptions::default())?)
    }

    /// Registers the client, as soon as the authority answers.
    pub(crate) async fn register(&self) -> Result<(), Failure> {
        let mut clients = ClientServiceClient::new(self.as_operator()?);
        let end = Instant::now() + PATIENCE;
        loop {
            match clients.create_client(authority::registration()?).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() > end => return Err(self.why(&status)),
                Err(_not_yet) => sleep(LOOK).await,
            }
        }
    }

    /// A token, as soon as the authority gives one.
    pub(crate) async fn token(&self) -> Result<String, Failure> {
        let mut tokens = TokenServiceClient::new(self.as_client()?);
        let end = Instant::now() + PATIENCE;
        loop {
            match issue(&mut tokens).await {
                Ok(token) => return Ok(token),
                Err(status) if Instant::now() > end => return Err(self.why(&status)),
                Err(_not_yet) => sleep(LOOK).await,
            }
        }
    }

    fn why(&self, status: &Status) -> Failure {
        let log = fs::read_to_string(self.path("authority.log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        format!("the authority answers {status}, and its log ends with: {last}").into()
    }

    fn write_sealing_key(&self) -> Result<(), Failure> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path("sealing-key"))?;
        let mut key = [0; 32];
        AwsLc.fill(&mut key)?;
        Ok(file.write_all(BASE64.encode(key).as_bytes())?)
    }

    fn authority(&self, special: Special) -> Result<String, Failure> {
        let server = leaf(&self.pki, AUTHORITY, Usage::Server)?;
        Ok(format!(
            r#"
issuer = "{ISSUER}"
trust_domain = "{TRUST_DOMAIN}"
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:0"

[tls]
certificate = "{certificate}"
private_key = "{key}"
trust_roots = "{roots}"

[store]
path = "store.redb"

[keys]
key_encryption_key = "sealing-key"
{keys}

[access]
operators = ["{operator}"]
verifiers = ["spiffe://{TRUST_DOMAIN}/sidecar/"]

[limits]
tokens_per_second = 1000000
tokens_burst = 1000000
"#,
            port = self.port,
            certificate = server.certificate.display(),
            key = server.key.display(),
            roots = self.pki.trust_roots().display(),
            keys = special.keys,
            operator = authority::identity(OPERATOR)?,
        ))
    }

    fn sidecar_configuration(
        &self,
        sidecar: &Sidecar,
        files: &CertificateFiles,
        service: &Service,
    ) -> Result<String, Failure> {
        Ok(format!(
            r#"
issuer = "{ISSUER}"
trust_domain = "{TRUST_DOMAIN}"
audience = "{AUDIENCE}"
publishing_keys = "publishing-keys.json"
state_dir = "{state}"
upstream = "http://{upstream}"
admin = "127.0.0.1:0"
default_scopes = ["{SCOPE}"]

[authority]
uri = "https://127.0.0.1:{port}"
server_name = "localhost"
spiffe_id = "{authority}"
certificate = "{certificate}"
private_key = "{key}"
trust_roots = "{roots}"

[[listener]]
address = "{listener}"
plaintext = true

[verify]
unix = "{socket}"
{more}
"#,
            upstream = service.upstream,
            listener = service.listener,
            more = service.more,
            state = sidecar.state.display(),
            port = self.port,
            authority = authority::identity(AUTHORITY)?,
            certificate = files.certificate.display(),
            key = files.key.display(),
            roots = self.pki.trust_roots().display(),
            socket = sidecar.socket.display(),
        ))
    }
}

/// An address that is free. Nobody else takes it in between, on a machine that has others to give.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn leaf(pki: &Pki, name: &str, usage: Usage) -> Result<CertificateFiles, Failure> {
    let identity: SpiffeId = authority::identity(name)?;
    let file = name.replace('/', "-");
    Ok(pki.leaf(&file, &identity, usage, SystemClock.now())?)
}

fn client_tls(pki: &Pki, leaf: &CertificateFiles) -> Result<Arc<ClientTls>, Failure> {
    let files = TlsFiles {
        certificate: leaf.certificate.clone(),
        private_key: leaf.key.clone(),
        trust_roots: pki.trust_roots().to_owned(),
    };
    Ok(ClientTls::load(
        &files,
        ExpectedServer::default(),
        Arc::new(SystemClock),
    )?)
}

/// Asks once for a token.
pub(crate) async fn issue(tokens: &mut TokenServiceClient<Channel>) -> Result<String, Status> {
    let request = IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        audience: AUDIENCE.to_owned(),
        ..IssueTokenRequest::default()
    };
    Ok(tokens.issue_token(request).await?.into_inner().access_token)
}

/// The files of one sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Sidecar {
    /// Its configuration.
    pub(crate) config: PathBuf,
    /// What it says.
    pub(crate) log: PathBuf,
    socket: PathBuf,
    /// Where it keeps its trust.
    pub(crate) state: PathBuf,
    caller: CertificateThumbprint,
}

impl Sidecar {
    /// Starts it, which may take a moment until it answers.
    pub(crate) fn start(&self) -> Result<Program, Failure> {
        Program::start(&mut shipped("shipped-sidecar", &self.config)?, &self.log)
    }

    /// The way to its Verify API, of which nothing is asked yet.
    pub(crate) fn verify_api(&self) -> Result<VerifyApi, Failure> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()))?;
        Ok(VerifyApi {
            client: VerifyServiceClient::new(endpoint.connect_lazy()),
            caller: self.caller,
        })
    }

    /// Waits until it decides that `token` is what it is, good or with the reason for which it is refused, asking as often as
    /// can be.
    pub(crate) async fn decides(&self, token: &str, expected: Answer<'_>) -> Result<(), Failure> {
        let mut api = self.verify_api()?;
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = api.ask(token).await;
            if let Ok(verdict) = &answer
                && expected == Answer::of(verdict)
            {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{expected:?} is not what it answers: {answer:?}").into());
            }
            sleep(LOOK).await;
        }
    }
}

/// What a sidecar says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Allowed,
    /// With the reason.
    Refused(&'a str),
}

impl<'a> Answer<'a> {
    pub(crate) fn of(verdict: &'a Verdict) -> Self {
        match verdict {
            Verdict::Allowed(_) => Self::Allowed,
            Verdict::Refused(refused) => Self::Refused(&refused.reason),
        }
    }
}

/// The Verify API of a sidecar, asked about tokens of the one client.
#[derive(Clone, Debug)]
pub(crate) struct VerifyApi {
    client: VerifyServiceClient<Channel>,
    caller: CertificateThumbprint,
}

impl VerifyApi {
    /// Asks about `token`.
    pub(crate) async fn ask(&mut self, token: &str) -> Result<Verdict, Status> {
        let response = self.client.verify(self.request(token)).await?.into_inner();
        response
            .verdict
            .ok_or_else(|| Status::from_error("an answer without a verdict".into()))
    }

    /// Asks about all of `tokens` at once, and fails if one is refused.
    pub(crate) async fn allows_all(&mut self, tokens: &[String]) -> Result<(), Failure> {
        let request = VerifyBatchRequest {
            requests: tokens.iter().map(|token| self.request(token)).collect(),
        };
        let answers = self.client.verify_batch(request).await?.into_inner().responses;
        let allowed = answers
            .iter()
            .filter(|answer| matches!(answer.verdict, Some(Verdict::Allowed(_))));
        if allowed.count() == tokens.len() {
            Ok(())
        } else {
            Err("a good token was refused".into())
        }
    }

    fn request(&self, token: &str) -> VerifyRequest {
        VerifyRequest {
            token: token.to_owned(),
            path: PATH.to_owned(),
            peer_certificate_sha256: self.caller.as_bytes().to_vec(),
            ..VerifyRequest::default()
        }
    }
}
