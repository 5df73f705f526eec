//! What operators are told of drills, while they run and after.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_proto::admin::v1;
use countersign_wire::write_duration;
use tonic::Code;

use super::stage::{OPERATOR, Stage, eventually, refusal};
use crate::fleet::Membership;
use crate::test_util::{Logs, START, introduction, verifier_key};

fn now() -> Timestamp {
    Timestamp::from_seconds(START)
}

/// A verifier that decides.
fn settled(stage: &Stage, name: &str) -> Membership {
    let joined = stage
        .bench
        .fleet
        .join(verifier_key(name), introduction("1"), now());
    let member = joined.expect("joins");
    member.acknowledged(1, true, now());
    stage.bench.fleet.told(&stage.bench.fleet.to_tell());
    stage.bench.fleet.advance(1);
    assert!(member.grant().is_some());
    member
}

fn run(reason: &str, wait: Option<Duration>) -> v1::RunDrillRequest {
    v1::RunDrillRequest {
        reason: reason.to_owned(),
        wait: wait.map(write_duration),
    }
}

/// A drill is told from its beginning to its end, kept, and in the audit trail with who did what.
#[tokio::test]
async fn a_drill_is_told_while_it_runs_and_kept() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let member = settled(&stage, "verifier/a");
    let mut drills = stage.drills().await;
    let stream = drills.run_drill(run("quarterly", None)).await.expect("begins");
    let mut stream = stream.into_inner();
    let first = stream.message().await.expect("goes on").expect("the first");
    let (drill, reach) = (first.drill.expect("one"), first.reach.expect("a reach"));
    assert_eq!((drill.id, drill.published_in, reach.epoch), (1, 2, 2));
    assert_eq!(drill.state(), v1::DrillState::Running);
    let said = (drill.started_by.as_str(), drill.reason.as_str());
    assert_eq!(said, (OPERATOR, "quarterly"));
    assert_eq!((reach.live, reach.in_force, reach.laggards.len()), (1, 0, 1));
    let listed = stage.keys().await.list_keys(v1::ListKeysRequest {}).await;
    let keys = listed.expect("lists").into_inner().keys;
    let shadows: Vec<bool> = keys.iter().map(|key| key.shadow).collect();
    assert_eq!(shadows.iter().filter(|shadow| **shadow).count(), 1);
    assert!(keys.iter().any(|key| key.shadow && key.kid == drill.kid));
    let twice = refusal(drills.run_drill(run("again", None)).await);
    assert_eq!(twice, (Code::FailedPrecondition, "DRILL_RUNNING".to_owned()));

    member.acknowledged(2, true, now());
    let mut last = None;
    while let Some(told) = stream.message().await.expect("goes on") {
        let drill = told.drill.expect("one");
        if drill.withdrawn_in == 3 && last.is_none() {
            stage.bench.clock.advance(Duration::from_millis(15));
            member.acknowledged(3, true, now());
        }
        last = Some(drill);
    }
    let last = last.expect("an end");
    assert_eq!(last.state(), v1::DrillState::Complete);
    assert_eq!(last.safe_after, Some(write_duration(Duration::from_millis(15))));
    assert_eq!(
        (last.p50, last.max, last.unnamed),
        (last.safe_after, last.safe_after, 0)
    );
    assert_eq!(last.responses[0].took, last.safe_after);

    let get = |id| v1::GetDrillRequest { id };
    let got = drills.get_drill(get(1)).await.expect("is kept").into_inner();
    assert_eq!(got.drill.as_ref(), Some(&last));
    let unknown = refusal(drills.get_drill(get(2)).await);
    assert_eq!(unknown, (Code::NotFound, "DRILL_UNKNOWN".to_owned()));
    let listed = drills.list_drills(v1::ListDrillsRequest {}).await;
    let listed = listed.expect("lists").into_inner().drills;
    let without = v1::Drill {
        responses: Vec::new(),
        unnamed: 1,
        ..last
    };
    assert_eq!(listed, [without]);
    for (action, actor) in [("run_drill", OPERATOR), ("end_drill", "authority")] {
        assert!(
            is_audited(&logs.text(), action, actor),
            "{action}: {}",
            logs.text()
        );
    }
}

