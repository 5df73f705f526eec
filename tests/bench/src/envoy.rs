//! Calls through the shipped sidecar against calls through the real Envoy, in one run.
//!
//! Every proxy is a process that has one core for itself and alone; callers, the service behind and the authority share the
//! other one. The proxies take turns in short rounds, so that whatever the machine does meanwhile hits all of them. All are
//! called by the same caller, over HTTP/2 without TLS: by h2load with one token, and by a caller of our own with many. What tells most is the processor time
//! that a proxy uses for a call, because the caller's core may be full before the proxy's is.
//!
//! h2load takes refused gRPC calls for good ones, whose HTTP status is 200. So the service counts what gets to it.

mod aims;
mod cold;
mod configuration;
mod h2load;
mod peers;
mod questions;
mod results;
mod streaming;
mod tables;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use self::cold::Cold;
use self::h2load::{Asked, H2load};
use self::peers::Stage;
use self::questions::Questions;
pub(crate) use self::questions::serve_nothing as serve_no_check;
use self::results::{Results, State};
use self::streaming::Streaming;
use crate::load::{self, Load, Outcome, PATH, Tokens, framed};
use crate::measure::Scale;
use crate::program::Scheduled;
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
    /// The sidecar. Left out: the one that was built with this program.
    #[arg(long)]
    sidecar: Option<PathBuf>,
    /// Another build of the sidecar, of which only the size is told.
    #[arg(long)]
    weigh: Vec<PathBuf>,
    /// More lines for the sidecar's configuration.
    #[arg(long)]
    more: Option<PathBuf>,
    /// Where the tables go, as Markdown.
    #[arg(long)]
    tables: Option<PathBuf>,
    /// Messages of a stream.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u32,
    /// Rounds of each proxy under each load.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

impl Options {
    /// The sidecar that is measured.
    fn sidecar(&self) -> Result<PathBuf, Failure> {
        let program = match &self.sidecar {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("countersign-sidecar"),
        };
        if program.exists() {
            Ok(program)
        } else {
            Err("build countersign-sidecar in the same profile, too, or name one".into())
        }
    }
}

/// Who calls, and with how many tokens.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// h2load, which cannot change its headers.
    H2load,
    /// Ours, with one token.
    OwnWithOne,
    /// Ours, with one of `TOKENS` tokens in each call.
    OwnWithMany,
}

/// How calls come. So many that a round takes one or two seconds.
const LOADS: [(Caller, Load); 6] = [
    (
        Caller::H2load,
        Load {
            name: FULL_LOAD,
            ..FULL
        },
    ),
    (
        Caller::H2load,
        Load {
            name: "1 x 1, 100 B",
            connections: 1,
            streams: 1,
            calls: 8_000,
            ..FULL
        },
    ),
    (
        Caller::H2load,
        Load {
            name: "64 x 1, 100 B",
            connections: 64,
            streams: 1,
            ..FULL
        },
    ),
    (
        Caller::H2load,
        Load {
            name: "4 x 16, 10 KB",
            message: 10_000,
            calls: 20_000,
            ..FULL
        },
    ),
    (
        Caller::OwnWithOne,
        Load {
            name: OTHER_CALLER,
            ..FULL
        },
    ),
    (
        Caller::OwnWithMany,
        Load {
            name: "4 x 16, 100 B, the other caller, 10,000 tokens",
            ..FULL
        },
    ),
];

/// What most of them have.
const FULL: Load = Load {
    name: FULL_LOAD,
    connections: 4,
    streams: 16,
    message: 100,
    calls: 40_000,
};
const FULL_LOAD: &str = "4 connections x 16 calls, 100 B";
const OTHER_CALLER: &str = "4 x 16, 100 B, the other caller, one token";

/// Tokens where there are many.
const TOKENS: u32 = 10_000;

/// Until a process has nothing left to do from its start.
const SETTLING: Duration = Duration::from_secs(5);

