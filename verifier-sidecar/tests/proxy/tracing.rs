//! W3C trace context through the proxy.

use bytes::Bytes;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::raw::{call, send};
use crate::support::{METHODS, Setup, Sidecar};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

async fn seen_by_service(sidecar: &Sidecar, path: &str) -> http::HeaderMap {
    let request = call(sidecar.plaintext())
        .uri(format!("http://service{path}"))
        .header("authorization", format!("Bearer {}", sidecar.token()))
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("tracestate", "vendor=value");
    send(sidecar.plaintext(), request, Bytes::new())
        .await
        .expect("an answer");
    sidecar.service.seen().pop().expect("a request").headers
}

fn traced() -> Setup {
    Setup {
        more: format!("{METHODS}\n[telemetry]\notlp_endpoint = \"http://127.0.0.1:9\"\n"),
        ..Setup::default()
    }
}

/// The service becomes a child of our span, in the caller's trace.
#[tokio::test]
async fn our_span_stands_between_caller_and_service() {
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    // For this thread, which is all that the test's runtime has.
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let sidecar = Sidecar::with(traced()).await;
    let headers = seen_by_service(&sidecar, "/test.Open/Do").await;
    let parent = headers["traceparent"].to_str().expect("text").to_owned();
    let [version, trace, span, flags] = parent.split('-').collect::<Vec<_>>()[..] else {
        panic!("{parent}")
    };
    assert_eq!((version, trace, flags), ("00", TRACE, "01"));
    assert_ne!(span, PARENT);
    assert_eq!(headers["tracestate"], "vendor=value");
}

/// Without a collector the caller's context passes as it is.
#[tokio::test]
async fn without_a_collector_the_callers_context_passes_unchanged() {
    for setup in [Setup::default(), traced()] {
        let sidecar = Sidecar::with(setup).await;
        let headers = seen_by_service(&sidecar, "/test.Open/Do").await;
        assert_eq!(headers["traceparent"], format!("00-{TRACE}-{PARENT}-01").as_str());
    }
}
