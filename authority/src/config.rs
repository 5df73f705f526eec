//! The configuration: text, then what the operator wrote ([`file`]), then only what makes sense ([`Config`]).
//!
//! Every complaint is made at once, with file and line. Nothing secret is in a `Config`: keys are paths.

mod access;
mod defaults;
mod file;
mod implied;
pub mod secret_key;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::issuing::IssuingPolicy;
use countersign_core::jose::Algorithm;
use countersign_core::names::Issuer;
use countersign_core::rotation::RotationPolicy;
use countersign_core::spiffe::TrustDomain;
use countersign_mtls::{ClientCertificates, ServerTls, TlsFiles};
use countersign_runtime::SystemClock;
use countersign_runtime::config::{Complaints, PeriodOrZero, Written};
use countersign_runtime::telemetry::TelemetryConfig;

use crate::authorize::Roles;
use crate::ledger::LedgerPolicy;
use crate::limits::Rate;
use crate::server::ServerLimits;
use file::{File, Rotation};
pub use implied::Implied;

/// What an authority is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// What tokens say and how long they live.
    pub issuing: IssuingPolicy,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// The time in the store that is wrong, if an operator said so. Of the command line, not of the file.
    pub accepted_time: Option<Timestamp>,
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Where probes and scrapers connect.
    pub admin: SocketAddr,
    /// Whether reflection answers.
    pub reflection: bool,
    /// Threads that serve calls.
    pub workers: usize,
    /// The authority's certificate, and whom to trust.
    pub tls: TlsFiles,
    /// Where the store is.
    pub store: PathBuf,
    /// Where the key-encryption key is.
    pub key_encryption_key: PathBuf,
    /// What new keys are for.
    pub algorithm: Algorithm,
    /// When keys follow each other.
    pub rotation: RotationPolicy,
    /// How long the leases of verifiers last.
    pub lease: Duration,
    /// How far ahead an activation is announced to connected verifiers.
    pub activation_lead: Duration,
    /// Who may do what.
    pub roles: Roles,
    /// The rules of the ledger.
    pub ledger: LedgerPolicy,
    /// How often one client may ask.
    pub token_rate: Rate,
    /// What the server grants its callers.
    pub limits: ServerLimits,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Complaints> {
        let (file, complaints) = countersign_runtime::config::read::<File>(path)?;
        Checker::new(path, complaints).check(&file)
    }

    /// Reads `text` as if it were the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Complaints> {
        let (file, complaints) = countersign_runtime::config::parse::<File>(path, text)?;
        Checker::new(path, complaints).check(&file)
    }

    /// Looks at the files that the configuration names: keys that others can read, certificates that do not fit (C09).
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check_files(&self, path: &Path) -> Result<(), Complaints> {
        let mut complaints = Complaints::of(path);
        let tls = ServerTls::load(&self.tls, ClientCertificates::Required, Arc::new(SystemClock));
        complaints.accept("tls", tls);
        let key = secret_key::read(&self.key_encryption_key);
        complaints.accept("keys.key_encryption_key", key);
        if !folder_of(&self.store).is_dir() {
            complaints.push("store.path", "lies in a folder that is not there");
        }
        complaints.into_result(())
    }
}

/// Makes a `Config` of a `File`, complaining where that cannot be.
struct Checker {
    path: PathBuf,
    folder: PathBuf,
    complaints: Complaints,
}

impl Checker {
    fn new(path: &Path, complaints: Complaints) -> Self {
        Self {
            path: path.to_owned(),
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            complaints,
        }
    }

    fn check(mut self, file: &File) -> Result<Config, Complaints> {
        let config = self.config(file);
        let complaints = self.complaints;
        match config {
            Some(config) => complaints.into_result(config),
            None => complaints
                .into_result(())
                .and_then(|()| Err(Complaints::of(&self.path))),
        }
    }

    /// A path in the file is relative to the file.
    fn file_path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Nothing only after a complaint. Everything is looked at before anything is given up.
    fn config(&mut self, file: &File) -> Option<Config> {
        let leeway = self.leeway(file);
        let issuing = self.issuing(file, leeway);
        let (listen, admin) = self.addresses(file);
        let algorithm = self.algorithm(file);
        // Not of this file's `tokens.max_lifetime`: a file before it may have allowed more, and those tokens still live.
        let token_life = defaults::MAX_LIFETIME.saturating_add(leeway);
        let rotation = self.rotation(file, token_life);
        let lease = self.lease(&file.trust);
        let trust_domain = issuing.as_ref().map(|issuing| issuing.trust_domain.clone());
        let roles = self.roles(&file.access, trust_domain.as_ref());
        let ledger = self.ledger(file, trust_domain, token_life);
        let limits = self.limits(&file.limits);
        let token_rate = self.token_rate(&file.limits);
        let workers = self.workers(file.workers);
        let telemetry = file.telemetry.check();
        self.complaints.accept("telemetry", telemetry);
        Some(Config {
            issuing: issuing?,
            leeway,
            accepted_time: None,
            listen: listen?,
            admin: admin?,
            reflection: file.reflection,
            workers,
            tls: TlsFiles {
                certificate: self.file_path(&file.tls.certificate),
                private_key: self.file_path(&file.tls.private_key),
                trust_roots: self.file_path(&file.tls.trust_roots),
            },
            store: self.file_path(&file.store.path),
            key_encryption_key: self.file_path(&file.keys.key_encryption_key),
            algorithm: algorithm?,
            rotation,
            lease,
            activation_lead: file
                .keys
                .activation_lead
                .map_or(defaults::ACTIVATION_LEAD, Into::into),
            roles: roles?,
            ledger: ledger?,
            token_rate: token_rate?,
            limits,
            telemetry: file.telemetry.clone(),
        })
    }

