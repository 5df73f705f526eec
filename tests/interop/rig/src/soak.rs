//! Everything at once, for long: tokens that live for seconds, shown to every sidecar over connections old and new and held on to in
//! streams, while tokens, clients and keys are revoked, keys are rotated, and one of the sidecars is stopped and killed. Who issues
//! and revokes knows what each answer must be. Not one may be wrong, and no process may grow.

mod churn;
mod oracle;
mod processes;
mod tally;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use countersign_runtime::backoff::Jitter;
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;

use crate::calling::to_authority;
use crate::report::{Report, say};
use churn::{Pace, Restarted};
use oracle::{CLOCKS, Oracle};
use processes::{Course, Usage};
use tally::Counts;
use traffic::{Client, Place, World, lock};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Who calls each sidecar at the same time, and how many streams there are through each.
const CALLERS: u32 = 2;
const STREAMS: usize = 4;

/// How many descriptors more a process may have in the end than when it had warmed up. Streams and calls come and go; and each of three
/// sidecars opens up to 64 connections to the service, one after the other as callers connect.
const MORE_DESCRIPTORS: usize = 3 * 64;

/// What [`run`] needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The authority's address, `host:port`.
    #[arg(long)]
    authority: String,
    /// The folder with the certificates of a development environment.
    #[arg(long)]
    pki: PathBuf,
    /// What the tokens are for.
    #[arg(long)]
    audience: String,
    /// The clients that get tokens.
    #[arg(long)]
    client: Vec<String>,
    /// The program of which the sidecars are started.
    #[arg(long)]
    countersign: PathBuf,
    /// The folder with clients' secrets, sidecars' configurations and states, as fleet.sh makes them.
    #[arg(long)]
    folder: PathBuf,
    /// How many sidecars.
    #[arg(long)]
    sidecars: u16,
    /// Other processes that are looked at, `NAME=ID`.
    #[arg(long)]
    process: Vec<String>,
    /// How long.
    #[arg(long)]
    minutes: u32,
    /// Calls in a second, in sum.
    #[arg(long)]
    calls: u32,
    /// The most that a process may grow in an hour, in MiB.
    #[arg(long)]
    growth: f64,
}

impl Arguments {
    fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.minutes) * 60)
    }

    /// In a short run everything has to happen, too.
    fn pace(&self) -> Pace {
        let (seconds, short) = (Duration::from_secs, self.minutes < 10);
        Pace {
            token: seconds(1),
            client: seconds(if short { 7 } else { 15 }),
            // Keys are kept for an hour after their last token, and 64 of them at most.
            rotation: seconds(if short { 8 } else { 75 }),
            compromise: seconds(if short { 20 } else { 200 }),
            restart: seconds(if short { 10 } else { 60 }),
        }
    }

    fn operator(&self) -> Channel {
        to_authority(&self.authority, &self.pki, "operator")
    }
}

/// A process that is looked at.
#[derive(Debug)]
struct Observed {
    name: String,
    id: Arc<Mutex<u32>>,
    /// Where it keeps its state, if that is looked at.
    state: Option<PathBuf>,
    course: Course,
    last: Usage,
    /// Descriptors when it had warmed up.
    descriptors: Option<usize>,
}

impl Observed {
    fn new(name: &str, id: Arc<Mutex<u32>>, state: Option<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            id,
            state,
            course: Course::default(),
            last: Usage::default(),
            descriptors: None,
        }
    }

    /// Looks at it. What it has used of a processor since the last look.
    fn look(&mut self, at: Duration) -> Duration {
        let Some(usage) = Usage::of(*lock(&self.id)) else {
            return Duration::ZERO;
        };
        self.course.add(at, usage.memory);
        let used = usage.processor.saturating_sub(self.last.processor);
        self.last = usage;
        used
    }

    fn line(&self) -> String {
        let state = self.state.as_ref();
        let state = state.map(|folder| format!(" {} KiB", processes::size(folder)));
        format!(
            "{} {:.1} MiB {} fds{}",
            self.name,
            f64::from(self.last.memory) / 1024.0,
            self.last.descriptors,
            state.unwrap_or_default()
        )
    }
}

