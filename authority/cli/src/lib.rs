//! The command line `countersign`: tokens, clients, keys and revocations from a terminal, and a whole development
//! environment in one command.
//!
//! Data goes to stdout, as text for people or as JSON for programs; everything else goes to stderr. A failure says what to
//! do next and has an exit code that scripts can tell apart ([`failure::Exit`]).

pub mod args;
mod commands;
mod connection;
pub mod demo;
mod dev;
pub mod environment;
pub mod failure;
mod files;
mod output;
pub mod pki;
mod present;
mod probe;
mod progress;
mod settings;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;
use countersign_runtime::ErrorChain;
use countersign_runtime::telemetry::{self, LogFormat, TelemetryConfig};
use tracing::Instrument as _;

use args::{Cli, Command, Talk};
use failure::{Exit, Failure};
use output::{ColourChoice, Output};

/// Reads this process's command line, does what it says, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => misread(&error),
    }
}

/// Tells what is wrong with the command line, or gives the help that was asked for.
fn misread(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    // What was not understood as a whole may still say who reads.
    let json = std::env::args_os()
        .skip(1)
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    let output = Output::new(json, ColourChoice::Auto);
    if !error.use_stderr() {
        return told(output.raw(text.trim_end()).map(|()| ExitCode::SUCCESS), output);
    }
    if json {
        let message = text.split("\n\nUsage:").next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message).trim_end();
        output.failure(&Failure::usage(message).next("see `countersign --help`"));
    } else {
        output.note(text.trim_end());
    }
    Exit::Usage.into()
}

/// Does what the command line says, and tells how it went.
fn run(cli: Cli) -> ExitCode {
    let output = Output::new(cli.json, cli.color);
    let done = match cli.command {
        // It becomes another program, with a runtime and telemetry of its own.
        Command::Run(args) => commands::run::run(args),
        Command::Talk(command) => talk(*command, output).map(|()| ExitCode::SUCCESS),
    };
    told(done, output)
}

fn told(done: Result<ExitCode, Failure>, output: Output) -> ExitCode {
    done.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit.into()
    })
}

/// The commands of this program itself, each as one span.
fn talk(command: Talk, output: Output) -> Result<(), Failure> {
    let quiet = TelemetryConfig {
        log_format: LogFormat::Pretty,
        log_filter: "off".to_owned(),
        otlp_endpoint: None,
    };
    // Whoever has misconfigured the collector can work all the same.
    let _telemetry = telemetry::init("countersign", env!("CARGO_PKG_VERSION"), &quiet)
        .inspect_err(|error| output.warn(&format!("no traces are sent: {}", ErrorChain(error))));
    let runtime = countersign_runtime::build(1);
    let runtime = runtime.map_err(|error| Failure::because("cannot start", &error))?;
    let name = command.name();
    let span = tracing::info_span!("countersign", otel.name = name, otel.kind = "client");
    let done = runtime.block_on(Box::pin(dispatch(command, output)).instrument(span));
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Talk, output: Output) -> Result<(), Failure> {
    match command {
        Talk::Dev(args) => dev::run(args, output).await,
        Talk::Token(command) => commands::token::run(command, output).await,
        Talk::Agent(command) => commands::agent::run(command, output).await,
        Talk::Client(command) => commands::client::run(command, output).await,
        Talk::Key(command) => commands::key::run(command, output).await,
        Talk::Revoke(command) => commands::revoke::run(command, output).await,
        Talk::Fleet(args) => commands::fleet::run(args, output).await,
        Talk::Trust(command) => commands::trust::run(command, output).await,
        Talk::Observed(args) => commands::observed::run(args, output).await,
        Talk::Status(args) => commands::status::run(args, output).await,
        Talk::Completions(args) => commands::completions::run(&args, output),
    }
}
