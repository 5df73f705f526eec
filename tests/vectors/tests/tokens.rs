//! The table T on the pure core: every row gets its answer.

use std::time::Duration;

use countersign_core::{Rejection, Timestamp};
use countersign_vectors::{Case, Expected, Peer, Setting, cases};

fn setting() -> Setting {
    Setting::at(Timestamp::from_seconds(1_800_000_000))
}

fn answer<T>(answer: Result<T, Rejection>) -> Expected {
    match answer {
        Ok(_) => Expected::Accept,
        Err(rejection) => Expected::Reject(rejection),
    }
}

/// The rows of `cases` whose answer, `later` than the table was made, is not the one expected.
fn wrong(setting: &Setting, cases: &[Case], later: Duration) -> Vec<String> {
    let state = setting.trust_state();
    let now = setting.now.saturating_add(later);
    let row = |case: &Case| {
        let answer = answer(case.decide_at(setting, &state, now));
        let line = format!("{} {}: {answer:?} for {:?}", case.id, case.name, case.expected);
        (answer != case.expected).then_some(line)
    };
    cases.iter().filter_map(row).collect()
}

#[test]
fn every_token_case_gets_its_answer() {
    let setting = setting();
    let wrong = wrong(&setting, &cases(&setting), Duration::ZERO);
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Replaying the table on a running verifier takes its time: only rows that say so depend on the second.
#[test]
fn the_answers_hold_for_minutes() {
    let setting = setting();
    let mut lasting = cases(&setting);
    lasting.retain(|case| !case.frozen_clock);
    let wrong = wrong(&setting, &lasting, Duration::from_secs(300));
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// T85: a row that says nothing about the connection gets its answer on any.
#[test]
fn the_connection_matters_only_where_it_is_said_to() {
    let setting = setting();
    let mut any = cases(&setting);
    any.retain(|case| case.peer == Peer::Any);
    for case in &mut any {
        case.peer = Peer::Holder;
    }
    let wrong = wrong(&setting, &any, Duration::ZERO);
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Another verifier's table: nothing in the rows depends on the names of the default setting.
#[test]
fn the_table_follows_its_setting() {
    let mut setting = setting();
    setting.issuer = countersign_core::names::Issuer::parse("https://127.0.0.1:8443").expect("an issuer");
    setting.trust_domain = countersign_core::spiffe::TrustDomain::parse("dev.local").expect("a trust domain");
    setting.audience = countersign_core::names::Audience::parse("svc-1").expect("an audience");
    setting.client_id = countersign_core::names::ClientId::parse("tester").expect("a client id");
    setting.scope = countersign_core::names::Scope::parse("run").expect("a scope");
    setting.now = Timestamp::from_seconds(1_900_000_123);
    setting.max_lifetime = Duration::from_secs(2400);
    setting.leeway = Duration::from_secs(2);
    let wrong = wrong(&setting, &cases(&setting), Duration::ZERO);
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
