//! Calls through the sidecar, against a proxy that decides nothing and against no proxy at all.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::Failure;
use crate::child::Child;
use crate::load::Target;
use crate::measure::{Samples, Scale, micros, rate};
use crate::report::{Comparison, Measured};

/// What one server did under load.
#[derive(Debug)]
struct Side {
    target: Target,
    server: Child,
    calls: u32,
    lasted: Duration,
    used: Duration,
    latency: Samples,
}

impl Side {
    fn new(server: Child, token: &str) -> Self {
        let target = Target {
            address: server.address,
            token: token.to_owned(),
        };
        Self {
            target,
            server,
            calls: 0,
            lasted: Duration::ZERO,
            used: Duration::ZERO,
            latency: Samples::default(),
        }
    }

    fn round(&mut self, runtime: &Runtime, scale: Scale) -> Result<(), Failure> {
        let lasting = scale.lasting(Duration::from_secs(2));
        let before = self.server.cpu()?;
        self.calls += runtime.block_on(self.target.many(lasting))?;
        self.used += self.server.cpu()?.saturating_sub(before);
        self.lasted += lasting;
        self.latency
            .extend(runtime.block_on(self.target.one_by_one(scale.of(2_000)))?);
        Ok(())
    }

    fn per_second(&self) -> f64 {
        rate(self.calls, self.lasted)
    }

    fn per_cpu_second(&self) -> f64 {
        rate(self.calls, self.used)
    }
}

/// Throughput and latency, in rounds that take turns.
pub(crate) fn proxy(scale: Scale) -> Result<Vec<Comparison>, Failure> {
    let upstream = Child::start("upstream", &[], None)?;
    let behind = ["--upstream".to_owned(), upstream.address.to_string()];
    let sidecar = Child::start("sidecar", &behind, None)?;
    let token = sidecar.token.clone().ok_or("the sidecar gives no token")?;
    let mut ours = Side::new(sidecar, &token);
    let mut bare = Side::new(Child::start("bare-proxy", &behind, None)?, &token);
    let mut direct = Side::new(upstream, &token);
    let runtime = countersign_runtime::build(1)?;
    for _ in 0..5 {
        for side in [&mut direct, &mut bare, &mut ours] {
            side.round(&runtime, scale)?;
        }
    }
    Ok(vec![
        throughput(&direct, &bare, &ours),
        latency(&mut direct, &mut bare, &mut ours),
    ])
}

fn throughput(direct: &Side, bare: &Side, ours: &Side) -> Comparison {
    Comparison {
        name: "proxy-throughput",
        floor: Measured {
            what: "unary calls per CPU-second of a hyper proxy that decides nothing".to_owned(),
            value: bare.per_cpu_second(),
            unit: "calls/CPU-s",
        },
        ours: Measured {
            what: "unary calls per CPU-second of the sidecar, the same token repeated".to_owned(),
            value: ours.per_cpu_second(),
            unit: "calls/CPU-s",
        },
        ratio: ours.per_cpu_second() / bare.per_cpu_second(),
        target: "none yet",
        met: None,
        details: BTreeMap::from([
            ("direct_calls_per_s", direct.per_second()),
            ("bare_calls_per_s", bare.per_second()),
            ("ours_calls_per_s", ours.per_second()),
            ("wall_ratio", ours.per_second() / bare.per_second()),
            ("bare_cpu_us_per_call", 1e6 / bare.per_cpu_second()),
            ("ours_cpu_us_per_call", 1e6 / ours.per_cpu_second()),
        ]),
    }
}

fn latency(direct: &mut Side, bare: &mut Side, ours: &mut Side) -> Comparison {
    let nothing = direct.latency.percentile(500);
    let [bare_p50, our_p50] = [&mut *bare, &mut *ours].map(|side| side.latency.percentile(500));
    let (floor, added) = (bare_p50.saturating_sub(nothing), our_p50.saturating_sub(nothing));
    Comparison {
        name: "proxy-latency",
        floor: Measured {
            what: "p50 that a hyper proxy which decides nothing adds to a call".to_owned(),
            value: micros(floor),
            unit: "us",
        },
        ours: Measured {
            what: "p50 that the sidecar adds to a call".to_owned(),
            value: micros(added),
            unit: "us",
        },
        ratio: floor.as_secs_f64() / added.as_secs_f64(),
        target: "none yet",
        met: None,
        details: BTreeMap::from([
            ("direct_p50_us", micros(nothing)),
            ("bare_p50_us", micros(bare_p50)),
            ("ours_p50_us", micros(our_p50)),
            ("bare_p99_us", micros(bare.latency.percentile(990))),
            ("ours_p99_us", micros(ours.latency.percentile(990))),
        ]),
    }
}
