//! `countersign dev`: authority, sidecar and a demo service as processes of their own, with certificates, clients and
//! everything else that is needed to try them.
//!
//! ```text
//! folder -> certificates, configurations -> authority -> publishing keys -> sidecar, demo -> clients -> dev.json
//! ```
//!
//! What is made is kept in one folder and found again at the next start. Every part is the real one; what makes it a
//! development environment is that all keys lie side by side.

mod children;
mod clients;
mod configuration;
mod folder;
mod layout;
mod ports;
mod welcome;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_core::ports::Clock as _;
use countersign_mtls::TlsFiles;
use countersign_runtime::SystemClock;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::commands::key;
use crate::connection::Connection;
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};
use crate::output::Output;
use crate::probe::{Readiness, readiness};
use crate::progress::Waiting;
use crate::settings;
use children::{Children, Role};
use folder::{Earlier, Folder};
use layout::Layout;
use ports::{PortArgs, Ports};

/// Where, and on which ports.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// The environment's folder. Left out: a fixed one in the system's folder for temporary files
    #[arg(long, env = "COUNTERSIGN_DIR", hide_env_values = true, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Throw away what an earlier run left in the folder, and start afresh
    #[arg(long)]
    reset: bool,

    #[command(flatten)]
    ports: PortArgs,
}

/// How long everything together may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long the parts of a run that was killed may take to go away. They notice at once, and have to end their calls.
const LEAVE: Duration = Duration::from_secs(20);

/// How often something is looked at that will come by itself.
const POLL: Duration = Duration::from_millis(100);

/// How long one answer of the authority may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Starts everything, and stops it when told to.
///
/// # Errors
/// When something cannot be started. What was started by then is stopped.
pub(crate) async fn run(args: DevArgs, output: Output) -> Result<(), Failure> {
    let mut stop = Stop::on_signals()?;
    let folder = Folder::open(&args.dir.unwrap_or_else(settings::default_folder))?;
    let earlier = folder.earlier();
    if let Some(earlier) = &earlier {
        nothing_left(earlier, output).await?;
    }
    if args.reset {
        folder.reset(output)?;
    }
    let mut children = Children::new(folder.path());
    let started = tokio::select! {
        started = start(&folder, earlier, &args.ports, &mut children, output) => started.map(Some),
        () = stop.requested() => Ok(None),
    };
    let ended = match started {
        Ok(Some(environment)) => {
            let told = tell(&environment, &folder, output);
            if told.is_ok() {
                watch(&mut children, &environment, &mut stop, output).await;
            }
            told
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    let withdrawn = folder.withdraw();
    children.stop(&mut stop, output).await;
    ended.and(withdrawn)
}

fn tell(environment: &Environment, folder: &Folder, output: Output) -> Result<(), Failure> {
    let text = welcome::text(environment, folder.path())?;
    environment.store(folder.path())?;
    output.data(environment, |paint| text.render(paint))
}

/// Brings everything up, one part after the other, because each needs something of the one before.
async fn start(
    folder: &Folder,
    earlier: Option<Earlier>,
    wanted: &PortArgs,
    children: &mut Children,
    output: Output,
) -> Result<Environment, Failure> {
    folder.withdraw()?;
    let ports = Ports::choose(
        wanted,
        earlier.as_ref().map(|earlier| &earlier.environment),
        output,
    )
    .await?;
    let layout = Layout::make(folder.path(), &ports, SystemClock.now())?;
    configuration::write(&layout)?;
    let deadline = tokio::time::Instant::now() + START_LIMIT;

    let config = layout.authority_config.clone();
    children.start(
        Role::Authority,
        &["serve".into(), "--config".into(), config.into()],
    )?;
    children
        .ready(Role::Authority, &ports.authority_metrics(), deadline, output)
        .await?;
    let connection = operator(&layout, &ports).await?;
    let publishing = key::publishing_keys(&connection).await?;
    files::write(
        &layout.publishing_keys,
        format!("{publishing}\n").as_bytes(),
        Audience::Everybody,
    )?;

    children.start(Role::Demo, &["--listen".into(), ports.demo().into()])?;
    children.start(
        Role::Sidecar,
        &["--config".into(), layout.sidecar_config.clone().into()],
    )?;
    clients::register(&connection, &layout, output).await?;
    children
        .listening(Role::Demo, &ports.demo(), deadline, output)
        .await?;
    children
        .ready(Role::Sidecar, &ports.admin(), deadline, output)
        .await?;
    layout.environment(&ports, children)
}

/// Makes sure that no part of the last run still uses the folder: neither one that is about to notice that the run was
/// killed, nor one that somebody started again by hand.
async fn nothing_left(earlier: &Earlier, output: Output) -> Result<(), Failure> {
    let environment = &earlier.environment;
    let parts = [
        ("authority", &environment.authority.metrics),
        ("sidecar", &environment.sidecar.admin),
    ];
    let patience = if earlier.stopped { Duration::ZERO } else { LEAVE };
    let mut waiting = Waiting::new(output, patience);
    for (part, admin) in parts {
        while !matches!(readiness(admin).await, Readiness::Unreachable(_)) {
            if !waiting.again(POLL, "the last run has not ended yet").await {
                let message = format!("the {part} of an earlier run still answers at {admin}");
                return Err(Failure::new(Exit::Failure, message).next("stop it first"));
            }
        }
    }
    Ok(())
}

async fn operator(layout: &Layout, ports: &Ports) -> Result<Connection, Failure> {
    let files = TlsFiles {
        certificate: layout.operator.certificate.clone(),
        private_key: layout.operator.key.clone(),
        trust_roots: layout.trust_roots.clone(),
    };
    Connection::with(&ports.authority(), files, CALL_LIMIT).await
}

/// Tells of parts that end, until it is time to stop.
async fn watch(children: &mut Children, environment: &Environment, stop: &mut Stop, output: Output) {
    loop {
        tokio::select! {
            () = stop.requested() => return,
            ended = children.next_end() => {
                let again = welcome::start_again(ended.role, environment);
                output.warn(&format!("the {} {}", ended.role.name(), ended.how));
                output.note(&format!("the others go on; start it again, in another terminal, with\n  {again}"));
            }
        }
    }
}

/// The wish of the user, or of the system, to stop.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Stop {
    fn on_signals() -> Result<Self, Failure> {
        let caught = |kind| signal(kind).map_err(|error| Failure::because("cannot catch signals", &error));
        Ok(Self {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
            hang_up: caught(SignalKind::hangup())?,
        })
    }

    /// Waits for the wish, or for the next one.
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
