//! What well-behaved callers get while others flood: a fixed number of calls a second at every kind of port of the sidecar, without
//! attackers and with each kind of them. These have a fixed number of bytes a second, so that nobody wants for processor time and
//! what is lost is lost to the attack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_harness::raw::Connection;
use futures_util::future::join_all;
use tokio::io::{AsyncWriteExt as _, split};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tonic::Code;

use crate::attacks::{ATTACKS, Attack};
use crate::frames::{DATA, END_HEADERS, HEADERS, Reaction, call, flood_at, frame, preface};
use crate::world::{Port, Usage, World};

/// How long callers are looked at in peace, and under each attack.
const PHASE: Duration = Duration::from_secs(3);

/// Whether the programs are optimised, and can take more.
const OPTIMISED: bool = !cfg!(debug_assertions);

/// Calls in a second at each of [`CALLED`].
const CALLS: u32 = if OPTIMISED { 100 } else { 50 };

/// How many of them over one connection.
const ON_ONE_CONNECTION: u64 = 25;

/// An answer that takes longer is none. It is that long because the machine may be busy with other things.
const ANSWERED: Duration = Duration::from_secs(5);

/// What must be answered of what is answered in peace, in percent.
const GOODPUT: u64 = 90;

/// Attackers at each port that is attacked.
const ATTACKERS: usize = 2;

/// What each of them sends in a second, in bytes: hundreds of requests, or thousands of smaller frames.
const BYTES: u32 = if OPTIMISED { 512 << 10 } else { 32 << 10 };

/// How soon an attacker whose connection was ended comes again.
const AGAIN: Duration = Duration::from_millis(50);

/// Peers at each port that are silent or slow. The port for metrics has 64 places.
const SLOW: usize = 40;

/// What the sidecar may have more than in peace, in MiB: for all attackers at all ports, in a build that is not optimised.
const GROWTH: u64 = 64;

/// Where calls are made.
const CALLED: [Port; 5] = [
    Port::Proxy,
    Port::ProxyPlaintext,
    Port::VerifyTcp,
    Port::ExternalAuthorization,
    Port::SidecarAdmin,
];

/// Where the attackers are: at all ports of the sidecar.
const ATTACKED: [Port; 7] = [
    Port::Proxy,
    Port::ProxyPlaintext,
    Port::VerifyTcp,
    Port::VerifyUnix,
    Port::ExternalAuthorization,
    Port::Agent,
    Port::SidecarAdmin,
];

/// What well-behaved callers got.
#[derive(Debug, Default)]
struct Got {
    wanted: u64,
    /// How long the good answers took.
    answers: Vec<Duration>,
}

impl Got {
    /// In percent of what was wanted.
    fn goodput(&self) -> u64 {
        let answered = u64::try_from(self.answers.len()).expect("few");
        answered * 100 / self.wanted.max(1)
    }
}

/// A well-behaved caller at one port.
struct Caller<'a> {
    world: &'a World,
    port: Port,
    bearer: Vec<u8>,
    connection: Option<Arc<Connection>>,
}

impl Caller<'_> {
    /// Begins a call every so often, whether or not the last is answered, and every so often over a new connection.
    async fn calls(mut self, until: Instant) -> Got {
        let mut got = Got::default();
        let mut answers = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / CALLS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let due = ticks.tick().await;
            if due >= until {
                break;
            }
            if got.wanted % ON_ONE_CONNECTION == 0 {
                self.connection = None;
            }
            got.wanted += 1;
            match self.port.method() {
                None => got.answers.extend(self.gets(due).await),
                Some(method) => {
                    let (connection, bearer) = (self.connected().await, self.bearer.clone());
                    answers.spawn(answered(connection, method, bearer, due));
                }
            }
            while let Some(answer) = answers.try_join_next() {
                self.takes(answer, &mut got);
            }
        }
        while let Some(answer) = answers.join_next().await {
            self.takes(answer, &mut got);
        }
        got
    }

    fn takes(&mut self, answer: Result<Option<Duration>, JoinError>, got: &mut Got) {
        match answer {
            Ok(answer) => got.answers.extend(answer),
            // The connection was ended, and the call with it.
            Err(_failed) => self.connection = None,
        }
    }

    async fn gets(&self, due: Instant) -> Option<Duration> {
        let good = timeout(ANSWERED, self.world.get(self.port, "/ready")).await;
        (good == Ok(true)).then(|| due.elapsed())
    }

    async fn connected(&mut self) -> Arc<Connection> {
        if let Some(connection) = &self.connection {
            return Arc::clone(connection);
        }
        let stream = self.world.connect_well(self.port).await;
        let connection = Arc::new(Connection::over(stream, "localhost").await);
        self.connection = Some(Arc::clone(&connection));
        connection
    }
}

