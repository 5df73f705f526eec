//! The servers under load: ours as it is shipped, Envoy with more and less to do, and a proxy that decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::{AddSecretRequest, ListKeysRequest};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::SystemClock;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::Options;
use super::configuration::{Job, configuration};
use super::results::Rounds;
use crate::child::Child;
use crate::fixture::{AUDIENCE, SCOPE};
use crate::installation::{Answer, Installation, PATIENCE, Service, Special, free_address};
use crate::load::Target;
use crate::million::{self, Issued};
use crate::program::Program;
use crate::{Failure, authority, cores};

/// Tokens that are revoked, and of how many.
const REVOKED: u64 = 5_000;
const ISSUED: Issued = Issued {
    tokens: 100_000,
    shards: 4,
};

/// Methods that the sidecar has rules for.
const RULES: u32 = 50;

/// As long as an authority gives tokens for.
const LIFETIME_SECONDS: i64 = 3_600;

/// How often is looked whether a server takes connections.
const LOOK: Duration = Duration::from_millis(10);

/// Whom the others are compared with.
pub(crate) const OURS: &str = "countersign";
/// Envoy in the mode that is nearest to ours.
pub(crate) const NEAREST: &str = "envoy-jwt-cache";

/// One server under load.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// What it does, in words.
    pub(crate) what: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// What was measured, by load.
    pub(crate) rounds: BTreeMap<&'static str, Rounds>,
    /// What it had in memory before the first load, in bytes.
    pub(crate) idle: u64,
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) enum Process {
    Program(Program),
    Child(Child),
}

impl Peer {
    fn new(name: &'static str, what: &'static str, address: SocketAddr, process: Process) -> Self {
        Self {
            name,
            what,
            address,
            process,
            rounds: BTreeMap::new(),
            idle: 0,
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        match &self.process {
            Process::Program(program) => program.id(),
            Process::Child(child) => child.id(),
        }
    }

    /// Waits until it takes connections, and sees that it lets pass what it should and, if it `verifies`, nothing else.
    async fn takes_calls(&self, token: &str, verifies: bool) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(self.address).await {
            if Instant::now() > end {
                return Err(format!("{} takes no connections: {error}", self.name).into());
            }
            sleep(LOOK).await;
        }
        let with = |token: &str| Target {
            address: self.address,
            token: token.to_owned(),
        };
        with(token).one_by_one(1).await?;
        // Another signature under the same words.
        let forged = with(&token.chars().rev().collect::<String>());
        if verifies && forged.one_by_one(1).await.is_ok() {
            return Err(format!("{} lets everything pass", self.name).into());
        }
        Ok(())
    }
}

/// Everything that has to be there. It ends in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) peers: Vec<Peer>,
    /// What was measured without any of them, by load.
    pub(crate) direct: BTreeMap<&'static str, Rounds>,
    /// The service behind all of them.
    pub(crate) service: Child,
    /// A token that all of them take.
    pub(crate) token: String,
    _authority: Program,
    pub(crate) installation: Installation,
}

impl Stage {
    /// Starts everything, and waits until it takes calls.
    pub(crate) async fn start(options: &Options) -> Result<Self, Failure> {
        let installation = Installation::make(Special::default()).await?;
        let list = ISSUED.revocations(REVOKED, SystemClock.now());
        million::store(&installation.authority_config()?, &list).await?;
        let authority = installation.start_authority()?;
        installation.register().await?;
        let token = unbound_token(&installation).await?;
        let keys = keys(&installation).await?;
        let service = Child::start("upstream", &[], None)?;
        let ours = start_ours(options, &installation, service.address, &token).await?;
        let bare = Child::start_on(cores::SERVER, "bare-proxy", &behind(service.address))?;
        let mut peers = vec![
            ours,
            Peer::new(
                "bare",
                "a hyper proxy that decides nothing",
                bare.address,
                Process::Child(bare),
            ),
        ];
        for (name, what, job) in [
            ("envoy", "Envoy, router only", Job::Route),
            ("envoy-jwt", "Envoy with jwt_authn", Job::Verify),
            (
                NEAREST,
                "Envoy with jwt_authn and jwt_cache_config",
                Job::VerifyAndKeep,
            ),
        ] {
            peers.push(start_envoy(
                options,
                &installation,
                (name, what, job),
                service.address,
                &keys,
            )?);
        }
        for peer in &peers {
            peer.takes_calls(&token, !matches!(peer.name, "bare" | "envoy"))
                .await?;
        }
        Ok(Self {
            peers,
            direct: BTreeMap::new(),
            service,
            token,
            _authority: authority,
            installation,
        })
    }
}

