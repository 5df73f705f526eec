use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::capture::Captured;
use super::*;

const SERVICE: Service = Service {
    name: "countersign-test",
    version: "1.2.3",
};

fn config(format: LogFormat, filter: &str, endpoint: Option<&str>) -> TelemetryConfig {
    TelemetryConfig {
        log_format: format,
        log_filter: filter.to_owned(),
        otlp_endpoint: endpoint.map(str::to_owned),
    }
}

fn logged(config: &TelemetryConfig, act: impl FnOnce()) -> String {
    let logs = Captured::default();
    let environment = Environment::default();
    let (dispatch, _guard) = assemble(SERVICE, config, &environment, logs.clone(), false).expect("telemetry");
    tracing::dispatcher::with_default(&dispatch, act);
    logs.text()
}

#[test]
fn json_logs_are_one_object_on_each_line_in_universal_time() {
    let text = logged(&config(LogFormat::Json, "info", None), || {
        let _span = tracing::info_span!("call", method = "Issue").entered();
        tracing::info!(count = 3, "first\nline");
        tracing::debug!("left out");
        tracing::warn!(reason = "expired", "second");
    });
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["message"], "first\nline");
    assert_eq!(lines[0]["count"], 3);
    assert_eq!(lines[0]["span"]["method"], "Issue");
    assert_eq!(lines[1]["reason"], "expired");
    assert!(lines[0]["timestamp"].as_str().expect("text").ends_with('Z'));
}

#[test]
fn the_filter_chooses_by_target() {
    let pretty = config(LogFormat::Pretty, "error,wanted=debug", None);
    let text = logged(&pretty, || {
        tracing::debug!(target: "wanted", "yes");
        tracing::warn!(target: "other", "no");
    });
    assert!(text.contains("yes") && !text.contains("no\n"), "{text}");
}

/// I-24: no filter turns the audit trail off, and none of its spans take it along.
#[test]
fn the_audit_trail_is_written_whatever_the_filter_says() {
    for filter in ["warn", "off", "audit=off", "error,audit=warn", "audit[call]=off"] {
        for format in [LogFormat::Json, LogFormat::Pretty] {
            let text = logged(&config(format, filter, None), || {
                let _span = tracing::info_span!("call").entered();
                tracing::info!(target: AUDIT, "recorded");
                tracing::debug!(target: AUDIT, "never so");
                tracing::info!(target: "auditor", "not so");
            });
            assert!(
                text.contains("recorded") && !text.contains(" so"),
                "{filter}: {text}"
            );
        }
    }
}

/// C10: of two places that name a collector, none is guessed to be the right one.
#[test]
fn what_cannot_be_set_up_is_said_before_the_start() {
    let environment = Environment {
        otlp_endpoint: Some("http://a:1".to_owned()),
        ..Environment::default()
    };
    let two = config(LogFormat::Json, "info", Some("http://b:1"));
    assert!(matches!(
        two.endpoint(&environment),
        Err(TelemetryError::TwoEndpoints)
    ));
    for endpoint in [
        "https://collector:4317",
        "collector:4317",
        "http://",
        "",
        "unix:/x",
        "http://c:1?x",
    ] {
        let config = config(LogFormat::Json, "info", Some(endpoint));
        assert!(
            matches!(config.check(), Err(TelemetryError::Endpoint)),
            "{endpoint}"
        );
    }
    assert!(matches!(
        config(LogFormat::Json, "countersign=loud", None).check(),
        Err(TelemetryError::Filter(_))
    ));
    let disabled = Environment {
        otel_disabled: true,
        ..Environment::default()
    };
    let good = config(LogFormat::Json, "info", Some("http://b:1"));
    assert_eq!(good.endpoint(&disabled).expect("good"), None);
    assert_eq!(
        good.endpoint(&Environment::default()).expect("good").as_deref(),
        Some("http://b:1")
    );
}

