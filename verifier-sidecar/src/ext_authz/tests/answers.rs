//! What becomes of requests, in headers, statuses and metadata.

use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_verifier::test_util::{REFUSE_AFTER, START};

use super::*;

const SPOOFED: [&str; 6] = [
    "x-countersign-subject",
    "x-countersign-client",
    "x-countersign-scopes",
    "x-countersign-anything-new",
    "x_countersign_client",
    "x-countersign_token-id",
];

/// G07: what the service is told of its caller comes from the token, however the caller spells it.
#[tokio::test]
async fn a_good_request_passes_with_its_caller_in_headers_of_ours() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    let mut fields = SPOOFED.map(|name| (name, &b"root"[..])).to_vec();
    fields.push(("authorization", &authorization));
    for check in [
        grpc(CALL, &fields),
        joined(grpc(CALL, &fields)),
        http("GET", "/orders/17?limit=3", &fields),
    ] {
        let told = asking.ask(check).await;
        let written = [
            ("x-countersign-client", "orders"),
            ("x-countersign-scopes", "demo.call"),
            ("x-countersign-subject", "client:test.example.com/orders"),
            ("x-countersign-token-id", "1.1"),
        ];
        assert_eq!(told.headers(), BTreeMap::from(written));
        let mut removed = told.allowed().headers_to_remove.clone();
        removed.sort_unstable();
        // Envoy removes after it has written: of ours, only what is not written.
        let expected = [
            "authorization",
            "x-countersign-anything-new",
            "x-countersign_token-id",
            "x_countersign_client",
        ];
        assert_eq!(removed, expected);
        let said = ["decision", "reason", "client", "subject", "token_id"].map(|name| told.said(name));
        let subject = "client:test.example.com/orders";
        assert_eq!(said, ["allowed", "token_verified", "orders", subject, "1.1"]);
        assert!((told.number("epoch") - 1.0).abs() < f64::EPSILON);
        let Some(ValueKind::ListValue(ListValue { values })) = &told.metadata["scopes"].kind else {
            panic!("{told:?}")
        };
        let scope = ValueKind::StringValue("demo.call".to_owned());
        assert_eq!(values, &[Value { kind: Some(scope) }]);
    }
}

/// A token without scopes leaves none of the caller's behind, and an open method nothing at all; also of headers that Envoy does
/// not show.
#[tokio::test]
async fn what_is_not_told_is_removed() {
    let asking = Asking::with(CheckSettings {
        tokens: TokenForwarding::Forward,
        ..SETTINGS
    });
    let told = asking.ask(grpc("/test.Open/Do", &[])).await;
    assert_eq!(
        told.allowed().headers_to_remove,
        [
            "x-countersign-subject",
            "x-countersign-client",
            "x-countersign-scopes",
            "x-countersign-token-id"
        ]
    );
    assert!(told.headers().is_empty());
    assert_eq!(
        (told.said("decision"), told.said("reason")),
        ("allowed", "method_open")
    );
    assert!(!told.metadata.contains_key("client"));

    let mut table = MethodTable::new(Requirements::default());
    assert_eq!(
        table.set("/test.Service/*", Access::Protected(Requirements::default())),
        Ok(true)
    );
    let checks = Checks {
        verifier: Arc::new(test_util::verifier(&asking.store, table, 0)),
        ..asking.checks
    };
    let asking = Asking { checks, ..asking };
    let token = asking.issuer.token(&Claims {
        scopes: Vec::new(),
        ..claims("1.2")
    });
    let told = asking
        .ask(grpc(CALL, &[("authorization", &bearer_of(&token))]))
        .await;
    assert_eq!(told.allowed().headers_to_remove, ["x-countersign-scopes"]);
}

