//! The table T on the pure core: every row gets its answer.

use countersign_core::Timestamp;
use countersign_vectors::{Expected, Setting, cases};

#[test]
fn every_token_case_gets_its_answer() {
    let setting = Setting::at(Timestamp::from_seconds(1_800_000_000));
    let mut wrong = Vec::new();
    for case in cases(&setting) {
        let answer = match case.decide(&setting) {
            Ok(_) => Expected::Accept,
            Err(rejection) => Expected::Reject(rejection),
        };
        if answer != case.expected {
            wrong.push(format!(
                "{} {}: {:?} for {:?}",
                case.id, case.name, answer, case.expected
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
