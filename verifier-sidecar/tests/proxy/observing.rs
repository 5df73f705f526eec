//! Methods that are only observed: everything passes, and what would have been refused is told.

use countersign_proto::demo::v1::{EchoRequest, ExpandRequest};
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{ListObservedRequest, Observed, VerifyRequest};
use countersign_verifier::test_util::{self, revoke_token};
use tonic::Code;

use crate::admin::get;
use crate::support::raw::{call, envelope, send};
use crate::support::{ECHO, METHODS, Setup, Sidecar, channel, claims_with, eventually, with_token};

const OBSERVED: &str = "/countersign.demo.v1.DemoService/*";

async fn observing(more: &str) -> Sidecar {
    Sidecar::with(Setup {
        top: "default_scopes = [\"demo.admin\"]".to_owned(),
        more: METHODS.replace(
            "scopes = [\"demo.call\"]",
            "scopes = [\"demo.call\"]\nmode = \"observe\"",
        ) + more,
        ..Setup::default()
    })
    .await
}

async fn observed(sidecar: &Sidecar) -> Vec<Observed> {
    let mut api = VerifyServiceClient::new(channel(sidecar.addresses.verify_grpc.expect("an address")));
    let listed = api
        .list_observed(ListObservedRequest {})
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(listed.others, 0);
    listed.observed
}

fn kinds(observed: &[Observed]) -> Vec<(&str, &str, &str, u64)> {
    let each = observed.iter();
    let kinds = each.map(|one| {
        (
            one.method.as_str(),
            one.reason.as_str(),
            one.caller.as_str(),
            one.calls,
        )
    });
    kinds.collect()
}

/// Nobody who calls without a token, or with one that is not good for it, is turned away; the service is told of nobody.
#[tokio::test]
async fn what_is_only_observed_passes_as_nobodys() {
    let sidecar = observing("").await;
    let bare = sidecar
        .client()
        .echo(EchoRequest::default())
        .await
        .expect("it passes");
    assert_eq!(bare.into_inner().caller.expect("a caller").client_id, "");
    let poor = sidecar.issuer.token(&claims_with(|claims| claims.scopes.clear()));
    for _ in 0..2 {
        let poor = with_token(EchoRequest::default(), &poor);
        let poor = sidecar.client().echo(poor).await.expect("it passes");
        assert_eq!(poor.into_inner().caller.expect("a caller").client_id, "");
    }
    let good = with_token(EchoRequest::default(), &sidecar.token());
    let good = sidecar.client().echo(good).await.expect("it passes");
    assert_eq!(good.into_inner().caller.expect("a caller").client_id, "orders");
    let seen = observed(&sidecar).await;
    assert_eq!(
        kinds(&seen),
        [
            (OBSERVED, "scope_insufficient", "orders", 2),
            (OBSERVED, "token_missing", "127.0.0.1", 1),
        ]
    );
    assert!(
        seen.iter()
            .all(|one| one.first_at.is_some() && one.last_at.is_some())
    );
}

/// With a certificate, the caller without a token is known by it. Spoofed headers are taken out all the same (G07).
#[tokio::test]
async fn who_has_no_token_is_known_by_the_certificate() {
    let sidecar = observing("").await;
    let answer = sidecar.tls_client("orders").echo(EchoRequest::default()).await;
    answer.expect("it passes");
    let seen = observed(&sidecar).await;
    let [(OBSERVED, "token_missing", caller, 1)] = kinds(&seen)[..] else {
        panic!("{seen:?}")
    };
    assert!(caller.starts_with("spiffe://"), "{caller}");

    let spoofed = call(sidecar.plaintext()).header("x-countersign-client", "root");
    let answer = send(sidecar.plaintext(), spoofed, envelope(&EchoRequest::default())).await;
    assert_eq!(answer.expect("an answer").grpc_status(), Some(0));
    let seen = sidecar.service.seen().pop().expect("a request");
    assert!(!seen.headers.contains_key("x-countersign-client"));
}

/// What is enforced is refused beside it, and so is what is no call.
#[tokio::test]
async fn everything_else_is_enforced() {
    let sidecar = observing("").await;
    for (path, code) in [
        ("/test.Admin/Do", Some(16)),
        ("/no.Such/Method", Some(16)),
        ("/countersign.demo.v1.DemoService/Echo?x", Some(3)),
    ] {
        let request = call(sidecar.plaintext()).uri(format!("http://service{path}"));
        let answer = send(sidecar.plaintext(), request, envelope(&EchoRequest::default())).await;
        assert_eq!(answer.expect("an answer").grpc_status(), code, "{path}");
    }
    assert!(observed(&sidecar).await.is_empty());
}

