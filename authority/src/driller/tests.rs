//! Drills over a memory store, with verifiers that a test speaks for.

use countersign_core::Timestamp;
use countersign_core::drill::{Aborted, Measured};
use countersign_core::names::KeyId;
use countersign_core::rotation::RotationPolicy;

use super::*;
use crate::fleet::Membership;
use crate::ledger::Activation;
use crate::rotator::Rotator;
use crate::service::keys::KeyPolicy;
use crate::store::faulty::{Fault, FaultyStore};
use crate::store::memory::MemoryStore;
use crate::test_util::{Bench, START, introduction, verifier_key};

const WAIT: Duration = Duration::from_secs(30);

struct Stage {
    bench: Bench,
    ledger: Ledger,
    driller: Driller,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    async fn over(bench: Bench) -> Self {
        let ledger = bench.open().await.ledger;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let driller = Driller::new(
            ledger.clone(),
            bench.fleet.clone(),
            Algorithm::Es256,
            tasks.clone(),
            stop.clone(),
        );
        Self {
            bench,
            ledger,
            driller,
            stop,
            tasks,
        }
    }

    /// A verifier that decides.
    fn settled(&self, name: &str) -> Membership {
        let epoch = self.ledger.books().trust.epoch();
        let joined = self
            .bench
            .fleet
            .join(verifier_key(name), introduction("1"), now());
        let member = joined.expect("joins");
        member.acknowledged(epoch, true, now());
        self.bench.fleet.told(&self.bench.fleet.to_tell());
        self.bench.fleet.advance(epoch);
        assert!(member.grant().is_some());
        member
    }

    async fn start(&self) -> Result<watch::Receiver<Drill>, LedgerError> {
        let new = NewDrill {
            started_by: "spiffe://example.org/operator/anna".to_owned(),
            reason: "quarterly".to_owned(),
        };
        self.driller.start(new, WAIT).await
    }

    async fn abort(&self, id: Option<DrillId>) -> Result<Drill, LedgerError> {
        let done = self.ledger.abort_drill(id, aborted()).await;
        done.map(|done| done.answer)
    }

    fn published(&self) -> usize {
        self.ledger.books().key_set().keys().len()
    }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(START)
}

fn aborted() -> Aborted {
    Aborted {
        by: "spiffe://example.org/operator/bert".to_owned(),
        reason: "wrong day".to_owned(),
    }
}

async fn until(watched: &mut watch::Receiver<Drill>, what: impl FnMut(&Drill) -> bool) -> Drill {
    watched.wait_for(what).await.expect("goes on").clone()
}

async fn ended(watched: &mut watch::Receiver<Drill>) -> (DrillOutcome, Drill) {
    let drill = until(watched, |drill| !drill.is_running()).await;
    (drill.end.as_ref().expect("has ended").outcome, drill)
}

fn measured(drill: &Drill) -> &Measured {
    let end = drill.end.as_ref().expect("has ended");
    end.measured.as_ref().expect("was measured")
}

