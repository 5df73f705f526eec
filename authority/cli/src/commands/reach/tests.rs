use super::*;

/// 14:00 of a day.
const NOW: u64 = 1_800_021_600;

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW)
}

fn at(second: u64) -> Option<prost_types::Timestamp> {
    Some(countersign_wire::write_time(Timestamp::from_seconds(
        NOW + second,
    )))
}

fn bound(class: &str, second: u64) -> v1::ClassBound {
    v1::ClassBound {
        class: class.to_owned(),
        by: at(second),
    }
}

fn laggard(name: &str) -> v1::Laggard {
    v1::Laggard {
        spiffe_id: format!("spiffe://dev.test/{name}"),
        verifier_id: "3f2a91c0d4e5".to_owned(),
        acknowledged_epoch: 6,
        until: at(200),
        ..v1::Laggard::default()
    }
}

fn lacking() -> v1::EpochReach {
    v1::EpochReach {
        epoch: 7,
        live: 20,
        in_force: 19,
        durable: 18,
        bounds: vec![bound("normal", 200), bound("strict", 10)],
        laggards: vec![laggard("b")],
        ..v1::EpochReach::default()
    }
}

fn reach(in_force: u32, live: u32) -> Reach {
    Reach::read(v1::EpochReach {
        epoch: 7,
        live,
        in_force,
        complete: in_force == live,
        ..v1::EpochReach::default()
    })
}

/// Whoever starts from a file is not known; the file is, and when it ends.
#[test]
fn exported_trust_files_are_named_with_their_end() {
    let files_only = Reach::read(v1::EpochReach {
        epoch: 7,
        live: 20,
        in_force: 20,
        trust_files_until: at(300),
        ..v1::EpochReach::default()
    });
    assert_eq!(
        files_only.lines(now()),
        "epoch 7: in force on all 20 verifiers now; safe everywhere by 14:05:00 UTC\n  \
         exported trust files without it: decided on until 14:05:00 UTC"
    );
    let both = Reach::read(v1::EpochReach {
        trust_files_until: at(300),
        ..lacking()
    });
    let lines = both.lines(now());
    assert!(lines.contains("now; on all by 14:05:00 UTC"), "{lines}");
    assert!(
        lines.contains("without it: decided on until 14:05:00 UTC"),
        "{lines}"
    );
}

#[test]
fn who_has_not_heard_is_named_with_the_time_from_which_it_is_safe() {
    let reach = Reach::read(lacking());
    assert!(!reach.complete);
    assert_eq!(
        reach.lines(now()),
        "epoch 7: in force on 19 of 20 verifiers now; on all by 14:03:20 UTC (strict 14:00:10, normal 14:03:20)\n  \
         spiffe://dev.test/b (3f2a91c0): away at epoch 6, decides until 14:03:20 UTC"
    );
}

#[test]
fn a_time_on_another_day_is_told_with_its_date() {
    let reach = Reach::read(v1::EpochReach {
        bounds: vec![bound("tolerant", 24 * 3600)],
        ..lacking()
    });
    let sentence = reach.sentence(now());
    assert!(
        sentence.ends_with("on all by 2027-01-16 14:00:00 UTC"),
        "{sentence}"
    );
}

#[test]
fn a_laggard_is_behind_away_or_in_quarantine() {
    let state = |connected, quarantined| {
        let laggard = v1::Laggard {
            connected,
            quarantined,
            ..laggard("b")
        };
        Laggard::read(laggard).state
    };
    assert_eq!(
        (state(true, false), state(false, false), state(true, true)),
        ("behind", "away", "quarantined")
    );
}

#[test]
fn what_is_everywhere_or_nowhere_is_complete_and_names_no_time() {
    for (reach, sentence) in [
        (reach(20, 20), "in force on all 20 verifiers"),
        (reach(1, 1), "in force on the only verifier"),
        (reach(0, 0), "no verifier decides anything now"),
    ] {
        assert!(reach.complete, "{sentence}");
        assert_eq!(reach.lines(now()), format!("epoch 7: {sentence}"));
    }
    assert!(!reach(0, 1).complete);
}

