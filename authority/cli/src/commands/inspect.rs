//! `countersign token inspect`: each check on a token, in the decision's order: passed, failed, and why.
//!
//! The checks are core's own, made one by one, against the keys and revocations of a live authority or against a key
//! file. The token's signature is never shown, so what is printed cannot be used as a token.

mod explain;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_core::Timestamp;
use countersign_core::jwk::{read_set, write_set};
use countersign_core::key_set::{KeySet, KeyTimes};
use countersign_core::names::{Audience, Issuer, KeyId, Scope};
use countersign_core::ports::Clock as _;
use countersign_core::requirements::Requirements;
use countersign_core::revocation::{Revocation, RevocationList};
use countersign_core::spiffe::TrustDomain;
use countersign_core::verifying::Expectations;
use countersign_crypto::AwsLc;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use countersign_wire::admin::read_revoked_subject;
use countersign_wire::read_time;

use super::{revoke, token};
use crate::connection::{Connection, ConnectionArgs};
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::files;
use crate::output::Output;
use crate::pki;
use explain::{Report, Trust, Wanted};

/// Which token, and what it should be good for.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The token, or `-` to read it from stdin
    #[arg(default_value = "-")]
    token: String,

    /// Check offline, against this JWK Set. Revocations and key states are then not known
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,

    /// The issuer that is trusted
    #[arg(long, value_parser = issuer)]
    issuer: Option<Issuer>,

    /// The audience that the verifier stands for
    #[arg(long, value_parser = audience)]
    audience: Option<Audience>,

    /// A scope that the method needs; repeat for more
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,

    /// The certificate of whoever presents the token, PEM
    #[arg(long, value_name = "FILE")]
    peer_cert: Option<PathBuf>,

    /// The longest lifetime that the verifier accepts
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::args::duration)]
    max_lifetime: Duration,

    /// How far the verifier's clock may be behind
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = crate::args::duration)]
    leeway: Duration,

    #[command(flatten)]
    connection: ConnectionArgs,
}

fn issuer(text: &str) -> Result<Issuer, String> {
    Issuer::parse(text).map_err(|error| error.to_string())
}

fn audience(text: &str) -> Result<Audience, String> {
    Audience::parse(text).map_err(|error| error.to_string())
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).map_err(|error| error.to_string())
}

/// Explains the checks on a token. Fails with [`Exit::Refused`] when the token is not good.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: InspectArgs, output: Output) -> Result<(), Failure> {
    let token = token::read(&args.token)?;
    let (trust, environment) = match &args.keys {
        // Offline, an environment that happens to run is not meant.
        Some(path) => (from_file(path)?, named_environment(&args.connection)?),
        None => from_authority(&args.connection).await?,
    };
    let wanted = wanted(&args, environment.as_ref())?;
    let report = explain::explain(token.as_bytes(), &trust, &wanted, SystemClock.now());
    output.data(&report, |paint| report.render(paint))?;
    refused(&report)
}

fn named_environment(args: &ConnectionArgs) -> Result<Option<Environment>, Failure> {
    args.folder.dir.as_deref().map(Environment::load).transpose()
}

fn refused(report: &Report) -> Result<(), Failure> {
    let Some(reason) = report.reason() else {
        return Ok(());
    };
    let mut failure = Failure::new(Exit::Refused, "the token is not good");
    failure.reason = Some(reason.to_owned());
    Err(failure)
}

/// What the token should be good for: what is said, else what the environment's sidecar expects.
fn wanted(args: &InspectArgs, environment: Option<&Environment>) -> Result<Wanted, Failure> {
    let environment = environment.map(Expected::of).transpose()?;
    let found = environment.as_ref();
    let issuer = args
        .issuer
        .clone()
        .or_else(|| found.map(|found| found.issuer.clone()));
    let audience = args
        .audience
        .clone()
        .or_else(|| found.map(|found| found.audience.clone()));
    let scopes = match found {
        Some(found) if args.scopes.is_empty() => vec![found.scope.clone()],
        _ => args.scopes.clone(),
    };
    Ok(Wanted {
        asks_issuer: issuer.is_some(),
        asks_trust_domain: found.is_some(),
        asks_audience: audience.is_some(),
        expected: Expectations {
            issuer: issuer
                .map_or_else(|| Issuer::parse("https://nobody.invalid"), Ok)
                .map_err(|e| unusable(&e))?,
            trust_domain: match found {
                Some(found) => found.trust_domain.clone(),
                None => TrustDomain::parse("nobody.invalid").map_err(|error| unusable(&error))?,
            },
            audience: audience
                .map_or_else(|| Audience::parse("nobody"), Ok)
                .map_err(|e| unusable(&e))?,
            max_lifetime: args.max_lifetime,
            leeway: args.leeway,
            several_audiences: false,
        },
        requirements: Requirements {
            scopes,
            ..Requirements::default()
        },
        certificate: args.peer_cert.as_deref().map(pki::certificate).transpose()?,
    })
}

