//! T01 to T07: where the token stands in the request.

use countersign_core::Rejection;

use super::{ACCEPT, MALFORMED, Table, reject};

pub(super) fn add(table: &mut Table<'_>) {
    add_schemes(table);
    add_spaces(table);
    add_repetitions(table);
}

fn add_schemes(table: &mut Table<'_>) {
    let missing = reject(Rejection::TokenMissing);
    let token = table.setting.good_token();
    let field = |scheme: &str| format!("{scheme}{token}").into_bytes();

    table.fields("T01", "no field", &[], missing);
    for scheme in [
        "Basic ",
        "DPoP ",
        "Negotiate ",
        "Bearertoken ",
        "Bearer,",
        "Token ",
        "Bearer:",
    ] {
        table.fields(
            "T02",
            &format!("the scheme `{scheme}`"),
            &[&field(scheme)],
            missing,
        );
    }
    table.fields("T02", "the bare token", &[token.as_bytes()], missing);
    table.fields("T02", "an empty field", &[b""], missing);
    for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR "] {
        table.fields(
            "T03",
            &format!("the scheme `{scheme}`"),
            &[&field(scheme)],
            ACCEPT,
        );
    }
}

fn add_spaces(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    for (name, scheme) in [
        ("two spaces", "Bearer  "),
        ("a tab", "Bearer\t"),
        ("a space and a tab", "Bearer \t"),
        ("a no-break space", "Bearer\u{a0}"),
        ("a space and a no-break space", "Bearer \u{a0}"),
    ] {
        let field = format!("{scheme}{token}").into_bytes();
        table.fields("T04", name, &[&field], MALFORMED);
    }
    table.fields("T04", "bytes outside ASCII", &[b"Bearer \xff\x80"], MALFORMED);
    let missing = reject(Rejection::TokenMissing);
    table.fields("T05", "the scheme alone", &[b"Bearer"], missing);
    table.fields("T05", "the scheme and a space", &[b"Bearer "], missing);
}

fn add_repetitions(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    let good = format!("Bearer {token}").into_bytes();
    table.fields("T06", "two equal fields", &[&good, &good], MALFORMED);
    table.fields(
        "T06",
        "a good field and a bad one",
        &[&good, b"Bearer x"],
        MALFORMED,
    );
    table.fields(
        "T06",
        "a bad field and a good one",
        &[b"Bearer x", &good],
        MALFORMED,
    );
    table.fields(
        "T06",
        "another scheme and a good one",
        &[b"Basic eDp5", &good],
        MALFORMED,
    );
    table.fields("T06", "an empty field and a good one", &[b"", &good], MALFORMED);
    let joined = format!("Bearer {token}, Bearer {token}");
    table.fields("T07", "two in one field", &[joined.as_bytes()], MALFORMED);
    let listed = format!("Bearer {token},{token}");
    table.fields(
        "T07",
        "two tokens after one scheme",
        &[listed.as_bytes()],
        MALFORMED,
    );
}
