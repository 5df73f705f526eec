//! The gRPC services: decode, decide, commit, encode. What is decided is decided elsewhere.

pub mod clients;
pub mod drills;
pub mod fleet;
pub mod issuing;
pub mod keys;
pub mod publishing;
mod reach;
pub mod revocations;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod trust;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use countersign_core::text::is_shown;
use countersign_mtls::Peer;
use countersign_runtime::ErrorChain;
use countersign_wire::status::{self, Failure};
use futures_util::FutureExt as _;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;
use tracing::Instrument as _;

use crate::audit::{self, Actor, Event, Outcome};
use crate::authorize::Roles;
use crate::ledger::{Ledger, LedgerError};
use crate::limits::Limits;
use crate::metrics::Metrics;

/// Where operators are served: everything that the admin services share.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Who is an operator.
    pub roles: Arc<Roles>,
    /// What they change.
    pub ledger: Ledger,
    /// How much is written of those who are none.
    pub limits: Arc<Limits>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What an operator does: its name, whom or what it is done to, and the operator's reason where one is given.
#[derive(Clone, Debug)]
struct Action {
    name: &'static str,
    subject: String,
    note: String,
}

impl Action {
    fn new(name: &'static str, subject: &str) -> Self {
        Self {
            name,
            subject: subject.to_owned(),
            note: String::new(),
        }
    }

    fn because(mut self, note: &str) -> Self {
        note.clone_into(&mut self.note);
        self
    }

    /// The same, by the name that the work found.
    fn ended<R>(mut self, ended: &Ended<R>) -> Self {
        if let Some(subject) = &ended.subject {
            self.subject.clone_from(subject);
        }
        self
    }
}

/// What came of an action.
struct Ended<R> {
    result: Result<R, Status>,
    /// Whom or what it was done to, where the request alone does not say.
    subject: Option<String>,
}

impl<R> Ended<R> {
    /// Done to what the answer names.
    fn naming(result: Result<R, Status>, subject: impl FnOnce(&R) -> String) -> Self {
        let subject = result.as_ref().ok().map(subject);
        Self { result, subject }
    }
}

impl<R> From<Result<R, Status>> for Ended<R> {
    fn from(result: Result<R, Status>) -> Self {
        Self {
            result,
            subject: None,
        }
    }
}

impl Desk {
    /// Lets an operator do something. Whatever comes of it is written to the audit trail: work that has begun goes on to its
    /// end although nobody waits for the answer any more, and the ledger is not closed before.
    async fn serve<Q, R, W>(
        &self,
        request: Request<Q>,
        action: impl FnOnce(&Q) -> Action,
        work: impl FnOnce(Q) -> W,
    ) -> Result<Response<R>, Status>
    where
        R: Send + 'static,
        W: Future<Output: Into<Ended<R>>> + Send + 'static,
    {
        let (_, extensions, request) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let actor = actor(peer);
        let action = action(&request);
        let now = self.ledger.timeline().now();
        if let Err(failure) = self.roles.operator(peer, now) {
            let event = self.event(&actor, &action, Outcome::Refused(failure.reason()));
            audit::record_refusal(&event, &self.limits, &self.metrics);
            return Err(status::failed(failure));
        }
        let desk = self.clone();
        let work = AssertUnwindSafe(work(request)).catch_unwind();
        let working = async move {
            let ended = match work.await {
                Ok(ended) => ended.into(),
                // Logged and counted where it happened (`countersign_runtime::panics`).
                Err(_panic) => Ended::from(Err(status::failed(Failure::Internal))),
            };
            let action = action.ended(&ended);
            audit::record(&desk.event(&actor, &action, outcome(&ended.result)));
            ended.result
        };
        let ended = self.ledger.finish(working.in_current_span()).await;
        let result = ended.unwrap_or_else(|_interrupted| Err(status::failed(Failure::Internal)));
        result.map(Response::new)
    }

    /// What is written of an action. It is counted, too.
    fn event<'a>(&self, actor: &'a Actor, action: &'a Action, outcome: Outcome) -> Event<'a> {
        let result = match outcome {
            Outcome::Done => "done",
            Outcome::Refused(reason) => reason,
        };
        self.metrics.count_action(action.name, result);
        Event {
            actor,
            action: action.name,
            subject: &action.subject,
            outcome,
            note: &action.note,
        }
    }
}

fn outcome<R>(result: &Result<R, Status>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(status) => Outcome::Refused(reason(status)),
    }
}

fn actor(peer: Option<&Peer>) -> Actor {
    Actor::of(peer.and_then(|peer| peer.identity.as_deref()))
}

/// The stable reason in a status of ours: one of the tables in `countersign_wire`, so that it can be a label.
fn reason(status: &Status) -> &'static str {
    let info = status.get_details_error_info();
    let reason = info.and_then(|info| info.metadata.get("reason").cloned());
    Failure::ALL
        .into_iter()
        .map(Failure::reason)
        .find(|known| reason.as_deref() == Some(known))
        .unwrap_or("invalid_argument")
}

/// What the caller is told when the ledger refuses, and what the log is told when it fails.
fn ledger_status(error: LedgerError) -> Status {
    match &error {
        LedgerError::Refused(_) => {}
        LedgerError::Store(_)
        | LedgerError::Record(_)
        | LedgerError::Generation
        | LedgerError::Interrupted => {
            tracing::error!(error = %ErrorChain(&error), "a change was not made");
        }
    }
    status::failed(error.failure())
}

/// How many entries a page has: 100 when not said, 1000 at most.
fn page_size(asked_for: i32) -> Result<usize, Status> {
    match usize::try_from(asked_for) {
        Ok(0) => Ok(100),
        Ok(size) => Ok(size.min(1000)),
        Err(_negative) => Err(status::invalid("page_size", "is negative")),
    }
}

/// The longest reason that an operator may give, in bytes.
const MAX_REASON: usize = 256;

/// Checks an operator's reason where one has to be given.
fn required_reason(reason: &str) -> Result<(), Status> {
    if reason.is_empty() {
        return Err(status::invalid("reason", "is required"));
    }
    check_reason(reason)
}

/// Checks an operator's reason.
fn check_reason(reason: &str) -> Result<(), Status> {
    if reason.len() > MAX_REASON || !reason.chars().all(is_shown) {
        return Err(status::invalid(
            "reason",
            "is at most 256 bytes without control or formatting characters",
        ));
    }
    Ok(())
}
