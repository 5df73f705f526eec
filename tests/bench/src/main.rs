//! How fast Countersign is, as ratios to floors measured in the same run, as JSON.
//!
//! ```text
//! cargo run --release -p countersign-bench -- all
//! ```
//!
//! A floor is the least that the job can cost on this machine with these libraries: the bare signature check, the empty
//! rpc, the proxy that decides nothing. Ours and the floor take turns in short rounds, so that a busy machine slows both.
//! Absolute numbers are for reading; ratios are for comparing.

mod fixture;
mod measure;
mod report;
mod verify_cold;
mod verify_repeat;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// Verification of tokens that are all new, against the raw signature check.
    VerifyCold,
    /// Verification of tokens that come again, against the least that a memory of them costs.
    VerifyRepeat,
    /// Everything.
    All,
}

fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let scale = measure::Scale {
        quick: arguments.quick,
    };
    let comparisons: Vec<Comparison> = match arguments.what {
        What::VerifyCold => vec![verify_cold::cold(scale)?],
        What::VerifyRepeat => vec![verify_repeat::repeat(scale)?],
        What::All => vec![verify_cold::cold(scale)?, verify_repeat::repeat(scale)?],
    };
    Ok(Report::new(comparisons))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let written = run(&arguments).and_then(|report| {
        let text = serde_json::to_string_pretty(&report)?;
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nowhere else to say it.
            let _unwritable = writeln!(std::io::stderr(), "bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
