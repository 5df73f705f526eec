//! What was measured as ratios, and what is aimed at.

use serde::Serialize;

use super::peers::{ASKING, NEAREST, OURS};
use super::results::{Results, Server};

/// One server by another one, under one load.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    load: &'static str,
    of: &'static str,
    against: &'static str,
    calls_per_second: f64,
    calls_per_cpu_second: f64,
    added_p50: f64,
}

/// A figure that something is aimed at.
#[derive(Debug, Serialize)]
pub(super) struct Aim {
    pub(super) what: String,
    pub(super) value: f64,
    /// What the value is to be: at least this, or at most.
    pub(super) bound: &'static str,
    pub(super) aim: f64,
    pub(super) held: bool,
}

impl Aim {
    fn at_least(aim: f64, value: f64, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            value,
            bound: "at least",
            aim,
            held: value >= aim,
        }
    }

    fn at_most(aim: f64, value: f64, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            value,
            bound: "at most",
            aim,
            held: value <= aim,
        }
    }
}

/// Ours by each of the others, and what external authorization costs where it stands.
pub(super) fn ratios(servers: &[Server]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for of in servers {
        for against in servers {
            let compared = match of.name {
                OURS => !matches!(against.name, OURS | "direct"),
                ASKING => against.name == NEAREST,
                _ => false,
            };
            if compared {
                ratios.extend(between(of, against));
            }
        }
    }
    ratios
}

fn between(of: &Server, against: &Server) -> impl Iterator<Item = Ratio> {
    of.loads.iter().zip(&against.loads).map(|(ours, theirs)| Ratio {
        load: ours.load,
        of: of.name,
        against: against.name,
        calls_per_second: ours.served.calls_per_second / theirs.served.calls_per_second,
        calls_per_cpu_second: theirs.served.cpu_us_per_call / ours.served.cpu_us_per_call,
        added_p50: ours.added_p50_us / theirs.added_p50_us,
    })
}

/// What is aimed at, and whether it is so.
pub(super) fn aims(results: &Results) -> Vec<Aim> {
    let mut aims = Vec::new();
    let nearest = |ratio: &&Ratio| ratio.of == OURS && ratio.against == NEAREST;
    for ratio in results.ratios.iter().filter(nearest) {
        let by = |figure: &str| format!("{figure} by those of {NEAREST}: {}", ratio.load);
        aims.push(Aim::at_least(1.3, ratio.calls_per_second, by("calls per second")));
        aims.push(Aim::at_least(
            1.3,
            ratio.calls_per_cpu_second,
            by("calls per second of processor time"),
        ));
        aims.push(Aim::at_most(
            0.6,
            ratio.added_p50,
            by("added microseconds of p50"),
        ));
    }
    for ours in results.servers.iter().filter(|server| server.name == OURS) {
        let (idle, most) = (ours.resident_idle.all_mib, ours.resident_most.all_mib);
        aims.push(Aim::at_most(12.0, idle, "resident memory in MiB, idle"));
        aims.push(Aim::at_most(
            24.0,
            most,
            "resident memory in MiB, most under load",
        ));
    }
    for ours in results.streaming.iter().filter(|stream| stream.name == OURS) {
        let most = ours.resident_most.all_mib;
        aims.push(Aim::at_most(
            24.0,
            most,
            "resident memory in MiB, most while it streams",
        ));
    }
    aims.push(Aim::at_least(
        0.85,
        results.ext_authz.calls_per_cpu_second,
        "ext_authz: answers per second of processor time by those of a tonic server that decides nothing",
    ));
    aims.push(Aim::at_least(
        0.9,
        results.cold.batch_by_raw,
        "cold tokens per second of processor time by bare checks: Verify API, in batches",
    ));
    aims.push(Aim::at_least(
        0.9,
        results.cold.proxy_by_raw,
        "cold tokens per second of processor time by bare checks: calls through the proxy",
    ));
    for binary in results.binaries.iter().filter(|binary| binary.measured) {
        let size = binary.stripped_megabytes;
        aims.push(Aim::at_most(14.0, size, "the program's size in MB, stripped"));
    }
    aims
}
