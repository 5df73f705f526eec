//! When a call must end although neither side has ended it: at the caller's deadline, or when its token is no longer good.
//!
//! Each call has a timer for that, which nearly always is taken back long before its time. The runtime writes to a descriptor of its
//! own whenever a timer is set that is earlier than all it knew of when it last waited, so that it does not wait for too long; with
//! one timer for each call that would be a system call for each. One more timer, a little way ahead of all of those, spares
//! them: see [`keep_time`].

use std::cell::Cell;
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use countersign_verifier::watch::TokenWatch;
use countersign_wire::status::Failure;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use tokio::time::{Instant, sleep_until};

use super::respond::Refusal;

/// The end of a call, with why. Both directions of the call wait for the same.
pub(crate) type Over = Shared<Pin<Box<dyn Future<Output = Refusal> + Send>>>;

/// What bounds a call.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// The caller's deadline.
    pub(crate) deadline: Option<Instant>,
    /// The token that it was let in with; none for open methods.
    pub(crate) token: Option<TokenWatch>,
}

impl Lifetime {
    /// The end. It never comes for a call that may go on for ever.
    pub(crate) fn over(self) -> Over {
        keep_time();
        let end: Pin<Box<dyn Future<Output = Refusal> + Send>> = Box::pin(self.end());
        end.shared()
    }

    async fn end(self) -> Refusal {
        let refused = async {
            match self.token {
                Some(token) => token.refused().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            denied = refused => denied.into(),
            () = at(self.deadline) => Failure::DeadlineExceeded.into(),
        }
    }
}

/// As long as calls come in, a timer runs on this thread that is due before theirs: those of deadlines shorter than this apart.
fn keep_time() {
    const BEAT: Duration = Duration::from_millis(200);
    thread_local! {
        static KEPT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if KEPT_UNTIL.get().is_none_or(|until| until <= now) {
        let until = now + BEAT;
        KEPT_UNTIL.set(Some(until));
        tokio::spawn(sleep_until(until));
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