/// T18, G07: under names of the operator's, and what is said under them or under the usual ones does not get past Envoy.
#[tokio::test]
async fn a_caller_is_told_under_the_names_that_were_chosen() {
    let mut asking = Asking::new();
    let name = |text| Some(HeaderName::from_static(text));
    let names = [name("x-user"), name("x-countersign-client"), None, name("jti")];
    asking.checks.identity_headers = IdentityHeaders::named(names);
    let authorization = bearer_of(&asking.token());
    let fields = [
        ("authorization", authorization.as_slice()),
        ("x-user", b"root"),
        ("x_user", b"root"),
        ("JTI", b"root"),
        ("x-countersign-scopes", b"root"),
        ("x-team", b"kept"),
    ];
    let told = asking.ask(grpc(CALL, &fields)).await;
    let written = [
        ("jti", "1.1"),
        ("x-countersign-client", "orders"),
        ("x-user", "client:test.example.com/orders"),
    ];
    assert_eq!(told.headers(), BTreeMap::from(written));
    let mut removed = told.allowed().headers_to_remove.clone();
    removed.sort_unstable();
    let expected = [
        "authorization",
        "x-countersign-scopes",
        "x-countersign-subject",
        "x-countersign-token-id",
        "x_user",
    ];
    assert_eq!(removed, expected);
    let told = asking.ask(grpc("/test.Open/Do", &[])).await;
    assert!(["x-user", "jti"].iter().all(|name| {
        let removed = &told.allowed().headers_to_remove;
        removed.iter().any(|other| other == name)
    }));
}

/// What is only observed passes as one of nobody, and Envoy is told why it would not.
#[tokio::test]
async fn a_request_that_is_only_observed_passes_without_a_caller() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    let fields = [
        ("authorization", authorization.as_slice()),
        ("x-countersign-client", b"root"),
    ];
    let told = asking.ask(grpc("/test.Observed/Do", &fields)).await;
    assert!(
        told.allowed()
            .headers_to_remove
            .contains(&"x-countersign-client".to_owned())
    );
    assert!(told.headers().is_empty());
    assert_eq!(
        (told.said("decision"), told.said("reason")),
        ("observed", "scope_insufficient")
    );
    assert!(!told.metadata.contains_key("client"));
    let (kinds, _) = asking.checks.observations.list();
    let (kind, calls) = kinds.first().expect("noted");
    assert_eq!(
        (kind.caller.as_str(), kind.reason, calls.count),
        ("orders", "scope_insufficient", 1)
    );
    // What has no form is refused nevertheless: nobody could say what the service makes of it.
    asking.ask(grpc("/test.Observed//Do", &fields)).await.denied();
}

