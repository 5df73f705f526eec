//! Envoy's questions about requests, as Envoy asks them with `encode_raw_headers`.

use std::collections::BTreeMap;

use countersign_proto::envoy::config::core::v3::{HeaderMap as RawHeaders, HeaderValue as RawHeader};
use countersign_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use countersign_proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use countersign_proto::envoy::service::auth::v3::check_response::HttpResponse;
use countersign_proto::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
};
use http::HeaderMap;
use http::request::{Builder, Parts};
use tonic::transport::Channel;

use super::{Sidecar, channel};

/// Where Envoy asks.
pub(crate) fn client(sidecar: &Sidecar) -> AuthorizationClient<Channel> {
    AuthorizationClient::new(channel(sidecar.addresses.ext_authz_grpc.expect("an address")))
}

/// The question about `request`.
pub(crate) fn question(request: Builder) -> CheckRequest {
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map_or("", |path| path.as_str())
        .to_owned();
    let host = parts
        .uri
        .authority()
        .map_or("", |authority| authority.as_str())
        .to_owned();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: None,
            request: Some(Request {
                http: Some(HttpRequest {
                    method: parts.method.to_string(),
                    header_map: Some(RawHeaders {
                        headers: fields(&parts, &path, &host),
                    }),
                    path,
                    host,
                    headers: Vec::new(),
                }),
            }),
        }),
    }
}

fn fields(parts: &Parts, path: &str, host: &str) -> Vec<RawHeader> {
    let pseudo = [
        (":authority", host),
        (":path", path),
        (":method", parts.method.as_str()),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| (*name, value.as_bytes()));
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let raw = |(name, value): (&str, &[u8])| RawHeader {
        key: name.to_owned(),
        value: String::new(),
        raw_value: value.to_vec().into(),
    };
    pseudo.chain(headers).map(raw).collect()
}

/// The answer about `request`: nothing if it passes.
pub(crate) async fn denial(sidecar: &Sidecar, request: Builder) -> Option<DeniedHttpResponse> {
    let answer = client(sidecar).check(question(request)).await;
    denied(answer.expect("always an answer").into_inner())
}

/// The denial in an answer, if it is one.
pub(crate) fn denied(answer: CheckResponse) -> Option<DeniedHttpResponse> {
    let passes = answer.status.expect("a status").code == 0;
    match answer.http_response.expect("what belongs to it") {
        HttpResponse::DeniedResponse(denied) if !passes => Some(denied),
        HttpResponse::OkResponse(_) if passes => None,
        other @ (HttpResponse::DeniedResponse(_) | HttpResponse::OkResponse(_)) => {
            panic!("another answer than the status says: {other:?}")
        }
    }
}

/// What `headers` say, less the content type. The metadata in details comes in any order.
pub(crate) fn said(headers: &HeaderMap) -> BTreeMap<String, String> {
    use tonic_types::StatusExt as _;
    let status = tonic::Status::from_header_map(headers);
    let info = status.and_then(|status| status.get_details_error_info());
    let metadata = info.map(|info| info.metadata.into_iter().collect::<BTreeMap<_, _>>());
    let plain = headers
        .iter()
        .filter(|(name, _)| !["content-type", "grpc-status-details-bin"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), format!("{value:?}")));
    plain
        .chain([("metadata".to_owned(), format!("{metadata:?}"))])
        .collect()
}

/// Its headers.
pub(crate) fn headers(denied: &DeniedHttpResponse) -> HeaderMap {
    let headers = denied.headers.iter().map(|option| {
        let header = option.header.as_ref().expect("a header");
        let name = header.key.parse().expect("a name");
        (name, header.value.parse().expect("a value"))
    });
    headers
        .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
        .into_iter()
        .collect()
}
