use countersign_core::Timestamp;

use super::*;

const NOW: u64 = 1_800_021_600;

fn bound(class: &str, second: u64) -> v1::ClassBound {
    v1::ClassBound {
        class: class.to_owned(),
        by: Some(countersign_wire::write_time(Timestamp::from_seconds(
            NOW + second,
        ))),
    }
}

/// One that decides.
fn verifier(name: &str, connected: bool, epoch: u64) -> v1::Verifier {
    v1::Verifier {
        spiffe_id: format!("spiffe://dev.test/{name}"),
        verifier_id: format!("{name}{name}-0123456789"),
        connected,
        acknowledged_epoch: epoch,
        durable: true,
        bounds: vec![bound("strict", 10), bound("normal", 910)],
        ..v1::Verifier::default()
    }
}

fn fleet(verifiers: Vec<v1::Verifier>) -> Fleet {
    Fleet::read(v1::ListVerifiersResponse {
        epoch: 7,
        state_digest: vec![0xab],
        verifiers,
        ..v1::ListVerifiersResponse::default()
    })
}

fn cold() -> v1::Verifier {
    v1::Verifier {
        bounds: vec![],
        ..verifier("d", true, 0)
    }
}

#[test]
fn a_verifier_is_shown_with_what_it_is_and_until_when_it_decides() {
    let quarantined = v1::Verifier {
        quarantined: true,
        ..verifier("e", true, 7)
    };
    let fleet = fleet(vec![
        verifier("a", true, 7),
        verifier("b", true, 6),
        verifier("c", false, 7),
        cold(),
        quarantined,
        // Its stream is open and nothing is acknowledged, but it decides on what it has on disk.
        verifier("f", true, 0),
    ]);
    let states: Vec<State> = fleet.verifiers.iter().map(|verifier| verifier.state).collect();
    assert_eq!(
        states,
        [
            State::Current,
            State::Behind,
            State::Away,
            State::Cold,
            State::Quarantined,
            State::Behind
        ]
    );
    let up_to_date = |verifier: &&Verifier| verifier.up_to_date;
    assert_eq!(fleet.verifiers.iter().filter(up_to_date).count(), 2);
    assert_eq!((fleet.live, fleet.in_force), (5, 3));
    let table = fleet.table(Paint::plain());
    let line = |name: &str| table.lines().find(|line| line.contains(name)).expect("a line");
    assert!(
        line("test/b").contains("2027-01-15T14:15:10Z"),
        "the longest bound: {table}"
    );
    assert!(!line("test/d").contains("T14:"), "it decides nothing: {table}");
    assert!(
        table.ends_with("epoch 7: in force on 3 of 5 verifiers"),
        "{table}"
    );
    assert_eq!(fleet.state_digest, "ab");
}

/// After a restart of the authority nobody has said anything yet. That is no epoch.
#[test]
fn what_a_verifier_has_not_said_yet_is_not_known() {
    let unheard = v1::Verifier {
        durable: false,
        ..verifier("a", true, 0)
    };
    let fleet = fleet(vec![unheard, verifier("b", true, 6)]);
    let table = fleet.table(Paint::plain());
    let columns = |row: usize| {
        let line = table.lines().nth(row).expect("a row");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(columns(1)[1..4], ["behind", "-", "-"], "{table}");
    assert_eq!(columns(2)[1..4], ["behind", "6", "yes"], "{table}");
    let json = serde_json::to_value(&fleet).expect("JSON");
    let unheard = &json["verifiers"][0];
    assert!(
        unheard["acknowledged_epoch"].is_null() && unheard["durable"].is_null(),
        "{json}"
    );
    assert_eq!(json["verifiers"][1]["acknowledged_epoch"], 6);
}

#[test]
fn replicas_are_told_from_each_other_and_nobody_else_is_bothered() {
    let replica = |id: &str| v1::Verifier {
        verifier_id: id.to_owned(),
        ..verifier("b", true, 7)
    };
    let fleet = fleet(vec![
        verifier("a", true, 7),
        replica("3f2a91c0d4e5"),
        replica("aa2a91c0d4e5"),
    ]);
    let table = fleet.table(Paint::plain());
    assert!(
        table.contains("test/b (3f2a91c0) ") && table.contains("test/b (aa2a91c0) "),
        "{table}"
    );
    assert!(!table.contains("test/a ("), "{table}");
}

#[test]
fn a_fleet_of_nobody_is_no_table() {
    let table = fleet(vec![]).table(Paint::plain());
    assert_eq!(table, "epoch 7: no verifier is known");
}

/// What is forgotten is said with as much as tells it from others, and never guessed.
#[test]
fn a_verifier_is_named_by_the_beginning_of_its_identifier() {
    let listed = [verifier("a", false, 1), verifier("b", false, 1)];
    let twins = [
        v1::Verifier {
            verifier_id: "b1".to_owned(),
            ..verifier("b", false, 1)
        },
        v1::Verifier {
            verifier_id: "b12".to_owned(),
            ..verifier("b", false, 1)
        },
    ];
    let b = "spiffe://dev.test/b";
    assert_eq!(one(&listed, b, "").expect("one"), "bb-0123456789");
    assert_eq!(one(&listed, b, "bb").expect("one"), "bb-0123456789");
    assert_eq!(one(&listed, b, "aa").expect_err("another's").exit, Exit::Failure);
    assert_eq!(one(&twins, b, "b12").expect("one"), "b12");
    assert_eq!(one(&twins, b, "b1").expect("the whole of one"), "b1");
    assert_eq!(one(&twins, b, "b").expect_err("two").exit, Exit::Usage);
    assert_eq!(one(&twins, b, "").expect_err("two").exit, Exit::Usage);
}
