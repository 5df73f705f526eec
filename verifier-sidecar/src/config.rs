//! The configuration: text, then what the operator wrote ([`file`]), then only what makes sense ([`Config`]).
//!
//! Every complaint is made at once, with file and line. Nothing secret is in a `Config`: keys are paths.

mod access;
mod access_log;
mod addresses;
mod agent;
mod apps;
mod defaults;
mod ext_authz;
mod file;
mod identity_headers;
mod implied;
mod outbound;
mod routes;
mod services;
mod staleness;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use agent::AgentConfig;
pub use apps::{AppConfig, AppRoute, AppsConfig};
use countersign_core::names::{Audience, ClassName, Issuer};
use countersign_core::requirements::MethodTable;
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::trust::UpdateRules;
use countersign_core::verifying::Expectations;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_mtls::files::read_public;
use countersign_mtls::{ClientCertificates, TlsFiles};
use countersign_runtime::config::environment::Environment;
use countersign_runtime::config::{Complaints, PeriodOrZero};
use countersign_runtime::telemetry::TelemetryConfig;
use countersign_verifier::identity::IdentityHeaders;
use countersign_verifier::source::{Authority, TrustSettings};
pub use ext_authz::ExtAuthzConfig;
pub use implied::Implied;
pub use outbound::{LocalAddress, OutboundConfig};
pub use services::{ServiceConfig, TlsServiceConfig};

use crate::access_log::AccessLogConfig;
use crate::proxy::TokenForwarding;
use crate::server::{Disclosures, Keepalive, Limits};
use addresses::Local;
use countersign_verifier::sync::{HEARTBEAT_PERIOD, OnStop};
use file::File;
use staleness::Classes;

/// What a sidecar is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is accepted.
    pub expectations: Expectations,
    /// Where trust comes from, and how long it is used.
    pub trust: TrustSettings,
    /// Classes that the file has a budget for and no method belongs to.
    pub unused_classes: Vec<ClassName>,
    /// Where callers connect.
    pub listeners: Vec<ListenerConfig>,
    /// What methods ask for.
    pub methods: MethodTable,
    /// Whether methods that the file names are asked for more than a good token, and all others are not.
    pub others_unguarded: bool,
    /// The apps behind the sidecar.
    pub apps: AppsConfig,
    /// How many connections to each service there may be.
    pub upstream_connections: usize,
    /// Whether the service sees tokens.
    pub tokens: TokenForwarding,
    /// Under which names it is told of its callers.
    pub identity_headers: IdentityHeaders,
    /// The longest deadline that a caller can set.
    pub longest_timeout: Duration,
    /// Memory for tokens whose signature was checked before.
    pub token_cache_bytes: u64,
    /// Where the local API is.
    pub verify: VerifyConfig,
    /// Tokens for the service's own calls.
    pub agent: AgentConfig,
    /// Where Envoy asks, if it does.
    pub ext_authz: Option<ExtAuthzConfig>,
    /// The ways out to the services that ours calls.
    pub outbound: Vec<OutboundConfig>,
    /// Where the admin port is.
    pub admin: SocketAddr,
    /// What each listener grants.
    pub limits: Limits,
    /// Threads that serve calls.
    pub workers: usize,
    /// Where calls are told of, if they are.
    pub access_log: Option<AccessLogConfig>,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Whether calls are traced.
    pub traced: bool,
}

/// A place where callers connect.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where.
    pub address: SocketAddr,
    /// With TLS, and whether callers show certificates.
    pub tls: Option<(TlsFiles, ClientCertificates)>,
    /// How much refused callers are told.
    pub disclosures: Disclosures,
    /// Whether nothing but gRPC is taken.
    pub grpc_only: bool,
    /// The app that all its calls reach. None: those of [`Config::apps`].
    pub app: Option<AppConfig>,
}

/// Where the local API is.
#[derive(Clone, Debug, Default)]
pub struct VerifyConfig {
    /// A unix socket.
    pub unix: Option<PathBuf>,
    /// A loopback address.
    pub grpc: Option<SocketAddr>,
}

impl Config {
    /// Reads the file at `path`, and the publishing keys that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Complaints> {
        let (file, complaints) = countersign_runtime::config::read::<File>(path)?;
        Checker::new(path, complaints).check(file)
    }

    /// Reads `text` as if it were the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Complaints> {
        let (file, complaints) = countersign_runtime::config::parse::<File>(path, text)?;
        Checker::new(path, complaints).check(file)
    }
}

/// Makes a `Config` of a `File`, complaining where that cannot be.
struct Checker {
    folder: PathBuf,
    complaints: Complaints,
}

/// The largest JWK Set that is read.
const MAX_KEYS_BYTES: u64 = 256 * 1024;

