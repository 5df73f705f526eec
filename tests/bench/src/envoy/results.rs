//! What was measured, as medians of the rounds, as ratios, and as tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use super::Options;
use super::aims::{Aim, Ratio, aims, ratios};
use super::cold::{Cold, Verified};
use super::peers::{Peer, Stage};
use super::questions::{Answered, Questions};
use super::streaming::{Streamed, Streaming};
use crate::Failure;
use crate::load::Outcome;
use crate::measure::{float, micros};
use crate::program::{Memory, Scheduled};

/// One figure of each round.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<f64>);

impl Figures {
    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub(super) fn median(&self) -> f64 {
        let mut figures = self.0.clone();
        figures.sort_unstable_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// What one server did under one load.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    calls_per_second: Figures,
    ran_us_per_call: Figures,
    ran_share: Figures,
    waited_share: Figures,
    p50: Figures,
    p99: Figures,
}

impl Rounds {
    /// One more, in which the server had `used` of its core.
    pub(crate) fn push(&mut self, mut outcome: Outcome, used: Scheduled) {
        let calls = float(outcome.latency.len());
        let share = |part: Duration| part.as_secs_f64() / outcome.lasted.as_secs_f64();
        self.calls_per_second.push(calls / outcome.lasted.as_secs_f64());
        self.ran_us_per_call.push(micros(used.ran) / calls);
        self.ran_share.push(share(used.ran));
        self.waited_share.push(share(used.waited));
        self.p50.push(micros(outcome.latency.percentile(500)));
        self.p99.push(micros(outcome.latency.percentile(990)));
    }

    /// Their medians.
    pub(super) fn served(&self) -> Served {
        Served {
            calls_per_second: self.calls_per_second.median(),
            cpu_us_per_call: self.cpu_us_per_call(),
            cpu_share: self.ran_share.median(),
            waited_share: self.waited_share.median(),
            p50_us: self.p50.median(),
            p99_us: self.p99.median(),
        }
    }

    /// The median processor time for a call.
    pub(super) fn cpu_us_per_call(&self) -> f64 {
        self.ran_us_per_call.median()
    }
}

/// What the machine does besides.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct State {
    /// Processes that run or could run: the means of one, five and fifteen minutes, and what the kernel adds.
    pub(super) load_average: String,
}

impl State {
    pub(crate) fn now() -> Result<Self, Failure> {
        Ok(Self {
            load_average: fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        })
    }
}

/// What a server did.
#[derive(Debug, Serialize)]
pub(super) struct Served {
    pub(super) calls_per_second: f64,
    /// Processor time of the server. Nothing where there is no proxy.
    pub(super) cpu_us_per_call: f64,
    /// How much of its core the server used: near 1 where `calls_per_second` is all that it can do.
    pub(super) cpu_share: f64,
    /// How much of its time it waited for the core.
    pub(super) waited_share: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// One server under one load.
#[derive(Debug, Serialize)]
pub(super) struct UnderLoad {
    pub(super) load: &'static str,
    #[serde(flatten)]
    pub(super) served: Served,
    /// To the same load on the service itself.
    pub(super) added_p50_us: f64,
    pub(super) added_p99_us: f64,
}

/// What processes have in memory.
#[derive(Debug, Serialize)]
pub(super) struct Holding {
    pub(super) all_mib: f64,
    /// What is in no file.
    pub(super) anonymous_mib: f64,
    /// What is read from files, such as the program.
    pub(super) file_mib: f64,
}

impl From<Memory> for Holding {
    fn from(memory: Memory) -> Self {
        let mebibytes = |bytes: u64| float(bytes) / f64::from(1 << 20);
        Self {
            all_mib: mebibytes(memory.all),
            anonymous_mib: mebibytes(memory.anonymous),
            file_mib: mebibytes(memory.file),
        }
    }
}

/// One server.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) resident_idle: Holding,
    pub(super) resident_most: Holding,
    pub(super) loads: Vec<UnderLoad>,
}