/// F13 rehearsed: published, held by all, withdrawn, refused by all, gone; with the time that each verifier took.
#[tokio::test(start_paused = true)]
async fn a_drill_measures_how_long_each_verifier_takes_to_refuse_the_shadow() {
    let stage = Stage::over(Bench::new()).await;
    let (near, far) = (stage.settled("near"), stage.settled("far"));
    let mut watched = stage.start().await.expect("starts");
    let begun = watched.borrow().clone();
    assert_eq!((begun.id, begun.published.epoch, stage.published()), (1, 2, 2));
    assert!(matches!(
        stage.start().await,
        Err(LedgerError::Refused(Failure::DrillRunning))
    ));
    near.acknowledged(2, true, now());
    // In memory is not held: it had a disk before.
    far.acknowledged(2, false, now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(watched.borrow().withdrawn.is_none());
    stage.bench.clock.advance(Duration::from_millis(700));
    far.acknowledged(2, true, now());

    let drill = until(&mut watched, |drill| drill.withdrawn.is_some()).await;
    assert_eq!(
        drill.held.map(|held| held.after),
        Some(Duration::from_millis(700))
    );
    assert_eq!(drill.withdrawn.map(|withdrawn| withdrawn.epoch), Some(3));
    let newcomer = stage
        .bench
        .fleet
        .join(verifier_key("new"), introduction("1"), now());
    newcomer.expect("joins").acknowledged(3, true, now());
    stage.bench.clock.advance(Duration::from_millis(8));
    near.acknowledged(3, true, now());
    stage.bench.clock.advance(Duration::from_millis(12));
    far.acknowledged(3, true, now());

    let (outcome, drill) = ended(&mut watched).await;
    assert_eq!(outcome, DrillOutcome::Complete);
    let measured = measured(&drill);
    assert_eq!((measured.verifiers, measured.acknowledged), (2, 2));
    assert_eq!(
        measured.safe.map(|safe| safe.after),
        Some(Duration::from_millis(20))
    );
    let took: Vec<_> = measured
        .responses
        .iter()
        .map(|answer| (answer.verifier.clone(), answer.took))
        .collect();
    let expected = |name, millis| (verifier_key(name), Some(Duration::from_millis(millis)));
    assert_eq!(took, [expected("far", 20), expected("near", 8)]);
    let books = stage.ledger.books();
    assert_eq!(
        (books.trust.epoch(), stage.published()),
        (4, 1),
        "the shadow is gone"
    );
    assert_eq!(
        books.drills.last_complete().map(|last| last.as_ref()),
        Some(&drill)
    );
}

/// I-08: whoever was not there is named, with until when it may decide; the others are measured all the same.
#[tokio::test(start_paused = true)]
async fn a_verifier_that_is_stopped_is_named_with_its_bound_and_the_others_are_measured() {
    let stage = Stage::over(Bench::new()).await;
    let (near, _stopped) = (stage.settled("near"), stage.settled("stopped"));
    let mut watched = stage.start().await.expect("starts");
    near.acknowledged(2, true, now());
    let drill = until(&mut watched, |drill| drill.withdrawn.is_some()).await;
    assert_eq!(drill.held, None, "one of them never held it");
    stage.bench.clock.advance(Duration::from_millis(5));
    near.acknowledged(3, true, now());
    let (outcome, drill) = ended(&mut watched).await;
    assert_eq!(outcome, DrillOutcome::GaveUp);
    let measured = measured(&drill);
    assert_eq!(
        (measured.verifiers, measured.acknowledged, measured.safe),
        (2, 1, None)
    );
    let laggard = &measured.responses[0];
    assert_eq!(
        (&laggard.verifier, laggard.took),
        (&verifier_key("stopped"), None)
    );
    // Lease, the longest budget, and what clocks run apart.
    let bound = laggard.until.expect("a bound").since(now());
    assert!(bound > Duration::from_secs(24 * 3600) && bound < Duration::from_secs(24 * 3600 + 60));
    assert_eq!(measured.responses[1].took, Some(Duration::from_millis(5)));
    assert_eq!(stage.published(), 1);
    assert!(
        stage.ledger.books().drills.last_complete().is_none(),
        "no time to safe"
    );
}

/// One that has stopped deciding needs no answer.
#[tokio::test(start_paused = true)]
async fn a_verifier_that_stops_deciding_is_safe_without_an_answer() {
    let stage = Stage::over(Bench::new()).await;
    let away = stage.settled("away");
    let mut watched = stage.start().await.expect("starts");
    away.acknowledged(2, true, now());
    until(&mut watched, |drill| drill.withdrawn.is_some()).await;
    drop(away);
    stage.bench.clock.advance(Duration::from_secs(24 * 3600 + 60));
    let (outcome, drill) = ended(&mut watched).await;
    assert_eq!(outcome, DrillOutcome::Complete);
    let answer = &measured(&drill).responses[0];
    assert_eq!((answer.took, answer.until), (None, None));
}

/// It measures verifiers, and no verifier's speed changes when a trust file expires; receipts name that.
#[tokio::test(start_paused = true)]
async fn a_drill_does_not_wait_for_trust_files() {
    let stage = Stage::over(Bench::new()).await;
    let expires = now().saturating_add(Duration::from_secs(3600));
    stage.bench.fleet.exported(1, expires);
    let mut watched = stage.start().await.expect("starts");
    let (outcome, drill) = ended(&mut watched).await;
    assert_eq!(outcome, DrillOutcome::Complete);
    let withdrawn = drill.withdrawn.expect("was withdrawn").epoch;
    assert!(stage.bench.fleet.reach(withdrawn).files_until.is_some());
}

/// Whoever started it has gone.
#[tokio::test(start_paused = true)]
async fn a_drill_goes_on_when_nobody_watches() {
    let stage = Stage::over(Bench::new()).await;
    drop(stage.start().await.expect("starts"));
    stage.tasks.close();
    stage.tasks.wait().await;
    let books = stage.ledger.books();
    let last = books.drills.last_complete().expect("came to its end");
    assert_eq!((measured(last).verifiers, stage.published()), (0, 1));
}

/// A stop of the process ends the drill in order, whatever it waits for.
#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_drill_and_says_so() {
    for acknowledged in [1, 2] {
        let stage = Stage::over(Bench::new()).await;
        let member = stage.settled("a");
        let mut watched = stage.start().await.expect("starts");
        member.acknowledged(acknowledged, true, now());
        if acknowledged == 2 {
            until(&mut watched, |drill| drill.withdrawn.is_some()).await;
        }
        stage.stop.cancel();
        let (outcome, drill) = ended(&mut watched).await;
        assert_eq!(outcome, DrillOutcome::Interrupted);
        let measured = drill.end.expect("has ended").measured;
        assert_eq!(measured.is_some(), drill.withdrawn.is_some());
        assert_eq!(stage.published(), 1);
        assert!(stage.ledger.books().drills.running().is_none());
    }
}

