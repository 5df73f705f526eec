//! `DrillService`: operators rehearse the compromise of a key, and see how earlier rehearsals went.

use std::pin::Pin;
use std::time::Duration;

use countersign_core::drill::{Aborted, Drill, DrillOutcome, Measured, Response as Answer};
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::drill_service_server::DrillService;
use countersign_wire::status::{self, Failure};
use countersign_wire::{read_duration, write_duration, write_time};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::reach::write_reach;
use super::{Action, Desk, Ended, actor, ledger_status, required_reason};
use crate::driller::Driller;
use crate::fleet::Fleet;
use crate::ledger::NewDrill;

/// How long to wait for verifiers when nothing is said.
const WAIT: Duration = Duration::from_secs(60);

/// How long to wait for them at most: no other drill begins before.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How long whoever watches waits between two answers, at least.
const PAUSE: Duration = Duration::from_millis(250);

/// The service.
#[derive(Clone, Debug)]
pub struct Drills {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
    /// Carries drills out.
    pub driller: Driller,
}

type Told = Result<v1::RunDrillResponse, Status>;
type Telling = Pin<Box<dyn Stream<Item = Told> + Send>>;

impl Drills {
    async fn start(self, started_by: String, request: v1::RunDrillRequest) -> Ended<Telling> {
        match self.begin(started_by, request).await {
            Ok((id, telling)) => Ended {
                result: Ok(telling),
                subject: Some(id.to_string()),
            },
            Err(status) => Ended::from(Err(status)),
        }
    }

    async fn begin(self, started_by: String, request: v1::RunDrillRequest) -> Result<(u64, Telling), Status> {
        required_reason(&request.reason)?;
        let wait = read_wait(&request)?;
        let new = NewDrill {
            started_by,
            reason: request.reason,
        };
        let drill = self.driller.start(new, wait).await.map_err(ledger_status)?;
        let id = drill.borrow().id;
        let watch = Watch {
            fleet: self.fleet,
            drill,
            last: None,
        };
        let telling = futures_util::stream::unfold(Some(watch), Watch::tell);
        Ok((id, Box::pin(telling)))
    }

    async fn abort(
        &self,
        by: String,
        request: v1::AbortDrillRequest,
    ) -> Result<v1::AbortDrillResponse, Status> {
        required_reason(&request.reason)?;
        let id = named(&request);
        let aborted = Aborted {
            by,
            reason: request.reason,
        };
        let done = self.desk.ledger.abort_drill(id, aborted).await;
        let drill = done.map_err(ledger_status)?.answer;
        Ok(v1::AbortDrillResponse {
            drill: Some(write_drill(&drill, usize::MAX)),
        })
    }

    fn list(&self) -> v1::ListDrillsResponse {
        let books = self.desk.ledger.books();
        let drills = books.drills.all();
        v1::ListDrillsResponse {
            drills: drills.map(|drill| write_drill(drill, 0)).collect(),
        }
    }

    fn get(&self, id: u64) -> Result<v1::GetDrillResponse, Status> {
        let books = self.desk.ledger.books();
        let drill = books
            .drills
            .find(id)
            .ok_or_else(|| status::failed(Failure::DrillUnknown))?;
        Ok(v1::GetDrillResponse {
            drill: Some(write_drill(drill, usize::MAX)),
        })
    }
}

/// Follows a drill.
struct Watch {
    fleet: Fleet,
    drill: watch::Receiver<Drill>,
    last: Option<v1::RunDrillResponse>,
}

impl Watch {
    /// How far it has come, once that is something new. Nothing after its end.
    async fn tell(watch: Option<Self>) -> Option<(Told, Option<Self>)> {
        let mut watch = watch?;
        loop {
            if watch.last.is_some() {
                // Its end is told at once.
                let end = watch.drill.wait_for(|drill| !drill.is_running());
                if let Ok(Err(_broken_off)) = tokio::time::timeout(PAUSE, end).await {
                    return Some((Err(status::failed(Failure::Draining)), None));
                }
            }
            let drill = watch.drill.borrow().clone();
            let epoch = drill.awaited();
            let reach = write_reach(&watch.fleet, epoch, &watch.fleet.reach(epoch), None);
            let told = v1::RunDrillResponse {
                drill: Some(write_drill(&drill, usize::MAX)),
                reach: Some(reach),
            };
            if watch.last.as_ref() != Some(&told) {
                watch.last = Some(told.clone());
                return Some((Ok(told), drill.is_running().then_some(watch)));
            }
        }
    }
}

/// The drill to abort, if it is not to be whichever runs.
fn named(request: &v1::AbortDrillRequest) -> Option<u64> {
    Some(request.id).filter(|id| *id > 0)
}

fn read_wait(request: &v1::RunDrillRequest) -> Result<Duration, Status> {
    let wait = match &request.wait {
        None => WAIT,
        Some(wait) => read_duration(wait).ok_or_else(|| status::invalid("wait", "is negative"))?,
    };
    if wait > LONGEST_WAIT {
        return Err(status::invalid("wait", "is at most an hour"));
    }
    Ok(wait)
}

