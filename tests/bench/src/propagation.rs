//! How soon a revocation is refused by everybody, what a connected verifier costs the authority in memory, and how long everybody
//! takes to come back after the authority was killed.
//!
//! The authority is the real one, as it is configured by default, in a process of its own: mutual TLS, its store on disk. The
//! verifiers are in this process. Each has an identity, a certificate, a connection and a stream of its own; most are
//! [`light`], the others are whole [`sidecars`]. The floor is [`bare`], under the same verifiers.
//!
//! The verifiers share the machine with the authority, and their work for an update is as long as its own: with two cores, times
//! are about twice what they would be with verifiers elsewhere, and so are the floor's.

mod bare;
mod board;
mod crowd;
mod light;
mod memory;
mod results;
mod sidecars;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_proto::admin::v1::{EpochReach, RevokeRequest, WatchEpochRequest};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::Failure;
use crate::authority;
use crate::fixture::AUDIENCE;
use crate::measure::Samples;
use crate::report::Comparison;
use board::{Ending, Marks};
use crowd::Crowd;
use memory::Memory;
use sidecars::Token;

pub(crate) use bare::serve_bare;

/// How many there are.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Options {
    /// Verifiers in all.
    #[arg(long, default_value_t = 1_000)]
    verifiers: usize,
    /// Whole sidecars among them.
    #[arg(long, default_value_t = 50)]
    sidecars: usize,
    /// Revocations.
    #[arg(long, default_value_t = 60)]
    revocations: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verifiers: 1_000,
            sidecars: 50,
            revocations: 60,
        }
    }
}

/// Verifiers that an authority lets in by default.
const MOST_VERIFIERS: usize = 12_000;

/// Files that are open besides one connection a verifier, and what a sidecar opens besides.
const OTHER_FILES: usize = 512;
const FILES_OF_SIDECAR: usize = 32;

/// How long nothing happens before memory is looked at: verifiers ping some times, and what was freed can be given back.
const SETTLING: Duration = Duration::from_secs(6);

/// How long nothing is revoked after all verifiers have acknowledged the last one.
const PAUSE: Duration = Duration::from_millis(200);

/// What was measured of one server.
#[derive(Debug, Default)]
struct Outcome {
    /// From the request to each verifier that refuses.
    refused: Samples,
    /// The same for whole sidecars.
    refused_by_sidecars: Samples,
    /// From the request to the first verifier: the change is stored before anybody is told.
    refused_by_first: Samples,
    /// From the request to the last verifier.
    refused_by_all: Samples,
    /// From the request to its answer.
    answered: Samples,
    /// From the request to the word that nobody decides on less.
    complete: Samples,
    /// CPU time a second while verifiers ping and nothing happens: of the server, and of this process.
    idle: [f64; 2],
    /// CPU time for each verifier and revocation besides, of both: update, acknowledgement, ping and answer.
    used: [Duration; 2],
    /// With no verifier, with half of them, with all.
    memory: [Memory; 3],
    /// How many that were.
    connected: [usize; 3],
    storm: Storm,
}

/// What came of a crash.
#[derive(Debug, Default)]
struct Storm {
    /// From the kill until the server was ready again.
    away: Duration,
    /// From then until each light verifier held a lease again.
    back: Samples,
    /// From then until everybody did.
    all_back: Duration,
    /// Verifiers whose lease had ended before, and the longest that one had none.
    lapsed: usize,
    longest_lapse: Duration,
    /// Attempts that the server refused; that were not answered in time.
    refused: usize,
    unanswered: usize,
    /// Times that a sidecar refused a good token.
    mistakes: usize,
    /// The most memory that the new process had.
    peak: Memory,
}

