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
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::Options;
use super::configuration::{Job, configuration};
use super::results::Rounds;
use crate::child::Child;
use crate::fixture::{AUDIENCE, SCOPE};
use crate::installation::{Answer, Installation, PATIENCE, Service, Sidecar, Special, free_address};
use crate::load::Target;
use crate::million::{self, Issued};
use crate::program::{Memory, Program, Scheduled, forget_most_resident, most_resident, scheduled};
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

/// Tokens that are asked for at one time.
const ISSUED_AT_ONCE: u32 = 16;

/// How often is looked whether a server takes connections.
const LOOK: Duration = Duration::from_millis(10);

/// Whom the others are compared with.
pub(crate) const OURS: &str = "countersign";
/// Envoy in the mode that is nearest to ours.
pub(crate) const NEAREST: &str = "envoy-jwt-cache";
/// Envoy that asks ours.
pub(crate) const ASKING: &str = "envoy-ext-authz";
/// The floor.
pub(crate) const BARE: &str = "bare";
/// Envoy that decides nothing.
pub(crate) const ROUTER: &str = "envoy";

/// One server under load.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// What it does, in words.
    pub(crate) what: &'static str,
    pub(crate) address: SocketAddr,
    /// The proxy, and whom it asks.
    processes: Vec<Process>,
    /// What was measured, by load.
    pub(crate) rounds: BTreeMap<&'static str, Rounds>,
    /// What it had in memory before the first load.
    pub(crate) idle: Memory,
    /// The most that it had in memory from then on, looked at after each load, but for all of it: that is what the kernel saw.
    pub(crate) most: Memory,
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
            processes: vec![process],
            rounds: BTreeMap::new(),
            idle: Memory::default(),
            most: Memory::default(),
        }
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(|process| match process {
            Process::Program(program) => program.id(),
            Process::Child(child) => child.id(),
        })
    }

    /// What its processes have had of their core.
    pub(crate) fn scheduled(&self) -> Result<Scheduled, Failure> {
        self.ids()
            .try_fold(Scheduled::default(), |sum, id| Ok(sum.and(scheduled(id)?)))
    }

    /// What its processes have in memory.
    fn memory(&self) -> Result<Memory, Failure> {
        self.ids()
            .try_fold(Memory::default(), |sum, id| Ok(sum.and(Memory::of(id)?)))
    }

    /// From here on counts what it has in memory under load.
    pub(crate) fn has_settled(&mut self) -> Result<(), Failure> {
        self.idle = self.memory()?;
        self.forget_most()
    }

    /// From here on counts what it has in memory then.
    pub(crate) fn forget_most(&self) -> Result<(), Failure> {
        self.ids().try_for_each(forget_most_resident)
    }

    /// The most that it has had in memory, of all; its parts are those of now.
    pub(crate) fn most_now(&self) -> Result<Memory, Failure> {
        let all: Result<Vec<u64>, Failure> = self.ids().map(most_resident).collect();
        Ok(Memory {
            all: all?.into_iter().sum(),
            ..self.memory()?
        })
    }

    /// A load has ended.
    pub(crate) fn was_under_load(&mut self) -> Result<(), Failure> {
        self.most = self.most.or(self.most_now()?);
        Ok(())
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

/// A sidecar that is asked.
#[derive(Debug)]
pub(crate) struct Answerer {
    pub(crate) sidecar: Sidecar,
    /// Where Envoy asks it.
    pub(crate) ext_authz: SocketAddr,
    pub(crate) process: u32,
}

/// Everything that has to be there. It ends in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) peers: Vec<Peer>,
    /// What was measured without any of them, by load.
    pub(crate) direct: BTreeMap<&'static str, Rounds>,
    /// The service behind all of them.
    pub(crate) service: Child,
    /// The sidecar that Envoy asks.
    pub(crate) answerer: Answerer,
    /// A token that all of them take.
    pub(crate) token: String,
    /// More of them, for the loads with many.
    pub(crate) tokens: Vec<String>,
    pub(crate) issuer: UnboundTokens,
    /// What the authority signs with, as a JWK Set.
    pub(crate) keys: String,
    _authority: Program,
    pub(crate) installation: Installation,
}

impl Stage {
    /// Starts everything, and waits until it takes calls.
    pub(crate) async fn start(options: &Options, tokens: u32) -> Result<Self, Failure> {
        let installation = Installation::make(Special::default()).await?;
        let list = ISSUED.revocations(REVOKED, SystemClock.now());
        million::store(&installation.authority_config()?, &list).await?;
        let authority = installation.start_authority()?;
        installation.register().await?;
        let issuer = UnboundTokens::of(&installation).await?;
        let token = issuer.issue().await?;
        let keys = keys(&installation).await?;
        let service = Child::start("upstream", &[], None)?;
        let ours = start_ours(options, &installation, service.address, &token).await?;
        let bare = Child::start_on(cores::SERVER, "bare-proxy", &behind(service.address))?;
        let (answerer, answering) = start_answerer(options, &installation, &token).await?;
        let mut peers = vec![
            ours,
            Peer::new(
                BARE,
                "a hyper proxy that decides nothing",
                bare.address,
                Process::Child(bare),
            ),
        ];
        for (name, what, job) in envoys(answerer.ext_authz) {
            let kind = (name, what, job);
            peers.push(start_envoy(options, &installation, kind, service.address, &keys)?);
        }
        if let Some(asking) = peers.last_mut() {
            asking.processes.push(Process::Program(answering));
        }
        for peer in &peers {
            peer.takes_calls(&token, !matches!(peer.name, BARE | ROUTER))
                .await?;
        }
        Ok(Self {
            peers,
            direct: BTreeMap::new(),
            service,
            answerer,
            token,
            tokens: issuer.issue_many(tokens).await?,
            issuer,
            keys,
            _authority: authority,
            installation,
        })
    }

