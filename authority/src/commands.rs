//! What the program can be told to do. The same for `countersign-authority` and for the development environment, which
//! starts itself in this role.

mod report;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use countersign_core::Timestamp;
use countersign_core::ports::Clock;
use countersign_core::trust::Epoch;
use countersign_runtime::config::Complaints;
use countersign_runtime::{ErrorChain, Shutdown, SystemClock, exit, panics, telemetry};

use crate::app::{self, App};
use crate::config::Config;

/// The authority: issues tokens, rotates keys, revokes, and publishes all of it to the verifiers.
#[derive(Debug, Parser)]
#[command(name = "countersign-authority", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or SIGINT.
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Believes the clock, and not the time in the store, if that is TIME: a clock that was ahead left it there, and
        /// nothing is signed until it has come. Withdraws every key and with them every token.
        #[arg(long, value_name = "TIME")]
        accept_clock: Option<u64>,
    },
    /// Says everything that is wrong with a configuration, and with the files that it names.
    CheckConfig {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints the keys that verifiers pin, as a JWK Set. Makes the store if it is not there. Not while the authority serves.
    PublishingKeys {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Lets an authority go on whose store was restored from a backup or copied, once verifiers have shown it a later state.
    /// Withdraws every key and with them every token. Not while the authority serves.
    Recover {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Goes on above EPOCH, also if no verifier has shown a later state.
        #[arg(long, value_name = "EPOCH")]
        above: Option<Epoch>,
    },
}

/// Why the program ends without having done what it was told.
enum Failed {
    /// The configuration is wrong.
    Configuration(Complaints),
    /// It could not be done.
    Work(Box<dyn std::error::Error>),
}

impl<E: std::error::Error + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Work(Box::new(error))
    }
}

/// Does what `args` say; the first of them is the program's name.
pub fn run<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(usage) => {
            let wrong = usage.use_stderr();
            // Nothing is left to be done when nobody reads it.
            let _printed = usage.print();
            return exit::code(if wrong { exit::CONFIG } else { exit::SUCCESS });
        }
    };
    let result = match &args.command {
        Command::Serve { config, accept_clock } => serve(config, accept_clock.map(Timestamp::from_seconds)),
        Command::CheckConfig { config } => check(config),
        Command::PublishingKeys { config } => publishing_keys(config),
        Command::Recover { config, above } => recover(config, *above),
    };
    match result {
        Ok(()) => exit::code(exit::SUCCESS),
        Err(Failed::Configuration(complaints)) => {
            say(&complaints);
            exit::code(exit::CONFIG)
        }
        Err(Failed::Work(error)) => {
            say(&ErrorChain(error.as_ref()));
            exit::code(exit::FAILURE)
        }
    }
}

fn load(path: &Path) -> Result<Config, Failed> {
    let config = Config::load(path).map_err(Failed::Configuration)?;
    config.check_files(path).map_err(Failed::Configuration)?;
    Ok(config)
}

fn check(path: &Path) -> Result<(), Failed> {
    let config = load(path)?;
    writeln!(
        io::stdout(),
        "{}: nothing is wrong\n{}",
        path.display(),
        config.implied()
    )?;
    Ok(())
}

fn publishing_keys(path: &Path) -> Result<(), Failed> {
    let config = load(path)?;
    let runtime = countersign_runtime::build(1)?;
    let keys = runtime.block_on(app::publishing_keys(&config, Arc::new(SystemClock)))?;
    writeln!(io::stdout(), "{keys}")?;
    Ok(())
}

fn recover(path: &Path, above: Option<Epoch>) -> Result<(), Failed> {
    let config = load(path)?;
    // The audit event.
    let _telemetry = telemetry::init(
        "countersign-authority",
        env!("CARGO_PKG_VERSION"),
        &config.telemetry,
    )?;
    let runtime = countersign_runtime::build(1)?;
    let recovered = runtime.block_on(app::recover(&config, Arc::new(SystemClock), above))?;
    write!(io::stdout(), "{}", report::Report(&recovered))?;
    Ok(())
}

fn serve(path: &Path, accepted_time: Option<Timestamp>) -> Result<(), Failed> {
    let config = Config {
        accepted_time,
        ..load(path)?
    };
    let _telemetry = telemetry::init(
        "countersign-authority",
        env!("CARGO_PKG_VERSION"),
        &config.telemetry,
    )?;
    panics::install();
    for sentence in config.implied().to_string().lines() {
        tracing::info!("{sentence}");
    }
    let runtime = countersign_runtime::build(config.workers)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let served = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let app = App::build(config, clock).await?;
        tracing::info!(
            grpc = %app.grpc_address(),
            admin = %app.admin_address(),
            epoch = app.ledger().books().trust.epoch(),
            "serving"
        );
        Box::pin(app.run_until(shutdown)).await?;
        tracing::info!("stopped");
        Ok(())
    });
    // What blocks in a system call, such as a read of a disk that hangs, is not waited for.
    runtime.shutdown_timeout(LAST_WAIT);
    served
}

/// How long threads that block are waited for when everything else has come to its end.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn say(text: &dyn std::fmt::Display) {
    // Without a stderr there is nobody to tell, and the exit code still tells.
    let _written = writeln!(io::stderr(), "{text}");
}
