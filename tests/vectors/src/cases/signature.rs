//! T57 to T67: signatures.

use countersign_core::Rejection;

use super::{ACCEPT, MALFORMED, SIG_INVALID, Table, reject};
use crate::forgery::{
    beyond_the_order, boundary_pairs, der, high_s_twin, out_of_range, pkcs1_forgeries, pss_signatures,
    under_small_order_point,
};
use crate::setting::{Role, WATERMARKED_CLIENT};
use crate::workshop::{assemble, segments, sign, signature, signing_input, text, with_signature};

pub(super) fn add(table: &mut Table<'_>) {
    add_es256(table);
    add_high_s(table);
    add_ed25519(table);
    add_rsa(table);
    add_mixes(table);
    add_payloads(table);
}

fn add_es256(table: &mut Table<'_>) {
    let token = table.setting.good_token();
    let good = signature(&token);
    table.token("T57", "all zeros", with_signature(&token, &[0; 64]), SIG_INVALID);
    for (name, bytes) in boundary_pairs() {
        table.token("T57", &name, with_signature(&token, &bytes), SIG_INVALID);
    }
    for (name, bytes) in out_of_range(&good) {
        table.token("T58", name, with_signature(&token, &bytes), SIG_INVALID);
    }
    let cut = |length: usize| {
        good.iter()
            .copied()
            .chain(std::iter::repeat(0))
            .take(length)
            .collect::<Vec<u8>>()
    };
    for length in [1, 32, 63, 65, 66, 96, 128] {
        let name = format!("{length} bytes");
        table.token("T59", &name, with_signature(&token, &cut(length)), SIG_INVALID);
    }
    let leading = [&[0], good.as_slice()].concat();
    table.token(
        "T59",
        "a zero before",
        with_signature(&token, &leading),
        SIG_INVALID,
    );
    table.token("T60", "DER", with_signature(&token, &der(&good)), SIG_INVALID);
    table.token("T67", "none", with_signature(&token, &[]), SIG_INVALID);
}

fn add_high_s(table: &mut Table<'_>) {
    let setting = table.setting;
    let twin = |token: &str| with_signature(token, &high_s_twin(&signature(token)));
    table.token("T64", "the high-S twin", twin(&setting.good_token()), ACCEPT);
    let revoked = setting.payload().with("jti", text(crate::setting::REVOKED_TOKEN));
    let revoked = setting.token(Role::Active, &revoked);
    table.token(
        "T64",
        "the twin of a revoked token",
        twin(&revoked),
        reject(Rejection::TokenRevoked),
    );
    let payload = setting
        .payload_for(WATERMARKED_CLIENT)
        .with("iat", setting.client_watermark().to_string());
    let watermarked = setting.token(Role::Active, &payload.without("nbf"));
    table.token(
        "T64",
        "the twin of a revoked client's",
        twin(&watermarked),
        reject(Rejection::ClientRevoked),
    );
}

fn add_ed25519(table: &mut Table<'_>) {
    let setting = table.setting;
    let token = setting.token(Role::EdDsa, &setting.payload());
    let good = signature(&token);
    table.token(
        "T61",
        "S beyond the order",
        with_signature(&token, &beyond_the_order(&good)),
        SIG_INVALID,
    );
    let [header, payload, _] = segments(&token);
    for (name, bytes) in under_small_order_point(&format!("{header}.{payload}")) {
        table.token("T61", name, with_signature(&token, &bytes), SIG_INVALID);
    }
    for length in [0, 32, 63, 65] {
        let cut: Vec<u8> = good.iter().copied().chain([0]).take(length).collect();
        table.token(
            "T61",
            &format!("{length} bytes"),
            with_signature(&token, &cut),
            SIG_INVALID,
        );
    }
    table.token("T61", "all zeros", with_signature(&token, &[0; 64]), SIG_INVALID);
}

fn add_rsa(table: &mut Table<'_>) {
    let setting = table.setting;
    let token = setting.token(Role::Rsa, &setting.payload());
    let [header, payload, _] = segments(&token);
    let input = format!("{header}.{payload}");
    for (name, bytes) in pkcs1_forgeries(&input) {
        table.token("T62", name, with_signature(&token, &bytes), SIG_INVALID);
    }
    for (name, bytes) in pss_signatures(&input) {
        table.token(
            "T63",
            &format!("PSS {name}"),
            with_signature(&token, &bytes),
            SIG_INVALID,
        );
    }
}

fn add_mixes(table: &mut Table<'_>) {
    let setting = table.setting;
    let one = setting.token(Role::Active, &setting.payload());
    let two = setting.token(Role::Second, &setting.payload().with("jti", text("5e7.20")));
    let (one, two) = (segments(&one), segments(&two));
    table.token("T65", "the first", one.join("."), ACCEPT);
    table.token("T65", "the second", two.join("."), ACCEPT);
    let ([h1, p1, s1], [h2, p2, s2]) = (one, two);
    for (name, mix) in [
        ("1 1 2", [h1, p1, s2]),
        ("1 2 1", [h1, p2, s1]),
        ("1 2 2", [h1, p2, s2]),
        ("2 1 1", [h2, p1, s1]),
        ("2 1 2", [h2, p1, s2]),
        ("2 2 1", [h2, p2, s1]),
    ] {
        table.token("T65", name, mix.join("."), SIG_INVALID);
    }
}

fn add_payloads(table: &mut Table<'_>) {
    let setting = table.setting;
    let key = setting.key(Role::Active);
    let header = setting.header(Role::Active).to_json();
    for payload in ["x", "[]", "null", "\"x\"", "1", "{", "{}x", "\u{1}", " "] {
        let signed = sign(header.as_bytes(), payload.as_bytes(), key.signer.as_ref());
        table.token("T66", &format!("a signed payload {payload:?}"), signed, MALFORMED);
        let unsigned = assemble(header.as_bytes(), payload.as_bytes(), &[7; 64]);
        table.token(
            "T66",
            &format!("a payload {payload:?} that is not signed"),
            unsigned,
            SIG_INVALID,
        );
    }
    let input = signing_input(header.as_bytes(), b"{}");
    let elsewhere = setting
        .key(Role::Stranger)
        .signer
        .sign(input.as_bytes())
        .expect("signed");
    let token = assemble(header.as_bytes(), b"{}", &elsewhere);
    table.token("T66", "no claims, signed by another key", token, SIG_INVALID);
}