    /// The proxy of this name.
    pub(crate) fn peer(&self, name: &str) -> Result<&Peer, Failure> {
        let peer = self.peers.iter().find(|peer| peer.name == name);
        peer.ok_or_else(|| format!("there is no {name}").into())
    }
}

/// Envoy with more and less to do. The last of them asks `ext_authz`.
const fn envoys(ext_authz: SocketAddr) -> [(&'static str, &'static str, Job); 4] {
    [
        (ROUTER, "Envoy, router only", Job::Route),
        ("envoy-jwt", "Envoy with jwt_authn", Job::Verify),
        (
            NEAREST,
            "Envoy with jwt_authn and jwt_cache_config",
            Job::VerifyAndKeep,
        ),
        (
            ASKING,
            "Envoy with ext_authz, which asks countersign-sidecar; both",
            Job::Ask(ext_authz),
        ),
    ]
}

fn behind(service: SocketAddr) -> [String; 2] {
    ["--upstream".to_owned(), service.to_string()]
}

/// Tokens that no certificate is needed for, of a client that has a secret.
#[derive(Clone, Debug)]
pub(crate) struct UnboundTokens {
    authority: TokenServiceClient<Channel>,
    request: IssueTokenRequest,
}

impl UnboundTokens {
    async fn of(installation: &Installation) -> Result<Self, Failure> {
        let client_id = authority::registration()?.client_id;
        let request = AddSecretRequest {
            client_id: client_id.clone(),
        };
        let channel = installation.as_operator()?;
        let secret = ClientServiceClient::new(channel.clone())
            .add_secret(request)
            .await?;
        Ok(Self {
            authority: TokenServiceClient::new(channel),
            request: IssueTokenRequest {
                grant_type: "client_credentials".to_owned(),
                audience: AUDIENCE.to_owned(),
                client_id,
                client_secret: secret.into_inner().client_secret,
                lifetime_seconds: Some(LIFETIME_SECONDS),
                ..IssueTokenRequest::default()
            },
        })
    }

    /// One that nobody has seen.
    async fn issue(&self) -> Result<String, Failure> {
        let issued = self.authority.clone().issue_token(self.request.clone()).await?;
        Ok(issued.into_inner().access_token)
    }

    /// So many that nobody has seen.
    pub(crate) async fn issue_many(&self, count: u32) -> Result<Vec<String>, Failure> {
        let mut issuing = JoinSet::new();
        for number in 0..ISSUED_AT_ONCE {
            let (issuer, share) = (self.clone(), (count + number) / ISSUED_AT_ONCE);
            issuing.spawn(async move {
                let mut tokens = Vec::new();
                for _ in 0..share {
                    tokens.push(issuer.issue().await?);
                }
                Ok::<_, Failure>(tokens)
            });
        }
        let mut tokens = Vec::new();
        while let Some(issued) = issuing.join_next().await {
            tokens.extend(issued??);
        }
        Ok(tokens)
    }
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
        more: rules() + &access_log(installation, "one") + &more.unwrap_or_default(),
    };
    let sidecar = installation.sidecar_with("one", &service)?;
    let process = start_sidecar(options, &sidecar)?;
    sidecar.decides(token, Answer::Allowed).await?;
    let what = "countersign-sidecar, everything on";
    Ok(Peer::new(OURS, what, service.listener, Process::Program(process)))
}

/// The same program, for Envoy's questions and those of the Verify API.
async fn start_answerer(
    options: &Options,
    installation: &Installation,
    token: &str,
) -> Result<(Answerer, Program), Failure> {
    let ext_authz = free_address()?;
    let service = Service {
        more: format!(
            "[ext_authz]\ngrpc = \"{ext_authz}\"\n{}{}",
            rules(),
            access_log(installation, "two")
        ),
        ..Service::default()
    };
    let sidecar = installation.sidecar_with("two", &service)?;
    let program = start_sidecar(options, &sidecar)?;
    sidecar.decides(token, Answer::Allowed).await?;
    let answerer = Answerer {
        sidecar,
        ext_authz,
        process: program.id(),
    };
    Ok((answerer, program))
}

fn start_sidecar(options: &Options, sidecar: &Sidecar) -> Result<Program, Failure> {
    let mut command = cores::on(cores::SERVER, options.sidecar()?);
    Program::start(command.arg("--config").arg(&sidecar.config), &sidecar.log)
}

/// An access log with one call of a hundred, which is a usual sample.
fn access_log(installation: &Installation, name: &str) -> String {
    let file = installation.path(&format!("{name}.access.log"));
    format!("[access_log]\npath = \"{}\"\nsample = 0.01\n", file.display())
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
