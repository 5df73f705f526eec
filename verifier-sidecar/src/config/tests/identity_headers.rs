//! Names of identity headers.

use super::*;

/// The names that a file with this section chooses.
fn names(section: &str) -> Vec<String> {
    let text = format!("{LEAST}[identity_headers]\n{section}");
    let config = parse(&text).expect("it makes sense");
    config
        .identity_headers
        .names()
        .map(|name| name.as_str().to_owned())
        .collect()
}

#[test]
fn headers_have_their_usual_names_unless_others_are_chosen() {
    let usual = [
        "x-countersign-subject",
        "x-countersign-client",
        "x-countersign-scopes",
        "x-countersign-token-id",
    ];
    assert_eq!(names(""), usual);
    assert_eq!(
        names("subject = \"X-Forwarded-User\"\nscopes = \"\"\n"),
        ["x-forwarded-user", usual[1], usual[3]]
    );
    let nothing = "subject = \"\"\nclient = \"\"\nscopes = \"\"\ntoken_id = \"\"\n";
    assert_eq!(names(nothing), [""; 0]);
}

/// C01, C03, T18: names that have another meaning, or two.
#[test]
fn names_that_cannot_be_identity_headers_are_refused() {
    for (section, needle) in [
        (
            "subject = \"authorization\"",
            "`identity_headers.subject`: is the name of a header that",
        ),
        (
            "client = \"grpc-client\"",
            "`identity_headers.client`: is the name of a header that",
        ),
        (
            "client = \":authority\"",
            "`identity_headers.client`: is no name of a header",
        ),
        (
            "scopes = \"scopes-bin\"",
            "`identity_headers.scopes`: ends in `-bin`",
        ),
        (
            "subject = \"x-user\"\ntoken_id = \"X_User\"",
            "`identity_headers.token_id`: is the same header as `identity_headers.subject`",
        ),
        (
            "subject = \"x-countersign-client\"",
            "`identity_headers.client`: is the same header as `identity_headers.subject`",
        ),
        ("audience = \"x-audience\"", "unknown field `audience`"),
        ("subject = false", "invalid type: boolean `false`"),
    ] {
        let complaints = complaints_about(&format!("[identity_headers]\n{section}\n"));
        assert!(complaints.contains(needle), "{section}: {complaints}");
    }
}
