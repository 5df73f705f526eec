//! The strict reading of JSON, where `serde_json` alone would be lax.

use super::*;

fn is_read(document: &str) -> bool {
    Members::read(document.as_bytes()).is_ok()
}

#[test]
fn a_document_is_one_object() {
    for good in ["{}", " {}\n", "\t{ \"a\" : 1 }\r\n"] {
        assert!(is_read(good), "{good}");
    }
    for bad in [
        "",
        " ",
        "[]",
        "null",
        "1",
        "\"a\"",
        "{}{}",
        "{},",
        "{} x",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\"}",
    ] {
        assert!(!is_read(bad), "{bad}");
    }
    assert!(Members::read(b"{\"a\":\"\xff\"}").is_err());
    assert!(Members::read(b"\xef\xbb\xbf{}").is_err());
}

/// T27, T28, T83: by what the name says, not by how it is spelled.
#[test]
fn a_member_stands_once() {
    assert!(!is_read(r#"{"a":1,"a":1}"#));
    assert!(!is_read(r#"{"a":1,"\u0061":1}"#));
    assert!(is_read(r#"{"a":1,"A":1,"a ":1,"":1}"#));
}

#[test]
fn a_member_is_found_by_its_name() {
    let members = Members::read(br#"{"\u0061":"x","b":{"a":1}}"#).expect("read");
    assert_eq!(members.find("a").and_then(string).as_deref(), Some("x"));
    assert_eq!(members.find("b").map(RawValue::get), Some(r#"{"a":1}"#));
    assert!(members.find("c").is_none());
    assert_eq!(
        members.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

/// T93: members have a bound.
#[test]
fn an_object_has_at_most_so_many_members() {
    let object = |count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(is_read(&object(MAX_MEMBERS)));
    assert!(!is_read(&object(MAX_MEMBERS + 1)));
    let nested = |count: usize| format!("{{\"a\":{}}}", object(count));
    let is_strict = |document: &str| {
        let members = Members::read(document.as_bytes()).expect("read");
        members.iter().all(|(_, value)| check(value).is_ok())
    };
    assert!(is_strict(&nested(MAX_MEMBERS)));
    assert!(!is_strict(&nested(MAX_MEMBERS + 1)));
}

/// T26: depth has a bound, and brackets inside of text do not count.
#[test]
fn nesting_has_a_bound() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(is_read(&nested(MAX_DEPTH)));
    assert!(!is_read(&nested(MAX_DEPTH + 1)));
    assert!(is_read(&format!("{{\"a\":\"{}\"}}", "[{".repeat(100))));
    assert!(is_read(&format!(r#"{{"a":"\"{}\\"}}"#, "[".repeat(100))));
    // A text that ends in an escaped backslash ends there.
    assert!(!is_read(&format!(r#"{{"a":"\\",{}"#, "\"b\":[".repeat(100))));
}

#[test]
fn a_check_looks_inside() {
    let check = |value: &str| {
        let document = format!("{{\"a\":{value}}}");
        let members = Members::read(document.as_bytes()).expect("read");
        members.iter().all(|(_, value)| check(value).is_ok())
    };
    for good in [
        "null",
        "1.5e3",
        "-0",
        "\"\\ud83d\\ude00\"",
        "[{\"a\":1},{\"a\":2}]",
        "{\"a\":{\"a\":1}}",
    ] {
        assert!(check(good), "{good}");
    }
    for bad in [
        r#""\ud800""#,
        r#"["\udc00"]"#,
        r#"{"\ud800":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[[{"b":1,"b":1}]]"#,
        "1e999",
    ] {
        assert!(!check(bad), "{bad}");
    }
}
