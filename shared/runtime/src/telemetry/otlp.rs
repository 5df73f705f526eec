//! Sending spans to a collector, on a runtime of its own.
//!
//! The batches are made by a thread of the SDK; the connection lives on a runtime here. So exporting neither needs the
//! process's runtime nor waits for it, and the last spans can be sent while that one has ended already.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Runtime;

use super::{Service, TelemetryError};

/// How long the end of the process waits for the last spans. A collector that is away must not hold up a restart.
const FLUSH: Duration = Duration::from_secs(2);

/// How long one batch may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    runtime: Option<Runtime>,
}

impl Exporting {
    pub(super) fn start(service: Service, endpoint: &str) -> Result<Self, TelemetryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("countersign-otlp")
            .enable_all()
            .build()
            .map_err(|error| TelemetryError::Exporter(error.into()))?;
        let exporter = {
            let _inside = runtime.enter();
            SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build()
                .map_err(|error| TelemetryError::Exporter(error.into()))?
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource(service))
            .build();
        let tracer = provider.tracer("countersign");
        Ok(Self {
            provider,
            tracer,
            runtime: Some(runtime),
        })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.tracer.clone()
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last spans were not sent");
        }
        if let Some(runtime) = self.runtime.take() {
            // A plain drop waits, and panics on a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}

fn resource(service: Service) -> Resource {
    let version = KeyValue::new("service.version", service.version);
    // The detectors of the builder read OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    let detected = Resource::builder().with_attribute(version.clone()).build();
    let key = opentelemetry::Key::from_static_str("service.name");
    let named = detected
        .get(&key)
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if named {
        return detected;
    }
    Resource::builder()
        .with_service_name(service.name)
        .with_attribute(version)
        .build()
}
