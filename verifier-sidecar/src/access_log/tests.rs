use countersign_core::Rejection;
use countersign_core::requirements::{MethodPath, MethodTable, Requirements};
use countersign_verifier::test_util::{SetClock, TestIssuer, claims, empty_store, trust, verifier};
use countersign_verifier::verifier::{Decision, Question, Verifier};
use http::Request;
use serde_json::{Value, json};

use super::*;
use crate::server::listener::Peer;

struct Stage {
    log: Arc<AccessLog>,
    last: LastLines,
    folder: tempfile::TempDir,
    verifier: Verifier,
}

impl Stage {
    fn new(sample: f64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = AccessLogConfig {
            target: AccessLogTarget::File(folder.path().join("access.log")),
            sample,
        };
        config.check().expect("can be written");
        let store = empty_store(SetClock::new());
        trust(&store, TestIssuer::new("one").state(1, []));
        let mut registry = Registry::default();
        let (log, last) = AccessLog::start(&config, Arc::clone(&store), &mut registry).expect("starts");
        let methods = MethodTable::new(Requirements::default());
        Self {
            log,
            last,
            folder,
            verifier: verifier(&store, methods, 1 << 20),
        }
    }

    fn record(&self, request: &Request<()>) -> Record {
        let peer = Peer {
            listener: "tls",
            remote: "192.0.2.7:1234".parse().ok(),
            identity: None,
        };
        Record::new(Arc::clone(&self.log), Arc::new(peer), request)
    }

    fn decided(&self, token: Result<&str, Rejection>) -> Decision {
        self.verifier.decide(&Question {
            token: token.map(str::as_bytes),
            method: Some(MethodPath::parse("/a.A/Get").expect("a method")),
            peer_certificate: None,
        })
    }

    async fn lines(self) -> Vec<Value> {
        self.last.write().await;
        let text = std::fs::read_to_string(self.folder.path().join("access.log"));
        let text = text.expect("a file");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

fn request(uri: &str) -> Request<()> {
    let request = Request::post(uri)
        .version(http::Version::HTTP_2)
        .header("authorization", "Bearer canary")
        .header("cookie", "canary")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
    request.body(()).expect("a request")
}

fn ended(decision: &'static str, code: &'static str) -> Ended<'static> {
    Ended {
        decision: Some(decision),
        reason: Some("token_verified"),
        route: Some("/a.A/*"),
        code,
        took: Duration::from_micros(1234),
    }
}

#[tokio::test]
async fn a_line_says_who_called_what_and_how_it_ended() {
    let stage = Stage::new(1.0);
    let token = TestIssuer::new("one").token(&claims("1.1"));
    let mut record = stage.record(&request("https://orders:8443/a.A/Get"));
    record.decided(&stage.decided(Ok(&token)), Duration::from_nanos(2700));
    record.goes_to(&"http://127.0.0.1:50051".into());
    record.responded(http::StatusCode::OK);
    record.received().fetch_add(7, Ordering::Relaxed);
    record.sent(5);
    record.sent(6);
    record.tell(&ended("allowed", "OK"));
    let expected = json!({
        "start_time": "2027-01-15T07:59:59.999Z",
        "listener": "tls",
        "downstream_remote_address": "192.0.2.7:1234",
        "method": "POST",
        "authority": "orders:8443",
        "path": "/a.A/Get",
        "protocol": "HTTP/2",
        "route_name": "/a.A/*",
        "decision": "allowed",
        "reason": "token_verified",
        "client": "orders",
        "subject": "client:test.example.com/orders",
        "token_id": "1.1",
        "epoch": 1,
        "trust_age_ms": 0,
        "response_code": 200,
        "grpc_status": "OK",
        "duration_us": 1234,
        "decision_us": 2,
        "bytes_received": 7,
        "bytes_sent": 11,
        "upstream_host": "http://127.0.0.1:50051",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    assert_eq!(stage.lines().await, [expected]);
}

/// H11: nothing that lets anybody in is told, wherever a caller puts it by custom.
#[tokio::test]
async fn no_secret_is_told() {
    let stage = Stage::new(1.0);
    let token = TestIssuer::new("one").token(&claims("1.1"));
    let mut record = stage.record(&request("https://me:canary@orders/a.A/Get?access_token=canary"));
    record.decided(&stage.decided(Ok(&token)), Duration::ZERO);
    record.tell(&ended("allowed", "OK"));
    let mut record = stage.record(&request("https://orders/a.A/Get"));
    record.decided(&stage.decided(Ok("canary")), Duration::ZERO);
    record.tell(&ended("refused", "UNAUTHENTICATED"));
    let signature = token.rsplit('.').next().expect("a signature").to_owned();
    let lines = stage.lines().await;
    assert_eq!(lines.len(), 2);
    for line in lines {
        let line = line.to_string();
        assert!(!line.contains("canary") && !line.contains(&signature), "{line}");
    }
}

#[tokio::test]
async fn what_is_refused_or_fails_is_told_without_a_sample() {
    let stage = Stage::new(0.0);
    let tell = |path: &str, ended: &Ended<'_>, details| {
        let mut record = stage.record(&request(&format!("https://orders/{path}")));
        if let Some(reason) = details {
            record.ended_for(reason);
        }
        record.tell(ended);
    };
    for code in ["OK", "NOT_FOUND", "CANCELLED", "PERMISSION_DENIED"] {
        tell("untold", &ended("allowed", code), None);
    }
    tell("refused", &ended("refused", "UNAUTHENTICATED"), None);
    tell("observed", &ended("observed", "OK"), None);
    tell("failed", &ended("allowed", "INTERNAL"), None);
    tell("cut", &ended("allowed", "UNAUTHENTICATED"), Some("token_revoked"));
    let lines = stage.lines().await;
    let paths: Vec<&str> = lines.iter().filter_map(|line| line["path"].as_str()).collect();
    assert_eq!(paths, ["/refused", "/observed", "/failed", "/cut"]);
    assert_eq!(lines[3]["response_code_details"], "token_revoked");
}

#[test]
fn a_sample_is_as_large_as_it_was_chosen() {
    for (part, range) in [
        (0.0, 0..=0),
        (0.01, 700..=1300),
        (0.5, 49_000..=51_000),
        (1.0, 100_000..=100_000),
    ] {
        let sampler = Sampler::new(part);
        let taken = (0..100_000).filter(|_| sampler.takes_this_one()).count();
        assert!(range.contains(&taken), "{part}: {taken}");
    }
}

/// A log that nobody takes delays a stop for a moment only.
#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_reader_that_is_gone() {
    let (_never, ended) = oneshot::channel();
    let last = LastLines {
        lines: Arc::default(),
        ended,
    };
    let began = tokio::time::Instant::now();
    last.write().await;
    assert_eq!(began.elapsed(), LAST_WRITE);
}
