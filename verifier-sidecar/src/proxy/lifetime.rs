//! When a call must end although neither side has ended it: at the caller's deadline, or when its token is no longer good.
//!
//! Each call has a timer for that, which nearly always is taken back long before its time. The runtime writes to a descriptor of its
//! own whenever a timer is set that is earlier than all it knew of when it last waited, so that it does not wait for too long; with
//! one timer for each call that would be a system call for each. One more timer, a little way ahead of all of those, spares
//! them: see [`keep_time`].

use std::cell::Cell;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_core::requirements::{MethodPath, Mode};
use countersign_verifier::verifier::{Denied, Verifier};
use countersign_verifier::watch::{Outlived, TokenWatch};
use countersign_wire::status::Failure;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use http::Uri;
use tokio::time::{Instant, sleep_until};

use super::respond::Refusal;
use crate::metrics::{MethodLabel, ProxyMetrics};
use crate::refusal_log::{RefusalLog, Refused};

/// The end of a call, with why. Both directions of the call wait for the same.
pub(crate) type Over = Shared<Pin<Box<dyn Future<Output = Refusal> + Send>>>;

/// What bounds a call.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// The caller's deadline.
    pub(crate) deadline: Option<Instant>,
    /// The token that it was let in with; none for open methods.
    pub(crate) token: Option<TokenWatch>,
    /// Who hears that it goes on without a good token. There is somebody where its method is only observed.
    pub(crate) outliving: Option<Outliving>,
}

/// Takes note, once, of a call that would have been ended for its token, and goes on because its method is only observed.
#[derive(Debug)]
pub(crate) struct Outliving {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) log: Arc<RefusalLog>,
    /// Its target, which names the method.
    pub(crate) uri: Uri,
    /// Where its caller is.
    pub(crate) remote: Option<SocketAddr>,
    /// For the line of the access log at its end.
    pub(crate) noted: Arc<OnceLock<&'static str>>,
}

impl Outliving {
    fn note(&self, denied: &Denied) {
        let reason = denied.rejection.reason();
        self.noted.get_or_init(|| reason);
        let path = self.uri.path_and_query().map_or("", |path| path.as_str());
        let method = MethodPath::of_http(path).ok();
        let pattern = method.and_then(|method| self.verifier.rule(method).pattern.clone());
        self.metrics.outlived(MethodLabel(pattern), reason);
        self.log.tell_outlived(&Refused {
            denied,
            method,
            remote: self.remote,
            epoch: self.verifier.trust().epoch(),
        });
    }
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
            let Some(token) = self.token else {
                return pending().await;
            };
            let Outlived { denied, mode } = token.outlived().await;
            if mode == Mode::Enforce {
                return denied;
            }
            if let Some(outliving) = self.outliving {
                outliving.note(&denied);
            }
            pending().await
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