/// A stream that is named badly is refused where its method is enforced; where it is only observed that is noted, and where it is open it is nothing.
/// The answer, the metrics and the access log say the same.
#[tokio::test]
async fn a_bad_name_of_a_stream_turns_nobody_away_who_is_only_observed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let sidecar = observing(&format!("[access_log]\npath = {path:?}\nsample = 1\n")).await;
    let bearer = format!("Bearer {}", sidecar.token());
    let expected = [
        (ECHO, Some(0), "observed", "request_malformed", "OK"),
        (
            "/test.Open/Do",
            Some(12),
            "allowed",
            "method_open",
            "UNIMPLEMENTED",
        ),
        (
            "/test.Bound/Do",
            Some(3),
            "refused",
            "request_malformed",
            "INVALID_ARGUMENT",
        ),
    ];
    for (method, status, ..) in expected {
        let asked = call(sidecar.plaintext())
            .uri(format!("http://service{method}"))
            .header("authorization", &bearer)
            .header("x-countersign-stream-id", "no/name");
        let answer = send(sidecar.plaintext(), asked, envelope(&EchoRequest::default())).await;
        assert_eq!(answer.expect("an answer").grpc_status(), status, "{method}");
    }
    assert_eq!(
        kinds(&observed(&sidecar).await),
        [(OBSERVED, "request_malformed", "127.0.0.1", 1)]
    );
    let (_, metrics) = get(&sidecar, "/metrics").await;
    sidecar.stop().await;
    let text = std::fs::read_to_string(path).expect("a file");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, (method, _, decision, reason, code)) in lines.iter().zip(expected) {
        let said = [
            &line["path"],
            &line["decision"],
            &line["reason"],
            &line["grpc_status"],
        ];
        assert_eq!(said, [method, decision, reason, code]);
        let counted = format!(r#"decision="{decision}",reason="{reason}",code="{code}"}} 1"#);
        assert!(metrics.lines().any(|line| line.ends_with(&counted)), "{metrics}");
    }
}

/// I-18: the API says the same, and what it would say if it were enforced.
#[tokio::test]
async fn the_api_says_what_would_be_refused() {
    let sidecar = observing("").await;
    let mut api = VerifyServiceClient::new(channel(sidecar.addresses.verify_grpc.expect("an address")));
    for (path, passes) in [(ECHO, true), ("/test.Admin/Do", false)] {
        let request = VerifyRequest {
            token: sidecar.issuer.token(&claims_with(|claims| claims.scopes.clear())),
            path: path.to_owned(),
            ..VerifyRequest::default()
        };
        let answer = api.verify(request).await.expect("an answer").into_inner();
        let would_refuse = answer.would_refuse.map(|refused| refused.reason);
        match answer.verdict.expect("a verdict") {
            Verdict::Allowed(allowed) => {
                assert!(passes && allowed.client_id.is_empty());
                assert_eq!(would_refuse.as_deref(), Some("scope_insufficient"));
            }
            Verdict::Refused(refused) => {
                assert!(!passes && would_refuse.is_none());
                assert_eq!(refused.grpc_code, i32::from(Code::PermissionDenied));
            }
        }
    }
}

/// A stream whose token is revoked goes on, and that it would have ended is told once: counted, and in its line of the access log.
#[tokio::test]
async fn a_stream_that_would_be_ended_goes_on_and_is_told_of_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let sidecar = observing(&format!("[access_log]\npath = {path:?}\n")).await;
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let opened = sidecar
        .client()
        .expand(with_token(request, &sidecar.token()))
        .await;
    let mut answers = opened.expect("a stream").into_inner();
    let outlived = async || {
        let (_, metrics) = get(&sidecar, "/metrics").await;
        let name = "countersign_observed_streams_outlived_total{";
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for epoch in 2..=3 {
        test_util::trust(&sidecar.trust, sidecar.issuer.state(epoch, [revoke_token("1.1")]));
        eventually("a look at the stream", async || {
            answers.message().await.expect("it goes on").expect("an answer");
            !outlived().await.is_empty()
        })
        .await;
    }
    let mut last = 0;
    eventually("a second of answers after that", async || {
        let answer = answers.message().await.expect("it goes on").expect("an answer");
        last = answer.index;
        last > 120
    })
    .await;
    let counted = format!(
        r#"countersign_observed_streams_outlived_total{{method="{OBSERVED}",reason="token_revoked"}} 1"#
    );
    assert_eq!(outlived().await, [counted]);
    assert!(observed(&sidecar).await.is_empty(), "it is no call to mend");
    drop(answers);
    sidecar.stop().await;
    let text = std::fs::read_to_string(path).expect("a file");
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).expect("one line");
    assert_eq!(
        (&line["decision"], &line["would_end_for"], &line["client"]),
        (&"allowed".into(), &"token_revoked".into(), &"orders".into())
    );
}