/// Before the withdrawal and after it, named or whichever runs: the shadow goes, whoever watches is told, and what was measured is
/// kept. Nobody waits for it: the next one begins at once.
#[tokio::test(start_paused = true)]
async fn an_operator_ends_a_drill_before_its_time() {
    for (acknowledged, named) in [(1, None), (2, Some(1))] {
        let stage = Stage::over(Bench::new()).await;
        let (near, _stopped) = (stage.settled("near"), stage.settled("stopped"));
        let mut watched = stage.start().await.expect("starts");
        near.acknowledged(acknowledged, true, now());
        if acknowledged == 2 {
            until(&mut watched, |drill| drill.withdrawn.is_some()).await;
            stage.bench.clock.advance(Duration::from_millis(5));
            near.acknowledged(3, true, now());
        }
        let drill = stage.abort(named).await.expect("is aborted");
        let end = drill.end.as_ref().expect("has ended");
        assert_eq!(
            (end.outcome, &end.aborted),
            (DrillOutcome::Aborted, &Some(aborted()))
        );
        assert_eq!(stage.published(), 1, "the shadow is gone");
        let after = stage.start().await.expect("nobody is in the way").borrow().id;
        assert_eq!((drill.id, after), (1, 2));
        assert_eq!(ended(&mut watched).await, (DrillOutcome::Aborted, drill.clone()));
        let found = end.measured.as_ref();
        let found = found.map(|found| (found.verifiers, found.acknowledged, found.safe));
        assert_eq!(found, (acknowledged == 2).then_some((2, 1, None)));
        assert!(stage.ledger.books().drills.last_complete().is_none());
    }
}

/// None that runs, one that has ended meanwhile, and one that never was.
#[tokio::test(start_paused = true)]
async fn only_a_drill_that_runs_is_aborted() {
    let stage = Stage::over(Bench::new()).await;
    let refused = |aborted: Result<Drill, LedgerError>| aborted.expect_err("is refused").failure();
    assert_eq!(refused(stage.abort(None).await), Failure::DrillNotRunning);
    let mut watched = stage.start().await.expect("starts");
    let (outcome, complete) = ended(&mut watched).await;
    assert_eq!(outcome, DrillOutcome::Complete);
    let epoch = stage.ledger.books().trust.epoch();
    for (named, expected) in [
        (None, Failure::DrillNotRunning),
        (Some(1), Failure::DrillNotRunning),
        (Some(2), Failure::DrillUnknown),
    ] {
        assert_eq!(refused(stage.abort(named).await), expected);
    }
    let books = stage.ledger.books();
    assert_eq!(books.trust.epoch(), epoch);
    assert_eq!(books.drills.find(1).map(AsRef::as_ref), Some(&complete));
    // The next one is not meant.
    let _running = stage.settled("a");
    let _watched = stage.start().await.expect("starts");
    assert_eq!(refused(stage.abort(Some(1)).await), Failure::DrillNotRunning);
    assert!(stage.ledger.books().drills.running().is_some());
}

/// F27: a store that fails for a while delays a drill and breaks nothing, whether the commit was made or not.
#[tokio::test(start_paused = true)]
async fn a_drill_waits_for_the_store() {
    for (commits, fault) in [
        (0, Fault::Before),
        (0, Fault::After),
        (1, Fault::Before),
        (1, Fault::After),
    ] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
        let stage = Stage::over(Bench::over(Arc::<FaultyStore>::clone(&store))).await;
        let member = stage.settled("a");
        let mut watched = stage.start().await.expect("starts");
        // Withdrawn with the next commit, ended with the one after.
        store.fail_commit(commits, fault);
        member.acknowledged(2, true, now());
        until(&mut watched, |drill| drill.withdrawn.is_some()).await;
        member.acknowledged(9, true, now());
        let (outcome, drill) = ended(&mut watched).await;
        assert_eq!(outcome, DrillOutcome::Complete, "{commits} {fault:?}");
        assert_eq!(stage.published(), 1);
        assert_eq!(drill.withdrawn.map(|withdrawn| withdrawn.epoch), Some(3));
        assert_eq!(stage.ledger.books().trust.epoch(), 4);
    }
}

