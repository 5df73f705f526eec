use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use countersign_core::Timestamp;
use countersign_proto::admin::v1::drill_service_server::{DrillService, DrillServiceServer};
use countersign_wire::status::{self, Failure as Reason};
use countersign_wire::write_time;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::output::{ColourChoice, Paint};

const NOW: u64 = 1_800_021_600;

fn at(second: u64) -> Option<prost_types::Timestamp> {
    Some(write_time(Timestamp::from_seconds(NOW + second)))
}

fn millis(millis: u64) -> Option<prost_types::Duration> {
    Some(write_duration(Duration::from_millis(millis)))
}

fn running() -> v1::Drill {
    v1::Drill {
        id: 7,
        state: v1::DrillState::Running.into(),
        kid: "A".repeat(43),
        started_by: "spiffe://dev.test/anna".to_owned(),
        reason: "quarterly".to_owned(),
        published_at: at(0),
        published_in: 41,
        ..v1::Drill::default()
    }
}

fn complete() -> v1::Drill {
    let response = |name: &str, took| v1::DrillResponse {
        spiffe_id: format!("spiffe://dev.test/{name}"),
        verifier_id: "3f2a91c0d4e5".to_owned(),
        took: millis(took),
        until: None,
    };
    v1::Drill {
        state: v1::DrillState::Complete.into(),
        held_at: at(0),
        held_after: millis(12),
        withdrawn_at: at(1),
        withdrawn_in: 42,
        safe_at: at(1),
        safe_after: millis(18),
        ended_at: at(1),
        verifiers: 3,
        acknowledged: 3,
        p50: millis(6),
        p99: millis(17),
        max: millis(17),
        responses: vec![response("pay", 17), response("web", 6)],
        unnamed: 1,
        ..running()
    }
}

fn gave_up() -> v1::Drill {
    let stopped = v1::DrillResponse {
        spiffe_id: "spiffe://dev.test/stopped".to_owned(),
        verifier_id: "3f2a91c0d4e5".to_owned(),
        took: None,
        until: at(900),
    };
    let complete = complete();
    v1::Drill {
        state: v1::DrillState::GaveUp.into(),
        held_at: None,
        held_after: None,
        safe_at: None,
        safe_after: None,
        acknowledged: 2,
        responses: [vec![stopped], complete.responses.clone()].concat(),
        unnamed: 0,
        ..complete
    }
}

fn lines(drill: v1::Drill) -> String {
    Drill::read(drill).lines(Timestamp::from_seconds(NOW))
}

#[test]
fn a_complete_drill_is_shown_with_its_times_and_the_slowest_by_name() {
    let expected = "\
drill 7: complete, safe everywhere after 18.0 ms (quarterly, by spiffe://dev.test/anna)
  published at 14:00:00 UTC, epoch 41; held by every verifier after 12.0 ms
  withdrawn at 14:00:01 UTC, epoch 42
  ended at 14:00:01 UTC; the key is gone
  acknowledged by 3 of 3 verifiers: p50 6.0 ms, p99 17.0 ms, max 17.0 ms
    spiffe://dev.test/pay (3f2a91c0): 17.0 ms
    spiffe://dev.test/web (3f2a91c0): 6.0 ms
    and 1 more";
    assert_eq!(lines(complete()), expected);
    assert!(Drill::read(complete()).complete().is_ok());
    let json = serde_json::to_value(Drill::read(complete())).expect("JSON");
    assert_eq!(json["time_to_safe_ms"], 18.0);
    assert_eq!(json["responses"][0]["took_ms"], 17.0);
    assert_eq!(json["published_at"], "2027-01-15T14:00:00Z");
}

#[test]
fn whoever_did_not_follow_is_named_with_its_bound_and_the_exit_code_says_so() {
    let text = lines(gave_up());
    assert!(
        text.starts_with("drill 7: gave up waiting (quarterly")
            && text.contains("not held by every verifier in time"),
        "{text}"
    );
    assert!(
        text.contains("test/stopped (3f2a91c0): no answer; it may accept the key until 14:15:00 UTC\n"),
        "{text}"
    );
    assert!(text.contains("acknowledged by 2 of 3 verifiers: p50"), "{text}");
    let failure = Drill::read(gave_up()).complete().expect_err("is not");
    assert_eq!(failure.exit, Exit::Unavailable);
    let interrupted = v1::Drill {
        state: v1::DrillState::Interrupted.into(),
        ended_at: at(9),
        ..running()
    };
    let text = lines(interrupted.clone());
    assert!(
        text.contains("drill 7: interrupted") && text.contains("not held by every verifier yet"),
        "{text}"
    );
    assert!(Drill::read(interrupted).complete().is_err());
}

