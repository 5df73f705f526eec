//! T70 to T75: the times of the token.

use countersign_core::{Claim, Rejection};

use super::{ACCEPT, Table, bearer, reject, wrong};
use crate::case::Expected;
use crate::setting::Role;
use crate::workshop::{Object, text};

pub(super) fn add(table: &mut Table<'_>) {
    add_expiry(table);
    add_expiry_forms(table);
    add_lifetimes(table);
    add_not_before(table);
    add_issued_at(table);
}

/// A case that holds at [`crate::Setting::now`] only.
fn exactly(table: &mut Table<'_>, id: &'static str, name: &str, payload: &Object, expected: Expected) {
    let token = table.setting.token(Role::Active, payload);
    table.case(bearer(id, name, token, expected).frozen());
}

fn leeway(table: &Table<'_>) -> i64 {
    i64::try_from(table.setting.leeway.as_secs()).expect("a short leeway")
}

fn add_expiry(table: &mut Table<'_>) {
    let leeway = leeway(table);
    for offset in -leeway - 1..=leeway + 1 {
        let expected = if offset <= 0 {
            reject(Rejection::TokenExpired)
        } else {
            ACCEPT
        };
        let issued = table.setting.after(-300).to_string();
        let payload = table
            .setting
            .payload()
            .with("exp", table.setting.after(offset).to_string())
            .with("iat", &issued)
            .with("nbf", &issued);
        exactly(
            table,
            "T70",
            &format!("`exp` is now {offset:+}"),
            &payload,
            expected,
        );
    }
    for offset in [-1200, -60] {
        let issued = table.setting.after(-1300).to_string();
        let payload = table
            .setting
            .payload()
            .with("exp", table.setting.after(offset).to_string())
            .with("iat", &issued)
            .with("nbf", &issued);
        let expired = reject(Rejection::TokenExpired);
        table.payload("T70", &format!("expired {} s ago", -offset), &payload, expired);
    }
}

fn add_expiry_forms(table: &mut Table<'_>) {
    let now = table.setting.now;
    for value in [
        "1.7e9".to_owned(),
        format!("{now}.5"),
        format!("{now}.0"),
        text(&now.to_string()),
        "-1".to_owned(),
        "0".to_owned(),
        "-0".to_owned(),
        "9007199254740992".to_owned(),
        "9007199254740993".to_owned(),
        "9223372036854775808".to_owned(),
        "18446744073709551615".to_owned(),
        "18446744073709551616".to_owned(),
        "1e400".to_owned(),
        "-1e400".to_owned(),
        format!("1{}", "0".repeat(400)),
    ] {
        let payload = table.setting.payload().with("exp", value.as_str());
        let name: String = value.chars().take(25).collect();
        table.payload("T71", &format!("`exp` is {name}"), &payload, wrong(Claim::Exp));
        let payload = table.setting.payload().with("iat", value.as_str());
        table.payload("T71", &format!("`iat` is {name}"), &payload, wrong(Claim::Iat));
    }
    for value in ["+1", "01", "0x10", "NaN", "Infinity", ".5"] {
        let payload = table.setting.payload().with("exp", value);
        let malformed = reject(Rejection::TokenMalformed);
        table.payload(
            "T71",
            &format!("`exp` is {value}, which is no JSON"),
            &payload,
            malformed,
        );
    }
}

fn add_lifetimes(table: &mut Table<'_>) {
    let excessive = reject(Rejection::LifetimeExcessive);
    let milliseconds = table.setting.after(600).as_seconds() * 1000;
    let payload = table.setting.payload().with("exp", milliseconds.to_string());
    table.payload("T72", "`exp` in milliseconds", &payload, excessive);
    let payload = table.setting.payload().with("exp", "9007199254740991");
    table.payload("T72", "the largest number that is read", &payload, excessive);

    let longest = i64::try_from(table.setting.max_lifetime.as_secs()).expect("a lifetime");
    let issued = -10;
    for (name, expires, expected) in [
        ("the longest lifetime", issued + longest, ACCEPT),
        ("a second longer", issued + longest + 1, excessive),
        ("a year", issued + 31_536_000, excessive),
        ("`exp` is `iat`", issued, wrong(Claim::Exp)),
        ("`exp` is before `iat`", issued - 1, wrong(Claim::Exp)),
    ] {
        let exp = table.setting.after(expires).to_string();
        let payload = table.setting.payload().with("exp", exp);
        table.payload("T73", name, &payload, expected);
    }
    let payload = table
        .setting
        .payload()
        .with("nbf", table.setting.after(601).to_string());
    table.payload("T73", "`nbf` is after `exp`", &payload, wrong(Claim::Nbf));
}

fn add_not_before(table: &mut Table<'_>) {
    let leeway = leeway(table);
    let early = reject(Rejection::TokenNotYetValid);
    for (offset, expected) in [(-1, ACCEPT), (0, ACCEPT), (leeway, ACCEPT), (leeway + 1, early)] {
        let nbf = table.setting.after(offset).to_string();
        let payload = table.setting.payload().with("nbf", nbf);
        exactly(
            table,
            "T74",
            &format!("`nbf` is now {offset:+}"),
            &payload,
            expected,
        );
    }
    let nbf = table.setting.after(500).to_string();
    let payload = table.setting.payload().with("nbf", nbf);
    table.payload("T74", "`nbf` is minutes ahead", &payload, early);
    let now = table.setting.now.to_string();
    for value in [
        text(&now),
        "null".to_owned(),
        format!("{now}.5"),
        "[]".to_owned(),
        "-1".to_owned(),
    ] {
        let payload = table.setting.payload().with("nbf", value.as_str());
        table.payload("T74", &format!("`nbf` is {value}"), &payload, wrong(Claim::Nbf));
    }
}

fn add_issued_at(table: &mut Table<'_>) {
    let leeway = leeway(table);
    let future = reject(Rejection::IatInFuture);
    for (offset, expected) in [(-1, ACCEPT), (0, ACCEPT), (leeway, ACCEPT), (leeway + 1, future)] {
        let iat = table.setting.after(offset).to_string();
        let payload = table.setting.payload().with("iat", iat);
        exactly(
            table,
            "T75",
            &format!("`iat` is now {offset:+}"),
            &payload,
            expected,
        );
    }
    let iat = table.setting.after(500).to_string();
    let payload = table.setting.payload().with("iat", iat);
    table.payload("T75", "`iat` is minutes ahead", &payload, future);
}
