//! What Envoy is told: as little to do as there is for the job.

use std::net::SocketAddr;

use crate::fixture::{AUDIENCE, ISSUER};

/// What Envoy does with a call before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Nothing.
    Route,
    /// `jwt_authn`, which checks every token.
    Verify,
    /// `jwt_authn`, which keeps the tokens that it has checked.
    VerifyAndKeep,
    /// `ext_authz`, which asks who is at this address.
    Ask(SocketAddr),
}

/// Tokens that `VerifyAndKeep` keeps: more than there are. Its own default is 100.
const KEPT: u32 = 16_384;

/// Everything that Envoy does by default and that is not asked for here is off: identifiers of requests, headers about itself,
/// the access log, deadlines. Nothing is told to the service about the caller.
pub(crate) fn configuration(job: Job, listener: SocketAddr, upstream: SocketAddr, keys: &str) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {listener_ip}, port_value: {listener_port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: calls
          codec_type: HTTP2
          generate_request_id: false
          http_filters:{filter}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
          route_config:
            virtual_hosts:
            - name: service
              domains: ["*"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: service, timeout: 0s }}
  clusters:
  - name: service
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {upstream_ip}, port_value: {upstream_port} }} }} }}{asked}
"#,
        listener_ip = listener.ip(),
        listener_port = listener.port(),
        upstream_ip = upstream.ip(),
        upstream_port = upstream.port(),
        filter = filter(job, keys),
        asked = cluster(job),
    )
}

/// The filter that asks, as in k8s/envoy/envoy.yaml.
const ASKING: &str = r#"
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service:
                envoy_grpc: { cluster_name: countersign }
                timeout: 0.5s
              failure_mode_allow: false
              status_on_error: { code: ServiceUnavailable }
              encode_raw_headers: true
              include_peer_certificate: true"#;

/// Who is asked.
fn cluster(job: Job) -> String {
    let Job::Ask(asked) = job else {
        return String::new();
    };
    format!(
        r#"
  - name: countersign
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: countersign
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}"#,
        asked.ip(),
        asked.port()
    )
}

/// The filter that verifies, on the issuer's own keys.
fn filter(job: Job, keys: &str) -> String {
    let kept = match job {
        Job::Route => return String::new(),
        Job::Ask(_) => return ASKING.to_owned(),
        Job::Verify => String::new(),
        Job::VerifyAndKeep => format!("\n                  jwt_cache_config: {{ jwt_cache_size: {KEPT} }}"),
    };
    format!(
        r#"
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                countersign:
                  issuer: {ISSUER}
                  audiences: [{AUDIENCE}]
                  local_jwks: {{ inline_string: '{keys}' }}{kept}
              rules:
              - match: {{ prefix: / }}
                requires: {{ provider_name: countersign }}"#
    )
}