/// What every part of the run needs.
struct Run<'a> {
    stage: Stage,
    runtime: Runtime,
    h2load: H2load<'a>,
    scale: Scale,
}

/// All of it.
pub(crate) fn envoy(options: &Options, scale: Scale) -> Result<Results, Failure> {
    cores::leave_one_free()?;
    let before = State::now()?;
    let runtime = countersign_runtime::build(1)?;
    let mut stage = runtime.block_on(Stage::start(options, scale.of(TOKENS)))?;
    runtime.block_on(async { sleep(scale.lasting(SETTLING)).await });
    for peer in &mut stage.peers {
        peer.has_settled()?;
    }
    let folder = stage.installation.path("h2load");
    std::fs::create_dir(&folder)?;
    let mut run = Run {
        h2load: H2load {
            program: &options.h2load,
            folder: &folder,
        },
        stage,
        runtime,
        scale,
    };
    run.show_all_tokens()?;
    let mut questions = Questions::start(&run)?;
    let mut cold = Cold::of(&run)?;
    for _ in 0..options.rounds {
        for (caller, load) in LOADS {
            run.round(caller, scaled(load, scale))?;
        }
        questions.round(&run)?;
        cold.round(&run)?;
        // So that none is always the first.
        run.stage.peers.rotate_left(1);
    }
    let mut streaming = Streaming::default();
    for _ in 0..options.rounds {
        streaming.round(&mut run, scale.of(options.messages))?;
    }
    let results = Results::of(options, &run.stage, (&questions, &cold, &streaming), before)?;
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

impl Run<'_> {
    /// Each of the many tokens once to each of them, so that who keeps tokens has seen them.
    fn show_all_tokens(&self) -> Result<(), Failure> {
        let load = Load {
            calls: u32::try_from(self.stage.tokens.len())?,
            ..FULL
        };
        for peer in &self.stage.peers {
            let tokens = Tokens::InTurn(&self.stage.tokens);
            self.runtime
                .block_on(load::call_with(load, peer.address, tokens))?;
        }
        Ok(())
    }

    /// One load on each of them, and on none.
    fn round(&mut self, caller: Caller, load: Load) -> Result<(), Failure> {
        let direct = self.call(caller, load, self.stage.service.address)?;
        let rounds = self.stage.direct.entry(load.name).or_default();
        rounds.push(direct, Scheduled::default());
        for index in 0..self.stage.peers.len() {
            self.round_of(index, caller, load)?;
        }
        Ok(())
    }

    fn round_of(&mut self, index: usize, caller: Caller, load: Load) -> Result<(), Failure> {
        let peer = self.stage.peers.get(index).ok_or("there is no such proxy")?;
        let (name, address) = (peer.name, peer.address);
        let (used, answered) = (peer.scheduled()?, self.stage.service.calls()?);
        let outcome = self.call(caller, load, address)?;
        let answered = self.stage.service.calls()? - answered;
        if answered != u64::from(load.calls) {
            return Err(format!("{name} let {answered} of {} calls pass", load.calls).into());
        }
        let peer = self.stage.peers.get_mut(index).ok_or("there is no such proxy")?;
        let used = peer.scheduled()?.since(used);
        peer.was_under_load()?;
        peer.rounds.entry(load.name).or_default().push(outcome, used);
        Ok(())
    }

    fn call(&self, caller: Caller, load: Load, address: SocketAddr) -> Result<Outcome, Failure> {
        let tokens = match caller {
            Caller::H2load => {
                let asked = Asked {
                    address,
                    path: PATH,
                    token: Some(&self.stage.token),
                    body: &framed(load.message)?,
                };
                return self.h2load.call(load, asked);
            }
            Caller::OwnWithOne => std::slice::from_ref(&self.stage.token),
            Caller::OwnWithMany => &self.stage.tokens,
        };
        self.runtime
            .block_on(load::call_with(load, address, Tokens::Drawn(tokens)))
    }
}
