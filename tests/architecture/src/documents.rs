//! Documents say what the code does: what can be compared is compared.

use std::collections::BTreeMap;

use countersign_core::Rejection;
use countersign_core::issuing::IssueError;
use countersign_core::jwk::KeySetError;
use countersign_core::trust::UpdateRefused;
use countersign_wire::status::{self, Disclosure, Failure};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::repository;

/// The name of a gRPC code as documents write it.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What a status says: its reason as it stands in metrics, and its code.
fn told(status: &Status) -> (String, String) {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    (info.metadata["reason"].clone(), code_name(status.code()))
}

/// Every reason that the code knows, with its code; `-` where it is no status.
fn known_reasons() -> BTreeMap<String, String> {
    let refusals = Rejection::ALL.into_iter().flat_map(|rejection| {
        [Disclosure::Coarse, Disclosure::Precise]
            .map(|disclosure| told(&status::refused(rejection, disclosure)))
    });
    let issuing = IssueError::ALL
        .into_iter()
        .map(|error| told(&status::not_issued(error, None)));
    let failures = Failure::ALL
        .into_iter()
        .map(|failure| told(&status::failed(failure)));
    let field = told(&status::invalid("field", "is wrong"));
    let updates = UpdateRefused::ALL
        .into_iter()
        .map(UpdateRefused::reason)
        .chain(KeySetError::ALL.into_iter().map(KeySetError::reason))
        .map(|reason| (reason.to_owned(), "-".to_owned()));
    refusals
        .chain(issuing)
        .chain(failures)
        .chain([field])
        .chain(updates)
        .collect()
}

/// The first two cells of each table row whose first cell is one name in backticks.
fn rows(document: &str) -> BTreeMap<String, String> {
    document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((name.to_owned(), cells.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_code_and_no_other() {
    let documented = rows(&repository::text("docs/errors.md"));
    let known = known_reasons();
    let differs = |reason: &&String| documented.get(*reason) != known.get(*reason);
    let wrong: Vec<String> = known
        .keys()
        .chain(documented.keys())
        .filter(differs)
        .map(|reason| {
            format!(
                "{reason}: documented {:?}, true {:?}",
                documented.get(reason),
                known.get(reason)
            )
        })
        .collect();
    assert!(wrong.is_empty(), "docs/errors.md:\n{}", wrong.join("\n"));
}

/// The contracts name reasons in their comments; each of them exists.
#[test]
fn the_contracts_name_only_reasons_that_exist() {
    let known = known_reasons();
    let mut unknown = Vec::new();
    for path in repository::files(&["proto"]) {
        let name = repository::name(&path);
        for line in repository::text(&name).lines().filter(|line| line.contains("//")) {
            for word in line.split('`').skip(1).step_by(2) {
                let is_reason =
                    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                if is_reason && !known.contains_key(&word.to_ascii_lowercase()) {
                    unknown.push(format!("{name}: {word}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "unknown reasons:\n{}", unknown.join("\n"));
}
