//! The admin port.

use std::time::Duration;

use countersign_proto::demo::v1::EchoRequest;
use countersign_verifier::test_util::{self, REFUSE_AFTER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::raw::{call, envelope, send};
use crate::support::{Setup, Sidecar, with_token};

/// Status and body of a GET.
pub(crate) async fn get(sidecar: &Sidecar, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(sidecar.addresses.admin)
        .await
        .expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    (status, body.to_owned())
}

/// H07, H08, F43: alive in every state, ready only while calls are decided, with a reason.
#[tokio::test]
async fn readiness_follows_the_trust_and_liveness_does_not() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    assert_eq!(get(&sidecar, "/live").await.0, 200);
    let (status, body) = get(&sidecar, "/ready").await;
    assert_eq!((status, body.trim()), (503, "trust_cold"));
    test_util::trust(&sidecar.trust, sidecar.issuer.state(1, []));
    assert_eq!(get(&sidecar, "/ready").await.0, 200);
    sidecar.clock.advance(REFUSE_AFTER);
    let (status, body) = get(&sidecar, "/ready").await;
    assert_eq!((status, body.trim()), (503, "trust_stale"));
    assert_eq!(get(&sidecar, "/live").await.0, 200);
}

#[tokio::test]
async fn metrics_tell_decisions_trust_and_calls() {
    let sidecar = Sidecar::start().await;
    let mut client = sidecar.client();
    for _ in 0..3 {
        client
            .echo(with_token(EchoRequest::default(), &sidecar.token()))
            .await
            .expect("good");
    }
    client
        .echo(with_token(EchoRequest::default(), "x.y.z"))
        .await
        .expect_err("bad");
    sidecar.clock.advance(Duration::from_secs(7));
    let (status, text) = get(&sidecar, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "countersign_decisions_total{decision=\"allowed\",reason=\"token_verified\"} 3",
        "countersign_decisions_total{decision=\"refused\",reason=\"token_malformed\"} 1",
        "countersign_decisions_total{decision=\"refused\",reason=\"sig_invalid\"} 0",
        "countersign_token_cache_lookups_total{result=\"hit\"} 2",
        "countersign_token_cache_lookups_total{result=\"miss\"} 2",
        "countersign_requests_total{method=\"/countersign.demo.v1.DemoService/*\",decision=\"allowed\",reason=\"token_verified\",code=\"OK\"} 3",
        "countersign_requests_total{method=\"/countersign.demo.v1.DemoService/*\",decision=\"refused\",reason=\"token_malformed\",code=\"UNAUTHENTICATED\"} 1",
        "countersign_request_duration_seconds_count{method=\"/countersign.demo.v1.DemoService/*\"} 4",
        "countersign_decision_duration_seconds_count 4",
        "countersign_epoch 1",
        "countersign_trust_age_seconds 7.0",
        // 2100-01-01, as the certificates of these tests say.
        "countersign_certificate_expiry_timestamp_seconds 4102444800",
        "countersign_ready 1",
        "countersign_sync_connected 0",
        "countersign_active_streams 0",
    ] {
        assert!(text.lines().any(|has| has == line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains("countersign_build_info{binary=\"countersign-sidecar\""),
        "{text}"
    );
    assert!(text.trim_end().ends_with("# EOF"));
}

/// K13, D17: which way the authority contradicts itself is told, and that it no longer does.
#[tokio::test]
async fn the_alarm_has_a_reason() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    test_util::trust(&sidecar.trust, sidecar.issuer.state(5, []));
    let alarms = async || {
        let (_, text) = get(&sidecar, "/metrics").await;
        ["epoch_fork", "epoch_regressed"].map(|reason| {
            let line = format!("countersign_trust_alarm{{reason=\"{reason}\"}} ");
            let value = text.lines().find_map(|has| has.strip_prefix(&line));
            value.expect(reason).to_owned()
        })
    };
    assert_eq!(alarms().await, ["0", "0"]);
    sidecar.trust.disowned();
    assert_eq!(alarms().await, ["0", "1"]);
    let other = sidecar.issuer.state(5, [test_util::revoke_token("1.1")]);
    sidecar.trust.install(other).expect_err("a fork");
    assert_eq!(alarms().await, ["1", "0"]);
    test_util::trust(&sidecar.trust, sidecar.issuer.state(6, []));
    assert_eq!(alarms().await, ["0", "0"]);
}

/// H10: paths that callers invent make no series.
#[tokio::test]
async fn invented_paths_make_no_series() {
    let sidecar = Sidecar::start().await;
    for n in 0..50 {
        let request = call(sidecar.plaintext()).uri(format!("http://service/invented.Service{n}/Method"));
        send(sidecar.plaintext(), request, envelope(&EchoRequest::default()))
            .await
            .expect("an answer");
    }
    let (_, text) = get(&sidecar, "/metrics").await;
    assert!(!text.contains("invented"), "{text}");
    assert!(
        text.contains("countersign_requests_total{method=\"_OTHER\",decision=\"refused\",reason=\"token_missing\",code=\"UNAUTHENTICATED\"} 50"),
        "{text}"
    );
}
