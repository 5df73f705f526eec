use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use countersign_proto::admin::v1::fleet_service_server::{FleetService, FleetServiceServer};
use countersign_wire::status::{self, Failure as Wire};
use futures_util::{Stream, StreamExt as _, stream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response};

use super::*;
use crate::output::ColourChoice;

/// What happens on one stream.
struct Script {
    answers: Vec<v1::EpochReach>,
    then: Then,
}

enum Then {
    End,
    Break(Status),
    Wait,
}

/// An authority that tells what it was told to tell, one stream after the other; after the last it only waits.
#[derive(Clone)]
struct Scripted {
    scripts: Arc<Mutex<VecDeque<Result<Script, Status>>>>,
    asked: Arc<Mutex<Vec<v1::WatchEpochRequest>>>,
}

type Watched = Result<v1::WatchEpochResponse, Status>;

#[tonic::async_trait]
impl FleetService for Scripted {
    type WatchEpochStream = Pin<Box<dyn Stream<Item = Watched> + Send>>;

    async fn watch_epoch(
        &self,
        request: Request<v1::WatchEpochRequest>,
    ) -> Result<Response<Self::WatchEpochStream>, Status> {
        self.asked.lock().expect("a lock").push(*request.get_ref());
        let script = self.scripts.lock().expect("a lock").pop_front();
        let Script { answers, then } = script.unwrap_or(Err(status::failed(Wire::StoreUnavailable)))?;
        let answers = answers
            .into_iter()
            .map(|reach| Ok(v1::WatchEpochResponse { reach: Some(reach) }));
        let answers = stream::iter(answers);
        Ok(Response::new(match then {
            Then::End => Box::pin(answers),
            Then::Break(status) => Box::pin(answers.chain(stream::iter([Err(status)]))),
            Then::Wait => Box::pin(answers.chain(stream::pending())),
        }))
    }

    async fn list_verifiers(
        &self,
        _: Request<v1::ListVerifiersRequest>,
    ) -> Result<Response<v1::ListVerifiersResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn quarantine_verifier(
        &self,
        _: Request<v1::QuarantineVerifierRequest>,
    ) -> Result<Response<v1::QuarantineVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn release_verifier(
        &self,
        _: Request<v1::ReleaseVerifierRequest>,
    ) -> Result<Response<v1::ReleaseVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }

    async fn forget_verifier(
        &self,
        _: Request<v1::ForgetVerifierRequest>,
    ) -> Result<Response<v1::ForgetVerifierResponse>, Status> {
        Err(status::failed(Wire::StoreUnavailable))
    }
}

struct World {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<v1::WatchEpochRequest>>>,
}

impl World {
    async fn new(scripts: Vec<Result<Script, Status>>) -> Self {
        let service = Scripted {
            scripts: Arc::new(Mutex::new(scripts.into())),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&service.asked);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Server::builder().add_service(FleetServiceServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, asked }
    }

    async fn follow(&self, known: Reach, limit: Option<Duration>) -> Result<Reach, Failure> {
        // Less than the streams of the tests last.
        let connection = Connection::plain(self.address, Duration::from_millis(300));
        let followed = follow(&connection, known, limit, Output::new(true, ColourChoice::Never));
        let followed = timeout(Duration::from_secs(30), followed).await;
        followed.expect("it ends")
    }

    fn asked(&self) -> Vec<u64> {
        let asked = self.asked.lock().expect("a lock");
        asked.iter().map(|request| request.epoch).collect()
    }
}

fn on(in_force: u32, by: Option<Timestamp>) -> v1::EpochReach {
    let bound = |by| v1::ClassBound {
        class: "normal".to_owned(),
        by: Some(write_time(by)),
    };
    v1::EpochReach {
        epoch: 7,
        live: 2,
        in_force,
        complete: in_force == 2 && by.is_none(),
        bounds: by.into_iter().map(bound).collect(),
        ..v1::EpochReach::default()
    }
}

fn script(answers: Vec<v1::EpochReach>, then: Then) -> Result<Script, Status> {
    Ok(Script { answers, then })
}

fn epoch(epoch: u64) -> Reach {
    Reach {
        epoch,
        ..Reach::default()
    }
}

