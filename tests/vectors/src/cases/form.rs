//! T09 to T30: the form of the token.

use countersign_core::Rejection;
use countersign_core::bearer::MAX_TOKEN_LENGTH;

use super::{ACCEPT, MALFORMED, SIG_INVALID, Table, reject};
use crate::setting::Role;
use crate::workshop::{
    Object, assemble, segments, sign, sign_input, signature, text, with_signature, with_unused_bits,
};

pub(super) fn add(table: &mut Table<'_>) {
    add_segments(table);
    add_sizes(table);
    add_characters(table);
    add_serializations(table);
    add_encodings(table);
    add_lone_surrogates(table);
    add_documents(table);
    add_duplicates(table);
    add_rewritten(table);
}

fn add_segments(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    let [header, payload, signature] = segments(&token);
    for bad in [".", "..", "a.b", "...", "a", "a..", ".b.", "..c"] {
        table.token("T09", bad, bad, MALFORMED);
    }
    table.token("T10", "four segments", format!("{token}.{signature}"), MALFORMED);
    let five = format!("{header}.{payload}.{payload}.{payload}.{signature}");
    table.token("T10", "five segments, as a JWE", five, MALFORMED);
    table.token("T18", "a dot after it", format!("{token}."), MALFORMED);
    table.token("T18", "a dot before it", format!(".{token}"), MALFORMED);
    table.token(
        "T20",
        "a detached payload",
        format!("{header}..{signature}"),
        MALFORMED,
    );
}

fn add_sizes(table: &mut Table<'_>) {
    let too_large = reject(Rejection::TokenTooLarge);
    table.token("T11", "a million dots", vec![b'.'; 1_000_000], too_large);
    table.token(
        "T12",
        "one byte over the limit",
        vec![b'a'; MAX_TOKEN_LENGTH + 1],
        too_large,
    );
    table.token("T12", "a mebibyte", vec![b'a'; 1024 * 1024], too_large);
    table.token(
        "T12",
        "the limit, and nothing in it",
        vec![b'a'; MAX_TOKEN_LENGTH],
        MALFORMED,
    );
    let setting = table.setting;
    let padding = |length: usize| setting.payload().with("pad", text(&"x".repeat(length)));
    let of_length = |length: usize| setting.token(Role::Active, &padding(length));
    let room = MAX_TOKEN_LENGTH - of_length(0).len();
    table.token(
        "T12",
        "a good token near the limit",
        of_length(room / 4 * 3 - 3),
        ACCEPT,
    );
    table.token(
        "T12",
        "a good token over the limit",
        of_length(room / 4 * 3 + 6),
        too_large,
    );
}

fn add_characters(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    let [header, payload, signature] = segments(&token);
    let with = |what: &str| {
        [
            ("header", format!("{header}{what}.{payload}.{signature}")),
            ("payload", format!("{header}.{payload}{what}.{signature}")),
            ("signature", format!("{header}.{payload}.{signature}{what}")),
        ]
    };
    for (id, name, what) in [
        ("T13", "`=`", "="),
        ("T13", "`==`", "=="),
        ("T14", "a plus", "+"),
        ("T14", "a slash", "/"),
        ("T15", "a space", " "),
        ("T15", "a line feed", "\n"),
        ("T15", "CR LF", "\r\n"),
        ("T15", "NUL", "\0"),
        ("T15", "a question mark", "?"),
        ("T15", "a tab", "\t"),
        ("T15", "DEL", "\x7f"),
    ] {
        for (segment, damaged) in with(what) {
            table.token(id, &format!("{name} after the {segment}"), damaged, MALFORMED);
        }
        table.token(
            id,
            &format!("{name} before the token"),
            format!("{what}{token}"),
            MALFORMED,
        );
    }
    table.token(
        "T21",
        "percent-encoded dots",
        token.replace('.', "%2E"),
        MALFORMED,
    );
    add_unused_bits(table);
    let odd_header = format!("{header}?.{payload}");
    let signed = sign_input(&odd_header, table.setting.key(Role::Active).signer.as_ref());
    table.token("T17", "a signature over an illegal character", signed, MALFORMED);
    let odd_payload = format!("{header}.{payload}=");
    let signed = sign_input(&odd_payload, table.setting.key(Role::Active).signer.as_ref());
    table.token("T17", "a signature over padding", signed, MALFORMED);
}

