//! The access log of a sidecar that serves.

use std::path::Path;

use countersign_proto::demo::v1::EchoRequest;
use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;

use crate::admin::get;
use crate::support::envoy;
use crate::support::raw::{call, envelope, send};
use crate::support::{ECHO, METHODS, Setup, Sidecar, eventually, with_token};

/// A sidecar that tells of so many of its calls, and where.
async fn telling(sample: &str, upstream: Option<String>) -> (Sidecar, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let setup = Setup {
        more: format!("{METHODS}\n[access_log]\npath = {path:?}\nsample = {sample}\n"),
        upstream,
        ..Setup::default()
    };
    (Sidecar::with(setup).await, folder)
}

fn text(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("access.log")).expect("a file")
}

/// The lines of a sidecar that is stopped for it.
async fn lines(sidecar: Sidecar, folder: &TempDir) -> Vec<Value> {
    sidecar.stop().await;
    let text = text(folder.path());
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

fn field<'v>(line: &'v Value, name: &str) -> &'v str {
    line[name].as_str().unwrap_or_default()
}

#[tokio::test]
async fn every_call_has_a_line_with_its_decision_and_its_end() {
    let (sidecar, folder) = telling("1", None).await;
    let token = sidecar.token();
    let hello = EchoRequest {
        message: "hello".to_owned(),
    };
    let good = with_token(hello, &token);
    sidecar.tls_client("orders").echo(good).await.expect("good");
    let refused = sidecar.client().echo(EchoRequest::default()).await;
    assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
    // T84, G02: a path that is no method's, and what terminals would obey.
    let hostile = call(sidecar.plaintext()).uri("http://service/a%1b[2J/../b?access_token=canary");
    send(sidecar.plaintext(), hostile, envelope(&EchoRequest::default()))
        .await
        .expect("an answer");
    let epoch = sidecar.trust.epoch();
    let lines = lines(sidecar, &folder).await;
    let [good, refused, hostile] = lines.as_slice() else {
        panic!("{lines:#?}");
    };
    let told = [
        "listener",
        "decision",
        "reason",
        "grpc_status",
        "path",
        "route_name",
        "client",
        "token_id",
    ];
    let service = "/countersign.demo.v1.DemoService/*";
    assert_eq!(
        told.map(|name| field(good, name)),
        [
            "tls",
            "allowed",
            "token_verified",
            "OK",
            ECHO,
            service,
            "orders",
            "1.1"
        ]
    );
    assert_eq!(
        told.map(|name| field(refused, name)),
        [
            "plaintext",
            "refused",
            "token_missing",
            "UNAUTHENTICATED",
            ECHO,
            service,
            "",
            ""
        ]
    );
    assert_eq!(field(hostile, "decision"), "refused");
    assert_eq!(field(hostile, "path"), "/a%1b[2J/../b");
    assert_eq!(good["epoch"], epoch);
    assert_eq!(good["response_code"], 200);
    assert!(
        field(good, "downstream_peer_uri_san").starts_with("spiffe://"),
        "{good}"
    );
    assert!(
        field(good, "upstream_host").starts_with("http://127.0.0.1:"),
        "{good}"
    );
    assert!(field(good, "start_time").ends_with('Z'), "{good}");
    // A message of seven bytes in its envelope; of what is refused nothing is read.
    assert_eq!(
        [good, refused].map(|line| line["bytes_received"].as_u64()),
        [Some(12), Some(0)]
    );
    assert!(good["bytes_sent"].as_u64() > Some(0), "{good}");
    assert!(
        good["duration_us"].as_u64() >= good["decision_us"].as_u64(),
        "{good}"
    );
    // H11.
    let text = text(folder.path());
    assert!(!text.contains("canary") && !text.contains(&token), "{text}");
}

#[tokio::test]
async fn without_a_sample_only_refusals_and_failures_are_told() {
    let (sidecar, folder) = telling("0", None).await;
    for _ in 0..3 {
        let good = with_token(EchoRequest::default(), &sidecar.token());
        sidecar.client().echo(good).await.expect("good");
    }
    let bad = with_token(EchoRequest::default(), "x.y.z");
    sidecar.client().echo(bad).await.expect_err("no token");
    let lines = lines(sidecar, &folder).await;
    let reasons: Vec<&str> = lines.iter().map(|line| field(line, "reason")).collect();
    assert_eq!(reasons, ["token_malformed"]);
}

