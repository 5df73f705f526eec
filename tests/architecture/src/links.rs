//! Links in documents lead somewhere: to a file that exists, and in it to a heading that exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::repository::{self, name};

/// The text of a document without code, in which brackets mean something else.
fn prose(document: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for (index, part) in line.split('`').enumerate() {
                if index % 2 == 0 {
                    prose.push_str(part);
                }
            }
            prose.push('\n');
        }
    }
    prose
}

fn link_targets(document: &str) -> Vec<String> {
    prose(document)
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(str::to_owned)
        .collect()
}

/// The anchors that a document's headings give: lower case, spaces as hyphens, punctuation gone.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

/// What is wrong with `target`, as it stands in `document`.
fn broken(document: &Path, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = document.parent().expect("a document is in a folder");
    let path = if file.is_empty() {
        document.to_owned()
    } else {
        folder.join(file)
    };
    if !path.exists() {
        return Some("no such file");
    }
    if anchor.is_empty() || path.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let text = fs::read_to_string(&path).expect("the document is readable");
    (!anchors(&text).contains(anchor)).then_some("no such heading")
}

#[test]
fn links_between_documents_resolve() {
    let mut wrong = Vec::new();
    for path in repository::files(&["md"]) {
        let text = fs::read_to_string(&path).expect("the document is readable");
        for target in link_targets(&text) {
            if let Some(why) = broken(&path, &target) {
                wrong.push(format!("{}: {target}: {why}", name(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "broken links:\n{}", wrong.join("\n"));
}

#[test]
fn code_has_no_links() {
    let document = "see [a](b.md) and `[c](d)`\n```\n[e](f)\n```\n# A Heading, *twice*\n";
    assert_eq!(link_targets(document), ["b.md"]);
    assert!(anchors(document).contains("a-heading-twice"));
}
