//! Rules about source files.

use std::fs;

use crate::repository::{self, name, production_lines, production_sources};

/// Longer files are split by noun.
const LONGEST_FILE: usize = 500;

#[test]
fn no_production_file_is_longer_than_five_hundred_lines() {
    let mut too_long = Vec::new();
    for path in production_sources() {
        let source = fs::read_to_string(&path).expect("the source is readable");
        let lines = production_lines(&source).len();
        if lines > LONGEST_FILE {
            too_long.push(format!("{}: {lines}", name(&path)));
        }
    }
    assert!(too_long.is_empty(), "too long:\n{}", too_long.join("\n"));
}

#[test]
fn sources_are_ascii() {
    let mut found = Vec::new();
    for path in repository::files(&["rs", "proto", "toml", "sh", "go"]) {
        let bytes = fs::read(&path).expect("the file is readable");
        let lines = bytes.split(|byte| *byte == b'\n');
        for (number, _) in lines.enumerate().filter(|(_, line)| !line.is_ascii()) {
            found.push(format!("{}:{}", name(&path), number + 1));
        }
    }
    assert!(found.is_empty(), "not ASCII:\n{}", found.join("\n"));
}

/// The lines of every Rust file that is not generated and not this one, in which one of `words` stands.
fn lines_with(words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in repository::files(&["rs"]) {
        let name = name(&path);
        if repository::is_generated(&name) || name.ends_with(file!()) {
            continue;
        }
        let source = fs::read_to_string(&path).expect("the source is readable");
        for (number, line) in source.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn nothing_is_left_undone_and_no_test_is_left_out() {
    let words = ["#[ignore", "todo!(", "unimplemented!(", "FIXME", "XXX"].map(str::to_owned);
    let found = lines_with(&words);
    assert!(found.is_empty(), "left open:\n{}", found.join("\n"));
}

/// C05: no configuration key turns verification off or opens on failure, neither in code nor in an example.
#[test]
fn no_configuration_key_opens_on_failure() {
    let forbidden = [
        "failure_mode",
        "fail_open",
        "verify = false",
        "insecure",
        "skip_verify",
    ];
    let mut found = Vec::new();
    let written = repository::files(&["toml", "yaml", "yml", "sh"]);
    for path in production_sources().into_iter().chain(written) {
        let name = name(&path);
        let text = fs::read_to_string(&path).expect("the file is readable");
        for (number, line) in text.lines().enumerate() {
            // Envoy's key may be there to say that it does not.
            let lower = line.to_ascii_lowercase().replace("failure_mode_allow: false", "");
            if forbidden.iter().any(|word| lower.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "C05:\n{}", found.join("\n"));
}

/// Generated types stop at the border: of the product's crates only `wire` and the shells around it speak protobuf, and
/// none makes a status by itself (the lint in `clippy.toml` knows only named constructors).
#[test]
fn statuses_are_made_in_one_place() {
    let mut found = Vec::new();
    for path in production_sources() {
        let name = name(&path);
        if name == "shared/wire/src/status.rs" {
            continue;
        }
        let source = fs::read_to_string(&path).expect("the source is readable");
        for (number, line) in production_lines(&source).iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("Status::new(") || code.contains("Status::with_") {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "a status outside wire:\n{}", found.join("\n"));
}

/// Each module's first lines say what it is for. Test modules say it by their names.
#[test]
fn every_module_opens_with_its_purpose() {
    let mut silent = Vec::new();
    for path in production_sources() {
        let source = fs::read_to_string(&path).expect("the source is readable");
        if !source.starts_with("//!") {
            silent.push(name(&path));
        }
    }
    assert!(silent.is_empty(), "without `//!`:\n{}", silent.join("\n"));
}
