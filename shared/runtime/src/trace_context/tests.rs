use std::convert::Infallible;

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri("https://a/demo.v1.Demo/Say?x=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("request")
}

fn extracted(headers: &[(&str, &str)]) -> Option<String> {
    let context = extract(request(headers).headers());
    let span = context.span().span_context().clone();
    span.is_valid().then(|| span.trace_id().to_string())
}

fn traced<T>(act: impl FnOnce() -> T) -> T {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act)
}

/// The headers that a call sends onwards, made while a call with `headers` is served.
async fn forwarded(headers: &[(&str, &str)]) -> HeaderMap {
    let onward = ServiceBuilder::new()
        .layer(ClientLayer)
        .service(service_fn(async |request: Request<()>| {
            Ok::<_, Infallible>(request.headers().clone())
        }));
    let serving = service_fn(move |_: Request<()>| onward.clone().oneshot(request(&[("other", "kept")])));
    let served = ServiceBuilder::new().layer(ServerLayer).service(serving);
    served.oneshot(request(headers)).await.expect("infallible")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime")
        .block_on(future)
}

#[test]
fn a_call_that_we_make_belongs_to_the_trace_of_the_call_that_we_serve() {
    let sent = traced(|| {
        run(forwarded(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]))
    });
    let parent = sent.get("traceparent").expect("sent").to_str().expect("ASCII");
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"),
        "{parent}"
    );
    assert_ne!(parent, PARENT, "our span is the parent now");
    assert_eq!(sent.get("tracestate").expect("sent"), "a=1,b=2");
    assert_eq!(sent.get("other").expect("kept"), "kept");
}

#[test]
fn a_call_without_a_trace_begins_one() {
    let sent = traced(|| run(forwarded(&[])));
    let parent = sent.get("traceparent").expect("sent").to_str().expect("ASCII");
    assert!(!parent.contains(TRACE), "{parent}");
}

#[test]
fn without_a_collector_nothing_is_added_or_taken_away() {
    assert!(!run(forwarded(&[("traceparent", PARENT)])).contains_key("traceparent"));
    let mut headers = request(&[("traceparent", PARENT), ("tracestate", "a=1")])
        .headers()
        .clone();
    let before = headers.clone();
    inject(&mut headers);
    assert_eq!(headers, before);
}

#[test]
fn a_context_that_is_malformed_repeated_or_huge_is_none() {
    assert_eq!(extracted(&[("traceparent", PARENT)]).as_deref(), Some(TRACE));
    for parent in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(extracted(&[("traceparent", parent)]), None, "{parent:?}");
    }
    assert_eq!(
        extracted(&[("traceparent", PARENT), ("traceparent", PARENT)]),
        None
    );
    assert_eq!(extracted(&[]), None);
    let huge = format!("a={}", "x".repeat(2_000));
    let context = extract(request(&[("traceparent", PARENT), ("tracestate", &huge)]).headers());
    assert_eq!(context.span().span_context().trace_state().header(), "");
}

/// T48: what a caller writes as a method takes a bounded place in logs, wherever the bound falls in its text.
#[test]
fn a_span_has_a_name_of_bounded_length() {
    for path in [
        "x".repeat(9_000),
        "\u{20ac}".repeat(3_000),
        format!("{}\u{e9}", "x".repeat(255)),
    ] {
        let logs = crate::telemetry::capture::Captured::default();
        tracing::subscriber::with_default(logs.subscriber(), || {
            let request = Request::builder()
                .uri(format!("/{path}"))
                .body(())
                .expect("a path");
            span_of(&request).in_scope(|| tracing::info!("said"));
        });
        let text = logs.text();
        assert!(
            text.contains("said") && text.len() < 3 * MAX_METHOD,
            "{}",
            text.len()
        );
    }
}
