//! The only environment variables that are read here: those of OpenTelemetry, and `NO_COLOR`.
//!
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and the headers and timeouts of
//! `OTEL_EXPORTER_OTLP_*` are read by the OpenTelemetry libraries themselves.

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or else `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: Option<String>,
    /// `OTEL_SDK_DISABLED=true`.
    pub otel_disabled: bool,
    /// `NO_COLOR`, if not empty.
    pub no_color: bool,
}

impl Environment {
    /// Reads the environment of the process.
    #[must_use]
    pub fn read() -> Self {
        Self::from(variable)
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let endpoint = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            otlp_endpoint: endpoint("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
                .or_else(|| endpoint("OTEL_EXPORTER_OTLP_ENDPOINT")),
            otel_disabled: variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")),
            no_color: variable("NO_COLOR").is_some_and(|value| !value.is_empty()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the configuration module reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_for_traces_goes_before_the_general_one() {
        let both = Environment::from(|name| match name {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" => Some("http://traces:4317".to_owned()),
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://all:4317".to_owned()),
            _ => None,
        });
        assert_eq!(both.otlp_endpoint.as_deref(), Some("http://traces:4317"));
        assert_eq!(Environment::from(|_| None), Environment::default());
        let empty = Environment::from(|_| Some(String::new()));
        assert_eq!(empty, Environment::default());
    }
}
