//! The checks are themselves checked: every bug that can be planted is found, and none is found where there is none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail loudly")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_core::planted::{Bug, plant};
use countersign_simulation::{Outcome, run};

/// Seeds that once showed a fault, and run for ever.
const KEPT: &str = include_str!("../seeds.txt");

/// Seeds that are run without a bug.
const CLEAN: u64 = 300;

/// Seeds within which a bug has to be found.
const BUDGET: u64 = 1500;

/// The invariants that concern trust, each of which has to catch something, with the lines of the catalogue on a store that was
/// put back (D17) and on an authority that nobody may stop without reason (F30), and those of publishing keys (P-1 to P-4).
const CHECKED: [&str; 24] = [
    "I-01", "I-02", "I-03", "I-04", "I-05", "I-06", "I-07", "I-08", "I-09", "I-10", "I-11", "I-12", "I-13",
    "I-14", "I-15", "I-16", "I-17", "I-18", "I-19", "D17", "P-1", "P-2", "P-3", "P-4",
];

fn kept() -> Vec<u64> {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#'));
    let seeds = lines.filter_map(|line| line.split_whitespace().next());
    seeds.map(|seed| seed.parse().unwrap()).collect()
}

/// The results of `work` on every one of `items`, in two threads.
fn in_two_threads<T: Copy + Sync, R: Send>(items: &[T], work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(work(*item));
        }
        done
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        let mut done = worker();
        done.extend(other.join().unwrap());
        done
    })
}

/// The first of the seeds that shows `bug`, and what it shows. Those that are kept come last: they are for what is too rare.
fn find(bug: Bug) -> Option<Outcome> {
    plant(Some(bug));
    let seeds = (0..BUDGET).chain(kept());
    let found = seeds.map(run).find(|outcome| outcome.violation.is_some());
    plant(None);
    found
}

/// I-01 to I-19, I-36 to I-39, and P-1 to P-4.
#[test]
fn no_bug_is_found_without_one() {
    let mut seeds = kept();
    seeds.extend(0..CLEAN);
    let outcomes = in_two_threads(&seeds, run);
    let broken: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.violation.is_some())
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_planted_bug_is_found() {
    let found = in_two_threads(&Bug::ALL, |bug| (bug, find(bug)));
    let found: BTreeMap<Bug, Option<Outcome>> = found.into_iter().collect();
    let mut lines = Vec::new();
    for (bug, outcome) in &found {
        lines.push(
            match outcome.as_ref().and_then(|outcome| outcome.violation.as_ref()) {
                Some(violation) => {
                    let seed = outcome.as_ref().unwrap().seed;
                    format!(
                        "{bug:?}: seed {seed}, {}: {}",
                        violation.invariant, violation.what
                    )
                }
                None => format!("{bug:?}: NOT FOUND"),
            },
        );
    }
    let mut caught: BTreeMap<&str, Vec<Bug>> = BTreeMap::new();
    for (bug, outcome) in &found {
        let violation = outcome.as_ref().and_then(|outcome| outcome.violation.as_ref());
        if let Some(violation) = violation {
            caught.entry(violation.invariant).or_default().push(*bug);
        }
    }
    lines.push("what each check has caught:".to_owned());
    lines.extend(
        caught
            .iter()
            .map(|(invariant, bugs)| format!("{invariant}: {bugs:?}")),
    );
    let idle: Vec<&str> = CHECKED
        .into_iter()
        .filter(|invariant| !caught.contains_key(invariant))
        .collect();
    let count = found.values().filter(|outcome| outcome.is_some()).count();
    let total = found.len();
    let report = format!("planted bugs found: {count} of {total}\n{}\n", lines.join("\n"));
    std::io::stderr().write_all(report.as_bytes()).unwrap();
    assert_eq!(count, total);
    assert!(idle.is_empty(), "no bug shows that these are checked: {idle:?}");
}

/// A seed that is kept must show the same for ever.
#[test]
fn a_run_is_a_function_of_its_seed() {
    for seed in 1000..1012 {
        let (one, other) = (run(seed), run(seed));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert_eq!(one.counts.events, other.counts.events);
        assert_ne!(one.trace, run(seed + 1).trace);
    }
}