impl Checker {
    fn new(path: &Path, complaints: Complaints) -> Self {
        Self {
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            complaints,
        }
    }

    /// A path in the file is relative to the file.
    fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn check(mut self, file: File) -> Result<Config, Complaints> {
        let config = self.config(&file);
        let complaints = self.complaints;
        match config {
            Some(config) => complaints.into_result(config),
            None => complaints
                .into_result(())
                .and_then(|()| Err(Complaints::of(&self.folder))),
        }
    }

    /// Nothing only after a complaint. Everything is looked at before anything is given up.
    fn config(&mut self, file: &File) -> Option<Config> {
        let expectations = self.expectations(file);
        let ext_authz = file.ext_authz.as_ref().map(|section| self.ext_authz(section));
        let listeners = self.listeners(file);
        let apps = self.apps(file);
        let classes = self.classes(&file.staleness);
        let methods = self.methods(file, &classes);
        let trust = self.trust(file, expectations.as_ref(), &classes);
        let identity_headers = self.identity_headers(&file.identity_headers);
        let verify = self.verify(&file.verify);
        let agent = self.agent(&file.agent);
        let outbound = self.outbound(&file.outbound);
        let admin = self.loopback("admin", &file.admin);
        let limits = self.limits(&file.limits);
        let local: Vec<Local> = Local::of_section("verify", verify.unix.as_ref(), verify.grpc)
            .chain(Local::of_section("agent", agent.unix.as_ref(), agent.grpc))
            .chain(ext_authz.iter().flat_map(ExtAuthzConfig::local))
            .chain(outbound::local(&outbound))
            .collect();
        if file.listener.is_empty() && local.is_empty() {
            let missing = "is missing: callers could not connect";
            self.complaints.push("listener", missing);
        }
        let services: Vec<_> = apps.services(&listeners).collect();
        self.check_distinct(&listeners, &local, admin, &services);
        let checked = file.telemetry.check();
        self.complaints.accept("telemetry", checked);
        let workers = self.workers(file);
        let connections = file
            .limits
            .upstream_connections
            .unwrap_or(defaults::UPSTREAM_CONNECTIONS);
        self.within("limits.upstream_connections", connections, 1, 1024);
        Some(Config {
            access_log: file.access_log.as_ref().map(|section| self.access_log(section)),
            trust: trust?,
            expectations: expectations?,
            unused_classes: classes.unused(file),
            listeners,
            methods,
            others_unguarded: access::others_unguarded(file),
            apps,
            upstream_connections: connections,
            tokens: forwarding(&file.tokens),
            identity_headers,
            longest_timeout: file.limits.timeout.map_or(defaults::LONGEST_TIMEOUT, Into::into),
            token_cache_bytes: file.tokens.cache_bytes.unwrap_or(defaults::TOKEN_CACHE_BYTES),
            verify,
            agent,
            ext_authz,
            outbound,
            admin: admin?,
            limits,
            workers,
            traced: is_traced(&file.telemetry),
            telemetry: file.telemetry.clone(),
        })
    }

    fn expectations(&mut self, file: &File) -> Option<Expectations> {
        let issuer = self.complaints.accept("issuer", Issuer::parse(&file.issuer));
        let trust_domain = self
            .complaints
            .accept("trust_domain", TrustDomain::parse(&file.trust_domain));
        let audience = self
            .complaints
            .accept("audience", Audience::parse(&file.audience));
        let max_lifetime = file
            .tokens
            .max_lifetime
            .map_or(defaults::MAX_LIFETIME, Into::into);
        let leeway = file.tokens.leeway.map_or(defaults::LEEWAY, PeriodOrZero::get);
        if max_lifetime > defaults::MAX_LIFETIME {
            self.complaints.push("tokens.max_lifetime", "is over 1h");
        }
        if leeway > defaults::MAX_LEEWAY {
            self.complaints.push("tokens.leeway", "is over 1m");
        }
        if leeway > max_lifetime / 2 {
            self.complaints
                .push("tokens.leeway", "is over half of `tokens.max_lifetime`");
        }
        Some(Expectations {
            issuer: issuer?,
            trust_domain: trust_domain?,
            audience: audience?,
            max_lifetime,
            leeway,
            several_audiences: file.tokens.several_audiences,
        })
    }

    fn trust(
        &mut self,
        file: &File,
        expectations: Option<&Expectations>,
        classes: &Classes,
    ) -> Option<TrustSettings> {
        let authority = self.authority(file);
        let staleness = self.staleness(file, classes);
        let on_stop = self.on_stop(&file.trust);
        let expectations = expectations?;
        let rules = self.rules(file, expectations);
        Some(TrustSettings {
            authority: authority?,
            trust_domain: expectations.trust_domain.clone(),
            audience: expectations.audience.clone(),
            state_dir: self.path(&file.state_dir),
            warm_start: file.trust.warm_start.as_deref().map(|path| self.path(path)),
            on_stop,
            rules,
            staleness: Arc::new(staleness),
            heartbeat: file.trust.heartbeat.map_or(HEARTBEAT_PERIOD, Into::into),
        })
    }