/// All three comparisons.
pub(crate) fn propagation(options: &Options) -> Result<Vec<Comparison>, Failure> {
    countersign_mtls::install_default_provider();
    if options.verifiers > MOST_VERIFIERS {
        return Err(format!("an authority lets in {MOST_VERIFIERS} verifiers by default").into());
    }
    if options.sidecars == 0 || options.sidecars * 2 > options.verifiers {
        return Err("between one and half of the verifiers are whole sidecars".into());
    }
    allow_files(options.verifiers + options.sidecars * FILES_OF_SIDECAR + OTHER_FILES)?;
    let folder = tempfile::tempdir()?;
    let runtime = countersign_runtime::build(1)?;
    let ours = runtime.block_on(observe("authority", folder.path(), *options))?;
    let all_light = Options {
        sidecars: 0,
        ..*options
    };
    let floor = runtime.block_on(observe("bare-sync", folder.path(), all_light))?;
    Ok(results::comparisons(options, ours, floor))
}

/// Lets this process and its children open `wanted` files.
fn allow_files(wanted: usize) -> Result<(), Failure> {
    let wanted = u64::try_from(wanted)?;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        format!("so many verifiers need {wanted} open files, and the limit cannot be raised ({error}); use `ulimit -n`").into()
    })
}

async fn observe(role: &'static str, folder: &Path, options: Options) -> Result<Outcome, Failure> {
    let mut crowd = Crowd::start(role, folder)?;
    let tokens = tokens(&crowd, &options).await?;
    let mut outcome = Outcome::default();
    let light = options.verifiers - options.sidecars;
    look_at_memory(&crowd, &mut outcome, 0).await?;
    crowd.let_in(light.min(options.verifiers / 2)).await?;
    look_at_memory(&crowd, &mut outcome, 1).await?;
    crowd.let_in_sidecars(options.sidecars).await?;
    crowd.let_in(light).await?;
    let (began, before) = (Instant::now(), crowd.cpu()?);
    look_at_memory(&crowd, &mut outcome, 2).await?;
    let seconds = began.elapsed().as_secs_f64();
    outcome.idle = since(before, crowd.cpu()?).map(|used| used.as_secs_f64() / seconds);
    revoke_all(&mut crowd, &tokens, &mut outcome).await?;
    outcome.storm = crash(&mut crowd, tokens.first()).await?;
    Ok(outcome)
}

async fn revoke_all(crowd: &mut Crowd<'_>, tokens: &[Token], outcome: &mut Outcome) -> Result<(), Failure> {
    let operator = crowd.channel(&crowd.certificates().operator())?;
    let (began, before, mut updates) = (Instant::now(), crowd.cpu()?, 0);
    for (number, token) in (1_u64..).zip(tokens.iter().skip(1)) {
        revoke(crowd, &operator, number, token, outcome).await?;
        sleep(PAUSE).await;
        updates += u32::try_from(crowd.len())?;
    }
    let used = since(before, crowd.cpu()?);
    let idle = outcome.idle.map(|idle| began.elapsed().mul_f64(idle));
    outcome.used = since(idle, used).map(|used| used / updates.max(1));
    Ok(())
}

/// What both have used from one moment to the other.
fn since([server, verifiers]: [Duration; 2], now: [Duration; 2]) -> [Duration; 2] {
    let [server_now, verifiers_now] = now;
    [
        server_now.saturating_sub(server),
        verifiers_now.saturating_sub(verifiers),
    ]
}

/// One token that stays good, and one for each revocation.
async fn tokens(crowd: &Crowd<'_>, options: &Options) -> Result<Vec<Token>, Failure> {
    let mut tokens = Vec::new();
    if options.sidecars == 0 {
        return Ok(vec![Token::default(); usize::try_from(options.revocations)? + 1]);
    }
    let operator = crowd.channel(&crowd.certificates().operator())?;
    ClientServiceClient::new(operator)
        .create_client(authority::registration()?)
        .await?;
    let mut client = TokenServiceClient::new(crowd.channel(&crowd.certificates().client())?);
    for _ in 0..=options.revocations {
        let request = IssueTokenRequest {
            grant_type: "client_credentials".to_owned(),
            audience: AUDIENCE.to_owned(),
            ..IssueTokenRequest::default()
        };
        let issued = client.issue_token(request).await?.into_inner();
        tokens.push(Token::read(issued.access_token)?);
    }
    Ok(tokens)
}

