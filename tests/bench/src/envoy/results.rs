//! What was measured, as medians of the rounds, as ratios, and as tables.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::h2load::Outcome;
use super::peers::{NEAREST, OURS, Peer, Stage};
use crate::Failure;
use crate::measure::{float, micros};
use crate::program::{Scheduled, most_resident};

/// One figure of each round.
#[derive(Debug, Default)]
struct Figures(Vec<f64>);

impl Figures {
    fn median(&self) -> f64 {
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
        self.calls_per_second.0.push(calls / outcome.lasted.as_secs_f64());
        self.ran_us_per_call.0.push(micros(used.ran) / calls);
        self.ran_share.0.push(share(used.ran));
        self.waited_share.0.push(share(used.waited));
        self.p50.0.push(micros(outcome.latency.percentile(500)));
        self.p99.0.push(micros(outcome.latency.percentile(990)));
    }
}

/// What the machine does besides.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct State {
    /// Processes that run or could run: the means of one, five and fifteen minutes, and what the kernel adds.
    load_average: String,
}

impl State {
    pub(crate) fn now() -> Result<Self, Failure> {
        Ok(Self {
            load_average: fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        })
    }
}

/// One server under one load.
#[derive(Debug, Serialize)]
struct UnderLoad {
    load: &'static str,
    calls_per_second: f64,
    /// Processor time of the server. Nothing where there is no proxy.
    cpu_us_per_call: f64,
    /// How much of its core the server used: near 1 where `calls_per_second` is all that it can do.
    cpu_share: f64,
    /// How much of its time it waited for the core.
    waited_share: f64,
    p50_us: f64,
    p99_us: f64,
    /// To the same load on the service itself.
    added_p50_us: f64,
    added_p99_us: f64,
}

/// One server.
#[derive(Debug, Serialize)]
struct Server {
    name: &'static str,
    what: &'static str,
    resident_idle_mib: f64,
    resident_most_mib: f64,
    loads: Vec<UnderLoad>,
}

/// Ours by another one, under one load.
#[derive(Debug, Serialize)]
struct Ratio {
    load: &'static str,
    against: &'static str,
    calls_per_second: f64,
    calls_per_cpu_second: f64,
    added_p50: f64,
}

/// A figure that something is aimed at.
#[derive(Debug, Serialize)]
struct Aim {
    what: String,
    value: f64,
    aim: &'static str,
    met: bool,
}

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    processor: String,
    /// The build's profile: numbers of a debug build mean nothing.
    profile: &'static str,
    before: State,
    after: State,
    rounds: usize,
    servers: Vec<Server>,
    ratios: Vec<Ratio>,
    aims: Vec<Aim>,
}

impl Results {
    /// From what was measured.
    pub(crate) fn of(stage: &Stage, before: State, after: State) -> Result<Self, Failure> {
        let mut servers = vec![Server {
            name: "direct",
            what: "no proxy",
            resident_idle_mib: 0.0,
            resident_most_mib: 0.0,
            loads: stage
                .direct
                .iter()
                .map(|(load, rounds)| under_load(load, rounds, rounds))
                .collect(),
        }];
        for peer in &stage.peers {
            servers.push(server(peer, stage)?);
        }
        servers.sort_by_key(|server| server.name);
        let ratios = ratios(&servers);
        let rounds = stage
            .direct
            .values()
            .next()
            .map_or(0, |rounds| rounds.p50.0.len());
        Ok(Self {
            processor: processor()?,
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            before,
            after,
            rounds,
            aims: aims(&servers, &ratios),
            servers,
            ratios,
        })
    }

