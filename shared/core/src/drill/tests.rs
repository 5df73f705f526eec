use super::*;
use crate::names::VerifierId;
use crate::spiffe::SpiffeId;

fn verifier(name: &str) -> VerifierKey {
    VerifierKey {
        spiffe_id: SpiffeId::parse(&format!("spiffe://test/{name}")).unwrap(),
        verifier_id: VerifierId::parse("1").unwrap(),
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn response(name: &str, took: Option<u64>, until: Option<u64>) -> Response {
    Response {
        verifier: verifier(name),
        took: took.map(millis),
        until: until.map(at),
    }
}

fn drill() -> Drill {
    Drill {
        id: 1,
        key_id: KeyId::parse(&"A".repeat(43)).unwrap(),
        started_by: "spiffe://test/anna".to_owned(),
        reason: "quarterly".to_owned(),
        published: Change { epoch: 7, at: at(10) },
        held: None,
        withdrawn: None,
        end: None,
    }
}

#[test]
fn a_drill_withdraws_and_ends_when_everybody_is_there_or_the_wait_is_over() {
    let published = drill();
    let withdrawn = Drill {
        withdrawn: Some(Change { epoch: 9, at: at(11) }),
        ..drill()
    };
    assert_eq!((published.awaited(), withdrawn.awaited()), (7, 9));
    for (is_everywhere, is_over, first, second) in [
        (false, false, Next::Wait, Next::Wait),
        (true, false, Next::Withdraw, Next::End(DrillOutcome::Complete)),
        (false, true, Next::Withdraw, Next::End(DrillOutcome::GaveUp)),
        // It was there in time, though only just.
        (true, true, Next::Withdraw, Next::End(DrillOutcome::Complete)),
    ] {
        assert_eq!(published.next(is_everywhere, is_over), first);
        assert_eq!(withdrawn.next(is_everywhere, is_over), second);
    }
}

#[test]
fn whoever_is_not_safe_is_named_first_and_then_the_slowest() {
    let responses = vec![
        response("fast", Some(3), None),
        response("away", None, Some(900)),
        response("slow", Some(80), None),
        // Its disk has failed: a crash would bring back what is there.
        response("undurable", Some(1), Some(1000)),
        response("stopped", None, None),
    ];
    let measured = Measured::of(responses, None);
    let names: Vec<&str> = measured
        .responses
        .iter()
        .map(|response| response.verifier.spiffe_id.as_str())
        .collect();
    assert_eq!(
        names,
        ["undurable", "away", "stopped", "slow", "fast"].map(|name| format!("spiffe://test/{name}"))
    );
    assert_eq!((measured.verifiers, measured.acknowledged), (5, 3));
    let spread = Spread {
        p50: millis(3),
        p99: millis(80),
        max: millis(80),
    };
    assert_eq!(measured.spread, Some(spread));
}

#[test]
fn a_spread_is_by_the_nearest_rank_over_everybody_and_names_are_bounded() {
    let responses = (1..=200)
        .map(|n| response(&format!("v{n:03}"), Some(n), None))
        .collect();
    let measured = Measured::of(responses, None);
    let spread = measured.spread.unwrap();
    assert_eq!(
        (spread.p50, spread.p99, spread.max),
        (millis(100), millis(198), millis(200))
    );
    assert_eq!((measured.verifiers, measured.responses.len()), (200, MAX_NAMED));
    assert_eq!(measured.responses[0].took, Some(millis(200)));
    let nobody = Measured::of(vec![response("a", None, Some(1))], None);
    assert_eq!((nobody.spread, nobody.acknowledged), (None, 0));
    let one = Measured::of(vec![response("a", Some(5), None)], None);
    let spread = one.spread.unwrap();
    assert_eq!((spread.p50, spread.p99), (millis(5), millis(5)));
}

#[test]
fn a_stopwatch_takes_the_first_answer_of_those_who_decided() {
    let (a, b) = (verifier("a"), verifier("b"));
    let mut watch = Stopwatch::start(5, millis(1000), [a.clone(), b.clone()].into_iter());
    watch.acknowledged(&a, 4, millis(1001));
    watch.acknowledged(&a, 6, millis(1010));
    watch.acknowledged(&a, 7, millis(1500));
    watch.acknowledged(&verifier("newcomer"), 7, millis(1500));
    let took: Vec<_> = watch.took().collect();
    assert_eq!(took, [(&a, Some(millis(10))), (&b, None)]);
    assert_eq!((watch.epoch(), watch.read(millis(1250))), (5, millis(250)));
}

#[test]
fn outcomes_are_known_by_their_names() {
    for outcome in DrillOutcome::ALL {
        assert_eq!(DrillOutcome::from_name(outcome.name()), Some(outcome));
    }
    assert_eq!(DrillOutcome::from_name("done"), None);
}
