//! Request in, response out.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use prometheus_client::registry::Registry;

use super::{AdminEndpoints, Readiness};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(super) fn answer<B>(endpoints: &AdminEndpoints, request: &Request<B>) -> Response<Full<Bytes>> {
    if let Err(status) = check_form(request) {
        return reply(
            status,
            TEXT,
            status.canonical_reason().unwrap_or_default().to_lowercase() + "\n",
        );
    }
    let path = request.uri().path();
    if !matches!(path, "/live" | "/livez" | "/ready" | "/readyz" | "/metrics") {
        return reply(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = reply(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "method not allowed\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // hyper leaves the body out when the method is HEAD.
    match path {
        "/metrics" => metrics(&endpoints.metrics),
        "/ready" | "/readyz" => told(&(endpoints.ready)()),
        _ => told(&(endpoints.live)()),
    }
}

/// H04, H13: what a probe or scraper never sends is not interpreted.
fn check_form<B>(request: &Request<B>) -> Result<(), StatusCode> {
    let headers = request.headers();
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if request.version() != Version::HTTP_11 || request.uri().authority().is_some() || has_body {
        return Err(StatusCode::BAD_REQUEST);
    }
    if headers.contains_key(EXPECT) {
        Err(StatusCode::EXPECTATION_FAILED)
    } else {
        Ok(())
    }
}

fn told(readiness: &Readiness) -> Response<Full<Bytes>> {
    if readiness.is_ready() {
        return reply(StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    reply(
        StatusCode::SERVICE_UNAVAILABLE,
        TEXT,
        readiness.reasons().join("\n") + "\n",
    )
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => reply(StatusCode::OK, OPEN_METRICS, text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            reply(
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                "metrics cannot be written\n".to_owned(),
            )
        }
    }
}

fn reply(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