/// Whoever has not heard has nothing left to accept.
#[test]
fn it_is_complete_when_the_tokens_have_ended() {
    let reach = Reach::read(v1::EpochReach {
        bounds: Vec::new(),
        tokens_end: at(0),
        complete: true,
        ..lacking()
    });
    assert_eq!(
        reach.lines(now()),
        "epoch 7: in force on 19 of 20 verifiers; no token that it concerns is left on the others"
    );
    assert!(complete(&reach).is_ok());
}

#[test]
fn programs_get_every_bound_and_every_laggard() {
    let json = serde_json::to_value(Reach::read(lacking())).expect("JSON");
    let expected = serde_json::json!({
        "epoch": 7, "live": 20, "in_force": 19, "durable": 18, "complete": false,
        "by": "2027-01-15T14:03:20Z", "trust_files_until": null, "tokens_end": null,
        "bounds": { "strict": "2027-01-15T14:00:10Z", "normal": "2027-01-15T14:03:20Z" },
        "laggards": [{
            "spiffe_id": "spiffe://dev.test/b", "verifier_id": "3f2a91c0d4e5", "state": "away",
            "acknowledged_epoch": 6, "until": "2027-01-15T14:03:20Z",
        }],
    });
    assert_eq!(json, expected);
}

#[test]
fn people_are_not_shown_a_hundred_laggards() {
    let reach = Reach::read(v1::EpochReach {
        live: 500,
        in_force: 300,
        laggards: (0..100).map(|number| laggard(&number.to_string())).collect(),
        ..lacking()
    });
    let lines = reach.laggards(now());
    assert_eq!(lines.len(), NAMED + 1);
    assert_eq!(lines.last().map(String::as_str), Some("and 190 more"));
}

/// After a restart the authority knows less, and bounds more loosely. What it said before is still so.
#[test]
fn a_bound_that_was_told_is_not_put_off() {
    let promised = Reach::read(lacking()).bounds;
    let restarted = Reach::read(v1::EpochReach {
        bounds: vec![bound("normal", 900), bound("strict", 5), bound("tolerant", 90)],
        ..lacking()
    });
    let kept = restarted.within(&promised);
    assert_eq!(kept.bounds["normal"], promised["normal"]);
    assert_eq!(
        kept.bounds["strict"],
        At(Timestamp::from_seconds(NOW + 5)),
        "sooner is better"
    );
    assert_eq!(kept.by, Some(promised["normal"]));
}

#[test]
fn it_is_complete_once_the_last_bound_has_passed_and_not_before() {
    let mut reach = Reach::read(lacking());
    reach.passed(Timestamp::from_seconds(NOW + 199));
    assert!(!reach.complete);
    reach.passed(Timestamp::from_seconds(NOW + 200));
    assert!(reach.complete);
    assert_eq!(
        reach.lines(now()),
        "epoch 7: in force on 19 of 20 verifiers; safe on the others, too, since 14:03:20 UTC"
    );
}

#[test]
fn a_wait_that_is_over_fails_with_the_code_for_try_again_and_says_where_to() {
    assert!(complete(&reach(2, 2)).is_ok());
    let failure = complete(&reach(1, 2)).expect_err("not everywhere");
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(
        failure.message.contains("in force on 1 of 2 verifiers"),
        "{failure}"
    );
    assert!(failure.next.is_some_and(|next| next.contains("fleet watch 7")));
}

/// Whoever waits for one that was stopped finds out what can be done about it. Of one that is connected nobody shall make it forget.
#[test]
fn a_wait_for_one_that_is_away_says_what_helps_if_it_is_gone() {
    let next = |connected| {
        let laggards = vec![v1::Laggard {
            connected,
            ..laggard("b")
        }];
        let lacking = v1::EpochReach {
            laggards,
            ..lacking()
        };
        let failure = complete(&Reach::read(lacking)).expect_err("not everywhere");
        failure.next.expect("what to do")
    };
    assert!(next(false).contains("fleet forget"), "{}", next(false));
    assert!(!next(true).contains("fleet forget"), "{}", next(true));
}