async fn look_at_memory(crowd: &Crowd<'_>, outcome: &mut Outcome, moment: usize) -> Result<(), Failure> {
    sleep(SETTLING).await;
    let memory = Memory::of(crowd.server()?)?;
    if let (Some(at), Some(connected)) = (outcome.memory.get_mut(moment), outcome.connected.get_mut(moment)) {
        (*at, *connected) = (memory, crowd.len());
    }
    Ok(())
}

async fn revoke(
    crowd: &Crowd<'_>,
    operator: &Channel,
    number: u64,
    token: &Token,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    crowd.sidecars.ask(number, token.clone())?;
    let mut revocations = RevocationServiceClient::new(operator.clone());
    let request = RevokeRequest {
        reason: "bench".to_owned(),
        subject: Some(Subject::Token(token.text.clone())),
    };
    let sent_at = Instant::now();
    let answer = revocations.revoke(request).await?.into_inner();
    outcome.answered.push(sent_at.elapsed());
    let epoch = answer.epoch;
    if let Some(reach) = answer.reach {
        complete(operator, epoch, &reach).await?;
        outcome.complete.push(sent_at.elapsed());
    }
    let everybody = (crowd.lights(), crowd.sidecars.len());
    let light = |marks: &Marks| marks.arrivals(epoch).len() == everybody.0;
    crowd.board.wait("the update for everybody", light).await?;
    let whole = |marks: &Marks| marks.arrivals(number).len() == everybody.1;
    crowd.verdicts.wait("the refusal by everybody", whole).await?;
    let mut all = crowd.board.marks().arrivals(epoch).to_vec();
    for refused in crowd.verdicts.marks().arrivals(number) {
        outcome.refused_by_sidecars.push(*refused - sent_at);
        all.push(*refused);
    }
    all.sort_unstable();
    for refused in &all {
        outcome.refused.push(*refused - sent_at);
    }
    if let (Some(first), Some(last)) = (all.first(), all.last()) {
        outcome.refused_by_first.push(*first - sent_at);
        outcome.refused_by_all.push(*last - sent_at);
    }
    Ok(())
}

/// Waits until nobody decides on less than `epoch`.
async fn complete(operator: &Channel, epoch: u64, reach: &EpochReach) -> Result<(), Failure> {
    let is_complete = |reach: &EpochReach| reach.in_force == reach.live && reach.bounds.is_empty();
    if is_complete(reach) {
        return Ok(());
    }
    let request = WatchEpochRequest {
        epoch,
        ..WatchEpochRequest::default()
    };
    let mut watched = FleetServiceClient::new(operator.clone())
        .watch_epoch(request)
        .await?
        .into_inner();
    while let Some(answer) = watched.message().await? {
        if answer.reach.as_ref().is_some_and(is_complete) {
            return Ok(());
        }
    }
    Err("the epoch was not watched to its end".into())
}

async fn crash(crowd: &mut Crowd<'_>, good: Option<&Token>) -> Result<Storm, Failure> {
    if let Some(good) = good {
        crowd.sidecars.keep_asking(good.clone());
    }
    let killed_at = Instant::now();
    let ready_at = crowd.crash()?;
    let lights = crowd.lights();
    let back = |marks: &Marks| marks.leased == lights && marks.returns.len() >= lights;
    crowd.board.wait("everybody's return", back).await?;
    crowd.sidecars.leased(|| ready_at.elapsed()).await?;
    let all_back = ready_at.elapsed();
    let mut samples = Samples::default();
    let marks = crowd.board.marks();
    for back in &marks.returns {
        samples.push(*back - ready_at);
    }
    let lapsed = marks.lapses.iter().filter(|lapse| !lapse.is_zero());
    Ok(Storm {
        away: ready_at - killed_at,
        back: samples,
        all_back,
        lapsed: lapsed.count(),
        longest_lapse: marks.lapses.iter().copied().max().unwrap_or_default(),
        refused: marks.ended(Ending::Refused),
        unanswered: marks.ended(Ending::NoAnswer),
        mistakes: crowd.sidecars.mistakes(),
        peak: Memory::peak_of(crowd.server()?)?,
    })
}
