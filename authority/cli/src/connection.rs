//! How a command reaches the authority: where it is, and with which certificate.
//!
//! What is said by options goes first; a development environment (`--dir`, or the default folder when one runs there) fills in
//! the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::drill_service_client::DrillServiceClient;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::publishing_key_service_client::PublishingKeyServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::trust_service_client::TrustServiceClient;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::SystemClock;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::args::duration;
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::settings;
use crate::trace::Trace;

/// Which development environment is meant.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct FolderArgs {
    /// Folder of a development environment (`countersign dev`), where everything is found
    #[arg(long, env = "COUNTERSIGN_DIR", hide_env_values = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

impl FolderArgs {
    /// The environment that is named, or the one in the default folder if one runs there.
    ///
    /// # Errors
    /// When one is named and does not run, or its file cannot be used.
    pub(crate) fn environment(&self) -> Result<Option<Environment>, Failure> {
        match &self.dir {
            Some(folder) => Environment::load(folder).map(Some),
            None => Environment::find(&settings::default_folder()),
        }
    }
}

/// Where the authority is, and who asks.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,

    /// The authority's gRPC address
    #[arg(
        long,
        env = "COUNTERSIGN_AUTHORITY",
        hide_env_values = true,
        value_name = "HOST:PORT"
    )]
    pub(crate) authority: Option<String>,

    /// Certificates that the authority's certificate must come from, PEM
    #[arg(long, env = "COUNTERSIGN_CA", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Our certificate, PEM
    #[arg(
        long,
        env = "COUNTERSIGN_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "key"
    )]
    pub(crate) cert: Option<PathBuf>,

    /// The key of our certificate, PEM, mode 0600
    #[arg(
        long,
        env = "COUNTERSIGN_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "cert"
    )]
    pub(crate) key: Option<PathBuf>,

    /// How long to wait for one answer
    #[arg(long, env = "COUNTERSIGN_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller<'a> {
    /// An operator.
    Operator,
    /// This client.
    Client(&'a str),
}

/// The environment that `args` mean, if one.
///
/// # Errors
/// When one is named and does not run.
pub(crate) fn environment(args: &ConnectionArgs) -> Result<Option<Environment>, Failure> {
    match (&args.folder.dir, &args.authority) {
        (None, Some(_)) => Ok(None),
        (Some(_), _) | (None, None) => args.folder.environment(),
    }
}

/// A certificate and its key.
type Pair = (PathBuf, PathBuf);

/// Everything that is needed to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    authority: String,
    files: TlsFiles,
}

impl Target {
    fn resolve(
        args: &ConnectionArgs,
        environment: Option<&Environment>,
        caller: Caller<'_>,
    ) -> Result<Self, Failure> {
        let authority = args
            .authority
            .clone()
            .or_else(|| environment.map(|found| found.authority.grpc.clone()))
            .ok_or_else(nowhere)?;
        let trust_roots = args
            .ca
            .clone()
            .or_else(|| environment.map(|found| found.ca_cert.clone()))
            .ok_or_else(|| lacks("--ca"))?;
        let (certificate, private_key) = match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            _ => environment
                .map(|found| pair(found, caller))
                .ok_or_else(|| lacks("--cert` and `--key"))?,
        };
        Ok(Self {
            authority,
            files: TlsFiles {
                certificate,
                private_key,
                trust_roots,
            },
        })
    }
}

/// Which certificate of an environment goes with the caller. A client that is not one of its two connects with the certificate
/// that is registered to nobody, and proves who it is by a secret.
fn pair(environment: &Environment, caller: Caller<'_>) -> Pair {
    let (orders, billing) = (&environment.clients.orders, &environment.clients.billing);
    match caller {
        Caller::Operator => (
            environment.operator.cert.clone(),
            environment.operator.key.clone(),
        ),
        Caller::Client(client) if client == orders.client_id => (orders.cert.clone(), orders.key.clone()),
        Caller::Client(_) => (billing.cert.clone(), billing.key.clone()),
    }
}

fn nowhere() -> Failure {
    let message = "where the authority is, is not known: no development environment runs, and `--authority` is not given";
    Failure::new(Exit::Usage, message).next(
        "start an environment with `countersign dev`, or give `--authority`, `--ca`, `--cert` and `--key`",
    )
}

fn lacks(option: &str) -> Failure {
    Failure::usage(format!("`{option}` is needed when `--authority` is given"))
        .next("or name an environment: `--dir`")
}

/// What calls go through: the channel, with our trace in each call.
pub(crate) type Calls = InterceptedService<Channel, Trace>;

