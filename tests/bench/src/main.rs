//! How fast Countersign is, as ratios to floors measured in the same run, as JSON.
//!
//! ```text
//! cargo run --release -p countersign-bench -- all
//! ```
//!
//! A floor is the least that the job can cost on this machine with these libraries: the bare signature check, the empty
//! rpc, the proxy that decides nothing. Ours and the floor take turns in short rounds, so that a busy machine slows both.
//! Absolute numbers are for reading; ratios are for comparing.

mod apply_update;
mod authority;
mod child;
mod cold_start;
mod cores;
mod envoy;
mod fixture;
mod hostile_claims;
mod installation;
mod issue;
mod load;
mod measure;
mod million;
mod million_revocations;
mod plain_http2;
mod program;
mod propagation;
mod proxy;
mod report;
mod rotation;
mod sidecar;
mod stream_tokens;
mod verify_cold;
mod verify_repeat;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clap::{Parser, Subcommand};
use countersign_runtime::ErrorChain;

use crate::measure::Scale;
use crate::report::{Comparison, Report};

/// Whatever stops a measurement.
type Failure = Box<dyn Error + Send + Sync>;

/// Measures Countersign against floors and prints JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// Shorter rounds: for trying the bench itself, not for its numbers.
    #[arg(long, global = true)]
    quick: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Verification of tokens that are all new, against the raw signature check.
    VerifyCold,
    /// Verification of tokens that come again, against the least that a memory of them costs.
    VerifyRepeat,
    /// Tokens per CPU-second, against the same rpc without a decision and one raw signature.
    Issue,
    /// Calls through the sidecar, against a proxy that decides nothing.
    Proxy,
    /// A newer token for an open stream, against opening the stream anew.
    StreamTokens,
    /// Verification while a million revocations come into force, against the same while nothing does.
    ApplyUpdate,
    /// The verdict about tokens that are made to take long, against the one about a good token.
    HostileClaims,
    /// Revocations until every verifier refuses, what a verifier costs in memory, and how all come back after a crash: against a
    /// server of the same rpc that decides nothing.
    Propagation(propagation::Options),
    /// A million single tokens revoked: bytes on the wire, memory in a sidecar, and that no other token is refused.
    MillionRevocations,
    /// Starts of a sidecar and of an authority with a million revocations on disk.
    ColdStart,
    /// A million verifications over a hundred rotations, while processes are stopped and killed. Takes minutes.
    Rotation,
    /// Calls through the shipped sidecar, against the real Envoy. Prints a JSON of its own; `tests/bench/envoy.sh` starts it.
    Envoy(envoy::Options),
    /// Everything that needs nothing but this program.
    All,
    /// One server under load; started by the others.
    #[command(hide = true, subcommand)]
    Serve(Role),
}

#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// A service that does nothing.
    Upstream,
    /// A proxy that decides nothing.
    BareProxy {
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Who allows everything that Envoy asks.
    NoCheck,
    /// The sidecar.
    Sidecar {
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// The authority.
    Authority(authority::Place),
    /// The authority's stream to verifiers, and nothing decided.
    BareSync(authority::Place),
    /// The program that is shipped.
    ShippedAuthority {
        #[arg(long)]
        config: PathBuf,
    },
    /// The program that is shipped.
    ShippedSidecar {
        #[arg(long)]
        config: PathBuf,
    },
    /// Reads what is in a folder.
    Reader {
        #[arg(long)]
        folder: PathBuf,
    },
    /// The authority's rpc, answered with the same token every time.
    SameToken {
        #[arg(long)]
        folder: PathBuf,
    },
}

fn serve(role: &Role) -> Result<(), Failure> {
    let runtime = countersign_runtime::build(1)?;
    let (listener, address) = runtime.block_on(plain_http2::listen())?;
    match role {
        Role::Upstream => {
            let calls = Arc::new(AtomicU64::default());
            let counted = Arc::clone(&calls);
            std::thread::spawn(move || runtime.block_on(plain_http2::serve_nothing(listener, counted)));
            return child::report_counting(address, None, &calls);
        }
        Role::BareProxy { upstream } => {
            let upstream = *upstream;
            std::thread::spawn(move || runtime.block_on(plain_http2::serve_proxy(listener, upstream)));
        }
        Role::NoCheck => {
            std::thread::spawn(move || runtime.block_on(envoy::serve_no_check(listener)));
        }
        Role::Sidecar { upstream } => return sidecar::serve(*upstream),
        Role::Authority(place) => return authority::serve(place),
        Role::BareSync(place) => return propagation::serve_bare(place),
        Role::ShippedAuthority { config } => return installation::run_authority(config),
        Role::ShippedSidecar { config } => return installation::run_sidecar(config),
        Role::Reader { folder } => return cold_start::read_all(folder),
        Role::SameToken { folder } => return authority::serve_same(folder),
    }
    child::report(address, None)
}

fn measure(what: &What, scale: Scale) -> Result<Vec<Comparison>, Failure> {
    match what {
        What::VerifyCold => Ok(vec![verify_cold::cold(scale)?]),
        What::VerifyRepeat => Ok(vec![verify_repeat::repeat(scale)?]),
        What::Issue => Ok(vec![issue::issue(scale)?]),
        What::Proxy => proxy::proxy(scale),
        What::StreamTokens => Ok(vec![stream_tokens::stream_tokens(scale)?]),
        What::ApplyUpdate => Ok(vec![apply_update::apply_update(scale)?]),
        What::HostileClaims => Ok(vec![hostile_claims::hostile_claims(scale)?]),
        What::Propagation(options) => propagation::propagation(options),
        What::MillionRevocations => million_revocations::million_revocations(scale),
        What::ColdStart => cold_start::cold_start(scale),
        What::Rotation => Ok(vec![rotation::rotation(scale)?]),
        What::All => {
            let mut all = Vec::new();
            for what in [
                What::VerifyCold,
                What::VerifyRepeat,
                What::Issue,
                What::Proxy,
                What::StreamTokens,
                What::ApplyUpdate,
                What::HostileClaims,
                What::MillionRevocations,
                What::ColdStart,
                What::Rotation,
                What::Propagation(propagation::Options::default()),
            ] {
                all.extend(measure(&what, scale)?);
            }
            Ok(all)
        }
        What::Envoy(_) | What::Serve(_) => Ok(Vec::new()),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let What::Serve(role) = &arguments.what {
        return serve(role);
    }
    let scale = Scale {
        quick: arguments.quick,
    };
    let text = if let What::Envoy(options) = &arguments.what {
        serde_json::to_string_pretty(&envoy::envoy(options, scale)?)?
    } else {
        serde_json::to_string_pretty(&Report::new(measure(&arguments.what, scale)?))?
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let failure = ErrorChain(failure.as_ref());
            // Nowhere else to say it.
            let _unwritable = writeln!(std::io::stderr(), "bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