/// How long after `due` a good answer came, if one came in time.
async fn answered(
    connection: Arc<Connection>,
    method: &'static str,
    bearer: Vec<u8>,
    due: Instant,
) -> Option<Duration> {
    let answer = timeout_at(due + ANSWERED, connection.call(method, &[bearer])).await;
    let good = answer.is_ok_and(|answer| answer.code == Code::Ok);
    good.then(|| due.elapsed())
}

/// A token for the port that knows the caller's certificate, and one for the others.
#[derive(Debug)]
struct Tokens {
    bound: String,
    unbound: String,
}

impl Tokens {
    fn bearer(&self, port: Port) -> Vec<u8> {
        let token = if port.is_tls() { &self.bound } else { &self.unbound };
        format!("Bearer {token}").into_bytes()
    }
}

/// What a phase came to.
#[derive(Debug)]
struct Phase {
    got: Vec<(Port, Got)>,
    /// The most memory that the sidecar had, in MiB.
    memory: u64,
}

impl Phase {
    /// The least, of all ports, of what is answered for a hundred answers in peace.
    fn goodput(&self, peace: &Self) -> (Port, u64) {
        let ports = self.got.iter().zip(&peace.got);
        let each = ports.map(|((port, got), (_, peace))| (*port, got.goodput() * 100 / peace.goodput()));
        each.min_by_key(|(_, goodput)| *goodput).expect("ports")
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut all: Vec<_> = self.got.iter().flat_map(|(_, got)| got.answers.clone()).collect();
        all.sort_unstable();
        let at = all.len().saturating_sub(1) * percent / 100;
        all.get(at).copied().unwrap_or_default()
    }
}

/// Calls everywhere, for the time of a phase.
async fn phase(world: &World, tokens: &Tokens, until: Instant) -> Phase {
    let callers = CALLED.map(|port| {
        let caller = Caller {
            world,
            port,
            bearer: tokens.bearer(port),
            connection: None,
        };
        async move { (port, caller.calls(until).await) }
    });
    let watching = async {
        let mut most = 0;
        while Instant::now() < until {
            most = most.max(Usage::of(world.sidecar()).memory);
            sleep(Duration::from_millis(50)).await;
        }
        most
    };
    let (got, memory) = tokio::join!(join_all(callers), watching);
    Phase { got, memory }
}

/// Attacks a port again and again. What came of each connection.
async fn attack(world: &World, port: Port, attack: &Attack, until: Instant) -> Vec<Reaction> {
    let mut reactions = Vec::new();
    let Some(method) = port.method() else {
        return reactions;
    };
    while Instant::now() < until {
        let stream = world.connect_well(port).await;
        let left = until.saturating_duration_since(Instant::now());
        reactions.push(flood_at(stream, (attack.sends)(method), BYTES, left).await);
        sleep(AGAIN).await;
    }
    reactions
}

/// How connections ended, for a line.
fn told(reactions: &[Reaction]) -> String {
    let mut ends = BTreeMap::<String, usize>::new();
    for reaction in reactions {
        let how = match (reaction.ended, reaction.goaway) {
            (false, _) => "borne".to_owned(),
            (true, Some(code)) => format!("GOAWAY {code}"),
            (true, None) => "closed".to_owned(),
        };
        *ends.entry(how).or_default() += 1;
    }
    let ends = ends.iter().map(|(how, count)| format!("{count} {how}"));
    ends.collect::<Vec<_>>().join(", ")
}