    fn leeway(&mut self, file: &File) -> Duration {
        let leeway = file.tokens.leeway.map_or(defaults::LEEWAY, PeriodOrZero::get);
        let (_, default_lifetime) = lifetimes(file);
        if leeway > defaults::MAX_LEEWAY {
            self.complaints.push("tokens.leeway", "is over 1m");
        }
        if leeway > default_lifetime / 2 {
            self.complaints
                .push("tokens.leeway", "is over half of `tokens.default_lifetime`");
        }
        leeway
    }

    fn issuing(&mut self, file: &File, leeway: Duration) -> Option<IssuingPolicy> {
        let issuer = self.complaints.accept("issuer", Issuer::parse(&file.issuer));
        let trust_domain = TrustDomain::parse(&file.trust_domain);
        let trust_domain = self.complaints.accept("trust_domain", trust_domain);
        let (max_lifetime, default_lifetime) = lifetimes(file);
        if max_lifetime > defaults::MAX_LIFETIME {
            self.complaints.push("tokens.max_lifetime", "is over 1h");
        }
        if default_lifetime > max_lifetime {
            self.complaints
                .push("tokens.default_lifetime", "is over `tokens.max_lifetime`");
        }
        // Times in tokens are whole seconds.
        for (key, lifetime) in [
            ("tokens.max_lifetime", max_lifetime),
            ("tokens.default_lifetime", default_lifetime),
            ("tokens.leeway", leeway),
        ] {
            if lifetime.subsec_nanos() != 0 {
                self.complaints.push(key, "is no whole number of seconds");
            }
        }
        Some(IssuingPolicy {
            issuer: issuer?,
            trust_domain: trust_domain?,
            default_lifetime,
            max_lifetime,
        })
    }

    fn algorithm(&mut self, file: &File) -> Option<Algorithm> {
        let Some(name) = &file.keys.algorithm else {
            return Some(defaults::ALGORITHM);
        };
        let algorithm = Algorithm::from_name(name).ok_or("is none of ES256, EdDSA, RS256");
        self.complaints.accept("keys.algorithm", algorithm)
    }

    fn rotation(&mut self, file: &File, retention: Duration) -> RotationPolicy {
        let keys = &file.keys;
        let lifetime: Duration = keys.lifetime.map_or(defaults::KEY_LIFETIME, Into::into);
        let propagation = keys.propagation.map_or(defaults::PROPAGATION, Into::into);
        let lead = keys
            .activation_lead
            .map_or(defaults::ACTIVATION_LEAD, Duration::from);
        let is_timed = keys.rotation == Rotation::Timed;
        if !is_timed && keys.lifetime.is_some() {
            self.complaints
                .push("keys.lifetime", "has no meaning with `rotation = \"manual\"`");
        }
        if is_timed && propagation >= lifetime {
            self.complaints
                .push("keys.propagation", "is not below `keys.lifetime`");
        }
        if is_timed && lifetime.saturating_mul(defaults::MAX_KEYS_IN_RETENTION) < retention {
            self.complaints.push(
                "keys.lifetime",
                "is less than a sixteenth of an hour and leeway: too many keys would be published at a time",
            );
        }
        if lead > defaults::MAX_ACTIVATION_LEAD {
            self.complaints.push("keys.activation_lead", "is over 1m");
        }
        RotationPolicy {
            lifetime: is_timed.then_some(lifetime),
            propagation,
            retention,
        }
    }

    fn lease(&mut self, file: &file::Trust) -> Duration {
        let lease = file.lease.map_or(defaults::LEASE, Into::into);
        if lease < defaults::LEAST_LEASE {
            self.complaints.push(
                "trust.lease",
                "is under 4s, twice the 2s after which verifiers ping: one lost answer would end it",
            );
        }
        if lease > defaults::MAX_LEASE {
            self.complaints.push("trust.lease", "is over 1m");
        }
        lease
    }