/// What a refusal of one class is told with: HTTP's status, gRPC's code, the challenge.
type Class = (i32, Code, Option<&'static str>);

const MISSING: Class = (401, Code::Unauthenticated, Some("Bearer"));
const INVALID: Class = (
    401,
    Code::Unauthenticated,
    Some(r#"Bearer error="invalid_token""#),
);
const INSUFFICIENT: Class = (
    403,
    Code::PermissionDenied,
    Some(r#"Bearer error="insufficient_scope""#),
);
const TOO_LARGE: Class = (431, Code::ResourceExhausted, None);

/// Requests that are refused: path, `authorization`, and why.
fn refused(asking: &Asking) -> Vec<(&'static str, Option<Vec<u8>>, Class, &'static str)> {
    let token = |change: fn(&mut Claims)| {
        let mut claims = claims("1.7");
        change(&mut claims);
        Some(bearer_of(&asking.issuer.token(&claims)))
    };
    let aud = token(|claims| claims.audiences = vec!["elsewhere".to_owned()]);
    let expired = token(|claims| {
        claims.issued_at = Timestamp::from_seconds(START - 900);
        claims.not_before = None;
        claims.expires_at = Timestamp::from_seconds(START - 60);
    });
    let revoked = Some(bearer_of(&asking.issuer.token(&claims("1.9"))));
    let stranger = Some(bearer_of(&TestIssuer::new("stranger").token(&claims("1.1"))));
    let good = || token(|_| {});
    let large = Some(bearer_of(&"x".repeat(9000)));
    vec![
        (CALL, None, MISSING, "token_missing"),
        (CALL, Some(b"Basic b3Jk".to_vec()), MISSING, "token_missing"),
        (CALL, Some(b"Bearer x".to_vec()), INVALID, "token_malformed"),
        (CALL, expired, INVALID, "token_expired"),
        (CALL, aud, INVALID, "aud_mismatch"),
        (CALL, revoked, INVALID, "token_revoked"),
        (CALL, stranger, INVALID, "kid_unknown"),
        ("/test.Admin/Do", good(), INSUFFICIENT, "scope_insufficient"),
        ("/elsewhere/Do", good(), INSUFFICIENT, "scope_insufficient"),
        (CALL, large, TOO_LARGE, "token_too_large"),
    ]
}

/// Each as the proxy and the Verify API refuse it (I-18).
#[tokio::test]
async fn a_denial_says_what_the_proxy_says() {
    let asking = Asking::new();
    for (path, authorization, (status, code, challenge), reason) in refused(&asking) {
        let field = authorization.as_deref().map(|field| ("authorization", field));
        let fields: Vec<_> = field.into_iter().collect();
        for check in [grpc(path, &fields), joined(grpc(path, &fields))] {
            let told = asking.ask(check).await;
            assert_eq!(told.refusal(), (status, code, reason), "{path}");
            assert_eq!(told.said("decision"), "refused");
            let headers = told.headers();
            assert_eq!(headers.get("www-authenticate").copied(), challenge, "{reason}");
            assert_eq!(headers["grpc-status"], i32::from(code).to_string());
            assert_eq!(
                told.denied().body,
                "",
                "{reason}: Envoy would make it the message"
            );
            assert!(
                !told.metadata.contains_key("client"),
                "{reason}: nobody is named who is not known"
            );
        }
        let told = asking.ask(http("GET", path, &fields)).await;
        assert_eq!(told.refusal(), (status, code, reason), "{path}");
        let headers = told.headers();
        assert_eq!(headers.get("www-authenticate").copied(), challenge, "{reason}");
        assert!(
            !headers.keys().any(|name| name.starts_with("grpc-")),
            "{headers:?}"
        );
        assert_eq!(headers["content-type"], "application/json");
        let said: serde_json::Value = serde_json::from_str(&told.denied().body).expect("JSON");
        assert_eq!(said["reason"], reason);
    }
}

/// A gRPC caller is sent what the proxy sends, byte for byte, with the details; and no more than it may know.
#[tokio::test]
async fn a_grpc_caller_is_sent_the_status_of_the_proxy() {
    let denied = Refusal::from(Rejection::ScopeInsufficient);
    for disclosure in [Disclosure::Precise, Disclosure::Coarse] {
        let asking = Asking::with(CheckSettings {
            disclosure,
            ..SETTINGS
        });
        let authorization = bearer_of(&asking.token());
        let told = asking
            .ask(grpc("/test.Admin/Do", &[("authorization", &authorization)]))
            .await;
        let mut headers = told.headers();
        let sent = denied.respond::<()>(disclosure).into_parts().0.headers;
        for (name, value) in &sent {
            if name != "content-type" {
                assert_eq!(headers.remove(name.as_str()), value.to_str().ok(), "{name}");
            }
        }
        assert!(headers.is_empty(), "{headers:?}");
        assert!(sent.contains_key("grpc-status-details-bin"));
        // Envoy may know.
        assert_eq!(told.said("reason"), "scope_insufficient");
    }
    // A token that nobody knows and one that is revoked are the same to callers who may not know.
    let asking = Asking::with(CheckSettings {
        disclosure: Disclosure::Coarse,
        ..SETTINGS
    });
    let revoked = bearer_of(&asking.issuer.token(&claims("1.9")));
    for build in [grpc, |path: &str, fields: &[(&str, &[u8])]| {
        http("PUT", path, fields)
    }] {
        let one = asking.ask(build(CALL, &[("authorization", b"Bearer x")])).await;
        let other = asking.ask(build(CALL, &[("authorization", &revoked)])).await;
        assert_eq!(one.answer, other.answer);
        assert_ne!(one.metadata, other.metadata);
    }
}

/// I-14, I-15: without trust, or with trust that is too old, nothing passes, and callers are told when to come again.
#[tokio::test]
async fn without_fresh_trust_requests_are_put_off() {
    let asking = Asking::cold(SETTINGS);
    let authorization = bearer_of(&asking.token());
    let fields = [("authorization", authorization.as_slice())];
    let cold = asking.ask(http("GET", "/orders/17", &fields)).await;
    assert_eq!(cold.refusal(), (503, Code::Unavailable, "trust_cold"));
    assert_eq!(cold.headers()["retry-after"], "2");

    let asking = Asking::new();
    asking.clock.advance(REFUSE_AFTER + Duration::from_secs(1));
    for check in [grpc(CALL, &fields), http("GET", "/orders/17", &fields)] {
        let stale = asking.ask(check).await;
        assert_eq!(stale.refusal(), (503, Code::Unavailable, "trust_stale"));
        assert_eq!(stale.headers()["retry-after"], "2");
        assert!(!stale.headers().contains_key("www-authenticate"));
        assert_eq!(stale.said("class"), "normal");
        assert!(["keys", "revocations"].contains(&stale.said("stale")));
        assert!(stale.number("age_seconds") > 900.0);
    }
    // What asks for no token asks for no trust either.
    asking.ask(http("GET", "/healthz", &[])).await.allowed();
}

/// K16: a key that is ahead of the trust is waited for, but not longer than Envoy waits: its patience over, there would be no
/// answer of ours.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_newer_epoch_longer_than_envoy_does() {
    let asking = Asking::new();
    let early = bearer_of(&TestIssuer::new("next").token(&claims("2.1")));
    let check = || grpc(CALL, &[("authorization", &early)]);
    for (timeout, longest) in [("40m", 30), ("200m", 150), ("5S", 200)] {
        let start = tokio::time::Instant::now();
        let told = asking.ask_within(check(), Some(timeout)).await;
        assert_eq!(told.refusal().2, "kid_unknown");
        let waited = start.elapsed();
        let expected = Duration::from_millis(longest);
        assert!(
            waited >= expected && waited <= expected + Duration::from_millis(5),
            "{timeout}: {waited:?}"
        );
    }
    let coming = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let keys = vec![
            asking.issuer.published_key(),
            TestIssuer::new("next").published_key(),
        ];
        trust(&asking.store, test_util::trust_state(2, keys, []));
    };
    let (told, ()) = tokio::join!(asking.ask_within(check(), Some("200m")), coming);
    told.allowed();
    assert!((told.number("epoch") - 2.0).abs() < f64::EPSILON);
}

/// Every answer is counted, by configured method and code, and every decision as the other faces count it.
#[tokio::test]
async fn answers_are_counted() {
    let mut registry = Registry::default();
    let mut asking = Asking::new();
    asking.checks.metrics = CheckMetrics::register(&mut registry);
    let authorization = bearer_of(&asking.token());
    asking
        .ask(grpc(CALL, &[("authorization", &authorization)]))
        .await
        .allowed();
    asking.ask(grpc(CALL, &[])).await.denied();
    asking.ask(grpc("/test.Service/../Call", &[])).await.denied();
    asking.ask(CheckRequest::default()).await.denied();
    asking.ask(http("TRACE", "/orders/17", &[])).await.denied();
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).expect("encoded");
    for line in [
        r#"ext_authz_checks_total{method="/test.Service/*",code="OK"} 1"#,
        r#"ext_authz_checks_total{method="/test.Service/*",code="UNAUTHENTICATED"} 1"#,
        r#"ext_authz_checks_total{method="_OTHER",code="INVALID_ARGUMENT"} 2"#,
        r#"ext_authz_checks_total{method="_OTHER",code="UNIMPLEMENTED"} 1"#,
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}