/// What somebody says who is slow, before the first byte and then one by one.
type Slow = (&'static str, fn(Port) -> Option<(Vec<u8>, Vec<u8>)>);

const SLOW_ONES: &[Slow] = &[
    ("silence", |_port| Some((Vec::new(), Vec::new()))),
    ("a slow handshake", |port| {
        port.is_tls()
            .then(|| (b"\x16\x03\x01".to_vec(), b"\x02\x00\x01\x00".to_vec()))
    }),
    ("a slow preface", |port| {
        (!port.is_tls() && port.method().is_some()).then(|| (Vec::new(), preface(&[])))
    }),
    ("a preface and no more", |port| {
        (!port.is_tls() && port.method().is_some()).then(|| (preface(&[]), Vec::new()))
    }),
    ("a slow request line", |port| {
        let request = b"GET /live HTTP/1.1\r\n".to_vec();
        port.method().is_none().then(|| (Vec::new(), request))
    }),
    ("a slow body", |port| {
        let open = |path| [preface(&[]), frame(HEADERS, END_HEADERS, 1, &call(path))].concat();
        let first = (!port.is_tls()).then(|| port.method().map(open)).flatten();
        first.map(|first| (first, frame(DATA, 0, 1, &[0])))
    }),
];

/// Is slow at a port until then. Whether the connection was ended before.
async fn be_slow(world: &World, port: Port, said: (Vec<u8>, Vec<u8>), until: Instant) -> bool {
    let stream = world.connect(port).await.expect("accepted");
    let (mut reading, mut writing) = split(stream);
    let saying = async {
        writing.write_all(&said.0).await?;
        for byte in said.1.iter().cycle() {
            sleep(Duration::from_millis(500)).await;
            writing.write_all(&[*byte]).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let hearing = async {
        let ended = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
        drop(ended);
    };
    let both = async { tokio::join!(saying, hearing) };
    timeout_at(until, both).await.is_ok()
}

/// What is compared with peace.
struct Comparison<'a> {
    world: &'a World,
    tokens: Tokens,
    peace: Phase,
    failures: Vec<String>,
}

impl Comparison<'_> {
    async fn under(&mut self, attack: &Attack) {
        let until = Instant::now() + PHASE;
        let attackers = ATTACKED
            .into_iter()
            .flat_map(|port| std::iter::repeat_n(port, ATTACKERS))
            .map(|port| self::attack(self.world, port, attack, until));
        let (reactions, phase) = tokio::join!(join_all(attackers), phase(self.world, &self.tokens, until));
        let name = format!("{} {}", attack.id, attack.name);
        self.judge(&name, &phase, &told(&reactions.concat()));
    }

    async fn with_slow_ones(&mut self, (name, says): &Slow) {
        let until = Instant::now() + PHASE;
        let slow = ATTACKED
            .into_iter()
            .filter_map(|port| Some((port, says(port)?)))
            .flat_map(|(port, said)| std::iter::repeat_n((port, said), SLOW))
            .map(|(port, said)| be_slow(self.world, port, said, until));
        let (ended, phase) = tokio::join!(join_all(slow), phase(self.world, &self.tokens, until));
        let gone = ended.iter().filter(|ended| **ended).count();
        let ends = format!("{} borne, {gone} closed", ended.len() - gone);
        self.judge(&format!("G25 {name}"), &phase, &ends);
    }

    fn judge(&mut self, name: &str, phase: &Phase, ends: &str) {
        let (port, goodput) = phase.goodput(&self.peace);
        let line = format!(
            "{name:50} goodput {goodput:3} % (at {port:?}), p50 {:?}, p99 {:?}, memory {} MiB; {ends}",
            phase.percentile(50),
            phase.percentile(99),
            phase.memory
        );
        println!("{line}");
        if goodput < GOODPUT || phase.memory > self.peace.memory + GROWTH {
            self.failures.push(line);
        }
    }
}

/// G18 to G26, S21: callers who behave get nine tenths, at least, of what they get in peace, and the sidecar stays small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_behaves_is_answered_while_others_flood() {
    let _alone = crate::ALONE.lock().await;
    let world = World::start().await;
    let tokens = Tokens {
        bound: world.dev.token(&["--client", "orders"]),
        unbound: world.dev.token(&["--client", "billing"]),
    };
    // The first calls fill caches and open connections.
    phase(&world, &tokens, Instant::now() + PHASE).await;
    let peace = phase(&world, &tokens, Instant::now() + PHASE).await;
    let mut comparison = Comparison {
        world: &world,
        tokens,
        failures: Vec::new(),
        peace,
    };
    let of_itself = phase(&world, &comparison.tokens, Instant::now() + PHASE).await;
    comparison.judge("peace", &of_itself, "");
    for attack in ATTACKS {
        comparison.under(attack).await;
    }
    for slow in SLOW_ONES {
        comparison.with_slow_ones(slow).await;
    }
    assert!(
        comparison.failures.is_empty(),
        "{}",
        comparison.failures.join("\n")
    );
}