/// What the sidecar of an environment expects.
struct Expected {
    issuer: Issuer,
    trust_domain: TrustDomain,
    audience: Audience,
    scope: Scope,
}

impl Expected {
    fn of(environment: &Environment) -> Result<Self, Failure> {
        Ok(Self {
            issuer: Issuer::parse(&environment.issuer).map_err(|error| unusable(&error))?,
            trust_domain: TrustDomain::parse(&environment.trust_domain).map_err(|error| unusable(&error))?,
            audience: Audience::parse(&environment.demo.audience).map_err(|error| unusable(&error))?,
            scope: Scope::parse(&environment.demo.scope).map_err(|error| unusable(&error))?,
        })
    }
}

fn unusable(error: &dyn std::error::Error) -> Failure {
    Failure::because("cannot use the environment", error)
}

/// The keys of a file. They are taken for active since always: a JWK Set does not say.
fn from_file(path: &std::path::Path) -> Result<Trust, Failure> {
    let doing = format!("cannot use the keys in `{}`", path.display());
    let jwks = files::read(path)?;
    let keys = read_set(&jwks, &AwsLc).map_err(|error| Failure::because(&doing, &error))?;
    let always = KeyTimes {
        active_from: Some(Timestamp::default()),
        ..KeyTimes::default()
    };
    let times: Vec<(KeyId, KeyTimes)> = keys.iter().map(|key| (key.key_id().clone(), always)).collect();
    let keys = KeySet::read(write_set(&keys).as_bytes(), &times, &AwsLc);
    Ok(Trust {
        keys: keys.map_err(|error| Failure::because(&doing, &error))?,
        revocations: None,
        source: format!("`{}`", path.display()),
    })
}

async fn from_authority(args: &ConnectionArgs) -> Result<(Trust, Option<Environment>), Failure> {
    // Said here, because who inspects a token may well be offline and not know of the other way.
    let offline = |failure: Failure| match failure.next {
        Some(_) if failure.exit != Exit::Unavailable && failure.exit != Exit::Usage => failure,
        _ => failure.next("check without the authority: `--keys FILE` with its keys as a JWK Set"),
    };
    let connection = Connection::operator(args).await.map_err(offline)?;
    let listed = connection.keys().list_keys(v1::ListKeysRequest {}).await;
    let listed = listed
        .map_err(|status| offline(Failure::answered("cannot list the keys", &status)))?
        .into_inner();
    let keys = key_set(&listed.keys)?;
    let mut revocations = RevocationList::default();
    for record in revoke::all(&connection).await? {
        revocations.add(revocation(&record)?);
    }
    let trust = Trust {
        keys,
        revocations: Some(revocations),
        source: format!("the authority, at epoch {}", listed.epoch),
    };
    Ok((trust, connection.environment))
}

fn nonsense(what: &str) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("the authority lists {what} that cannot be read"),
    )
}

fn key_set(keys: &[v1::Key]) -> Result<KeySet, Failure> {
    let jwks: Vec<&str> = keys.iter().map(|key| key.jwk.as_str()).collect();
    let jwks = format!(r#"{{"keys":[{}]}}"#, jwks.join(","));
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(read_time);
    let times = keys.iter().map(|key| {
        let times = KeyTimes {
            prepared_at: time(&key.prepared_at).unwrap_or_default(),
            // Not told: a token has a key that was activated.
            accepted_from: None,
            active_from: time(&key.active_from),
            retired_from: time(&key.retired_from),
            compromised_at: time(&key.compromised_at),
        };
        KeyId::parse(&key.kid).map(|kid| (kid, times))
    });
    let times = times
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_invalid| nonsense("a key"))?;
    KeySet::read(jwks.as_bytes(), &times, &AwsLc).map_err(|_invalid| nonsense("keys"))
}

fn revocation(record: &v1::RevocationRecord) -> Result<Revocation, Failure> {
    let subject = record.subject.as_ref().and_then(read_revoked_subject);
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(read_time).unwrap_or_default();
    Ok(Revocation {
        subject: subject.ok_or_else(|| nonsense("a revocation"))?,
        issued_before: time(&record.issued_before),
        expires_at: time(&record.expires_at),
    })
}
