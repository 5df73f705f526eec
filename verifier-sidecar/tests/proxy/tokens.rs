//! Tokens through the proxy, through the Verify API and as Envoy asks about them: one verdict (I-18), with the status and the
//! reason of each.

use countersign_core::Timestamp;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::jose::encode_segment;
use countersign_core::names::{CertificateThumbprint, ClientId, Scope, TokenId};
use countersign_proto::demo::v1::EchoRequest;
use countersign_proto::envoy::service::auth::v3::DeniedHttpResponse;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{Refused, VerifyRequest};
use countersign_verifier::test_util::{self, START, TestIssuer};

use crate::support::raw::{Answer, call, envelope, send};
use crate::support::{ECHO, Sidecar, channel, claims_with, envoy, reason, with_token};

/// What the proxy answers to these `authorization` fields.
async fn through_proxy(sidecar: &Sidecar, fields: &[&[u8]]) -> Answer {
    let mut request = call(sidecar.plaintext());
    for field in fields {
        request = request.header("authorization", *field);
    }
    let body = envelope(&EchoRequest::default());
    send(sidecar.plaintext(), request, body).await.expect("an answer")
}

/// What the Verify API answers to them.
async fn through_api(sidecar: &Sidecar, fields: &[&[u8]]) -> Result<(), Refused> {
    let mut client = VerifyServiceClient::new(channel(sidecar.addresses.verify_grpc.expect("an address")));
    let request = VerifyRequest {
        authorization: fields.iter().map(|field| field.to_vec()).collect(),
        path: ECHO.to_owned(),
        ..VerifyRequest::default()
    };
    match client
        .verify(request)
        .await
        .expect("an answer")
        .into_inner()
        .verdict
    {
        Some(Verdict::Allowed(_)) => Ok(()),
        Some(Verdict::Refused(refused)) => Err(refused),
        None => panic!("no verdict"),
    }
}

/// What Envoy is answered about them: nothing if they pass.
async fn through_ext_authz(sidecar: &Sidecar, fields: &[&[u8]]) -> Option<DeniedHttpResponse> {
    let mut request = call(sidecar.plaintext());
    for field in fields {
        request = request.header("authorization", *field);
    }
    envoy::denial(sidecar, request).await
}

/// All faces refuse with `code` and `reason`, and the service sees nothing.
async fn all_refuse(sidecar: &Sidecar, fields: &[&[u8]], code: i32, expected: &str) {
    let name = format!(
        "{:?}",
        fields
            .iter()
            .map(|field| String::from_utf8_lossy(field))
            .collect::<Vec<_>>()
    );
    let answer = through_proxy(sidecar, fields).await;
    assert_eq!(
        (answer.grpc_status(), answer.reason().as_str()),
        (Some(code), expected),
        "proxy: {name}"
    );
    assert_eq!(answer.status.as_u16(), 200, "{name}");
    let refused = through_api(sidecar, fields).await.expect_err(&name);
    assert_eq!(
        (refused.grpc_code, refused.reason.as_str()),
        (code, expected),
        "api: {name}"
    );
    let denied = through_ext_authz(sidecar, fields).await.expect(&name);
    let headers = envoy::said(&envoy::headers(&denied));
    for (header, value) in envoy::said(&answer.headers) {
        assert_eq!(headers.get(&header), Some(&value), "ext_authz: {name}: {header}");
    }
    assert_eq!(
        denied.status.expect("a status").code,
        refused.http_status,
        "ext_authz: {name}"
    );
    assert!(sidecar.service.seen().is_empty(), "{name}");
}

const UNAUTHENTICATED: i32 = 16;

/// T01 to T08: where a token is looked for, and how it is written.
#[tokio::test]
async fn credentials_have_one_form() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    let bearer = |separator: &str| format!("Bearer{separator}{token}").into_bytes();
    let missing: &[&[&[u8]]] = &[
        &[],
        &[b"Basic b3JkZXJzOnNlY3JldA=="],
        &[b"DPoP x.y.z"],
        &[b"Negotiate abc"],
        &[b"Bearer"],
        &[b"Bearer "],
        &[b""],
    ];
    for fields in missing {
        all_refuse(&sidecar, fields, UNAUTHENTICATED, "token_missing").await;
    }
    let (good, two_spaces, tab) = (bearer(" "), bearer("  "), bearer("\t"));
    let malformed: &[&[&[u8]]] = &[
        &[&two_spaces],
        &[&tab],
        &[&good, &good],
        &[&good, b"Bearer other"],
        &[b"Basic x", &good],
        &[b"Bearer \xc2\xa0x.y.z"],
    ];
    for fields in malformed {
        all_refuse(&sidecar, fields, UNAUTHENTICATED, "token_malformed").await;
    }
    // T03: the scheme is case-insensitive.
    for scheme in ["bearer", "BEARER", "bEaReR"] {
        let field = format!("{scheme} {token}").into_bytes();
        assert_eq!(through_api(&sidecar, &[&field]).await, Ok(()), "{scheme}");
        assert_eq!(through_ext_authz(&sidecar, &[&field]).await, None, "{scheme}");
        assert_eq!(
            through_proxy(&sidecar, &[&field]).await.grpc_status(),
            Some(0),
            "{scheme}"
        );
    }
}

