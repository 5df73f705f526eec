//! T85 to T90: who may present the token, what is revoked, and what must not be confused.

use countersign_core::Rejection;
use countersign_core::names::CertificateThumbprint;

use super::{ACCEPT, SIG_INVALID, Table, bearer, reject};
use crate::case::{Method, Peer};
use crate::setting::{REVOKED_TOKEN, Role, Setting, WATERMARKED_CLIENT};
use crate::workshop::{assemble, text};

pub(super) fn add(table: &mut Table<'_>) {
    add_confirmations(table);
    add_spiffe_ids(table);
    add_demands(table);
    add_revocations(table);
    add_several_revocations(table);
    add_twins(table);
}

fn to_certificate(thumbprint: &CertificateThumbprint) -> String {
    format!(r#"{{"x5t#S256":"{thumbprint}"}}"#)
}

fn to_spiffe_id(id: &str) -> String {
    format!(r#"{{"spiffe_id":{}}}"#, text(id))
}

fn holders_id(setting: &Setting) -> &str {
    setting.holder.spiffe_id.as_ref().expect("it has one").as_str()
}

fn add_confirmations(table: &mut Table<'_>) {
    let setting = table.setting;
    let bound = |cnf: &str| setting.token(Role::Active, &setting.payload().with("cnf", cnf));
    let ours = to_certificate(&setting.holder.thumbprint);
    let other = to_certificate(&CertificateThumbprint::new([0xa5; 32]));
    let with_more = ours.replacen('{', r#"{"jkt":"x","#, 1);
    let mismatch = reject(Rejection::CnfMismatch);
    for (name, cnf, peer, expected) in [
        ("the holder's certificate", ours.as_str(), Peer::Holder, ACCEPT),
        ("another certificate", other.as_str(), Peer::Holder, mismatch),
        ("the holder's certificate", ours.as_str(), Peer::Renewed, mismatch),
        ("the holder's certificate", ours.as_str(), Peer::Nobody, mismatch),
        ("an unknown member only", r#"{"jkt":"x"}"#, Peer::Holder, mismatch),
        (
            "an unknown member too",
            with_more.as_str(),
            Peer::Holder,
            mismatch,
        ),
        ("nothing", "{}", Peer::Holder, mismatch),
        ("nothing", "{}", Peer::Nobody, mismatch),
    ] {
        let name = format!("bound to {name}, presented by {peer:?}");
        table.case(bearer("T85", &name, bound(cnf), expected).presented_by(peer));
    }
}

/// T85, of the other member: who has the SPIFFE ID may come with whichever certificate, unless that one is revoked.
fn add_spiffe_ids(table: &mut Table<'_>) {
    let setting = table.setting;
    let bound = |cnf: &str| setting.token(Role::Active, &setting.payload().with("cnf", cnf));
    let id = holders_id(setting);
    let ours = to_spiffe_id(id);
    let mismatch = reject(Rejection::CnfMismatch);
    for (peer, expected) in [
        (Peer::Holder, ACCEPT),
        (Peer::Renewed, ACCEPT),
        (Peer::Revoked, reject(Rejection::TokenRevoked)),
        (Peer::Nobody, mismatch),
    ] {
        let name = format!("bound to the holder's SPIFFE ID, presented by {peer:?}");
        table.case(bearer("T85", &name, bound(&ours), expected).presented_by(peer));
    }
    let both = ours.replacen(
        '{',
        &format!(r#"{{"x5t#S256":"{}","#, setting.holder.thumbprint),
        1,
    );
    let with_more = ours.replacen('{', r#"{"jkt":"x","#, 1);
    for (name, cnf) in [
        ("another path", to_spiffe_id(&format!("{id}/more"))),
        (
            "a path that it begins with",
            to_spiffe_id(id.trim_end_matches('r')),
        ),
        (
            "the path in capitals",
            to_spiffe_id(&id.replace("holder", "HOLDER")),
        ),
        (
            "another trust domain",
            to_spiffe_id(&id.replace("spiffe://", "spiffe://x.")),
        ),
        ("SPIFFE ID and certificate", both),
        ("an unknown member too", with_more),
    ] {
        let name = format!("bound to {name}, presented by the holder");
        table.case(bearer("T85", &name, bound(&cnf), mismatch).presented_by(Peer::Holder));
    }
}

fn add_demands(table: &mut Table<'_>) {
    let setting = table.setting;
    let missing = reject(Rejection::CnfMissing);
    let mismatch = reject(Rejection::CnfMismatch);
    let bound = |cnf: String| setting.token(Role::Active, &setting.payload().with("cnf", cnf));
    let unbound = &setting.good_token();
    let to_certificate = &bound(to_certificate(&setting.holder.thumbprint));
    let to_spiffe_id = &bound(to_spiffe_id(holders_id(setting)));
    for (name, token, peer, expected) in [
        ("an unbound token", unbound, Peer::Holder, missing),
        ("an unbound token", unbound, Peer::Nobody, missing),
        ("a bound token", to_certificate, Peer::Holder, ACCEPT),
        ("a bound token", to_certificate, Peer::Nobody, mismatch),
        ("a token bound to a SPIFFE ID", to_spiffe_id, Peer::Holder, ACCEPT),
        (
            "a token bound to a SPIFFE ID",
            to_spiffe_id,
            Peer::Nobody,
            mismatch,
        ),
    ] {
        let name = format!("{name} presented by {peer:?}");
        let case = bearer("T86", &name, token, expected)
            .presented_by(peer)
            .calling(Method::Bound);
        table.case(case);
    }
}

fn add_revocations(table: &mut Table<'_>) {
    let setting = table.setting;
    let issued = |client: &str, iat: u64| {
        setting
            .payload_for(client)
            .with("iat", iat.to_string())
            .with("exp", (iat + setting.max_lifetime.as_secs()).to_string())
            .without("nbf")
    };
    let revoked = setting.payload().with("jti", text(REVOKED_TOKEN));
    table.payload(
        "T87",
        "a revoked token",
        &revoked,
        reject(Rejection::TokenRevoked),
    );
    let neighbour = setting.payload().with("jti", text("dead.beee"));
    table.payload("T87", "the token before it", &neighbour, ACCEPT);
    let client = setting.client_watermark().as_seconds();
    let general = setting.general_watermark().as_seconds();
    let usual = setting.client_id.as_str();
    for (name, payload, expected) in [
        (
            "client revoked after",
            issued(WATERMARKED_CLIENT, client - 1),
            reject(Rejection::ClientRevoked),
        ),
        (
            "client revoked at",
            issued(WATERMARKED_CLIENT, client),
            reject(Rejection::ClientRevoked),
        ),
        (
            "client revoked before",
            issued(WATERMARKED_CLIENT, client + 1),
            ACCEPT,
        ),
        ("another client at the same time", issued(usual, client), ACCEPT),
        (
            "all revoked after",
            issued(usual, general - 1),
            reject(Rejection::TokenRevoked),
        ),
        (
            "all revoked at",
            issued(usual, general),
            reject(Rejection::TokenRevoked),
        ),
        ("all revoked before", issued(usual, general + 1), ACCEPT),
    ] {
        table.payload("T87", name, &payload, expected);
    }
}

/// T88: the strictest entry wins. The order in which entries came is tested where lists are made.
fn add_several_revocations(table: &mut Table<'_>) {
    let setting = table.setting;
    let client = setting.client_watermark().as_seconds();
    let general = setting.general_watermark().as_seconds();
    let time = |time: u64| time.to_string();
    let both = setting
        .payload_for(WATERMARKED_CLIENT)
        .with("jti", text(REVOKED_TOKEN))
        .without("nbf");
    let in_every_way = both.clone().with("iat", time(general));
    table.payload(
        "T88",
        "revoked in every way",
        &in_every_way,
        reject(Rejection::TokenRevoked),
    );
    let by_two = both.clone().with("iat", time(client));
    table.payload(
        "T88",
        "revoked by `jti` and by client",
        &by_two,
        reject(Rejection::TokenRevoked),
    );
    let by_one = both.with("iat", time(client + 1));
    table.payload(
        "T88",
        "revoked by `jti`, after the client's watermark",
        &by_one,
        reject(Rejection::TokenRevoked),
    );
}

/// Sequences: a verifier that remembers must not take one token for another.
fn add_twins(table: &mut Table<'_>) {
    let setting = table.setting;
    let payload = setting.payload().with("jti", text("5e7.21"));
    let good = setting.token(Role::Active, &payload);
    let header = setting.header(Role::Active).to_json();
    let raised = payload.clone().with("scope", text("admin")).to_json();
    let unsigned = assemble(header.as_bytes(), raised.as_bytes(), &[7; 64]);
    table.token("T89", "first the good one", &good, ACCEPT);
    table.token(
        "T89",
        "then its `jti` with another payload, not signed",
        &unsigned,
        SIG_INVALID,
    );
    table.token("T89", "then the good one again", &good, ACCEPT);

    let same = setting.payload().with("jti", text("5e7.22"));
    let here = setting.token(Role::Active, &same);
    let elsewhere = setting.token(Role::Active, &same.clone().with("aud", text("elsewhere.example")));
    let mismatch = reject(Rejection::AudMismatch);
    table.token("T90", "first the one for us", &here, ACCEPT);
    table.token(
        "T90",
        "then its `kid`, `jti` and `exp` for another",
        &elsewhere,
        mismatch,
    );
    table.token("T90", "then the one for us again", &here, ACCEPT);
    let bound = same.with("cnf", r#"{"jkt":"x"}"#);
    table.payload(
        "T90",
        "then the same, bound",
        &bound,
        reject(Rejection::CnfMismatch),
    );
}
