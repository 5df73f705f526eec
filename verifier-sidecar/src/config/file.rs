//! The configuration file as the operator wrote it. What is optional here has its default in [`super::defaults`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use countersign_core::requirements;
use countersign_runtime::config::{Period, PeriodOrZero};
use countersign_runtime::telemetry::TelemetryConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::services::Upstream;
use countersign_verifier::sync::OnStop;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) issuer: String,
    pub(super) trust_domain: String,
    pub(super) audience: String,
    pub(super) publishing_keys: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) upstream: Option<Upstream>,
    #[serde(default)]
    pub(super) route: Vec<super::apps::RouteFile>,
    pub(super) admin: String,
    pub(super) default_scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) mode: Mode,
    #[serde(default)]
    pub(super) open_health: bool,
    #[serde(default)]
    pub(super) open_reflection: bool,
    pub(super) workers: Option<usize>,
    pub(super) authority: Authority,
    #[serde(default)]
    pub(super) listener: Vec<Listener>,
    #[serde(default)]
    pub(super) method: Vec<Method>,
    #[serde(default)]
    pub(super) trust: Trust,
    #[serde(default)]
    pub(super) staleness: Staleness,
    #[serde(default)]
    pub(super) tokens: Tokens,
    #[serde(default)]
    pub(super) identity_headers: super::identity_headers::File,
    #[serde(default)]
    pub(super) verify: Verify,
    #[serde(default)]
    pub(super) agent: super::agent::File,
    pub(super) ext_authz: Option<super::ext_authz::File>,
    #[serde(default)]
    pub(super) outbound: Vec<super::outbound::File>,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) access_log: Option<super::access_log::File>,
    #[serde(default)]
    pub(super) telemetry: TelemetryConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authority {
    pub(super) uri: String,
    pub(super) spiffe_id: String,
    pub(super) server_name: Option<String>,
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
    pub(super) trust_roots: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) address: String,
    pub(super) tls: Option<Tls>,
    #[serde(default)]
    pub(super) plaintext: bool,
    pub(super) disclose_reasons: Option<bool>,
    #[serde(default)]
    pub(super) grpc_only: bool,
    pub(super) client_certificates: Option<ClientCertificates>,
    pub(super) upstream: Option<Upstream>,
}

/// Whether callers show certificates.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientCertificates {
    #[default]
    Required,
    Optional,
}

impl From<ClientCertificates> for countersign_mtls::ClientCertificates {
    fn from(certificates: ClientCertificates) -> Self {
        match certificates {
            ClientCertificates::Required => Self::Required,
            ClientCertificates::Optional => Self::Optional,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
    pub(super) trust_roots: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Method {
    pub(super) path: String,
    #[serde(default)]
    pub(super) open: bool,
    pub(super) scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) bound: bool,
    pub(super) class: Option<String>,
    pub(super) mode: Option<Mode>,
}

/// Whether what is judged is enforced.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    #[default]
    Enforce,
    Observe,
}

impl From<Mode> for requirements::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Observe => Self::Observe,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trust {
    pub(super) heartbeat: Option<Period>,
    pub(super) max_revocations: Option<usize>,
    pub(super) warm_start: Option<PathBuf>,
    pub(super) on_stop: Option<OnStop>,
    /// Gone; there to say where it went.
    pub(super) warn_after: Option<IgnoredAny>,
    /// Gone; there to say what replaced it.
    pub(super) refuse_after: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Staleness {
    pub(super) warn_after: Option<Period>,
    pub(super) default_class: Option<String>,
    #[serde(default)]
    pub(super) class: BTreeMap<String, Class>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) revocations: PeriodOrZero,
    pub(super) keys: PeriodOrZero,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    pub(super) max_lifetime: Option<Period>,
    pub(super) leeway: Option<PeriodOrZero>,
    #[serde(default)]
    pub(super) several_audiences: bool,
    #[serde(default)]
    pub(super) forward: bool,
    pub(super) cache_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub(super) unix: Option<PathBuf>,
    pub(super) grpc: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) connections: Option<usize>,
    pub(super) streams: Option<u32>,
    pub(super) idle: Option<Period>,
    pub(super) connection_age: Option<Period>,
    pub(super) drain: Option<Period>,
    pub(super) timeout: Option<Period>,
    pub(super) upstream_connections: Option<usize>,
    pub(super) keepalive: Option<Period>,
    pub(super) keepalive_timeout: Option<Period>,
}
