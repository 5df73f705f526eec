//! What was measured, as it is reported.

use std::collections::BTreeMap;

use super::{Options, Outcome};
use crate::measure::{Samples, float, micros, nanos};
use crate::report::{Comparison, Measured};

/// In KB, a verifier that is connected may cost (1 KB are 1,000 bytes).
const MOST_KB: f64 = 30.0;

/// How soon, in milliseconds: the median, and 99 of a hundred.
struct Target {
    verifiers: usize,
    p50: f64,
    p99: f64,
    text: &'static str,
}

const TARGETS: [Target; 2] = [
    Target {
        verifiers: 1_000,
        p50: 8.0,
        p99: 20.0,
        text: "p50 <= 8 ms, p99 <= 20 ms",
    },
    Target {
        verifiers: 10_000,
        p50: 80.0,
        p99: 160.0,
        text: "p50 <= 80 ms, p99 <= 160 ms",
    },
];

pub(super) fn comparisons(options: &Options, mut ours: Outcome, mut floor: Outcome) -> Vec<Comparison> {
    let refusal = refusal(options, &mut ours, &mut floor);
    vec![refusal, memory(&ours, &floor), storm(&mut ours, &mut floor)]
}

fn millis(samples: &mut Samples, per_mille: usize) -> f64 {
    nanos(samples.percentile(per_mille)) / 1e6
}

fn refusal(options: &Options, ours: &mut Outcome, floor: &mut Outcome) -> Comparison {
    let (p50, p99) = (millis(&mut ours.refused, 500), millis(&mut ours.refused, 990));
    let floor_p99 = millis(&mut floor.refused, 990);
    let ([used, used_by_verifiers], [idle, _]) = (ours.used, ours.idle);
    let ([floor_used, floor_used_by_verifiers], [floor_idle, _]) = (floor.used, floor.idle);
    let target = TARGETS
        .iter()
        .find(|target| target.verifiers == options.verifiers);
    Comparison {
        name: "propagation",
        floor: Measured {
            what: "the same message to as many streams of a tonic server that decides nothing".to_owned(),
            value: floor_p99,
            unit: "ms (p99)",
        },
        ours: Measured {
            what: "from the operator's request until a verifier refuses the token".to_owned(),
            value: p99,
            unit: "ms (p99)",
        },
        ratio: p99 / floor_p99,
        target: target.map_or("none for this number of verifiers", |target| target.text),
        met: target.map(|target| p50 <= target.p50 && p99 <= target.p99),
        details: BTreeMap::from([
            ("verifiers", float(options.verifiers)),
            ("whole_sidecars", float(options.sidecars)),
            ("revocations", float(options.revocations)),
            ("p50_ms", p50),
            ("p99_ms", p99),
            ("p999_ms", millis(&mut ours.refused, 999)),
            ("sidecars_p50_ms", millis(&mut ours.refused_by_sidecars, 500)),
            ("sidecars_p99_ms", millis(&mut ours.refused_by_sidecars, 990)),
            ("first_verifier_p50_ms", millis(&mut ours.refused_by_first, 500)),
            ("last_verifier_p50_ms", millis(&mut ours.refused_by_all, 500)),
            ("last_verifier_p99_ms", millis(&mut ours.refused_by_all, 990)),
            ("answered_p50_ms", millis(&mut ours.answered, 500)),
            ("answered_p99_ms", millis(&mut ours.answered, 990)),
            ("receipt_complete_p50_ms", millis(&mut ours.complete, 500)),
            ("receipt_complete_p99_ms", millis(&mut ours.complete, 990)),
            ("authority_cpu_us_each", micros(used)),
            ("verifiers_cpu_us_each", micros(used_by_verifiers)),
            ("floor_cpu_us_each", micros(floor_used)),
            ("floor_verifiers_cpu_us_each", micros(floor_used_by_verifiers)),
            ("authority_idle_cpu_percent", idle * 100.0),
            ("floor_idle_cpu_percent", floor_idle * 100.0),
            (
                "floor_first_verifier_p50_ms",
                millis(&mut floor.refused_by_first, 500),
            ),
            ("floor_p50_ms", millis(&mut floor.refused, 500)),
            ("floor_p99_ms", floor_p99),
            (
                "floor_last_verifier_p50_ms",
                millis(&mut floor.refused_by_all, 500),
            ),
        ]),
    }
}

/// KB that each verifier costs between two looks.
fn slope(outcome: &Outcome, from: usize, to: usize) -> f64 {
    let at = |moment: usize| {
        let memory = outcome.memory.get(moment).copied().unwrap_or_default();
        let connected = outcome.connected.get(moment).copied().unwrap_or_default();
        (memory.0, float(connected))
    };
    let (before, after) = (at(from), at(to));
    (after.0 - before.0) / (after.1 - before.1) / 1000.0
}

fn memory(ours: &Outcome, floor: &Outcome) -> Comparison {
    let (value, least) = (slope(ours, 0, 2), slope(floor, 0, 2));
    let [empty, _, full] = ours.memory;
    Comparison {
        name: "stream-memory",
        floor: Measured {
            what: "memory of a tonic server that decides nothing, for each stream that pings".to_owned(),
            value: least,
            unit: "KB",
        },
        ours: Measured {
            what: "memory of the authority for each verifier that is connected and pings".to_owned(),
            value,
            unit: "KB",
        },
        ratio: value / least,
        target: "<= 30 KB",
        met: Some(value <= MOST_KB),
        details: BTreeMap::from([
            ("empty_mib", empty.mebibytes()),
            ("full_mib", full.mebibytes()),
            ("first_half_kb", slope(ours, 0, 1)),
            ("second_half_kb", slope(ours, 1, 2)),
            ("floor_first_half_kb", slope(floor, 0, 1)),
            ("floor_second_half_kb", slope(floor, 1, 2)),
        ]),
    }
}

fn storm(ours: &mut Outcome, floor: &mut Outcome) -> Comparison {
    let (value, least) = (
        ours.storm.all_back.as_secs_f64(),
        floor.storm.all_back.as_secs_f64(),
    );
    let storm = &mut ours.storm;
    Comparison {
        name: "reconnect-storm",
        floor: Measured {
            what: "the same with a tonic server that decides nothing".to_owned(),
            value: least,
            unit: "s",
        },
        ours: Measured {
            what: "from the authority's restart after a kill until everybody holds a lease again".to_owned(),
            value,
            unit: "s",
        },
        ratio: value / least,
        target: "nobody refused by mistake",
        met: Some(storm.refused == 0 && storm.mistakes == 0),
        details: BTreeMap::from([
            ("away_ms", nanos(storm.away) / 1e6),
            ("back_p50_ms", millis(&mut storm.back, 500)),
            ("back_p99_ms", millis(&mut storm.back, 990)),
            ("leases_that_ended_before", float(storm.lapsed)),
            ("longest_without_lease_ms", nanos(storm.longest_lapse) / 1e6),
            ("streams_refused", float(storm.refused)),
            ("attempts_unanswered", float(storm.unanswered)),
            ("good_tokens_refused", float(storm.mistakes)),
            ("peak_resident_mib", storm.peak.mebibytes()),
            ("floor_back_p50_ms", millis(&mut floor.storm.back, 500)),
            ("floor_peak_resident_mib", floor.storm.peak.mebibytes()),
        ]),
    }
}