/// A build of the sidecar.
#[derive(Debug, Serialize)]
pub(super) struct Binary {
    /// The folder in which it is, which Cargo names after the profile.
    pub(super) profile: String,
    /// Whether it is the one that was measured.
    pub(super) measured: bool,
    pub(super) megabytes: f64,
    pub(super) stripped_megabytes: f64,
}

impl Binary {
    fn of(stage: &Stage, program: &Path, measured: bool) -> Result<Self, Failure> {
        let copy = stage.installation.path("stripped");
        let stripped = Command::new("strip").arg("-o").arg(&copy).arg(program).status()?;
        if !stripped.success() {
            return Err(format!("strip: {stripped}").into());
        }
        let megabytes = |file: &Path| Ok::<_, Failure>(float(fs::metadata(file)?.len()) / 1e6);
        let folder = program.canonicalize()?;
        let folder = folder.parent().and_then(Path::file_name).unwrap_or_default();
        Ok(Self {
            profile: folder.to_string_lossy().into_owned(),
            measured,
            megabytes: megabytes(program)?,
            stripped_megabytes: megabytes(&copy)?,
        })
    }
}

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(super) processor: String,
    /// The bench's profile: numbers of a debug build mean nothing.
    profile: &'static str,
    pub(super) before: State,
    pub(super) after: State,
    pub(super) rounds: u32,
    /// Each proxy under each load.
    pub(super) servers: Vec<Server>,
    /// One answer with a million messages through some of them.
    pub(super) streaming: Vec<Streamed>,
    pub(super) ext_authz: Answered,
    pub(super) cold: Verified,
    pub(super) binaries: Vec<Binary>,
    pub(super) ratios: Vec<Ratio>,
    pub(super) aims: Vec<Aim>,
}

impl Results {
    /// From what was measured.
    pub(super) fn of(
        options: &Options,
        stage: &Stage,
        (questions, cold, streaming): (&Questions, &Cold, &Streaming),
        before: State,
    ) -> Result<Self, Failure> {
        let mut servers = vec![Server {
            name: "direct",
            what: "no proxy",
            resident_idle: Memory::default().into(),
            resident_most: Memory::default().into(),
            loads: under_loads(&stage.direct, stage),
        }];
        servers.extend(stage.peers.iter().map(|peer| server(peer, stage)));
        servers.sort_by_key(|server| server.name);
        let mut binaries = vec![Binary::of(stage, &options.sidecar()?, true)?];
        for other in &options.weigh {
            binaries.push(Binary::of(stage, other, false)?);
        }
        let mut results = Self {
            processor: processor()?,
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            before,
            after: State::now()?,
            rounds: options.rounds,
            servers,
            streaming: streaming.streamed(),
            ext_authz: questions.answered(),
            cold: cold.verified(stage)?,
            binaries,
            ratios: Vec::new(),
            aims: Vec::new(),
        };
        results.ratios = ratios(&results.servers);
        results.aims = aims(&results);
        Ok(results)
    }
}

fn server(peer: &Peer, stage: &Stage) -> Server {
    Server {
        name: peer.name,
        what: peer.what,
        resident_idle: peer.idle.into(),
        resident_most: peer.most.into(),
        loads: under_loads(&peer.rounds, stage),
    }
}

fn under_loads(measured: &BTreeMap<&'static str, Rounds>, stage: &Stage) -> Vec<UnderLoad> {
    let both = measured.iter().zip(stage.direct.values());
    both.map(|((load, rounds), direct)| under_load(load, rounds, direct))
        .collect()
}

fn under_load(load: &'static str, rounds: &Rounds, direct: &Rounds) -> UnderLoad {
    let (served, direct) = (rounds.served(), direct.served());
    UnderLoad {
        load,
        added_p50_us: served.p50_us - direct.p50_us,
        added_p99_us: served.p99_us - direct.p99_us,
        served,
    }
}

fn processor() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(name
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':'])
        .to_owned())
}
