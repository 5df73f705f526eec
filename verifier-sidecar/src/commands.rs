//! The command line of the sidecar: for its own binary, and for others that run it in their process.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use countersign_core::ports::Clock;
use countersign_runtime::{ErrorChain, Shutdown, SystemClock, Workers, exit, panics, telemetry};

use crate::app::{self, App, StartError};
use crate::config::Config;

/// Verifies the tokens of the calls to one service.
#[derive(Debug, Parser)]
#[command(name = "countersign-sidecar", version, about)]
struct Args {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration, and the files that it names.
    #[arg(long)]
    check: bool,
}

/// Runs the sidecar as its command line `args` say, the program's name first.
///
/// Exits with 64 for a wrong command line, or a configuration that is wrong or names files that cannot be used; with 1
/// for a start that failed otherwise.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(usage) => return explain(&usage),
    };
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(complaints) => {
            tell(&complaints);
            return exit::code(exit::CONFIG);
        }
    };
    let unusable = match check(&config) {
        Ok(unusable) => unusable,
        Err(error) => return fail(&error),
    };
    if !unusable.is_empty() {
        for error in &unusable {
            tell(&ErrorChain(error));
        }
        return exit::code(exit::CONFIG);
    }
    if args.check {
        let _unread = writeln!(
            std::io::stdout().lock(),
            "the configuration is good\n{}",
            config.implied()
        );
        return exit::code(exit::SUCCESS);
    }
    match serve(config) {
        Ok(()) => exit::code(exit::SUCCESS),
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    tell(&ErrorChain(error));
    exit::code(exit::FAILURE)
}

/// Help and version are no errors.
fn explain(usage: &clap::Error) -> ExitCode {
    // Where nobody reads, there is nobody to tell.
    let _unread = usage.print();
    exit::code(if usage.use_stderr() {
        exit::CONFIG
    } else {
        exit::SUCCESS
    })
}

fn tell(text: &dyn Display) {
    let _unread = writeln!(std::io::stderr().lock(), "{text}");
}

fn check(config: &Config) -> std::io::Result<Vec<StartError>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // A connection can be prepared only where there is a runtime, although none is made.
    let runtime = countersign_runtime::build(1)?;
    Ok(runtime.block_on(async { app::check(config, &clock) }))
}

type Failure = Box<dyn std::error::Error>;

fn serve(config: Config) -> Result<(), Failure> {
    let guard = telemetry::init(
        "countersign-sidecar",
        env!("CARGO_PKG_VERSION"),
        &config.telemetry,
    )?;
    panics::install();
    for sentence in config.implied().to_string().lines() {
        tracing::info!("{sentence}");
    }
    let calls = Workers::start("countersign-calls", config.workers)?;
    let control = countersign_runtime::build(1)?;
    let runtimes = calls.runtimes();
    let outcome = control.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let building = Box::pin(App::build(config, Arc::new(SystemClock), &runtimes));
        // A start may wait for a predecessor or for the disk, and nobody has to wait with it.
        if let Some(app) = shutdown.token().run_until_cancelled(building).await {
            app?.run_until(shutdown).await;
        }
        Ok::<_, Failure>(())
    });
    control.shutdown_background();
    let stopped = calls.stop();
    drop(guard);
    outcome?;
    Ok(stopped?)
}