fn in_seconds(seconds: u64) -> Timestamp {
    SystemClock.now().saturating_add(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_stream_is_read_until_the_epoch_is_everywhere() {
    let answers = vec![on(0, None), on(1, None), on(2, None)];
    let world = World::new(vec![script(answers, Then::Wait)]).await;
    let reach = world.follow(epoch(7), None).await.expect("it is told");
    assert!(reach.complete && reach.in_force == 2, "{reach:?}");
    assert_eq!(world.asked(), [7]);
}

/// What an authority that is killed and started again looks like. Whoever asked for the current epoch goes on with that one.
#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_for_the_same_epoch() {
    let world = World::new(vec![
        script(vec![on(0, None)], Then::Break(Status::unknown("gone"))),
        Err(status::failed(Wire::StoreUnavailable)),
        script(vec![on(1, None)], Then::End),
        script(vec![on(2, None)], Then::Wait),
    ])
    .await;
    let reach = world.follow(epoch(0), None).await.expect("it is told");
    assert!(reach.complete, "{reach:?}");
    assert_eq!(world.asked(), [0, 7, 7, 7]);
}

#[tokio::test]
async fn a_wait_ends_at_its_limit_with_how_far_it_came() {
    let world = World::new(vec![script(vec![on(1, None)], Then::Wait)]).await;
    let started = Instant::now();
    let limit = Duration::from_millis(1500);
    let reach = world.follow(epoch(7), Some(limit)).await.expect("it is told");
    assert!(!reach.complete && reach.in_force == 1, "{reach:?}");
    assert!(started.elapsed() >= limit);
    assert_eq!(world.asked(), [7], "one stream is enough");
}

#[tokio::test]
async fn no_time_to_wait_is_time_to_ask_once() {
    let world = World::new(vec![script(vec![on(2, None)], Then::Wait)]).await;
    let reach = world
        .follow(epoch(7), Some(Duration::ZERO))
        .await
        .expect("it is told");
    assert!(reach.complete);
}

#[tokio::test]
async fn a_refusal_ends_the_wait_and_silence_does_at_its_limit() {
    let world = World::new(vec![Err(status::failed(Wire::NotAnOperator))]).await;
    let failure = world.follow(epoch(7), None).await.expect_err("refused");
    assert_eq!(failure.exit, Exit::Refused);
    assert_eq!(world.asked().len(), 1);
    let limit = Some(Duration::from_millis(600));
    let failure = world.follow(epoch(7), limit).await.expect_err("unavailable");
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(world.asked().len() > 2, "it is asked again");
}

/// A token that was revoked ends by itself, whoever has not heard: that time was told with the receipt, and no stream tells it.
#[tokio::test]
async fn it_is_over_when_what_was_promised_has_passed_by_the_clock_of_the_authority() {
    let promised = Reach::read(on(1, Some(in_seconds(2))));
    let later = on(1, Some(in_seconds(3600)));
    let world = World::new(vec![script(vec![later.clone()], Then::Wait)]).await;
    let reach = world.follow(promised.clone(), None).await.expect("it is told");
    assert!(reach.complete && reach.in_force == 1, "{reach:?}");
    assert_eq!(reach.by, promised.by);
    assert!(SystemClock.now() >= promised.by.expect("a bound").0, "not before");
    let world = World::new(vec![script(vec![later], Then::Wait)]).await;
    let limit = Some(Duration::from_secs(1));
    let reach = world.follow(epoch(7), limit).await.expect("it is told");
    assert!(!reach.complete, "nothing was promised: {reach:?}");
}

/// So that the authority's bounds, too, are no later than that.
#[tokio::test]
async fn the_end_of_the_tokens_that_the_receipt_names_is_told() {
    let world = World::new(vec![script(vec![on(2, None)], Then::Wait)]).await;
    let known = Reach {
        tokens_end: Some(At(Timestamp::from_seconds(1_800_000_000))),
        ..epoch(7)
    };
    world.follow(known, None).await.expect("it is told");
    let asked = world.asked.lock().expect("a lock");
    let ends = asked[0].tokens_end.as_ref().and_then(countersign_wire::read_time);
    assert_eq!(ends, Some(Timestamp::from_seconds(1_800_000_000)));
}

#[test]
fn the_clock_of_the_authority_is_what_its_answer_says() {
    let mut metadata = MetadataMap::new();
    assert!(AuthorityClock::read(&metadata).is_none());
    metadata.insert("date", "Fri, 15 Jan 2027 08:00:00 GMT".parse().expect("text"));
    let clock = AuthorityClock::read(&metadata).expect("a clock");
    assert_eq!(clock.told, Timestamp::from_seconds(1_800_000_000));
    assert!(clock.now() >= clock.told);
    metadata.insert("date", "soon".parse().expect("text"));
    assert!(AuthorityClock::read(&metadata).is_none());
}

#[test]
fn a_refusal_is_taken_for_an_answer_and_a_restart_is_not() {
    use countersign_wire::status::{self, Failure as Wire};
    let passes = |status: &Status| matches!(broken(status), Broken::ForNow(_));
    assert!(!passes(&status::failed(Wire::NotAnOperator)));
    assert!(!passes(&status::invalid("epoch", "is not reached yet")));
    assert!(passes(&status::failed(Wire::StoreUnavailable)));
}