/// A drill, with at most so many verifiers by name.
fn write_drill(drill: &Drill, named: usize) -> v1::Drill {
    let (held, withdrawn, end) = (drill.held, drill.withdrawn, drill.end.as_ref());
    let aborted = end.and_then(|end| end.aborted.as_ref());
    let told = v1::Drill {
        id: drill.id,
        state: state(end.map(|end| end.outcome)).into(),
        kid: drill.key_id.as_str().to_owned(),
        started_by: drill.started_by.clone(),
        reason: drill.reason.clone(),
        published_at: Some(write_time(drill.published.at)),
        published_in: drill.published.epoch,
        held_at: held.map(|held| write_time(held.at)),
        held_after: held.map(|held| write_duration(held.after)),
        withdrawn_at: withdrawn.map(|withdrawn| write_time(withdrawn.at)),
        withdrawn_in: withdrawn.map_or(0, |withdrawn| withdrawn.epoch),
        ended_at: end.map(|end| write_time(end.at)),
        aborted_by: aborted.map(|aborted| aborted.by.clone()).unwrap_or_default(),
        abort_reason: aborted.map(|aborted| aborted.reason.clone()).unwrap_or_default(),
        ..v1::Drill::default()
    };
    match end.and_then(|end| end.measured.as_ref()) {
        Some(measured) => with_measured(told, measured, named),
        None => told,
    }
}

fn with_measured(drill: v1::Drill, measured: &Measured, named: usize) -> v1::Drill {
    let responses: Vec<_> = measured.responses.iter().take(named).map(write_answer).collect();
    let named = u64::try_from(responses.len()).unwrap_or(u64::MAX);
    let spread = measured.spread;
    v1::Drill {
        safe_at: measured.safe.map(|safe| write_time(safe.at)),
        safe_after: measured.safe.map(|safe| write_duration(safe.after)),
        verifiers: measured.verifiers,
        acknowledged: measured.acknowledged,
        p50: spread.map(|spread| write_duration(spread.p50)),
        p99: spread.map(|spread| write_duration(spread.p99)),
        max: spread.map(|spread| write_duration(spread.max)),
        unnamed: measured.verifiers.saturating_sub(named),
        responses,
        ..drill
    }
}

fn write_answer(answer: &Answer) -> v1::DrillResponse {
    v1::DrillResponse {
        spiffe_id: answer.verifier.spiffe_id.as_str().to_owned(),
        verifier_id: answer.verifier.verifier_id.as_str().to_owned(),
        took: answer.took.map(write_duration),
        until: answer.until.map(write_time),
    }
}

const fn state(outcome: Option<DrillOutcome>) -> v1::DrillState {
    match outcome {
        None => v1::DrillState::Running,
        Some(DrillOutcome::Complete) => v1::DrillState::Complete,
        Some(DrillOutcome::GaveUp) => v1::DrillState::GaveUp,
        Some(DrillOutcome::Interrupted) => v1::DrillState::Interrupted,
        Some(DrillOutcome::Aborted) => v1::DrillState::Aborted,
    }
}

#[tonic::async_trait]
impl DrillService for Drills {
    type RunDrillStream = Telling;

    async fn run_drill(
        &self,
        request: Request<v1::RunDrillRequest>,
    ) -> Result<Response<Self::RunDrillStream>, Status> {
        let action = |request: &v1::RunDrillRequest| Action::new("run_drill", "").because(&request.reason);
        let started_by = actor(request.extensions().get()).to_string();
        let drills = self.clone();
        self.desk
            .serve(request, action, |request| drills.start(started_by, request))
            .await
    }

    async fn abort_drill(
        &self,
        request: Request<v1::AbortDrillRequest>,
    ) -> Result<Response<v1::AbortDrillResponse>, Status> {
        let action = |request: &v1::AbortDrillRequest| {
            let drill = named(request).map(|id| id.to_string());
            Action::new("abort_drill", &drill.unwrap_or_default()).because(&request.reason)
        };
        let by = actor(request.extensions().get()).to_string();
        let drills = self.clone();
        let work = |request| async move {
            Ended::naming(drills.abort(by, request).await, |answer| {
                let drill = answer.drill.as_ref();
                drill.map(|drill| drill.id.to_string()).unwrap_or_default()
            })
        };
        self.desk.serve(request, action, work).await
    }

    async fn list_drills(
        &self,
        request: Request<v1::ListDrillsRequest>,
    ) -> Result<Response<v1::ListDrillsResponse>, Status> {
        let action = |_: &v1::ListDrillsRequest| Action::new("list_drills", "");
        let drills = self.clone();
        self.desk
            .serve(request, action, |_| async move { Ok::<_, Status>(drills.list()) })
            .await
    }

    async fn get_drill(
        &self,
        request: Request<v1::GetDrillRequest>,
    ) -> Result<Response<v1::GetDrillResponse>, Status> {
        let action = |request: &v1::GetDrillRequest| Action::new("get_drill", &request.id.to_string());
        let drills = self.clone();
        self.desk
            .serve(request, action, |request| async move { drills.get(request.id) })
            .await
    }
}