#[test]
fn the_section_of_a_file_has_safe_defaults_and_no_unknown_keys() {
    assert_eq!(
        toml::from_str::<TelemetryConfig>("").expect("empty"),
        TelemetryConfig::default()
    );
    let section = "log_format = \"pretty\"\nlog_filter = \"debug\"\notlp_endpoint = \"http://c:4317\"";
    let expected = config(LogFormat::Pretty, "debug", Some("http://c:4317"));
    assert_eq!(
        toml::from_str::<TelemetryConfig>(section).expect("section"),
        expected
    );
    assert!(toml::from_str::<TelemetryConfig>("log_fromat = \"json\"").is_err());
}

/// A collector that keeps the bodies that it gets.
struct Collector {
    endpoint: String,
    bodies: Arc<Mutex<Vec<u8>>>,
    _runtime: tokio::runtime::Runtime,
}

fn collector() -> Collector {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("rt");
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("bound");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    runtime.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("accepted");
            let kept = Arc::clone(&kept);
            let service = service_fn(move |request: Request<Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    let body = request.into_body().collect().await.expect("body").to_bytes();
                    kept.lock().expect("lock").extend_from_slice(&body);
                    let reply = Response::builder().header("content-type", "application/grpc");
                    let reply = reply.header("grpc-status", "0").body(Full::<Bytes>::default());
                    Ok::<_, Infallible>(reply.expect("response"))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(tcp), service));
        }
    });
    Collector {
        endpoint,
        bodies,
        _runtime: runtime,
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Dropping the guard sends what is left, and the transport's own spans are not among it.
#[test]
fn the_last_spans_reach_the_collector_when_the_guard_is_dropped() {
    let collector = collector();
    let config = config(LogFormat::Json, "off", Some(&collector.endpoint));
    let assembled = assemble(SERVICE, &config, &Environment::default(), std::io::sink, false);
    let (dispatch, guard) = assembled.expect("telemetry");
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!("an-issued-token").in_scope(|| {
            tracing::info_span!(target: "h2::client", "a-transport-span").in_scope(|| {});
            tracing::info_span!(target: "tonic::transport", "another-transport-span").in_scope(|| {});
            tracing::debug_span!("a-detail").in_scope(|| {});
        });
    });
    drop(guard);
    let bodies = collector.bodies.lock().expect("lock");
    assert!(contains(&bodies, "an-issued-token") && contains(&bodies, "countersign-test"));
    assert!(contains(&bodies, "1.2.3"));
    assert!(!contains(&bodies, "transport-span") && !contains(&bodies, "a-detail"));
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long a real thread is held up"
)]
fn seconds_of(act: impl FnOnce()) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}

/// A collector that accepts connections and never answers holds up the end for the bound and no longer. The guard may be
/// dropped on a thread of another runtime.
#[tokio::test]
async fn a_silent_collector_does_not_hold_up_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", silent.local_addr().expect("address"));
    let config = config(LogFormat::Json, "off", Some(&endpoint));
    let assembled = assemble(SERVICE, &config, &Environment::default(), std::io::sink, false);
    let (dispatch, guard) = assembled.expect("telemetry");
    tracing::dispatcher::with_default(&dispatch, || drop(tracing::info_span!("lost").entered()));
    assert!(seconds_of(|| drop(guard)) < Duration::from_secs(4));
}

/// An address at which nobody listens refuses at once, and so the process ends at once.
#[test]
fn a_collector_that_is_away_does_not_hold_up_the_end() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", gone.local_addr().expect("address"));
    drop(gone);
    let config = config(LogFormat::Json, "off", Some(&endpoint));
    let assembled = assemble(SERVICE, &config, &Environment::default(), std::io::sink, false);
    let (dispatch, guard) = assembled.expect("telemetry");
    tracing::dispatcher::with_default(&dispatch, || drop(tracing::info_span!("lost").entered()));
    assert!(seconds_of(|| drop(guard)) < Duration::from_millis(500));
}