/// T09 to T21, T30, T47: what is no compact JWS of ours.
#[tokio::test]
async fn tokens_of_the_wrong_form_are_malformed() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three segments")
    };
    for (text, expected) in [
        (".".to_owned(), "token_malformed"),
        ("..".to_owned(), "token_malformed"),
        (format!("{header}.{payload}"), "token_malformed"),
        (format!("{token}.x"), "token_malformed"),
        (format!("{token}.x.y"), "token_malformed"),
        (format!("{token}."), "token_malformed"),
        (format!(".{token}"), "token_malformed"),
        (format!("{header}==.{payload}.{signature}"), "token_malformed"),
        (format!("{header}..{signature}"), "token_malformed"),
        (token.replace('.', "%2E"), "token_malformed"),
        (format!("{header}.{payload}.{signature}?"), "token_malformed"),
        (format!("{header}.{payload}."), "sig_invalid"),
        ("{\"payload\":\"x\"}".to_owned(), "token_malformed"),
        (
            format!(
                "{}.{payload}.{signature}",
                encode_segment(b"{\"alg\":\"none\",\"typ\":\"at+jwt\"}")
            ),
            "alg_not_allowed",
        ),
        (
            format!(
                "{}.{payload}.{signature}",
                encode_segment(b"{\"alg\":\"ES256\",\"typ\":\"at+jwt\"}")
            ),
            "kid_missing",
        ),
        (
            format!(
                "{}.{payload}.{signature}",
                encode_segment(b"{\"alg\":\"ES256\",\"typ\":\"JWT\"}")
            ),
            "typ_not_allowed",
        ),
        (
            format!("{}.{payload}.{signature}", encode_segment(b"[]")),
            "token_malformed",
        ),
    ] {
        all_refuse(
            &sidecar,
            &[format!("Bearer {text}").as_bytes()],
            UNAUTHENTICATED,
            expected,
        )
        .await;
    }
}

/// T11, T12: too large is said before anything is looked at, with its own status.
#[tokio::test]
async fn tokens_over_the_cap_are_too_large() {
    let sidecar = Sidecar::start().await;
    for text in ["a".repeat(8193), ".".repeat(12_000)] {
        all_refuse(
            &sidecar,
            &[format!("Bearer {text}").as_bytes()],
            8,
            "token_too_large",
        )
        .await;
    }
}

/// T56, T65: not one bit of a token may change.
#[tokio::test]
async fn a_changed_token_is_not_accepted() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    for at in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[at] ^= 1;
        let refused = through_api(&sidecar, &[&[b"Bearer ", &changed[..]].concat()]).await;
        assert!(refused.is_err(), "byte {at}");
    }
    let other = sidecar.issuer.token(&test_util::claims("1.2"));
    let (input, _) = token.rsplit_once('.').expect("segments");
    let (_, signature) = other.rsplit_once('.').expect("segments");
    let mixed = format!("Bearer {input}.{signature}");
    all_refuse(&sidecar, &[mixed.as_bytes()], UNAUTHENTICATED, "sig_invalid").await;
}

/// The reason that a token is refused for, and what makes it bad.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Claims));