/// Who and why are in the answer, in what whoever watches is told, in the history and in the audit trail.
#[tokio::test]
async fn an_operator_aborts_a_drill_and_says_why() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let _settled = settled(&stage, "verifier/a");
    let mut drills = stage.drills().await;
    let abort = |id, reason: &str| v1::AbortDrillRequest {
        id,
        reason: reason.to_owned(),
    };
    let none = (Code::FailedPrecondition, "DRILL_NOT_RUNNING".to_owned());
    assert_eq!(refusal(drills.abort_drill(abort(0, "wrong day")).await), none);
    let stream = drills.run_drill(run("quarterly", None)).await.expect("begins");
    let unsaid = refusal(drills.abort_drill(abort(1, "")).await);
    assert_eq!(unsaid.0, Code::InvalidArgument);
    let unknown = refusal(drills.abort_drill(abort(2, "wrong day")).await);
    assert_eq!(unknown, (Code::NotFound, "DRILL_UNKNOWN".to_owned()));
    let answer = drills.abort_drill(abort(0, "wrong day")).await.expect("aborts");
    let aborted = answer.into_inner().drill.expect("one");
    assert_eq!((aborted.id, aborted.state()), (1, v1::DrillState::Aborted));
    let said = (aborted.aborted_by.as_str(), aborted.abort_reason.as_str());
    assert_eq!(said, (OPERATOR, "wrong day"));
    assert!(aborted.ended_at.is_some() && aborted.withdrawn_at.is_none());

    let (mut stream, mut last) = (stream.into_inner(), None);
    while let Some(told) = stream.message().await.expect("goes on") {
        last = told.drill;
    }
    assert_eq!(last.as_ref(), Some(&aborted));
    assert_eq!(refusal(drills.abort_drill(abort(1, "again")).await), none);
    let got = drills.get_drill(v1::GetDrillRequest { id: 1 }).await;
    assert_eq!(got.expect("is kept").into_inner().drill, Some(aborted));
    assert_eq!(stage.opened.ledger.books().ring.keys().len(), 1);
    for (action, actor) in [("abort_drill", OPERATOR), ("end_drill", "authority")] {
        assert!(is_audited(&logs.text(), action, actor), "{}", logs.text());
    }
    assert!(logs.text().contains("wrong day"), "{}", logs.text());
}

fn is_audited(text: &str, action: &str, actor: &str) -> bool {
    let [action, actor] =
        [("action", action), ("actor", actor)].map(|(key, is)| format!(r#""{key}":"{is}""#));
    text.lines()
        .any(|line| line.contains(&action) && line.contains(&actor))
}

/// The stream's end is not the drill's.
#[tokio::test]
async fn a_drill_outlives_the_call_that_began_it() {
    let stage = Stage::new().await;
    let member = settled(&stage, "verifier/a");
    let mut drills = stage.drills().await;
    let stream = drills.run_drill(run("quarterly", None)).await.expect("begins");
    drop(stream);
    drop(drills);
    member.acknowledged(2, true, now());
    let ledger = stage.opened.ledger.clone();
    eventually("it is withdrawn", || ledger.books().trust.epoch() == 3).await;
    member.acknowledged(3, true, now());
    eventually("it is over", || ledger.books().drills.last_complete().is_some()).await;
    assert_eq!(ledger.books().ring.keys().len(), 1);
}

#[tokio::test]
async fn what_a_drill_is_asked_for_is_checked() {
    let stage = Stage::new().await;
    let mut drills = stage.drills().await;
    let hour = Duration::from_secs(3600);
    let negative = v1::RunDrillRequest {
        wait: Some(write_duration(hour)).map(|mut wait| {
            wait.seconds = -1;
            wait
        }),
        ..run("x", None)
    };
    for wrong in [
        run("", None),
        run("a\nb", None),
        run(&"x".repeat(257), None),
        run("x", Some(hour + Duration::from_nanos(1))),
        negative,
    ] {
        let refused = refusal(drills.run_drill(wrong.clone()).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{wrong:?}");
    }
    assert_eq!(stage.opened.ledger.books().trust.epoch(), 1, "nothing was begun");
}
