//! `countersign run`: one part of an environment, in this process. What `countersign dev` starts, so that one binary is all
//! that has to be built; also the way to start a part again by hand.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_runtime::telemetry::{self, TelemetryConfig};
use countersign_runtime::{Shutdown, panics};
use rustix::process::{Signal, getpid, kill_process};

use crate::demo;
use crate::failure::Failure;

/// Which part.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Stop when stdin ends, which it does when the process that started this one is gone, however it ended
    #[arg(long)]
    with_parent: bool,

    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The same as `countersign-authority`
    #[command(disable_help_flag = true)]
    Authority(Passed),
    /// The same as `countersign-sidecar`
    #[command(disable_help_flag = true)]
    Sidecar(Passed),
    /// The demo service
    Demo(DemoArgs),
}

/// What the part itself makes of the rest of the command line.
#[derive(Debug, Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

impl Passed {
    /// A command line: the program's name and the rest.
    fn after(self, name: &str) -> impl Iterator<Item = OsString> {
        std::iter::once(OsString::from(name)).chain(self.arguments)
    }
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Where to listen: loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// How long a part may take to stop once its parent is gone.
const GRACE: Duration = Duration::from_secs(15);

/// How long the demo service waits for open calls.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the part until it ends.
///
/// # Errors
/// [`Failure`], for the demo service. The others have told already what is wrong, and answer with their exit code.
pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    if args.with_parent {
        follow_parent()?;
    }
    match args.role {
        Role::Authority(passed) => Ok(countersign_authority::commands::run(
            passed.after("countersign-authority"),
        )),
        Role::Sidecar(passed) => Ok(countersign_sidecar::commands::run(
            passed.after("countersign-sidecar"),
        )),
        Role::Demo(args) => run_demo(&args).map(|()| ExitCode::SUCCESS),
    }
}

/// Asks this process to stop when stdin ends, and makes it stop when it does not.
fn follow_parent() -> Result<(), Failure> {
    let watch = || {
        wait_for_end(std::io::stdin().lock());
        // Neither can fail for one's own process.
        let _asked = kill_process(getpid(), Signal::TERM);
        std::thread::sleep(GRACE);
        let _ended = kill_process(getpid(), Signal::KILL);
    };
    std::thread::Builder::new()
        .name("parent".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| Failure::because("cannot watch the parent", &error))
}

/// Waits until `parent` ends. Nobody writes there. An error means the same: there is no parent to follow.
fn wait_for_end(mut parent: impl Read) {
    let mut buffer = [0_u8; 64];
    loop {
        match parent.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn run_demo(args: &DemoArgs) -> Result<(), Failure> {
    let telemetry = telemetry::init(
        "countersign-demo",
        env!("CARGO_PKG_VERSION"),
        &TelemetryConfig::default(),
    );
    let _telemetry = telemetry.map_err(|error| Failure::because("cannot set up telemetry", &error))?;
    panics::install();
    let runtime = countersign_runtime::build(1);
    let runtime = runtime.map_err(|error| Failure::because("cannot start", &error))?;
    let served = runtime.block_on(async {
        let shutdown =
            Shutdown::on_signals().map_err(|error| Failure::because("cannot catch signals", &error))?;
        let listener = demo::listen(args.listen).await;
        let listener = listener.map_err(|error| Failure::because("the demo service cannot start", &error))?;
        tracing::info!(address = %args.listen, "the demo service is ready");
        let stop = shutdown.clone();
        let serving = demo::serve(listener, async move { stop.requested().await });
        match shutdown.drain(DRAIN, serving).await {
            Ok(served) => served.map_err(|error| Failure::because("the demo service failed", &error)),
            Err(exceeded) => {
                tracing::warn!(%exceeded, "calls were cut off");
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}
