//! W3C trace context (`traceparent`, `tracestate`): carried in, carried on.
//!
//! [`ServerLayer`] makes a span for each call whose parent is the caller's; [`ClientLayer`] tells the callee ours.
//! [`span_of`] and [`inject`] are the same for those who work with requests directly. Without a collector configured
//! nothing is injected, and headers that pass through a proxy stay as they came.

use std::task::{Context as TaskContext, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower::{Layer, Service};
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Twice what every participant has to carry (Trace Context, section 3.3.1.5). More is a burden and no help.
const MAX_TRACESTATE: usize = 1024;

/// Longer than the name of any method; callers choose the text, and it goes to logs.
const MAX_METHOD: usize = 256;

/// The caller's trace context in `headers`; an empty one when it is absent, repeated or malformed.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Received::read(headers))
}

/// Puts the trace context of the current span in `headers`, in place of what is there. Without one, changes nothing.
pub fn inject(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Sent(headers));
}

/// A span for the call that `request` makes to us, as a child of the caller's.
#[must_use]
pub fn span_of<B>(request: &Request<B>) -> Span {
    let method = request.uri().path();
    let method = method.strip_prefix('/').unwrap_or(method);
    let (method, _rest) = method.split_at(method.floor_char_boundary(MAX_METHOD));
    let span = tracing::info_span!(
        "call",
        otel.name = method,
        otel.kind = "server",
        rpc.system.name = "grpc",
        rpc.method = method
    );
    // Fails only where spans are not exported, and then there is nothing to join.
    let _not_exported = span.set_parent(extract(request.headers()));
    span
}

struct Received<'h> {
    traceparent: Option<&'h str>,
    tracestate: String,
}

impl<'h> Received<'h> {
    fn read(headers: &'h HeaderMap) -> Self {
        let mut parents = headers.get_all("traceparent").iter();
        // Two parents are none: which is the caller's cannot be known.
        let parent = parents.next().filter(|_| parents.next().is_none());
        let states = headers
            .get_all("tracestate")
            .iter()
            .filter_map(|state| state.to_str().ok());
        let tracestate = states.collect::<Vec<_>>().join(",");
        let tracestate = if tracestate.len() > MAX_TRACESTATE {
            String::new()
        } else {
            tracestate
        };
        Self {
            traceparent: parent.and_then(|parent| parent.to_str().ok()),
            tracestate,
        }
    }
}

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => Some(self.tracestate.as_str()).filter(|state| !state.is_empty()),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Sent<'h>(&'h mut HeaderMap);

impl Injector for Sent<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            if value.is_empty() {
                self.0.remove(name);
            } else {
                self.0.insert(name, value);
            }
        }
    }
}

/// Gives each call to us a span, with the caller's as its parent.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLayer;

/// Tells the callee of each call of ours the current span.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer;

/// A service behind [`ServerLayer`].
#[derive(Clone, Debug)]
pub struct ServerService<S>(S);

/// A service behind [`ClientLayer`].
#[derive(Clone, Debug)]
pub struct ClientService<S>(S);

impl<S> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerService(inner)
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = ClientService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientService(inner)
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for ServerService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = span_of(&request);
        let answering = span.in_scope(|| self.0.call(request));
        answering.instrument(span)
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for ClientService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        inject(request.headers_mut());
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests;
