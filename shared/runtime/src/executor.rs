//! The tokio runtime of a process.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime with `threads` worker threads. One or none gives a runtime on the calling thread, which is the fastest for
/// a proxy with one core.
///
/// # Errors
/// When the system gives no threads or no event queue.
pub fn build(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.thread_name("countersign").enable_all().build()
}

#[cfg(test)]
mod tests {
    use tokio::runtime::RuntimeFlavor;

    #[test]
    fn one_thread_needs_no_other() {
        for (threads, flavor) in [
            (0, RuntimeFlavor::CurrentThread),
            (1, RuntimeFlavor::CurrentThread),
            (2, RuntimeFlavor::MultiThread),
        ] {
            let runtime = super::build(threads).expect("runtime");
            assert_eq!(runtime.handle().runtime_flavor(), flavor, "{threads}");
            runtime.block_on(async { tokio::time::sleep(std::time::Duration::ZERO).await });
        }
    }
}
