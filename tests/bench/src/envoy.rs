//! Calls through the shipped sidecar against calls through the real Envoy, in one run.
//!
//! Every proxy is a process that has one core for itself and alone; callers, the service behind and the authority share the
//! other one. The proxies take turns in short rounds, so that whatever the machine does meanwhile hits all of them. All are
//! called by the same caller (h2load) with the same token, over HTTP/2 without TLS. What tells most is the processor time
//! that a proxy uses for a call, because the caller's core may be full before the proxy's is.
//!
//! h2load takes refused gRPC calls for good ones, whose HTTP status is 200. So the service counts what gets to it.

mod configuration;
mod h2load;
mod peers;
mod results;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use self::h2load::{H2load, Load};
use self::peers::Stage;
use self::results::{Results, State};
use crate::measure::Scale;
use crate::program::{Scheduled, forget_most_resident, resident, scheduled};
use crate::{Failure, cores};

/// Which programs are used.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Envoy.
    #[arg(long)]
    envoy: PathBuf,
    /// nghttp2's h2load.
    #[arg(long)]
    h2load: PathBuf,
    /// More lines for the sidecar's configuration.
    #[arg(long)]
    more: Option<PathBuf>,
    /// Where the tables go, as Markdown.
    #[arg(long)]
    tables: Option<PathBuf>,
    /// Rounds of each proxy under each load.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// How calls come. So many that a round takes one or two seconds.
const LOADS: [Load; 4] = [
    Load {
        name: "4 connections x 16 calls, 100 B",
        connections: 4,
        streams: 16,
        message: 100,
        calls: 40_000,
    },
    Load {
        name: "1 x 1, 100 B",
        connections: 1,
        streams: 1,
        message: 100,
        calls: 8_000,
    },
    Load {
        name: "64 x 1, 100 B",
        connections: 64,
        streams: 1,
        message: 100,
        calls: 40_000,
    },
    Load {
        name: "4 x 16, 10 KB",
        connections: 4,
        streams: 16,
        message: 10_000,
        calls: 20_000,
    },
];

/// Until a process has nothing left to do from its start.
const SETTLING: Duration = Duration::from_secs(5);

/// All of it.
pub(crate) fn envoy(options: &Options, scale: Scale) -> Result<Results, Failure> {
    cores::leave_one_free()?;
    let before = State::now()?;
    let runtime = countersign_runtime::build(1)?;
    let mut stage = runtime.block_on(Stage::start(options))?;
    runtime.block_on(async { sleep(scale.lasting(SETTLING)).await });
    for peer in &mut stage.peers {
        peer.idle = resident(peer.id())?.all;
        forget_most_resident(peer.id())?;
    }
    let folder = stage.installation.path("h2load");
    std::fs::create_dir(&folder)?;
    let caller = H2load {
        program: &options.h2load,
        folder: &folder,
    };
    for _ in 0..options.rounds {
        for load in LOADS {
            round(&mut stage, &caller, scaled(load, scale))?;
        }
        // So that none is always the first.
        stage.peers.rotate_left(1);
    }
    let results = Results::of(&stage, before, State::now()?)?;
    if let Some(path) = &options.tables {
        std::fs::write(path, results.tables())?;
    }
    Ok(results)
}

fn scaled(load: Load, scale: Scale) -> Load {
    Load {
        calls: scale.of(load.calls),
        ..load
    }
}

/// One load on each of them, and on none.
fn round(stage: &mut Stage, caller: &H2load<'_>, load: Load) -> Result<(), Failure> {
    let direct = caller.call(load, stage.service.address, &stage.token)?;
    stage
        .direct
        .entry(load.name)
        .or_default()
        .push(direct, Scheduled::default());
    for peer in &mut stage.peers {
        let (used, answered) = (scheduled(peer.id())?, stage.service.calls()?);
        let outcome = caller.call(load, peer.address, &stage.token)?;
        let used = scheduled(peer.id())?.since(used);
        let answered = stage.service.calls()? - answered;
        if answered != u64::from(load.calls) {
            return Err(format!("{} let {answered} of {} calls pass", peer.name, load.calls).into());
        }
        peer.rounds.entry(load.name).or_default().push(outcome, used);
    }
    Ok(())
}