fn behind(service: SocketAddr) -> [String; 2] {
    ["--upstream".to_owned(), service.to_string()]
}

/// A token that no certificate is needed for, from a client that has a secret.
async fn unbound_token(installation: &Installation) -> Result<String, Failure> {
    let client_id = authority::registration()?.client_id;
    let request = AddSecretRequest {
        client_id: client_id.clone(),
    };
    let channel = installation.as_operator()?;
    let secret = ClientServiceClient::new(channel.clone())
        .add_secret(request)
        .await?;
    let request = IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        audience: AUDIENCE.to_owned(),
        client_id,
        client_secret: secret.into_inner().client_secret,
        lifetime_seconds: Some(LIFETIME_SECONDS),
        ..IssueTokenRequest::default()
    };
    let issued = TokenServiceClient::new(channel).issue_token(request).await?;
    Ok(issued.into_inner().access_token)
}

/// What the authority signs with, as a JWK Set.
async fn keys(installation: &Installation) -> Result<String, Failure> {
    let mut keys = KeyServiceClient::new(installation.as_operator()?);
    let listed = keys.list_keys(ListKeysRequest {}).await?.into_inner();
    let jwks: Vec<String> = listed.keys.into_iter().map(|key| key.jwk).collect();
    Ok(format!(r#"{{"keys":[{}]}}"#, jwks.join(",")))
}

/// The program that is shipped, with rules for methods, revocations in force and the authority at hand.
async fn start_ours(
    options: &Options,
    installation: &Installation,
    upstream: SocketAddr,
    token: &str,
) -> Result<Peer, Failure> {
    let more = options.more.as_ref().map(fs::read_to_string).transpose()?;
    let service = Service {
        upstream,
        listener: free_address()?,
        more: rules() + &more.unwrap_or_default(),
    };
    let sidecar = installation.sidecar_with("one", &service)?;
    let program = std::env::current_exe()?.with_file_name("countersign-sidecar");
    if !program.exists() {
        return Err("build countersign-sidecar in the same profile, too".into());
    }
    let mut command = cores::on(cores::SERVER, program);
    let process = Program::start(command.arg("--config").arg(&sidecar.config), &sidecar.log)?;
    sidecar.decides(token, Answer::Allowed).await?;
    let what = "countersign-sidecar, everything on";
    Ok(Peer::new(OURS, what, service.listener, Process::Program(process)))
}

fn rules() -> String {
    let rule = |service: &str, method: &str| {
        format!("[[method]]\npath = \"/bench.v1.{service}/{method}\"\nscopes = [\"{SCOPE}\"]\n")
    };
    let others: String = (0..RULES)
        .map(|number| rule(&format!("Other{number}"), "*"))
        .collect();
    rule("Orders", "Get") + &others
}

fn start_envoy(
    options: &Options,
    installation: &Installation,
    (name, what, job): (&'static str, &'static str, Job),
    upstream: SocketAddr,
    keys: &str,
) -> Result<Peer, Failure> {
    let listener = free_address()?;
    let file = installation.path(&format!("{name}.yaml"));
    fs::write(&file, configuration(job, listener, upstream, keys))?;
    let mut command = cores::on(cores::SERVER, &options.envoy);
    command.arg("--config-path").arg(file).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]);
    let process = Program::start(&mut command, &installation.path("envoy.log"))?;
    Ok(Peer::new(name, what, listener, Process::Program(process)))
}
