//! T68, T69, T76 to T84, T93 to T95: what the claims say.

use countersign_core::{Claim, Rejection};

use super::{ACCEPT, MALFORMED, Table, reject, wrong};
use crate::case::Method;
use crate::setting::Role;
use crate::workshop::text;

const REQUIRED: [Claim; 7] = [
    Claim::Iss,
    Claim::Sub,
    Claim::Aud,
    Claim::Exp,
    Claim::Iat,
    Claim::Jti,
    Claim::ClientId,
];

pub(super) fn add(table: &mut Table<'_>) {
    add_required(table);
    add_audiences(table);
    add_issuers(table);
    add_subjects(table);
    add_scopes(table);
    add_other_claims(table);
    add_duplicates(table);
    add_controls(table);
    add_many(table);
    add_permissions(table);
}

fn add_required(table: &mut Table<'_>) {
    for claim in REQUIRED {
        let name = claim.name();
        let payload = table.setting.payload().without(name);
        table.payload(
            "T68",
            &format!("no `{name}`"),
            &payload,
            reject(Rejection::ClaimMissing(claim)),
        );
        for value in ["null", "true", "1.5", "[]", "{}"] {
            let payload = table.setting.payload().with(name, value);
            table.payload("T69", &format!("`{name}` is {value}"), &payload, wrong(claim));
        }
    }
    for name in ["nbf", "scope", "roles", "cnf", "act"] {
        let payload = table.setting.payload().without(name);
        table.payload("T68", &format!("no `{name}`"), &payload, ACCEPT);
    }
}