/// Runs it, tells every minute what there was, and judges.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) {
    let world = Arc::new(World {
        oracle: Mutex::new(Oracle::default()),
        counts: Mutex::new(Counts::default()),
        places: (1..=arguments.sidecars).map(place).collect(),
    });
    let mut tasks = JoinSet::new();
    issue(&world, arguments, &mut tasks);
    let mut observed = others(arguments);
    let mut sidecars = Vec::new();
    for place in &world.places {
        let process = processes::start_sidecar(&arguments.countersign, &arguments.folder, &place.name);
        let id = Arc::new(Mutex::new(process.id().expect("it lives")));
        let state = arguments.folder.join("state").join(&place.name);
        observed.push(Observed::new(&place.name, Arc::clone(&id), Some(state)));
        sidecars.push((process, id));
    }
    for place in 0..world.places.len() {
        churn::until_up(&world, place).await;
    }
    traffic(&world, arguments, &mut tasks);
    churn(&world, arguments, sidecars.pop().expect("a sidecar"), &mut tasks);
    watch(&world, arguments, &mut observed, &mut tasks).await;
    tasks.shutdown().await;
    judge(&world, arguments, &observed, report);
}

/// The sidecar with this number, with its ports as in fleet.sh.
fn place(number: u16) -> Place {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port + number));
    Place {
        name: format!("{number:02}"),
        listener: at(20_000),
        verify_api: at(20_400),
        up: Mutex::new((false, 0)),
    }
}

fn clients(arguments: &Arguments) -> Vec<Client> {
    let client = |name: &String| Client {
        name: name.clone(),
        secret: std::fs::read_to_string(arguments.folder.join(name))
            .expect("a secret")
            .trim_end()
            .to_owned(),
    };
    arguments.client.iter().map(client).collect()
}

fn others(arguments: &Arguments) -> Vec<Observed> {
    let named = |process: &String| {
        let (name, id) = process.split_once('=').expect("NAME=ID");
        let id = id.parse().expect("a number");
        Observed::new(name, Arc::new(Mutex::new(id)), None)
    };
    arguments.process.iter().map(named).collect()
}

fn issue(world: &Arc<World>, arguments: &Arguments, tasks: &mut JoinSet<()>) {
    tasks.spawn(traffic::issue(
        Arc::clone(world),
        to_authority(&arguments.authority, &arguments.pki, "billing"),
        clients(arguments),
        arguments.audience.clone(),
        Duration::from_millis(125),
        Jitter::seeded(1),
    ));
}

fn traffic(world: &Arc<World>, arguments: &Arguments, tasks: &mut JoinSet<()>) {
    let callers = CALLERS * u32::from(arguments.sidecars);
    let every = Duration::from_secs(1) * callers / arguments.calls;
    let mut seeds = 100_u64..;
    for place in 0..world.places.len() {
        for seed in seeds.by_ref().take(usize::try_from(CALLERS).expect("few")) {
            tasks.spawn(traffic::call(
                Arc::clone(world),
                place,
                every,
                Jitter::seeded(seed),
            ));
        }
        for _ in 0..STREAMS {
            tasks.spawn(traffic::hold(Arc::clone(world), place));
        }
    }
}

fn churn(
    world: &Arc<World>,
    arguments: &Arguments,
    (process, id): (Child, Arc<Mutex<u32>>),
    tasks: &mut JoinSet<()>,
) {
    let (pace, operator) = (arguments.pace(), || arguments.operator());
    tasks.spawn(churn::revoke_tokens(
        Arc::clone(world),
        operator(),
        pace.token,
        Jitter::seeded(2),
    ));
    tasks.spawn(churn::revoke_clients(
        Arc::clone(world),
        operator(),
        clients(arguments),
        pace.client,
    ));
    tasks.spawn(churn::replace_keys(Arc::clone(world), operator(), pace));
    let restarted = Restarted {
        world: Arc::clone(world),
        place: world.places.len() - 1,
        countersign: arguments.countersign.clone(),
        folder: arguments.folder.clone(),
        process,
        id,
    };
    tasks.spawn(restarted.keep_restarting(pace.restart));
}

