//! T31 to T54: algorithm and header.

use countersign_core::Rejection;

use super::{ACCEPT, ALG_NOT_ALLOWED, FORBIDDEN, MALFORMED, Table, reject};
use crate::forgery::{hs256, pss_signatures, public_key_as_secret};
use crate::setting::Role;
use crate::workshop::{Object, assemble, header, sign, signature, signing_input, text};

pub(super) fn add(table: &mut Table<'_>) {
    add_none(table);
    add_algorithm_forms(table);
    add_confusions(table);
    add_names(table);
    add_types(table);
    add_crit(table);
    add_forbidden(table);
    add_key_ids(table);
    add_key_states(table);
}

fn add_none(table: &mut Table<'_>) {
    let setting = table.setting;
    let copied = signature(&setting.good_token());
    let payload = setting.payload().to_json();
    for name in ["none", "None", "NONE", "nOnE"] {
        let header = setting.header(Role::Active).with("alg", text(name)).to_json();
        for (kind, signature) in [
            ("no", Vec::new()),
            ("a garbage", vec![0xa5; 64]),
            ("a copied", copied.clone()),
        ] {
            let token = assemble(header.as_bytes(), payload.as_bytes(), &signature);
            table.token(
                "T31",
                &format!("`{name}` and {kind} signature"),
                token,
                ALG_NOT_ALLOWED,
            );
        }
    }
}

fn add_algorithm_forms(table: &mut Table<'_>) {
    let header = table.setting.header(Role::Active);
    table.header("T32", "no `alg`", &header.clone().without("alg"), MALFORMED);
    for value in ["null", "1", r#"["ES256"]"#, "{}", "true"] {
        let header = header.clone().with("alg", value);
        table.header("T32", &format!("`alg` is {value}"), &header, MALFORMED);
    }
    for name in [
        "es256",
        "ES256 ",
        " ES256",
        "ES256\0",
        "ES-256",
        "ES256K",
        "",
        "ES\u{ff12}56",
    ] {
        let header = header.clone().with("alg", text(name));
        table.header("T36", &format!("`alg` is {name:?}"), &header, ALG_NOT_ALLOWED);
    }
    let escaped = header.with("alg", r#""\u0045S256""#);
    table.header("T36", "`alg` spelled with an escape", &escaped, ACCEPT);
}

fn add_confusions(table: &mut Table<'_>) {
    let setting = table.setting;
    let active = setting.key(Role::Active);
    let payload = setting.payload().to_json();
    let header = setting.header(Role::Active).with("alg", text("HS256")).to_json();
    let input = signing_input(header.as_bytes(), payload.as_bytes());
    for (name, secret) in public_key_as_secret(active) {
        let token = assemble(header.as_bytes(), payload.as_bytes(), &hs256(&secret, &input));
        table.token("T33", &format!("HS256 keyed with {name}"), token, ALG_NOT_ALLOWED);
    }
    for algorithm in ["RS256", "EdDSA"] {
        let header = setting.header(Role::Active).with("alg", text(algorithm));
        table.header(
            "T34",
            &format!("{algorithm} with the kid of a P-256 key"),
            &header,
            ALG_NOT_ALLOWED,
        );
    }
    for (role, algorithm) in [
        (Role::Rsa, "ES256"),
        (Role::EdDsa, "ES256"),
        (Role::EdDsa, "RS256"),
    ] {
        let header = setting.header(role).with("alg", text(algorithm));
        let token = setting.token_with(role, &header, &setting.payload());
        let name = format!("{algorithm} with the kid of the {role:?} key");
        table.token("T34", &name, token, ALG_NOT_ALLOWED);
        let token = setting.token_with(Role::Active, &header, &setting.payload());
        table.token(
            "T34",
            &format!("{name}, signed with P-256"),
            token,
            ALG_NOT_ALLOWED,
        );
    }
    for algorithm in ["ES384", "ES512", "HS256", "HS512", "RSA1_5", "dir"] {
        let header = setting.header(Role::Active).with("alg", text(algorithm));
        table.header(
            "T35",
            &format!("{algorithm} with the kid of a P-256 key"),
            &header,
            ALG_NOT_ALLOWED,
        );
    }
}

/// T37 and T39: the right key under another name of an algorithm, and each key under its own.
fn add_names(table: &mut Table<'_>) {
    let setting = table.setting;
    let payload = setting.payload().to_json();
    for algorithm in ["PS256", "PS384", "PS512"] {
        let header = setting.header(Role::Rsa).with("alg", text(algorithm)).to_json();
        let input = signing_input(header.as_bytes(), payload.as_bytes());
        for (kind, signature) in pss_signatures(&input) {
            let token = assemble(header.as_bytes(), payload.as_bytes(), &signature);
            let name = format!("{algorithm} on an RS256 key, signed with PSS {kind}");
            table.token("T37", &name, token, ALG_NOT_ALLOWED);
        }
    }
    for name in ["Ed25519", "Ed448", "eddsa", "EDDSA"] {
        let header = setting.header(Role::EdDsa).with("alg", text(name));
        let token = setting.token_with(Role::EdDsa, &header, &setting.payload());
        table.token("T39", &format!("`{name}` for `EdDSA`"), token, ALG_NOT_ALLOWED);
    }
    for role in [Role::Active, Role::EdDsa, Role::Rsa] {
        let token = setting.token(role, &setting.payload());
        table.token(
            "T34",
            &format!("the {role:?} key with its own algorithm"),
            token,
            ACCEPT,
        );
    }
}

fn add_types(table: &mut Table<'_>) {
    let refused = reject(Rejection::TypNotAllowed);
    let header = table.setting.header(Role::Active);
    table.header("T40", "no `typ`", &header.clone().without("typ"), refused);
    for value in [
        r#""JWT""#,
        r#""at+jwt2""#,
        r#""""#,
        r#"["at+jwt"]"#,
        "null",
        "1",
        r#""at+jwt ""#,
        r#""text/at+jwt""#,
    ] {
        let header = header.clone().with("typ", value);
        table.header("T40", &format!("`typ` is {value}"), &header, refused);
    }
    for name in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        let header = header.clone().with("typ", text(name));
        table.header("T40", &format!("`typ` is {name}"), &header, ACCEPT);
    }
    for (what, name) in [
        ("an operator's session", "countersign-session+jwt"),
        ("a client assertion", "client-authentication+jwt"),
        ("an ID token", "JWT"),
        ("a logout token", "logout+jwt"),
        ("a security event", "secevent+jwt"),
        ("a proof of possession", "dpop+jwt"),
        ("a token for introspection", "token-introspection+jwt"),
    ] {
        let header = header.clone().with("typ", text(name));
        table.header("T41", what, &header, refused);
    }
}