fn add_audiences(table: &mut Table<'_>) {
    let ours = table.setting.audience.as_str().to_owned();
    let quoted = text(&ours);
    let with = |table: &Table<'_>, value: &str| table.setting.payload().with("aud", value);
    for value in ["7", "{}", "null", "[]", "[null]", "true"] {
        let payload = with(table, value);
        table.payload("T76", &format!("`aud` is {value}"), &payload, wrong(Claim::Aud));
    }
    for value in [
        format!("[[{quoted}]]"),
        format!("[1,{quoted}]"),
        format!("[{quoted},null]"),
    ] {
        let payload = with(table, &value);
        table.payload("T76", &format!("`aud` is {value}"), &payload, wrong(Claim::Aud));
    }
    let mismatch = reject(Rejection::AudMismatch);
    for value in [
        format!("{ours} "),
        format!(" {ours}"),
        ours.to_ascii_uppercase(),
        format!("{ours}/"),
        format!("{ours}.evil"),
        format!("evil.{ours}"),
        format!("{ours}\0"),
        format!("{ours}e\u{301}"),
        "*".to_owned(),
        String::new(),
        ours.chars().take(ours.len() - 1).collect(),
        ours.chars().skip(1).collect(),
        ours.replacen('e', "\u{435}", 1),
        ours.replacen('e', "e\u{301}", 1),
    ] {
        if value == ours {
            continue;
        }
        let payload = with(table, &text(&value));
        table.payload("T77", &format!("`aud` is {value:?}"), &payload, mismatch);
        let payload = with(table, &format!("[{}]", text(&value)));
        table.payload("T79", &format!("`aud` is [{value:?}]"), &payload, mismatch);
    }
    let payload = with(table, &quoted);
    table.payload("T79", "a string", &payload, ACCEPT);
    let payload = with(table, &format!("[{quoted}]"));
    table.payload("T79", "an array of one", &payload, ACCEPT);
    for count in [1, 3] {
        let others = r#","b""#.repeat(count);
        let payload = with(table, &format!("[{quoted}{others}]"));
        table.payload("T78", &format!("ours and {count} others"), &payload, mismatch);
    }
    let payload = with(table, &format!("[{quoted},{quoted}]"));
    table.payload("T78", "ours twice", &payload, mismatch);
    let payload = with(table, &format!("[{quoted}{}]", r#","b""#.repeat(4)));
    table.payload("T78", "ours and 4 others", &payload, wrong(Claim::Aud));
    let payload = with(table, &text("another-app.example"));
    table.payload("T95", "another app behind the same verifier", &payload, mismatch);
}

fn add_issuers(table: &mut Table<'_>) {
    let ours = table.setting.issuer.as_str().to_owned();
    let host = ours.trim_start_matches("https://").to_owned();
    for value in [
        format!("[{}]", text(&ours)),
        "7".to_owned(),
        format!(r#"{{"iss":{}}}"#, text(&ours)),
    ] {
        let payload = table.setting.payload().with("iss", value.as_str());
        table.payload("T80", &format!("`iss` is {value}"), &payload, wrong(Claim::Iss));
    }
    for value in [
        format!("{ours}/"),
        format!("{ours} "),
        ours.to_ascii_uppercase(),
        format!("https://{}", host.to_ascii_uppercase()),
        format!("{ours}:443"),
        format!("https://user@{host}"),
        format!("https://user:secret@{host}"),
        format!("http://{host}"),
        format!("{ours}?"),
        format!("{ours}#"),
        format!("https://xn--{host}"),
        host.replacen('a', "\u{430}", 1),
        String::new(),
        host,
    ] {
        if value == ours {
            continue;
        }
        let payload = table.setting.payload().with("iss", text(&value));
        table.payload(
            "T80",
            &format!("`iss` is {value:?}"),
            &payload,
            reject(Rejection::IssMismatch),
        );
    }
}

fn add_subjects(table: &mut Table<'_>) {
    let domain = table.setting.trust_domain.as_str().to_owned();
    let client = table.setting.client_id.as_str().to_owned();
    for value in [
        format!("client:{domain}/another"),
        format!("client:other.example/{client}"),
        format!("operator:{domain}/{client}"),
        format!("user:{domain}/{client}"),
        format!("client:{domain}/{client}/"),
        format!("client:{domain}//{client}"),
        format!("client:{domain}/x/{client}"),
        format!("client:{domain}"),
        format!("client:/{client}"),
        format!("Client:{domain}/{client}"),
        format!("client:{domain}/{}", client.to_ascii_uppercase()),
        format!(" client:{domain}/{client}"),
        format!("spiffe://{domain}/{client}"),
        client.clone(),
        String::new(),
    ] {
        let payload = table.setting.payload().with("sub", text(&value));
        table.payload("T81", &format!("`sub` is {value:?}"), &payload, wrong(Claim::Sub));
    }
    let payload = table.setting.payload().with("client_id", text("another"));
    table.payload("T81", "`client_id` is another's", &payload, wrong(Claim::Sub));
}

fn add_scopes(table: &mut Table<'_>) {
    let many: Vec<String> = (0..129).map(|number| format!("s{number}")).collect();
    for value in [
        r#"["a","b"]"#.to_owned(),
        "7".to_owned(),
        "null".to_owned(),
        text("a  b"),
        text("a\tb"),
        text(" a"),
        text("a "),
        text(""),
        text("a b a"),
        text("a *"),
        text("a \"b"),
        text("a\\b"),
        text("a\nb"),
        text(&many.join(" ")),
    ] {
        let payload = table.setting.payload().with("scope", value.as_str());
        let name: String = value.chars().take(30).collect();
        table.payload(
            "T82",
            &format!("`scope` is {name}"),
            &payload,
            wrong(Claim::Scope),
        );
    }
    let most: Vec<&str> = many.iter().skip(1).map(String::as_str).collect();
    let payload = table.setting.payload().with("scope", text(&most.join(" ")));
    table.payload("T82", "128 scopes", &payload, ACCEPT);
    let thousands: Vec<String> = (0..10_000).map(|number| format!("s{number}")).collect();
    let payload = table.setting.payload().with("scope", text(&thousands.join(" ")));
    table.payload("T82", "10000 scopes", &payload, reject(Rejection::TokenTooLarge));
}

fn add_other_claims(table: &mut Table<'_>) {
    for (claim, value) in [
        (Claim::Roles, r#""admin""#),
        (Claim::Roles, r#"["a","a"]"#),
        (Claim::Roles, r#"["a b"]"#),
        (Claim::Roles, "[1]"),
        (Claim::Act, r#""billing""#),
        (Claim::Act, "null"),
        (Claim::Cnf, "null"),
        (Claim::Cnf, r#""x""#),
        (Claim::Cnf, "[]"),
        (Claim::Cnf, r#"{"x5t#S256":7}"#),
        (Claim::Cnf, r#"{"x5t#S256":"AAAA"}"#),
        (Claim::Cnf, r#"{"spiffe_id":7}"#),
        (Claim::Cnf, r#"{"spiffe_id":""}"#),
        (Claim::Cnf, r#"{"spiffe_id":"prod.example.com/holder"}"#),
        (Claim::Cnf, r#"{"spiffe_id":"spiffe://prod.example.com"}"#),
        (Claim::Cnf, r#"{"spiffe_id":"spiffe://prod.example.com/"}"#),
        (
            Claim::Cnf,
            r#"{"spiffe_id":"spiffe://prod.example.com/a/../holder"}"#,
        ),
        (
            Claim::Cnf,
            r#"{"spiffe_id":"spiffe://prod.example.com/%68older"}"#,
        ),
        (Claim::Cnf, r#"{"spiffe_id":"SPIFFE://prod.example.com/holder"}"#),
        (Claim::Cnf, r#"{"spiffe_id":"spiffe://prod.example.com/holder?"}"#),
        (
            Claim::Cnf,
            r#"{"spiffe_id":["spiffe://prod.example.com/holder"]}"#,
        ),
        (Claim::Jti, r#""""#),
        (Claim::Jti, r#""a/b""#),
        (Claim::ClientId, r#""*""#),
    ] {
        let name = claim.name();
        let payload = table.setting.payload().with(name, value);
        table.payload("T69", &format!("`{name}` is {value}"), &payload, wrong(claim));
    }
    let payload = table
        .setting
        .payload()
        .with("vendor", r#"{"a":[1.5,-1,null,true]}"#);
    table.payload("T69", "a claim that is not ours", &payload, ACCEPT);
}

fn add_duplicates(table: &mut Table<'_>) {
    let setting = table.setting;
    for name in [
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "nbf",
        "jti",
        "client_id",
        "scope",
    ] {
        let twice = setting.payload().also(text(name), r#""x""#);
        table.payload("T83", &format!("`{name}` twice"), &twice, MALFORMED);
    }
    for (name, payload) in [
        (
            "a private claim twice",
            setting.payload().also("\"x\"", "1").also("\"x\"", "1"),
        ),
        (
            "`scope` twice, once with an escape",
            setting.payload().also(r#""sc\u006fpe""#, r#""admin""#),
        ),
        (
            "a member twice in a private claim",
            setting.payload().with("x", r#"{"a":1,"a":2}"#),
        ),
        (
            "a member twice deep in a private claim",
            setting.payload().with("x", r#"[{"b":{"a":1,"a":2}}]"#),
        ),
        (
            "a member twice in `cnf`",
            setting.payload().with("cnf", r#"{"jkt":"a","jkt":"b"}"#),
        ),
        (
            "a member twice in `act`",
            setting.payload().with("act", r#"{"sub":"a","sub":"b"}"#),
        ),
    ] {
        table.payload("T83", name, &payload, MALFORMED);
    }
}

fn add_controls(table: &mut Table<'_>) {
    let setting = table.setting;
    let subject = |client: &str| text(&format!("client:{}/{client}", setting.trust_domain));
    for (what, control) in [
        ("NUL", "\0"),
        ("CR", "\r"),
        ("LF", "\n"),
        ("an override of direction", "\u{202e}"),
        ("a zero-width space", "\u{200b}"),
        ("an escape sequence", "\x1b[2J"),
    ] {
        let spoiled = format!("bill{control}ing");
        let payload = setting.payload().with("sub", subject(&spoiled));
        table.payload("T84", &format!("{what} in `sub`"), &payload, wrong(Claim::Sub));
        let payload = setting.payload().with("client_id", text(&spoiled));
        table.payload(
            "T84",
            &format!("{what} in `client_id`"),
            &payload,
            wrong(Claim::ClientId),
        );
        let payload = setting.payload().with("scope", text(&format!("a{control}b")));
        table.payload(
            "T84",
            &format!("{what} in `scope`"),
            &payload,
            wrong(Claim::Scope),
        );
        let payload = setting.payload().with("jti", text(&format!("a{control}b")));
        table.payload("T84", &format!("{what} in `jti`"), &payload, wrong(Claim::Jti));
        let payload = setting
            .payload()
            .with("roles", format!("[{}]", text(&format!("a{control}b"))));
        table.payload(
            "T84",
            &format!("{what} in `roles`"),
            &payload,
            wrong(Claim::Roles),
        );
    }
}

fn add_many(table: &mut Table<'_>) {
    let setting = table.setting;
    let with = |count: usize| {
        (0..count).fold(setting.payload(), |payload, number| {
            payload.also(text(&number.to_string()), "1")
        })
    };
    table.payload("T93", "500 claims", &with(500), MALFORMED);
    table.payload("T93", "as many as are read", &with(64 - 9), ACCEPT);
    table.payload("T93", "one more", &with(64 - 8), MALFORMED);
    table.payload(
        "T93",
        "4096 claims",
        &with(4096),
        reject(Rejection::TokenTooLarge),
    );
}

fn add_permissions(table: &mut Table<'_>) {
    let setting = table.setting;
    let lacking = reject(Rejection::ScopeInsufficient);
    let ours = setting.scope.as_str();
    let beginning: String = ours.chars().take(ours.len() / 2).chain(['0']).collect();
    let scoped = |scope: &str| setting.token(Role::Active, &setting.payload().with("scope", text(scope)));
    for (name, token, expected) in [
        ("the scope", setting.good_token(), ACCEPT),
        ("the scope among others", scoped(&format!("a {ours} b")), ACCEPT),
        ("another scope", scoped("another"), lacking),
        ("the scope's beginning and more", scoped(&beginning), lacking),
        ("the whole scope and more", scoped(&format!("{ours}x")), lacking),
        (
            "the scope in capitals",
            scoped(&ours.to_ascii_uppercase()),
            lacking,
        ),
        (
            "no scope",
            setting.token(Role::Active, &setting.payload().without("scope")),
            lacking,
        ),
    ] {
        let case = super::bearer("T94", name, token, expected).calling(Method::Scoped);
        table.case(case);
    }
    table.token(
        "T94",
        "no scope where none is asked for",
        scoped("another"),
        ACCEPT,
    );
}
