//! No line of the sections T and K is forgotten: each has rows, a test here, or a named place elsewhere.
#![expect(clippy::print_stdout, reason = "a report on tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use countersign_core::Timestamp;
use countersign_vectors::coverage::{ELSEWHERE, Elsewhere, NOT_APPLICABLE, SEQUENCES, in_tables, section};
use countersign_vectors::{Setting, cases, key_sets};

fn ids(lines: &[Elsewhere]) -> BTreeSet<String> {
    lines.iter().map(|line| line.id.to_owned()).collect()
}

fn list(ids: impl Iterator<Item = String>) -> String {
    ids.collect::<Vec<_>>().join(" ")
}

#[test]
fn every_line_of_the_catalogue_has_its_place() {
    let setting = Setting::at(Timestamp::from_seconds(1_800_000_000));
    let rows: BTreeSet<String> = in_tables(&setting).into_iter().map(str::to_owned).collect();
    let here: BTreeSet<String> = rows.union(&ids(&SEQUENCES)).cloned().collect();
    let all: BTreeSet<String> = section('T', 95).union(&section('K', 25)).cloned().collect();
    let mut known: BTreeSet<String> = here.union(&ids(&ELSEWHERE)).cloned().collect();
    known.extend(NOT_APPLICABLE.map(|(id, _)| id.to_owned()));
    assert_eq!(
        all.difference(&known).count(),
        0,
        "forgotten: {}",
        list(all.difference(&known).cloned())
    );
    assert_eq!(
        known.difference(&all).count(),
        0,
        "unknown: {}",
        list(known.difference(&all).cloned())
    );

    let (tokens, sets) = (cases(&setting), key_sets::cases(&setting));
    let count = |letter: char| here.iter().filter(|id| id.starts_with(letter)).count();
    println!(
        "T: {} of 95 lines covered here, {} rows",
        count('T'),
        tokens.len()
    );
    println!("K: {} of 25 lines covered here, {} rows", count('K'), sets.len());
    println!("not here: {}", list(all.difference(&here).cloned()));
    let replayed = tokens
        .iter()
        .filter(|case| case.is_sendable() && !case.frozen_clock)
        .count();
    println!("{replayed} rows can be sent to a running verifier");
}

/// Rows have distinct names within a line, so that a failure names one row.
#[test]
fn every_row_has_a_name_of_its_own() {
    let setting = Setting::at(Timestamp::from_seconds(1_800_000_000));
    let mut names = BTreeSet::new();
    let tokens = cases(&setting).into_iter().map(|case| (case.id, case.name));
    let sets = key_sets::cases(&setting)
        .into_iter()
        .map(|case| (case.id, case.name));
    let twice: Vec<_> = tokens
        .chain(sets)
        .filter(|row| !names.insert(row.clone()))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// The files named exist, and speak of the lines that they are said to cover.
#[test]
fn the_named_tests_name_their_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for line in SEQUENCES.iter().chain(&ELSEWHERE) {
        let source = fs::read_to_string(root.join(line.place)).expect(line.place);
        assert!(
            source.contains(line.id),
            "{} does not name {}",
            line.place,
            line.id
        );
    }
}