/// One token after the other, each with the change that makes it bad and the reason that it is refused for.
async fn all_refused(sidecar: &Sidecar, code: i32, cases: &[Case<'_>]) {
    for (expected, change) in cases {
        let token = sidecar.issuer.token(&claims_with(|claims| change(claims)));
        all_refuse(sidecar, &[format!("Bearer {token}").as_bytes()], code, expected).await;
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn expired(claims: &mut Claims) {
    claims.issued_at = at(START - 60);
    claims.not_before = None;
    claims.expires_at = at(START);
}

/// T70 to T75: time.
#[tokio::test]
async fn tokens_that_are_not_good_now_are_refused() {
    let sidecar = Sidecar::start().await;
    let cases: &[Case<'_>] = &[
        ("token_expired", &expired),
        ("token_not_yet_valid", &|c| c.not_before = Some(at(START + 6))),
        ("iat_in_future", &|c| c.issued_at = at(START + 6)),
        ("lifetime_excessive", &|c| c.expires_at = at(START + 3601)),
    ];
    all_refused(&sidecar, UNAUTHENTICATED, cases).await;
}

/// T76 to T80, T82, T85, T95: addressee, holder and scopes.
#[tokio::test]
async fn tokens_that_are_not_good_here_are_refused() {
    let sidecar = Sidecar::start().await;
    let audiences = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let cases: &[Case<'_>] = &[
        ("aud_mismatch", &|c| c.audiences = audiences(&["billing"])),
        ("aud_mismatch", &|c| c.audiences = audiences(&["demo", "billing"])),
        ("aud_mismatch", &|c| c.audiences = audiences(&["demo "])),
        ("iss_mismatch", &|c| c.issuer.push('/')),
        ("cnf_mismatch", &|c| {
            c.confirmation = Confirmation::Certificate(CertificateThumbprint::new([7; 32]));
        }),
    ];
    all_refused(&sidecar, UNAUTHENTICATED, cases).await;
    let cases: &[Case<'_>] = &[
        ("scope_insufficient", &|c| c.scopes.clear()),
        ("scope_insufficient", &|c| {
            c.scopes = vec![Scope::parse("demo.call.more").expect("a scope")];
        }),
        // G06: names are bytes, never patterns.
        ("scope_insufficient", &|c| {
            c.scopes = vec![Scope::parse("demoXcall").expect("a scope")];
        }),
    ];
    all_refused(&sidecar, 7, cases).await;
}

/// T87: what was taken back.
#[tokio::test]
async fn revoked_tokens_are_refused() {
    let sidecar = Sidecar::start().await;
    let revoked = [
        test_util::revoke_token("6.6"),
        test_util::revoke_client("gone", START),
    ];
    test_util::trust(&sidecar.trust, sidecar.issuer.state(2, revoked));
    let cases: &[Case<'_>] = &[
        ("token_revoked", &|c| {
            c.token_id = TokenId::parse("6.6").expect("an id");
        }),
        // Of the very second of the watermark, which is inclusive.
        ("client_revoked", &|c| {
            c.client_id = ClientId::parse("gone").expect("an id");
            c.subject.client_id = c.client_id.clone();
        }),
    ];
    all_refused(&sidecar, UNAUTHENTICATED, cases).await;
}

/// T48, T66, T68, T83: payloads that are no claims, and a key that nobody knows.
#[tokio::test]
async fn signed_nonsense_is_refused() {
    let sidecar = Sidecar::start().await;
    for (token, expected) in [
        (sidecar.issuer.sign(b"{}"), "claim_missing"),
        (sidecar.issuer.sign(b"not json"), "token_malformed"),
        (
            sidecar.issuer.sign(br#"{"scope":"a","scope":"b"}"#),
            "token_malformed",
        ),
        (
            TestIssuer::new("stranger").token(&test_util::claims("1.1")),
            "kid_unknown",
        ),
    ] {
        all_refuse(
            &sidecar,
            &[format!("Bearer {token}").as_bytes()],
            UNAUTHENTICATED,
            expected,
        )
        .await;
    }
}

/// Assurance rule 2: where callers are not known, two reasons of one class are the same bytes.
#[tokio::test]
async fn reasons_are_not_told_to_strangers() {
    let sidecar = Sidecar::start().await;
    let expired = sidecar.issuer.token(&claims_with(expired));
    let stranger = TestIssuer::new("stranger").token(&test_util::claims("1.1"));
    let mut answers = Vec::new();
    for token in [expired.as_str(), stranger.as_str(), "x.y.z"] {
        let request = call(sidecar.coarse()).header("authorization", format!("Bearer {token}"));
        let answer = send(sidecar.coarse(), request, envelope(&EchoRequest::default()))
            .await
            .expect("an answer");
        assert_eq!(answer.reason(), "invalid_token");
        assert_eq!(
            answer.headers["www-authenticate"],
            "Bearer error=\"invalid_token\""
        );
        answers.push((answer.status, answer.headers, answer.body));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    // Whoever shows a certificate is told.
    let status = sidecar
        .tls_client("orders")
        .echo(with_token(EchoRequest::default(), &expired))
        .await
        .expect_err("expired");
    assert_eq!(reason(&status), "token_expired");
}

/// T94: a missing scope is another answer than a bad token.
#[tokio::test]
async fn a_missing_scope_is_told_as_such() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.issuer.token(&claims_with(|claims| claims.scopes.clear()));
    let answer = through_proxy(&sidecar, &[format!("Bearer {token}").as_bytes()]).await;
    assert_eq!(answer.grpc_status(), Some(7));
    assert_eq!(
        answer.headers["www-authenticate"],
        "Bearer error=\"insufficient_scope\""
    );
}

/// H11: no token in what is told, whatever it was refused for.
#[tokio::test]
async fn no_answer_holds_a_token() {
    let sidecar = Sidecar::start().await;
    let stranger = TestIssuer::new("stranger").token(&test_util::claims("1.1"));
    let answer = through_proxy(&sidecar, &[format!("Bearer {stranger}").as_bytes()]).await;
    let told = format!("{answer:?}");
    for part in stranger.split('.') {
        assert!(!told.contains(part), "{told}");
    }
    let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
    assert!(
        !metrics.contains("orders") && !metrics.contains("1.1"),
        "{metrics}"
    );
}