    fn ledger(
        &mut self,
        file: &File,
        trust_domain: Option<TrustDomain>,
        token_life: Duration,
    ) -> Option<LedgerPolicy> {
        let slack = file
            .revocations
            .slack
            .map_or(defaults::REVOCATION_SLACK, Into::into);
        if slack > defaults::MAX_REVOCATION_SLACK {
            self.complaints.push(
                "revocations.slack",
                "is over 23h: verifiers would refuse the revocation",
            );
        }
        let max_revocations = file.revocations.max.unwrap_or(defaults::MAX_REVOCATIONS);
        self.within(
            "revocations.max",
            max_revocations,
            defaults::LEAST_REVOCATIONS,
            defaults::MAX_REVOCATIONS,
        );
        let max_clients = file.limits.clients.unwrap_or(defaults::MAX_CLIENTS);
        self.within("limits.clients", max_clients, 1, 1_000_000);
        let revocation_life = token_life.saturating_add(slack);
        let certificate_life = self.certificate_life(&file.revocations, revocation_life);
        Some(LedgerPolicy {
            trust_domain: trust_domain?,
            revocation_life,
            certificate_life,
            revocation_slack: slack
                .saturating_add(file.tokens.leeway.map_or(defaults::LEEWAY, PeriodOrZero::get)),
            max_revocations,
            max_clients,
        })
    }

    /// How long the revocation of a certificate is kept: where nothing is said, no shorter than any other.
    fn certificate_life(&mut self, file: &file::Revocations, revocation_life: Duration) -> Duration {
        let usual = defaults::CERTIFICATE_LIFE.max(revocation_life);
        let life = file.certificate_life.map_or(usual, Into::into);
        if life < revocation_life {
            self.complaints.push(
                "revocations.certificate_life",
                format_args!(
                    "is under {}, the longest life of a token with leeway and `revocations.slack`: tokens that are bound to the \
                     certificate would outlive it",
                    Written(revocation_life)
                ),
            );
        }
        if life > defaults::MAX_CERTIFICATE_LIFE {
            self.complaints.push(
                "revocations.certificate_life",
                "is over 24h55m: verifiers would refuse the revocation, at least those whose clock is behind",
            );
        }
        life
    }

    fn token_rate(&mut self, limits: &file::Limits) -> Option<Rate> {
        let usual = defaults::TOKENS;
        let positive = |number: Option<u32>, usual| match number {
            None => Ok(usual),
            Some(number) => NonZeroU32::new(number).ok_or("is 0: nobody would get a token"),
        };
        let per_second = positive(limits.tokens_per_second, usual.per_second);
        let per_second = self.complaints.accept("limits.tokens_per_second", per_second);
        let burst = positive(limits.tokens_burst, usual.burst);
        let burst = self.complaints.accept("limits.tokens_burst", burst);
        Some(Rate {
            per_second: per_second?,
            burst: burst?,
        })
    }

    fn limits(&mut self, file: &file::Limits) -> ServerLimits {
        let usual = defaults::LIMITS;
        let limits = ServerLimits {
            connections: file.connections.unwrap_or(usual.connections),
            streams: file.streams.unwrap_or(usual.streams),
            verifiers: file.verifiers.unwrap_or(usual.verifiers),
            streams_per_verifier: file.streams_per_verifier.unwrap_or(usual.streams_per_verifier),
            timeout: file.timeout.map_or(usual.timeout, Into::into),
            connection_age: file.connection_age.map_or(usual.connection_age, Into::into),
            drain: file.drain.map_or(usual.drain, Into::into),
        };
        self.within("limits.connections", limits.connections, 1, 1_000_000);
        self.within("limits.streams", limits.streams, 1, 65_536);
        self.within("limits.verifiers", limits.verifiers, 1, 1_000_000);
        self.within(
            "limits.streams_per_verifier",
            limits.streams_per_verifier,
            1,
            1000,
        );
        if limits.timeout > Duration::from_secs(300) {
            self.complaints.push("limits.timeout", "is over 5m");
        }
        limits
    }

    fn workers(&mut self, workers: Option<usize>) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = workers.unwrap_or(processors.min(defaults::MAX_WORKERS));
        self.within("workers", workers, 1, defaults::MAX_WORKERS);
        workers
    }

    fn within<N: PartialOrd + std::fmt::Display>(&mut self, key: &str, value: N, least: N, most: N) {
        if value < least || value > most {
            self.complaints
                .push(key, format_args!("is not between {least} and {most}"));
        }
    }
}

/// The folder that a file lies in; the one of the process when its path names none.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        None => Path::new("/"),
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
    }
}

/// The longest lifetime of a token, and the usual one.
fn lifetimes(file: &File) -> (Duration, Duration) {
    let longest: Duration = file
        .tokens
        .max_lifetime
        .map_or(defaults::MAX_LIFETIME, Into::into);
    // Whoever lowers the ceiling lowers the default with it.
    let usual = defaults::DEFAULT_LIFETIME.min(longest);
    (longest, file.tokens.default_lifetime.map_or(usual, Into::into))
}

#[cfg(test)]
mod tests;
