//! When a call must end although neither side has ended it: at the caller's deadline, or when its token is no longer good.

use std::future::{Future, pending};
use std::pin::Pin;

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

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
