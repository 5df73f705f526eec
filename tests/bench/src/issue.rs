//! Issuing: tokens per CPU-second of the authority's process, over connections that stay open.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::SystemClock;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::Failure;
use crate::authority::{self, Certificates};
use crate::child::Child;
use crate::fixture::AUDIENCE;
use crate::measure::{Samples, Scale, micros, rate};
use crate::report::{Comparison, Measured};

/// Connections, and requests at one time on each.
const CONNECTIONS: usize = 2;
const STREAMS: usize = 16;

/// What one server did.
#[derive(Debug)]
struct Side {
    server: Child,
    channels: Vec<Channel>,
    tokens: u32,
    lasted: Duration,
    used: Duration,
    latency: Samples,
}

impl Side {
    fn new(server: Child, files: &TlsFiles, runtime: &Runtime) -> Result<Self, Failure> {
        let _entered = runtime.enter();
        let channels = (0..CONNECTIONS)
            .map(|_| channel(&server, files))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            server,
            channels,
            tokens: 0,
            lasted: Duration::ZERO,
            used: Duration::ZERO,
            latency: Samples::default(),
        })
    }

    fn round(&mut self, runtime: &Runtime, scale: Scale) -> Result<(), Failure> {
        let lasting = scale.lasting(Duration::from_secs(2));
        let before = self.server.cpu()?;
        self.tokens += runtime.block_on(many(&self.channels, lasting))?;
        self.used += self.server.cpu()?.saturating_sub(before);
        self.lasted += lasting;
        let first = self.channels.first().ok_or("no connection")?.clone();
        self.latency
            .extend(runtime.block_on(one_by_one(first, scale.of(500)))?);
        Ok(())
    }

    fn per_second(&self) -> f64 {
        rate(self.tokens, self.lasted)
    }

    fn cpu_per_token(&self) -> f64 {
        self.used.as_secs_f64() / f64::from(self.tokens)
    }
}

/// Tokens per CPU-second, against the same rpc with one raw signature and nothing decided. The floor signs where it serves: what
/// an rpc costs depends on how often the client has to be woken for it, and so on what else the server does.
pub(crate) fn issue(scale: Scale) -> Result<Comparison, Failure> {
    countersign_mtls::install_default_provider();
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::open(folder.path())?;
    let runtime = countersign_runtime::build(1)?;
    let shared = ["--folder".to_owned(), folder.path().display().to_string()];
    let log = authority::log(folder.path())?;
    let one_worker = [shared.as_slice(), &["--workers".to_owned(), "1".to_owned()]].concat();
    let server =
        Child::start("authority", &one_worker, Some(log)).map_err(|failure| why(&failure, folder.path()))?;
    runtime.block_on(register(&server, &certificates.operator()))?;
    let mut ours = Side::new(server, &certificates.client(), &runtime)?;
    let nothing = Child::start("same-token", &shared, None)?;
    let mut floor = Side::new(nothing, &certificates.client(), &runtime)?;
    for _ in 0..5 {
        floor.round(&runtime, scale)?;
        ours.round(&runtime, scale)?;
    }
    Ok(comparison(floor, ours))
}

fn why(failure: &Failure, folder: &Path) -> Failure {
    let log = std::fs::read_to_string(folder.join("authority.log")).unwrap_or_default();
    format!("{failure}\n{log}").into()
}

fn channel(server: &Child, files: &TlsFiles) -> Result<Channel, Failure> {
    let tls = ClientTls::load(files, ExpectedServer::default(), Arc::new(SystemClock))?;
    let uri = format!("https://localhost:{}", server.address.port());
    Ok(tls.channel(&uri, ChannelOptions::default())?)
}

async fn register(server: &Child, operator: &TlsFiles) -> Result<(), Failure> {
    let channel = channel(server, operator)?;
    ClientServiceClient::new(channel)
        .create_client(authority::registration()?)
        .await?;
    Ok(())
}

async fn get(client: &mut TokenServiceClient<Channel>) -> Result<(), Failure> {
    let request = IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        audience: AUDIENCE.to_owned(),
        ..IssueTokenRequest::default()
    };
    client.issue_token(request).await?;
    Ok(())
}

async fn one_by_one(channel: Channel, tokens: u32) -> Result<Samples, Failure> {
    let mut client = TokenServiceClient::new(channel);
    let mut samples = Samples::default();
    for _ in 0..tokens {
        let start = Instant::now();
        get(&mut client).await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

async fn many(channels: &[Channel], lasting: Duration) -> Result<u32, Failure> {
    let end = Instant::now() + lasting;
    let mut callers = JoinSet::new();
    for channel in channels {
        for _ in 0..STREAMS {
            let mut client = TokenServiceClient::new(channel.clone());
            callers.spawn(async move {
                let mut tokens = 0_u32;
                while Instant::now() < end {
                    get(&mut client).await?;
                    tokens += 1;
                }
                Ok::<_, Failure>(tokens)
            });
        }
    }
    let mut tokens = 0;
    while let Some(caller) = callers.join_next().await {
        tokens += caller??;
    }
    Ok(tokens)
}

fn comparison(mut floor: Side, mut ours: Side) -> Comparison {
    let ratio = floor.cpu_per_token() / ours.cpu_per_token();
    Comparison {
        name: "issue",
        floor: Measured {
            what: "the same mTLS rpc with one raw aws-lc signature and a constant answer".to_owned(),
            value: 1.0 / floor.cpu_per_token(),
            unit: "tokens/CPU-s",
        },
        ours: Measured {
            what: "tokens of the authority, one worker, ES256, client known by its certificate".to_owned(),
            value: 1.0 / ours.cpu_per_token(),
            unit: "tokens/CPU-s",
        },
        ratio,
        target: ">= 0.6",
        met: Some(ratio >= 0.6),
        details: BTreeMap::from([
            ("ours_tokens_per_s", ours.per_second()),
            ("floor_calls_per_s", floor.per_second()),
            ("ours_cpu_us_per_token", ours.cpu_per_token() * 1e6),
            ("floor_cpu_us_per_call", floor.cpu_per_token() * 1e6),
            ("ours_p50_us", micros(ours.latency.percentile(500))),
            ("ours_p99_us", micros(ours.latency.percentile(990))),
            ("floor_p50_us", micros(floor.latency.percentile(500))),
        ]),
    }
}