/// A connection to the authority, made when it is first used.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The environment that it leads to, if one.
    pub(crate) environment: Option<Environment>,
    /// How long one answer may take.
    pub(crate) timeout: Duration,
    channel: Channel,
    trace: Trace,
}

impl Connection {
    /// Connects as an operator.
    ///
    /// # Errors
    /// When it is not said where to, or the files cannot be used.
    pub(crate) async fn operator(args: &ConnectionArgs) -> Result<Self, Failure> {
        Self::open(args, Caller::Operator).await
    }

    /// Connects as `caller`.
    ///
    /// # Errors
    /// When it is not said where to, or the files cannot be used.
    pub(crate) async fn open(args: &ConnectionArgs, caller: Caller<'_>) -> Result<Self, Failure> {
        let environment = environment(args)?;
        let target = Target::resolve(args, environment.as_ref(), caller)?;
        let channel = channel(&target.authority, target.files).await?;
        Ok(Self {
            environment,
            timeout: args.timeout,
            channel,
            trace: Trace::start(args.timeout)?,
        })
    }

    /// Connects with exactly these files.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub(crate) async fn with(authority: &str, files: TlsFiles, timeout: Duration) -> Result<Self, Failure> {
        let channel = channel(authority, files).await?;
        Ok(Self {
            environment: None,
            timeout,
            channel,
            trace: Trace::start(timeout)?,
        })
    }

    /// Talks to a server of a test, without TLS.
    #[cfg(test)]
    pub(crate) fn plain(address: std::net::SocketAddr, timeout: Duration) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        Self {
            environment: None,
            timeout,
            channel: endpoint.expect("an address").connect_lazy(),
            trace: Trace::start(timeout).expect("a trace"),
        }
    }

    fn calls(&self) -> Calls {
        InterceptedService::new(self.channel.clone(), self.trace.clone())
    }

    /// Issues tokens.
    #[must_use]
    pub(crate) fn tokens(&self) -> TokenServiceClient<Calls> {
        TokenServiceClient::new(self.calls())
    }

    /// Registers clients.
    #[must_use]
    pub(crate) fn clients(&self) -> ClientServiceClient<Calls> {
        ClientServiceClient::new(self.calls())
    }

    /// Moves keys.
    #[must_use]
    pub(crate) fn keys(&self) -> KeyServiceClient<Calls> {
        KeyServiceClient::new(self.calls())
    }

    /// Moves publishing keys.
    #[must_use]
    pub(crate) fn publishing_keys(&self) -> PublishingKeyServiceClient<Calls> {
        PublishingKeyServiceClient::new(self.calls())
    }

    /// Revokes.
    #[must_use]
    pub(crate) fn revocations(&self) -> RevocationServiceClient<Calls> {
        RevocationServiceClient::new(self.calls())
    }

    /// Shows drills.
    #[must_use]
    pub(crate) fn drills(&self) -> DrillServiceClient<Calls> {
        DrillServiceClient::new(self.calls())
    }

    /// Runs a drill, for as long as that takes.
    #[must_use]
    pub(crate) fn rehearsing(&self) -> DrillServiceClient<Calls> {
        let calls = InterceptedService::new(self.channel.clone(), self.trace.endless());
        DrillServiceClient::new(calls)
    }

    /// Shows verifiers.
    #[must_use]
    pub(crate) fn fleet(&self) -> FleetServiceClient<Calls> {
        FleetServiceClient::new(self.calls())
    }

    /// Takes the trust along.
    #[must_use]
    pub(crate) fn trust(&self) -> TrustServiceClient<Calls> {
        TrustServiceClient::new(InterceptedService::new(
            self.channel.clone(),
            self.trace.endless(),
        ))
    }

    /// Follows an epoch, for as long as that takes.
    #[must_use]
    pub(crate) fn watching(&self) -> FleetServiceClient<Calls> {
        FleetServiceClient::new(InterceptedService::new(
            self.channel.clone(),
            self.trace.endless(),
        ))
    }
}

async fn channel(authority: &str, files: TlsFiles) -> Result<Channel, Failure> {
    let load = move || ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock));
    let loaded = tokio::task::spawn_blocking(load).await;
    let tls = loaded
        .map_err(|error| Failure::because("cannot read the certificates", &error))?
        .map_err(|error| Failure::because("cannot use the certificates", &error))?;
    let uri = format!("https://{authority}");
    tls.channel(&uri, ChannelOptions::default()).map_err(|error| {
        Failure::because("cannot connect", &error).next("write the authority's address as `host:port`")
    })
}

/// Whether `path` is the folder that is used when none is named.
#[must_use]
pub(crate) fn is_default(path: &Path) -> bool {
    path == settings::default_folder()
}