/// T16: spaces at the end bring the documents to lengths whose encoding has unused bits.
fn add_unused_bits(table: &mut Table<'_>) {
    let setting = table.setting;
    let pad = |document: String| {
        let spaces = (4 - document.len() % 3) % 3;
        format!("{document}{}", " ".repeat(spaces))
    };
    let header = pad(setting.header(Role::Active).to_json());
    let payload = pad(setting.payload().to_json());
    let token = sign(
        header.as_bytes(),
        payload.as_bytes(),
        setting.key(Role::Active).signer.as_ref(),
    );
    table.token("T16", "unchanged", &token, ACCEPT);
    for (segment, name) in ["header", "payload", "signature"].into_iter().enumerate() {
        let changed = with_unused_bits(&token, segment);
        table.token("T16", &format!("unused bits of the {name}"), changed, MALFORMED);
    }
}

fn add_serializations(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    let [header, payload, signature] = segments(&token);
    let flattened = format!(r#"{{"payload":"{payload}","protected":"{header}","signature":"{signature}"}}"#);
    let general = format!(
        r#"{{"payload":"{payload}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#
    );
    table.token("T19", "flattened JSON", flattened, MALFORMED);
    table.token("T19", "general JSON", general, MALFORMED);
}

fn add_encodings(table: &mut Table<'_>) {
    let setting = table.setting;
    let signer = setting.key(Role::Active).signer.as_ref();
    let header = setting.header(Role::Active).to_json();
    let payload = setting.payload().to_json();
    let bom = |document: &str| [b"\xef\xbb\xbf", document.as_bytes()].concat();
    let utf16 = |document: &str| {
        document
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()
    };
    let utf32 = |document: &str| {
        document
            .chars()
            .flat_map(|c| u32::from(c).to_be_bytes())
            .collect::<Vec<u8>>()
    };
    let space = |document: &str| format!(" \t\r\n{document}\n ").into_bytes();
    let after = |document: &str| format!("{document}{{}}").into_bytes();
    let nul = |document: &str| format!("{document}\0").into_bytes();
    let latin1 = |document: &str| {
        [
            document.as_bytes().split_last().expect("text").1,
            b",\"x\":\"\xe4\"}",
        ]
        .concat()
    };
    let surrogate = |document: &str| document.replacen('{', r#"{"x":"\ud800","#, 1).into_bytes();
    let name = |document: &str| document.replacen('{', r#"{"\udfff":1,"#, 1).into_bytes();
    type Spoil<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    let ways: [(&str, &str, Spoil<'_>); 9] = [
        ("T22", "a byte order mark", &bom),
        ("T23", "UTF-16", &utf16),
        ("T23", "UTF-32", &utf32),
        ("T24", "another object after", &after),
        ("T24", "NUL after", &nul),
        ("T24", "white space round", &space),
        ("T29", "Latin-1", &latin1),
        ("T29", "a lone surrogate in a value", &surrogate),
        ("T29", "a lone surrogate in a name", &name),
    ];
    for (id, what, spoil) in ways {
        let expected = if what == "white space round" {
            ACCEPT
        } else {
            MALFORMED
        };
        let in_header = sign(&spoil(&header), payload.as_bytes(), signer);
        table.token(id, &format!("{what}, header"), in_header, expected);
        let in_payload = sign(header.as_bytes(), &spoil(&payload), signer);
        table.token(id, &format!("{what}, payload"), in_payload, expected);
    }
}

/// T29: text that is no Unicode makes the document unreadable, wherever it stands.
fn add_lone_surrogates(table: &mut Table<'_>) {
    let setting = table.setting;
    for claim in ["iss", "sub", "aud", "jti", "client_id", "scope", "cnf", "act"] {
        let lone = setting.payload().with(claim, r#""\ud800""#);
        table.payload("T29", &format!("a lone surrogate in `{claim}`"), &lone, MALFORMED);
    }
    for member in ["alg", "typ", "kid"] {
        let lone = setting.header(Role::Active).with(member, r#""\ud800""#);
        table.header(
            "T29",
            &format!("a lone surrogate in `{member}`"),
            &lone,
            MALFORMED,
        );
    }
}

fn add_documents(table: &mut Table<'_>) {
    let setting = table.setting;
    let signer = setting.key(Role::Active).signer.as_ref();
    let payload = setting.payload().to_json();
    for header in [
        "[]",
        r#""x""#,
        "1",
        "null",
        "true",
        "",
        " ",
        "{",
        "{]",
        "{'alg':'ES256'}",
    ] {
        let token = sign(header.as_bytes(), payload.as_bytes(), signer);
        table.token("T25", &format!("the header `{header}`"), token, MALFORMED);
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for (name, value) in [
        ("arrays", nested(200)),
        ("objects", objects(200)),
        ("arrays", nested(8)),
    ] {
        let name = format!("{} {name} deep", value.len());
        let header = setting.header(Role::Active).with("x", &value);
        table.header("T26", &format!("{name}, header"), &header, MALFORMED);
        let payload = setting.payload().with("x", &value);
        table.payload("T26", &format!("{name}, payload"), &payload, MALFORMED);
    }
    let deepest = setting.payload().with("x", nested(7));
    table.payload("T26", "as deep as is read", &deepest, ACCEPT);
    let deep = setting.payload().with("x", nested(100_000));
    table.payload("T26", "100000 deep", &deep, reject(Rejection::TokenTooLarge));
    let unclosed = sign("[".repeat(5000).as_bytes(), payload.as_bytes(), signer);
    table.token("T26", "a header 5000 deep and never closed", unclosed, MALFORMED);
    let header = setting.header(Role::Active).to_json();
    let unclosed = sign(header.as_bytes(), "[".repeat(5000).as_bytes(), signer);
    table.token("T26", "a payload 5000 deep and never closed", unclosed, MALFORMED);
}

fn add_duplicates(table: &mut Table<'_>) {
    let setting = table.setting;
    let header = || setting.header(Role::Active);
    for (member, value) in [("alg", "ES256"), ("alg", "none"), ("typ", "at+jwt"), ("kid", "x")] {
        let twice = header().also(text(member), text(value));
        table.header(
            "T27",
            &format!("`{member}` twice, then `{value}`"),
            &twice,
            MALFORMED,
        );
        let first = Object::new().also(text(member), text(value));
        let first = [("alg", "ES256"), ("typ", "at+jwt")]
            .iter()
            .fold(first, |object, (name, value)| {
                object.also(text(name), text(value))
            })
            .also(text("kid"), text(setting.key(Role::Active).key_id().as_str()));
        let name = format!("`{member}` twice, first `{value}`");
        table.header("T27", &name, &first, MALFORMED);
    }
    for (spelled, value) in [
        (r#""\u0061lg""#, "none"),
        (r#""k\u0069d""#, "x"),
        (r#""ty\u0070""#, "JWT"),
    ] {
        let twice = header().also(spelled, text(value));
        table.header("T28", &format!("{spelled} beside it"), &twice, MALFORMED);
    }
}

fn add_rewritten(table: &mut Table<'_>) {
    let setting = table.setting;
    let (header, payload) = (setting.header(Role::Active), setting.payload());
    let token = setting.good_token();
    let old = signature(&token);
    for (name, header, payload) in [
        ("spaces in the header", header.join(", ", ": "), payload.to_json()),
        (
            "spaces in the payload",
            header.to_json(),
            payload.join(", ", ": "),
        ),
        (
            "the header's members in another order",
            header.reversed().to_json(),
            payload.to_json(),
        ),
        (
            "the payload's members in another order",
            header.to_json(),
            payload.reversed().to_json(),
        ),
        (
            "an escape in the payload",
            header.to_json(),
            payload.to_json().replacen("iss", r"\u0069ss", 1),
        ),
        (
            "a line break after the payload",
            header.to_json(),
            format!("{}\n", payload.to_json()),
        ),
    ] {
        let rewritten = assemble(header.as_bytes(), payload.as_bytes(), &old);
        table.token("T30", name, rewritten, SIG_INVALID);
    }
    table.token(
        "T30",
        "put together again as it was",
        with_signature(&token, &old),
        ACCEPT,
    );
}