#[tokio::test]
async fn a_service_that_is_away_is_told_of_as_such() {
    let (sidecar, folder) = telling("0", Some("http://127.0.0.1:9".to_owned())).await;
    let good = with_token(EchoRequest::default(), &sidecar.token());
    let failed = sidecar.client().echo(good).await.expect_err("nobody there");
    assert_eq!(failed.code(), Code::Unavailable);
    let lines = lines(sidecar, &folder).await;
    let told = [
        "decision",
        "reason",
        "grpc_status",
        "response_code_details",
        "client",
    ];
    assert_eq!(
        told.map(|name| field(&lines[0], name)),
        [
            "allowed",
            "token_verified",
            "UNAVAILABLE",
            "upstream_unavailable",
            "orders"
        ]
    );
}

/// Decisions for Envoy: denials always, and of the others the sample, which here is none and then all.
#[tokio::test]
async fn decisions_for_envoy_are_told_of() {
    for (sample, expected) in [
        ("0", &["refused", "refused"][..]),
        ("1", &["allowed", "refused", "refused"]),
    ] {
        let (sidecar, folder) = telling(sample, None).await;
        let token = sidecar.token();
        let asked = |path: &str| {
            http::Request::get(format!("http://orders:80{path}")).header(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
        };
        let good = asked("/v1/x?access_token=canary");
        let good = good.header("authorization", format!("Bearer {token}"));
        assert!(envoy::denial(&sidecar, good).await.is_none());
        assert!(envoy::denial(&sidecar, asked("/test.Admin/Do")).await.is_some());
        // G02: a path with two readings is refused for its form.
        assert!(envoy::denial(&sidecar, asked("/v1//x")).await.is_some());
        let lines = lines(sidecar, &folder).await;
        let decisions: Vec<&str> = lines.iter().map(|line| field(line, "decision")).collect();
        assert_eq!(decisions, expected);
        let told = [
            "listener",
            "reason",
            "route_name",
            "path",
            "client",
            "token_id",
            "trace_id",
        ];
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let by_end = |from_end: usize| told.map(|name| field(&lines[lines.len() - from_end], name));
        assert_eq!(
            by_end(2),
            [
                "ext_authz",
                "token_missing",
                "/test.Admin/*",
                "/test.Admin/Do",
                "",
                "",
                trace
            ]
        );
        assert_eq!(
            by_end(1),
            ["ext_authz", "request_malformed", "", "/v1//x", "", "", trace]
        );
        if sample == "1" {
            let good = ["ext_authz", "token_verified", "", "/v1/x", "orders", "1.1", trace];
            assert_eq!(by_end(3), good);
            assert_eq!(
                (&lines[0]["method"], &lines[0]["authority"]),
                (&"GET".into(), &"orders:80".into())
            );
        }
        let text = text(folder.path());
        assert!(!text.contains("canary") && !text.contains(&token), "{text}");
    }
}

/// A log that cannot be written any more costs lines, which are counted, and no call.
#[tokio::test]
async fn calls_go_on_without_a_log() {
    let (sidecar, folder) = telling("1", None).await;
    let path = folder.path().join("access.log");
    std::fs::remove_file(&path).expect("it was there");
    std::fs::create_dir(&path).expect("something else is there");
    let good = || with_token(EchoRequest::default(), &sidecar.token());
    sidecar.client().echo(good()).await.expect("good");
    eventually("a lost line that is counted", async || {
        let (_, metrics) = get(&sidecar, "/metrics").await;
        metrics.contains("countersign_access_log_lines_total{result=\"failed\"} 1")
    })
    .await;
    std::fs::remove_dir(&path).expect("it is gone");
    sidecar.client().echo(good()).await.expect("good");
    assert_eq!(lines(sidecar, &folder).await.len(), 1, "it is written anew");
}
