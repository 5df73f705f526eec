//! Logs to stderr, and traces to an OpenTelemetry collector when one is configured.
//!
//! Logs are lines of JSON or text, chosen by a filter such as `info,countersign_sidecar=debug`. Traces leave in batches
//! over OTLP/gRPC, on a small runtime of their own, so that a slow collector costs the process nothing but lost spans:
//! traces are no audit record. What the export itself does (HTTP/2, gRPC) is kept out of the traces, or it would trace
//! itself for ever. Metrics are not here (see [`crate::admin_http`]).

mod otlp;

use std::io::IsTerminal;

use serde::Deserialize;
use tracing::{Dispatch, Level};
use tracing_subscriber::filter::{FilterExt, FilterFn, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::environment::Environment;
use otlp::Exporting;

/// The target of audit events. They are written at the level `info`, and no filter of the logs leaves them out.
pub const AUDIT: &str = "audit";

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object for each line.
    #[default]
    Json,
    /// Text for people, in colour on a terminal.
    Pretty,
}

/// The `[telemetry]` section of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How logs look.
    pub log_format: LogFormat,
    /// Which logs are written, as a list of `level` and `target=level`; the audit trail always is.
    pub log_filter: String,
    /// Where traces go: `http://host:4317` of a collector. None are made without one.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Json,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
        }
    }
}

/// Telemetry cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is no filter.
    #[error("`log_filter` is no list of `level` and `target=level`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Configuration and environment name a collector. Which is meant cannot be known.
    #[error("`otlp_endpoint` and OTEL_EXPORTER_OTLP_ENDPOINT are both set; remove one")]
    TwoEndpoints,
    /// The collector's address is of another form.
    #[error(
        "`otlp_endpoint` is no address of the form `http://host:port`; run a collector on the same host or pod"
    )]
    Endpoint,
    /// The exporter cannot be made.
    #[error("traces cannot be exported")]
    Exporter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was set up before.
    #[error("telemetry was set up before")]
    AlreadySet,
}

impl TelemetryConfig {
    /// Says what is wrong with the configuration, without setting anything up.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`], [`TelemetryError::Endpoint`], [`TelemetryError::TwoEndpoints`].
    pub fn check(&self) -> Result<(), TelemetryError> {
        self.filter()?;
        self.endpoint(&Environment::read()).map(drop)
    }

    fn filter(&self) -> Result<Targets, TelemetryError> {
        self.log_filter.parse().map_err(TelemetryError::Filter)
    }

    fn endpoint(&self, environment: &Environment) -> Result<Option<String>, TelemetryError> {
        let endpoint = match (&self.otlp_endpoint, &environment.otlp_endpoint) {
            (Some(_), Some(_)) => return Err(TelemetryError::TwoEndpoints),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(None),
        };
        let uri: http::Uri = endpoint.parse().map_err(|_error| TelemetryError::Endpoint)?;
        let plain = uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none();
        match (plain, environment.otel_disabled) {
            (false, _) => Err(TelemetryError::Endpoint),
            (true, true) => Ok(None),
            (true, false) => Ok(Some(endpoint.clone())),
        }
    }
}

/// Keeps telemetry going. When dropped, spans not yet sent are sent, for at most two seconds.
#[derive(Debug)]
#[must_use = "telemetry ends when this is dropped"]
pub struct TelemetryGuard {
    _exporting: Option<Exporting>,
}

/// Sets telemetry up for the process. `service` is its `service.name`, unless OTEL_SERVICE_NAME gives another.
///
/// Call it once, early in `main`. It needs no tokio runtime.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(
    service: &'static str,
    version: &'static str,
    config: &TelemetryConfig,
) -> Result<TelemetryGuard, TelemetryError> {
    let environment = Environment::read();
    let colour = std::io::stderr().is_terminal() && !environment.no_color;
    let who = Service {
        name: service,
        version,
    };
    let (dispatch, guard) = assemble(who, config, &environment, std::io::stderr, colour)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_error| TelemetryError::AlreadySet)?;
    Ok(guard)
}

/// Who speaks.
#[derive(Clone, Copy, Debug)]
struct Service {
    name: &'static str,
    version: &'static str,
}

fn assemble<W>(
    service: Service,
    config: &TelemetryConfig,
    environment: &Environment,
    writer: W,
    colour: bool,
) -> Result<(Dispatch, TelemetryGuard), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let exporting = config
        .endpoint(environment)?
        .map(|endpoint| Exporting::start(service, &endpoint))
        .transpose()?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colour);
    let logs: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Pretty => lines.with_filter(config.filter()?.or(audit())).boxed(),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_span_list(false);
            json.with_filter(config.filter()?.or(audit())).boxed()
        }
    };
    let traces = exporting.as_ref().map(|exporting| {
        tracing_opentelemetry::layer()
            .with_tracer(exporting.tracer())
            .with_filter(FilterFn::new(is_ours))
    });
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(logs).with(traces));
    Ok((
        dispatch,
        TelemetryGuard {
            _exporting: exporting,
        },
    ))
}

/// Lets the audit trail through, whatever the filter of the logs: who wants fewer logs does not want no record.
fn audit() -> FilterFn<impl Fn(&tracing::Metadata<'_>) -> bool> {
    FilterFn::new(|metadata| metadata.target() == AUDIT && *metadata.level() <= Level::INFO)
        .with_max_level_hint(LevelFilter::INFO)
}

/// Whether a span or event may become part of a trace: not what the transport does, which exporting does too.
fn is_ours(metadata: &tracing::Metadata<'_>) -> bool {
    const TRANSPORT: [&str; 8] = [
        "h2",
        "hyper",
        "hyper_util",
        "tonic",
        "tower",
        "rustls",
        "opentelemetry",
        "tokio_rustls",
    ];
    let root = metadata.target().split("::").next().unwrap_or_default();
    let transport = TRANSPORT.contains(&root) || root.starts_with("opentelemetry");
    *metadata.level() <= Level::INFO && !transport
}

#[cfg(test)]
pub(crate) mod capture;
#[cfg(test)]
mod tests;