    fn authority(&mut self, file: &File) -> Option<Authority> {
        let authority = &file.authority;
        let is_https = authority
            .uri
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.path() == "/");
        if !is_https {
            self.complaints
                .push("authority.uri", "is no address of the form `https://host:port`");
        }
        let spiffe_id = SpiffeId::parse(&authority.spiffe_id);
        let spiffe_id = self.complaints.accept("authority.spiffe_id", spiffe_id);
        let publishers = self.publishers(&file.publishing_keys);
        Some(Authority {
            uri: authority.uri.clone(),
            spiffe_id: spiffe_id?,
            server_name: authority.server_name.clone(),
            files: TlsFiles {
                certificate: self.path(&authority.certificate),
                private_key: self.path(&authority.private_key),
                trust_roots: self.path(&authority.trust_roots),
            },
            publishers: publishers?,
        })
    }

    fn publishers(&mut self, path: &Path) -> Option<PinnedKeys> {
        let key = "publishing_keys";
        let read = read_public(&self.path(path), MAX_KEYS_BYTES);
        let jwks = self.complaints.accept(key, read)?;
        self.complaints.accept(key, PinnedKeys::read(&jwks, &AwsLc))
    }

    fn rules(&mut self, file: &File, expectations: &Expectations) -> UpdateRules {
        let max_revocations = file.trust.max_revocations.unwrap_or(defaults::MAX_REVOCATIONS);
        self.within(
            "trust.max_revocations",
            max_revocations,
            1,
            defaults::MAX_REVOCATIONS,
        );
        UpdateRules {
            max_revocations,
            leeway: expectations.leeway,
            ..countersign_verifier::defaults::rules(expectations.issuer.clone())
        }
    }

    fn limits(&mut self, file: &file::Limits) -> Limits {
        let usual = defaults::LIMITS;
        let connections = file.connections.unwrap_or(usual.connections);
        let streams = file.streams.unwrap_or(usual.streams);
        self.within("limits.connections", connections, 1, 1_000_000);
        self.within("limits.streams", streams, 1, 65_536);
        let longest: Duration = file.timeout.map_or(defaults::LONGEST_TIMEOUT, Into::into);
        if longest > defaults::LONGEST_TIMEOUT {
            self.complaints.push("limits.timeout", "is over 24h");
        }
        let keepalive = Keepalive {
            every: file.keepalive.map_or(usual.keepalive.every, Into::into),
            patience: file
                .keepalive_timeout
                .map_or(usual.keepalive.patience, Into::into),
        };
        if !defaults::KEEPALIVE.contains(&keepalive.every) {
            self.complaints
                .push("limits.keepalive", "is not between 1s and 1h");
        }
        if !defaults::KEEPALIVE_PATIENCE.contains(&keepalive.patience) {
            self.complaints
                .push("limits.keepalive_timeout", "is not between 1s and 1m");
        }
        Limits {
            keepalive,
            connections,
            streams,
            idle: file.idle.map_or(usual.idle, Into::into),
            age: file.connection_age.map_or(usual.age, Into::into),
            drain: file.drain.map_or(usual.drain, Into::into),
        }
    }

    fn workers(&mut self, file: &File) -> usize {
        let workers = file.workers.unwrap_or(defaults::WORKERS);
        self.within("workers", workers, 1, defaults::MAX_WORKERS);
        workers
    }

    fn on_stop(&mut self, trust: &file::Trust) -> OnStop {
        let on_stop = trust.on_stop.unwrap_or_default();
        if on_stop == OnStop::Forget && trust.warm_start.is_some() {
            self.complaints.push(
                "trust.on_stop",
                "`forget` promises the authority that the next start decides nothing without it, and with `trust.warm_start` it would",
            );
        }
        on_stop
    }

    fn within<N: PartialOrd + std::fmt::Display>(&mut self, key: &str, value: N, least: N, most: N) {
        if value < least || value > most {
            self.complaints
                .push(key, format_args!("is not between {least} and {most}"));
        }
    }
}

const fn forwarding(tokens: &file::Tokens) -> TokenForwarding {
    if tokens.forward {
        TokenForwarding::Forward
    } else {
        TokenForwarding::Withhold
    }
}

/// Whether calls have spans. Without a collector they would only cost time.
fn is_traced(telemetry: &TelemetryConfig) -> bool {
    let environment = Environment::read();
    !environment.otel_disabled && (telemetry.otlp_endpoint.is_some() || environment.otlp_endpoint.is_some())
}

#[cfg(test)]
mod tests;
