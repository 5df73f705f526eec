//! The configuration file as the operator wrote it. What is optional here has its default in [`super::defaults`].

use std::path::PathBuf;

use countersign_runtime::config::{Period, PeriodOrZero};
use countersign_runtime::telemetry::TelemetryConfig;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) issuer: String,
    pub(super) trust_domain: String,
    pub(super) listen: String,
    pub(super) admin: String,
    #[serde(default)]
    pub(super) reflection: bool,
    pub(super) workers: Option<usize>,
    pub(super) tls: Tls,
    pub(super) store: Store,
    pub(super) keys: Keys,
    #[serde(default)]
    pub(super) tokens: Tokens,
    pub(super) access: Access,
    #[serde(default)]
    pub(super) trust: Trust,
    #[serde(default)]
    pub(super) revocations: Revocations,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) telemetry: TelemetryConfig,
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
pub(super) struct Store {
    pub(super) path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rotation {
    #[default]
    Timed,
    Manual,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) key_encryption_key: PathBuf,
    pub(super) algorithm: Option<String>,
    #[serde(default)]
    pub(super) rotation: Rotation,
    pub(super) lifetime: Option<Period>,
    pub(super) propagation: Option<Period>,
    pub(super) activation_lead: Option<Period>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    pub(super) default_lifetime: Option<Period>,
    pub(super) max_lifetime: Option<Period>,
    pub(super) leeway: Option<PeriodOrZero>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub(super) operators: Vec<String>,
    pub(super) verifiers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trust {
    pub(super) lease: Option<Period>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocations {
    pub(super) slack: Option<Period>,
    pub(super) certificate_life: Option<Period>,
    pub(super) max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) tokens_per_second: Option<u32>,
    pub(super) tokens_burst: Option<u32>,
    pub(super) clients: Option<usize>,
    pub(super) connections: Option<usize>,
    pub(super) streams: Option<u32>,
    pub(super) verifiers: Option<usize>,
    pub(super) streams_per_verifier: Option<usize>,
    pub(super) timeout: Option<Period>,
    pub(super) connection_age: Option<Period>,
    pub(super) drain: Option<Period>,
}