/// A drill that was begun, as it turned out, after it was said that it was not.
#[tokio::test(start_paused = true)]
async fn a_drill_that_nobody_carries_out_is_ended_before_the_next() {
    let stage = Stage::over(Bench::new()).await;
    let new = NewDrill {
        started_by: "anna".to_owned(),
        reason: "lost".to_owned(),
    };
    let lost = stage.ledger.begin_drill(new, Algorithm::Es256).await;
    assert_eq!(lost.expect("begins").answer.id, 1);
    let mut watched = stage.start().await.expect("starts");
    let (outcome, drill) = ended(&mut watched).await;
    assert_eq!((outcome, drill.id), (DrillOutcome::Complete, 2));
    let books = stage.ledger.books();
    let lost = books.drills.find(1).and_then(|drill| drill.end.clone());
    assert_eq!(lost.map(|end| end.outcome), Some(DrillOutcome::Interrupted));
    assert_eq!(stage.published(), 1);
}

fn rotator(stage: &Stage) -> Rotator {
    Rotator {
        ledger: stage.ledger.clone(),
        fleet: stage.bench.fleet.clone(),
        policy: RotationPolicy {
            lifetime: Some(Duration::from_secs(1000)),
            propagation: Duration::from_secs(100),
            retention: Duration::from_secs(50),
        },
        keys: KeyPolicy {
            algorithm: Algorithm::Es256,
            activation_lead: Duration::from_secs(2),
        },
        metrics: Arc::clone(&stage.bench.metrics),
    }
}

/// A shadow is moved by its drill only.
async fn nobody_else_moves(stage: &Stage, shadow: &KeyId) {
    let ledger = &stage.ledger;
    let activation = Activation {
        lead: Duration::ZERO,
        forced: true,
    };
    let activated = ledger.activate_key(Some(shadow.clone()), activation).await;
    let compromised = ledger.compromise_key(shadow.clone(), Algorithm::Es256).await;
    for refused in [
        activated.map(drop),
        ledger.retire_key(shadow.clone()).await.map(drop),
        compromised.map(drop),
    ] {
        assert!(matches!(refused, Err(LedgerError::Refused(Failure::ShadowKey))));
    }
}

/// I-01, I-02: with a drill at every moment of many rotations and a compromise in between, no shadow ever signs, is prepared or
/// is waited for, and everything else is as it would be without.
#[tokio::test(start_paused = true)]
async fn rotation_and_compromise_go_on_as_if_there_were_no_drill() {
    let stage = Stage::over(Bench::new()).await;
    let ledger = &stage.ledger;
    let rotator = rotator(&stage);
    let (mut signed, mut shadows) = (std::collections::BTreeSet::new(), 0);
    for tick in 0..400 {
        let mut drill = ledger.books().drills.running().cloned();
        if tick % 40 == 0 {
            if let Some(running) = drill {
                let end = stage.driller.interrupted();
                ledger.end_drill(running.id, end).await.expect("ends");
            }
            let new = NewDrill {
                started_by: "anna".to_owned(),
                reason: "again".to_owned(),
            };
            let begun = ledger.begin_drill(new, Algorithm::Es256).await.expect("begins");
            drill = Some(Arc::new(begun.answer));
            shadows += 1;
        }
        let drill = drill.expect("one runs");
        if tick % 40 == 20 {
            ledger.withdraw_shadow(drill.id, None).await.expect("withdraws");
        }
        assert_eq!(rotator.catch_up(None).await, None);
        let books = ledger.books();
        let now = ledger.timeline().now();
        let shadow = books
            .ring
            .find(&drill.key_id)
            .expect("stays until its drill ends");
        assert!(shadow.shadow && shadow.signer.is_none());
        assert_eq!(shadow.times().good_from(), None, "no token is accepted under it");
        let signing = books.ring.signing(now).expect("something signs");
        assert!(!signing.shadow);
        signed.insert(signing.key_id().clone());
        assert!(books.ring.standby().is_none_or(|standby| !standby.shadow));
        let signing = signing.key_id().clone();
        if tick == 210 {
            nobody_else_moves(&stage, &drill.key_id).await;
            let done = ledger.compromise_key(signing, Algorithm::Es256).await;
            let next = done.expect("compromises").answer.signing.expect("another signs");
            assert_ne!(next, drill.key_id);
        }
        stage.bench.clock.advance(Duration::from_secs(10));
    }
    assert_eq!((shadows, signed.len()), (10, 5), "as many signers as without");
}
