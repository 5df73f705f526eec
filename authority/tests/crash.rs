//! A commit that returned survives SIGKILL: a child process commits and says so, and is killed at some moment.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test, whose child is told by its environment"
)]

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use countersign_authority::store::redb::RedbStore;
use countersign_authority::store::{Commit, Store as _, read_all};
use countersign_core::ports::Entropy as _;
use countersign_crypto::AwsLc;

const STORE: &str = "COUNTERSIGN_CRASH_TEST_STORE";
const FIRST: &str = "COUNTERSIGN_CRASH_TEST_FIRST";
const ROUNDS: usize = 12;

/// The child: commits two records with one number until it is killed, and says each number once it is committed.
#[test]
fn child_that_commits_until_it_is_killed() {
    let (Ok(path), Ok(first)) = (std::env::var(STORE), std::env::var(FIRST)) else {
        return;
    };
    let runtime = countersign_runtime::build(1).expect("a runtime");
    runtime.block_on(async {
        let store = RedbStore::open(Path::new(&path)).await.expect("opens");
        let mut number: u64 = first.parse().expect("a number");
        loop {
            let mut commit = Commit::default();
            commit.expect(&format!("a/{number:08}"), 0);
            commit.put(format!("a/{number:08}"), number.to_string().into_bytes());
            commit.put(format!("b/{number:08}"), vec![b'x'; 3000]);
            commit.delete(format!("b/{:08}", number.saturating_sub(50)));
            store.commit(commit).await.expect("commits");
            writeln!(io::stdout(), "committed {number}").expect("says so");
            number += 1;
        }
    });
}

fn start(path: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_that_commits_until_it_is_killed", "--nocapture"])
        .env(STORE, path)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

fn random(below: u8) -> u8 {
    let mut byte = [0];
    AwsLc.fill(&mut byte).expect("randomness");
    byte[0] % below
}

/// Lets a child commit some numbers from `first` on, kills it, and gives back the last that it said.
fn kill_after_some(path: &Path, first: u64) -> u64 {
    let mut child = start(path, first);
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let wanted = 1 + usize::from(random(60));
    let mut last = first;
    let mut said = |line: io::Result<String>| {
        let line = line.ok()?;
        let number = line.rsplit_once("committed ")?.1.parse().ok()?;
        last = number;
        Some(number)
    };
    let mut seen = 0;
    while seen < wanted {
        let line = lines.next().expect("goes on");
        seen += usize::from(said(line).is_some());
    }
    // `kill` is SIGKILL.
    child.kill().expect("kills");
    child.wait().expect("ends");
    // What it said before it died counts too.
    for line in lines {
        said(line);
    }
    last
}

/// I-13, promise 1 and 2 of the store.
#[test]
fn every_acknowledged_commit_survives_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let runtime = countersign_runtime::build(1).expect("a runtime");
    let mut next = 1;
    for round in 0..ROUNDS {
        let acknowledged = kill_after_some(&path, next);
        let found = runtime.block_on(async {
            let store = RedbStore::open(&path).await.expect("opens after a kill");
            (
                read_all(&store, "a/").await.expect("reads"),
                read_all(&store, "b/").await.expect("reads"),
            )
        });
        let numbers: Vec<String> = found.0.iter().map(|record| record.name.clone()).collect();
        // The one that was under way may be there or not; nothing else may.
        let committed = u64::try_from(numbers.len()).expect("few");
        assert!(
            (acknowledged..=acknowledged + 1).contains(&committed),
            "round {round}: {acknowledged} acknowledged, {committed} found"
        );
        let expected: Vec<String> = (1..=committed).map(|number| format!("a/{number:08}")).collect();
        assert_eq!(numbers, expected, "round {round}");
        // Whole: what a commit wrote and deleted elsewhere went with it.
        let others: Vec<String> = found.1.iter().map(|record| record.name.clone()).collect();
        let oldest = committed.saturating_sub(50) + 1;
        let expected: Vec<String> = (oldest..=committed)
            .map(|number| format!("b/{number:08}"))
            .collect();
        assert_eq!(others, expected, "round {round}");
        next = committed + 1;
    }
}