fn add_crit(table: &mut Table<'_>) {
    let refused = reject(Rejection::CritUnsupported);
    let header = table.setting.header(Role::Active);
    let known = header.clone().with("crit", r#"["x"]"#).with("x", text("y"));
    table.header("T42", "an unknown name that is there", &known, refused);
    for value in [
        r#"["x"]"#,
        "[]",
        r#"["exp"]"#,
        r#"["b64"]"#,
        r#"["exp","exp"]"#,
        r#""exp""#,
        "null",
        "{}",
        r#"["alg"]"#,
        "[1]",
    ] {
        let header = header.clone().with("crit", value);
        table.header("T42", &format!("`crit` is {value}"), &header, refused);
    }
    let twice = header.clone().with("crit", "[]").also(text("crit"), "[]");
    table.header("T42", "`crit` twice", &twice, MALFORMED);
    let unencoded = header.with("b64", "false");
    table.header("T43", "`b64` is false", &unencoded, FORBIDDEN);
    let critical = unencoded.with("crit", r#"["b64"]"#);
    table.header("T43", "`b64` is false, and critical", &critical, FORBIDDEN);
}

fn add_forbidden(table: &mut Table<'_>) {
    let setting = table.setting;
    let stranger = setting.key(Role::Stranger);
    let own = header("ES256", stranger.key_id().as_str()).with("jwk", stranger.jwk.to_json());
    let token = setting.token_with(Role::Stranger, &own, &setting.payload());
    table.token(
        "T44",
        "the key in the header, under its own kid",
        token,
        FORBIDDEN,
    );
    let own = setting.header(Role::Active).with("jwk", stranger.jwk.to_json());
    let token = setting.token_with(Role::Stranger, &own, &setting.payload());
    table.token("T44", "the key in the header, under our kid", token, FORBIDDEN);
    for (id, member, value) in [
        ("T45", "jku", r#""https://attacker.invalid/jwks""#),
        ("T45", "x5u", r#""http://169.254.169.254/""#),
        ("T46", "x5c", r#"["MIIB"]"#),
        ("T46", "x5t", r#""AAAA""#),
        ("T46", "x5t#S256", r#""AAAA""#),
        ("T53", "zip", r#""DEF""#),
        ("T53", "enc", r#""A256GCM""#),
        ("T53", "cty", r#""JWT""#),
        ("T54", "x", "1"),
        ("T54", "exp", "1700000000"),
        ("T54", "ALG", r#""ES256""#),
        ("T54", "", "1"),
        ("T54", "nonce", r#""n""#),
    ] {
        let header = setting.header(Role::Active).with(member, value);
        table.header(id, &format!("`{member}`"), &header, FORBIDDEN);
    }
}

fn add_key_ids(table: &mut Table<'_>) {
    let unknown = reject(Rejection::KidUnknown);
    let header = table.setting.header(Role::Active);
    let missing = reject(Rejection::KidMissing);
    table.header("T47", "no `kid`", &header.clone().without("kid"), missing);
    table.header(
        "T47",
        "an empty `kid`",
        &header.clone().with("kid", text("")),
        missing,
    );
    let long = "a".repeat(5000);
    for kid in [
        "../../../dev/null",
        "' OR 1=1--",
        "$(id)",
        "%00",
        "\0",
        "\u{1f511}",
        "\u{202e}dik",
        "line\r\nbreak",
        "\x1b[31mred",
        long.as_str(),
    ] {
        let header = header.clone().with("kid", text(kid));
        let name: String = kid.escape_default().take(40).collect();
        table.header("T48", &format!("`kid` is {name}"), &header, unknown);
    }
    let huge = header.clone().with("kid", text(&"a".repeat(10 * 1024)));
    table.header("T48", "`kid` of 10 KiB", &huge, reject(Rejection::TokenTooLarge));
    for value in ["1", "[]", "{}", "null", "true"] {
        let header = header.clone().with("kid", value);
        table.header("T49", &format!("`kid` is {value}"), &header, MALFORMED);
    }
    let setting = table.setting;
    let token = setting.token(Role::Stranger, &setting.payload());
    table.token("T55", "the kid of another authority", token, unknown);
    let under_ours = setting.token_with(Role::Stranger, &setting.header(Role::Active), &setting.payload());
    table.token(
        "T55",
        "another authority's key under our kid",
        under_ours,
        reject(Rejection::SigInvalid),
    );
}

fn add_key_states(table: &mut Table<'_>) {
    let setting = table.setting;
    let at = |issued: i64| {
        let iat = setting.after(issued).to_string();
        setting.payload().with("iat", &iat).with("nbf", &iat)
    };
    for (id, role, expected) in [
        ("T50", Role::Gone, reject(Rejection::KidUnknown)),
        ("T50", Role::Retired, ACCEPT),
        ("T51", Role::Prepared, reject(Rejection::KeyNotActive)),
        ("T51", Role::Announced, reject(Rejection::KeyNotActive)),
        ("T52", Role::Compromised, reject(Rejection::KeyRevoked)),
    ] {
        let token = setting.token(role, &at(-90));
        table.token(id, &format!("the {role:?} key"), token, expected);
    }
    // Retired a minute ago, and the leeway on top.
    let leeway = i64::try_from(setting.leeway.as_secs()).expect("a short leeway");
    for (issued, expected) in [
        (-61, ACCEPT),
        (-60 + leeway - 1, ACCEPT),
        (-60 + leeway, reject(Rejection::KeyNotActive)),
        (0, reject(Rejection::KeyNotActive)),
    ] {
        let token = setting.token(Role::Retired, &at(issued));
        table.token(
            "T51",
            &format!("the Retired key, `iat` is now {issued:+}"),
            token,
            expected,
        );
    }
    let forged = sign(
        Object::to_json(&setting.header(Role::Compromised)).as_bytes(),
        setting.payload().to_json().as_bytes(),
        setting.key(Role::Stranger).signer.as_ref(),
    );
    table.token(
        "T52",
        "a forgery under a compromised kid",
        forged,
        reject(Rejection::KeyRevoked),
    );
}