#[test]
fn one_that_was_aborted_says_by_whom_and_why() {
    let aborted = v1::Drill {
        state: v1::DrillState::Aborted.into(),
        ended_at: at(9),
        aborted_by: "spiffe://dev.test/bert".to_owned(),
        abort_reason: "wrong day".to_owned(),
        ..running()
    };
    let expected = "\
drill 7: aborted by spiffe://dev.test/bert, because: wrong day (quarterly, by spiffe://dev.test/anna)
  published at 14:00:00 UTC, epoch 41; not held by every verifier yet
  ended at 14:00:09 UTC; the key is gone";
    assert_eq!(lines(aborted.clone()), expected);
    let json = serde_json::to_value(Drill::read(aborted.clone())).expect("JSON");
    assert_eq!(
        (&json["state"], &json["aborted_by"], &json["abort_reason"]),
        (
            &"aborted".into(),
            &"spiffe://dev.test/bert".into(),
            &"wrong day".into()
        )
    );
    let json = serde_json::to_value(Drill::read(complete())).expect("JSON");
    assert!(json["aborted_by"].is_null() && json["abort_reason"].is_null());
    let failure = Drill::read(aborted).complete().expect_err("is not");
    assert_eq!(failure.exit, Exit::Unavailable);
}

#[test]
fn drills_are_listed_the_last_one_first() {
    let listed = v1::ListDrillsResponse {
        drills: vec![gave_up(), complete()],
    };
    let table = Drills::read(listed).table(Paint::plain());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[1].contains(" gave_up ") && lines[1].contains(" 2 of 3 "),
        "{table}"
    );
    assert!(
        lines[2].contains(" complete ") && lines[2].contains(" 18.0 ms "),
        "{table}"
    );
    let none = Drills::read(v1::ListDrillsResponse::default());
    assert_eq!(none.table(Paint::plain()), "no drill was run yet");
}

/// An authority whose stream breaks off after its first message, and which then says so often that the drill runs.
struct Breaking {
    running: AtomicU32,
}

#[tonic::async_trait]
impl DrillService for Breaking {
    type RunDrillStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::RunDrillResponse, Status>>>;

    async fn run_drill(
        &self,
        _: Request<v1::RunDrillRequest>,
    ) -> Result<Response<Self::RunDrillStream>, Status> {
        let first = v1::RunDrillResponse {
            drill: Some(running()),
            reach: None,
        };
        let broken = Err(status::failed(Reason::Draining));
        Ok(Response::new(tokio_stream::iter(vec![Ok(first), broken])))
    }

    async fn abort_drill(
        &self,
        _: Request<v1::AbortDrillRequest>,
    ) -> Result<Response<v1::AbortDrillResponse>, Status> {
        Err(status::failed(Reason::DrillNotRunning))
    }

    async fn list_drills(
        &self,
        _: Request<v1::ListDrillsRequest>,
    ) -> Result<Response<v1::ListDrillsResponse>, Status> {
        Ok(Response::new(v1::ListDrillsResponse::default()))
    }

    async fn get_drill(
        &self,
        request: Request<v1::GetDrillRequest>,
    ) -> Result<Response<v1::GetDrillResponse>, Status> {
        assert_eq!(request.into_inner().id, 7);
        let left = self.running.load(Ordering::SeqCst);
        self.running.store(left.saturating_sub(1), Ordering::SeqCst);
        let drill = match left {
            0 => complete(),
            1 => return Err(status::failed(Reason::StoreUnavailable)),
            _ => running(),
        };
        Ok(Response::new(v1::GetDrillResponse { drill: Some(drill) }))
    }
}

/// The drill goes on when the connection is gone, and how it ended is told all the same.
#[tokio::test]
async fn a_stream_that_breaks_off_is_not_the_end_of_the_drill() {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("bound");
    let service = DrillServiceServer::from_arc(Arc::new(Breaking {
        running: AtomicU32::new(3),
    }));
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let connection = Connection::plain(address, Duration::from_secs(10));
    let output = Output::new(true, ColourChoice::Never);
    let stream = connection
        .rehearsing()
        .run_drill(v1::RunDrillRequest::default())
        .await;
    let stream = stream.expect("begins").into_inner();
    let Watched::Lost(id) = watched(stream, output).await.expect("begins well") else {
        panic!("it has not ended");
    };
    let drill = followed(&connection, id, Duration::from_secs(10), output).await;
    assert_eq!(drill.expect("is told"), complete());
}