/// When the processes have warmed up.
fn warm(arguments: &Arguments) -> Duration {
    arguments.length() / 4
}

async fn watch(world: &World, arguments: &Arguments, observed: &mut [Observed], tasks: &mut JoinSet<()>) {
    let began = Instant::now();
    let (mut before, mut used, mut minutes) = (Counts::default(), Duration::ZERO, 0);
    while minutes < arguments.minutes {
        sleep_until(Instant::now() + LOOK).await;
        if let Some(ended) = tasks.try_join_next() {
            ended.expect("none of them fails");
        }
        let at = began.elapsed();
        for process in &mut *observed {
            used += process.look(at);
            if at >= warm(arguments) && process.descriptors.is_none() {
                process.descriptors = Some(process.last.descriptors);
            }
        }
        if at >= Duration::from_secs(60) * (minutes + 1) {
            minutes += 1;
            let now = *lock(&world.counts);
            say(&line(minutes, before, now, used, observed));
            (before, used) = (now, Duration::ZERO);
        }
    }
}

fn line(minute: u32, before: Counts, now: Counts, used: Duration, observed: &[Observed]) -> String {
    let processes: Vec<_> = observed.iter().map(Observed::line).collect();
    format!(
        "      {minute:2} min: {} calls, {} allowed, {} denied, {} unanswered, {} wrong; {:.0} % of a core; {}",
        now.calls() - before.calls(),
        now.allowed - before.allowed,
        now.denied - before.denied,
        now.unanswered - before.unanswered,
        now.wrong - before.wrong,
        used.as_secs_f64() / 0.6,
        processes.join("; ")
    )
}

fn judge(world: &World, arguments: &Arguments, observed: &[Observed], report: &mut Report) {
    let counts = *lock(&world.counts);
    let issued = lock(&world.oracle).issued();
    report.check(
        counts.wrong == 0 && counts.good >= 1000 && counts.bad >= 100 && counts.streams >= 10,
        &format!(
            "{} wrong of {} verdicts, {} of which had to pass and {} to be refused; {} streams ended as they had to; no token was \
             accepted more than {} ms after its end ({CLOCKS} are allowed)",
            counts.wrong,
            counts.allowed + counts.denied,
            counts.good,
            counts.bad,
            counts.streams,
            counts.longest_after_end
        ),
    );
    let happened = [
        counts.tokens_revoked,
        counts.clients_revoked,
        counts.keys_compromised,
        counts.rotations,
        counts.restarts,
        counts.in_force_at_once,
    ];
    report.check(
        happened.iter().all(|count| *count > 0) && counts.not_issued == 0,
        &format!(
            "meanwhile {issued} tokens were issued and {} were not; {} tokens and {} clients were revoked, {} keys compromised, {} \
             rotated, one sidecar restarted {} times; {} receipts were `in force on all` when they came",
            counts.not_issued,
            counts.tokens_revoked,
            counts.clients_revoked,
            counts.keys_compromised,
            counts.rotations,
            counts.restarts,
            counts.in_force_at_once
        ),
    );
    for process in observed {
        judge_growth(process, arguments, report);
    }
}

fn judge_growth(process: &Observed, arguments: &Arguments, report: &mut Report) {
    let slope = process.course.slope(warm(arguments)).unwrap_or(f64::INFINITY);
    let descriptors = process.descriptors.unwrap_or_default();
    let few = process.last.descriptors <= descriptors + MORE_DESCRIPTORS;
    report.check(
        slope <= arguments.growth && few,
        &format!(
            "{}: {slope:+.1} MiB an hour, {:.1} MiB at most; {} descriptors, and {descriptors} when it had warmed up",
            process.name,
            process.course.most(),
            process.last.descriptors
        ),
    );
}
