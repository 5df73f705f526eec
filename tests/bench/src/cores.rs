//! Which core does what, where a server under load has one for itself.

use std::ffi::OsStr;
use std::process::Command;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Failure;

/// The core of the server under load.
pub(crate) const SERVER: usize = 0;

/// The core of everything else: who calls, and the service behind.
pub(crate) const OTHERS: usize = 1;

/// Moves this process, and what it starts from now on, to `OTHERS`. To be called while it has one thread.
pub(crate) fn leave_one_free() -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    cores.set(OTHERS);
    sched_setaffinity(None, &cores)
        .map_err(|error| format!("the server under load needs a core for itself: {error}").into())
}

/// `work`, in a thread of its own, on the core of the server under load.
pub(crate) fn on_the_servers<T: Send>(
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let pinned = || {
        let mut cores = CpuSet::new();
        cores.set(SERVER);
        sched_setaffinity(None, &cores)?;
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(pinned).join());
    ended.map_err(|_panic| "a measurement panicked")?
}

/// `program`, on one core.
pub(crate) fn on(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program);
    command
}