    /// A table for each load, and one for memory, as Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = format!(
            "{}; {} rounds; load average {} before, {} after.\n",
            self.processor, self.rounds, self.before.load_average, self.after.load_average
        );
        let loads = self
            .servers
            .first()
            .map(|server| server.loads.as_slice())
            .unwrap_or_default();
        for load in loads {
            // Writing to a string does not fail.
            let _written = self.table(&mut text, load.load);
        }
        let _written = self.memory(&mut text);
        text
    }

    fn table(&self, text: &mut String, load: &str) -> std::fmt::Result {
        writeln!(
            text,
            "\n| {load} | calls/s | CPU for a call | of its core | p50 | p99 | p50 added |"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: | --: | --: |")?;
        for server in &self.servers {
            let Some(under) = server.loads.iter().find(|under| under.load == load) else {
                continue;
            };
            writeln!(
                text,
                "| {} | {:.0} | {:.1} us | {:.0} % | {:.0} us | {:.0} us | {:.0} us |",
                server.what,
                under.calls_per_second,
                under.cpu_us_per_call,
                under.cpu_share * 100.0,
                under.p50_us,
                under.p99_us,
                under.added_p50_us,
            )?;
        }
        Ok(())
    }

    fn memory(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n| Resident memory | idle | most under load |")?;
        writeln!(text, "| --- | --: | --: |")?;
        for server in self
            .servers
            .iter()
            .filter(|server| server.resident_idle_mib > 0.0)
        {
            writeln!(
                text,
                "| {} | {:.1} MiB | {:.1} MiB |",
                server.what, server.resident_idle_mib, server.resident_most_mib
            )?;
        }
        Ok(())
    }
}

fn server(peer: &Peer, stage: &Stage) -> Result<Server, Failure> {
    let mebibytes = |bytes: u64| float(bytes) / f64::from(1 << 20);
    let both = peer.rounds.iter().zip(stage.direct.values());
    Ok(Server {
        name: peer.name,
        what: peer.what,
        resident_idle_mib: mebibytes(peer.idle),
        resident_most_mib: mebibytes(most_resident(peer.id())?),
        loads: both
            .map(|((load, rounds), direct)| under_load(load, rounds, direct))
            .collect(),
    })
}

fn under_load(load: &'static str, rounds: &Rounds, direct: &Rounds) -> UnderLoad {
    UnderLoad {
        load,
        calls_per_second: rounds.calls_per_second.median(),
        cpu_us_per_call: rounds.ran_us_per_call.median(),
        cpu_share: rounds.ran_share.median(),
        waited_share: rounds.waited_share.median(),
        p50_us: rounds.p50.median(),
        p99_us: rounds.p99.median(),
        added_p50_us: rounds.p50.median() - direct.p50.median(),
        added_p99_us: rounds.p99.median() - direct.p99.median(),
    }
}

fn ratios(servers: &[Server]) -> Vec<Ratio> {
    let Some(ours) = servers.iter().find(|server| server.name == OURS) else {
        return Vec::new();
    };
    let others = servers
        .iter()
        .filter(|server| !matches!(server.name, OURS | "direct"));
    others
        .flat_map(|other| {
            ours.loads.iter().zip(&other.loads).map(|(ours, theirs)| Ratio {
                load: ours.load,
                against: other.name,
                calls_per_second: ours.calls_per_second / theirs.calls_per_second,
                calls_per_cpu_second: theirs.cpu_us_per_call / ours.cpu_us_per_call,
                added_p50: ours.added_p50_us / theirs.added_p50_us,
            })
        })
        .collect()
}

fn aims(servers: &[Server], ratios: &[Ratio]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for ratio in ratios.iter().filter(|ratio| ratio.against == NEAREST) {
        aims.push(Aim {
            what: format!("calls per second by those of {NEAREST}: {}", ratio.load),
            value: ratio.calls_per_second,
            aim: ">= 1.3",
            met: ratio.calls_per_second >= 1.3,
        });
        aims.push(Aim {
            what: format!("added p50 by that of {NEAREST}: {}", ratio.load),
            value: ratio.added_p50,
            aim: "<= 0.6",
            met: ratio.added_p50 <= 0.6,
        });
    }
    for ours in servers.iter().filter(|server| server.name == OURS) {
        aims.push(Aim {
            what: "resident memory, idle, in MiB".to_owned(),
            value: ours.resident_idle_mib,
            aim: "<= 12",
            met: ours.resident_idle_mib <= 12.0,
        });
        aims.push(Aim {
            what: "resident memory, most under load, in MiB".to_owned(),
            value: ours.resident_most_mib,
            aim: "<= 24",
            met: ours.resident_most_mib <= 24.0,
        });
    }
    aims
}

fn processor() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(name
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':'])
        .to_owned())
}
