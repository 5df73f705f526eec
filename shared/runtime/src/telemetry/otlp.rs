//! Sending spans to a collector, on a runtime of its own.
//!
//! The batches are made by a thread of the SDK; the connection lives on a runtime here. So exporting neither needs the
//! process's runtime nor waits for it, and the last spans can be sent while that one has ended already.
//!
//! A batch is sent once: what a collector misses while it is away is lost, and a command line that ends meanwhile does not
//! wait for repetitions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
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
                .with_retry_policy(RetryPolicy::disabled())
                .build()
                .map_err(|error| TelemetryError::Exporter(error.into()))?
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Telling::new(exporter))
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

/// Says in the log when spans begin to be lost and when they no longer are. The SDK by itself says it for every batch, many
/// times in a second under load, for as long as the collector is away.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    losing: AtomicBool,
}

impl<E> Telling<E> {
    const fn new(exporter: E) -> Self {
        Self {
            exporter,
            losing: AtomicBool::new(false),
        }
    }

    fn tell(&self, sent: &OTelSdkResult) {
        let losing = sent.is_err();
        if self.losing.swap(losing, Ordering::Relaxed) == losing {
            return;
        }
        match sent {
            Ok(()) => tracing::info!("the collector takes spans again"),
            Err(error) => tracing::warn!(%error, "the collector takes no spans; they are lost"),
        }
    }
}

impl<E: opentelemetry_sdk::trace::SpanExporter> opentelemetry_sdk::trace::SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        self.tell(&sent);
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
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

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;
    use crate::telemetry::capture::Captured;

    #[test]
    fn an_outage_of_the_collector_is_told_when_it_begins_and_when_it_ends() {
        let logs = Captured::default();
        let exporting = Telling::new(());
        let lost = Err(OTelSdkError::InternalFailure("connection refused".to_owned()));
        tracing::subscriber::with_default(logs.subscriber(), || {
            for sent in [&Ok(()), &lost, &lost, &Ok(()), &Ok(())] {
                exporting.tell(sent);
            }
        });
        let text = logs.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("WARN") && lines[0].contains("connection refused"),
            "{text}"
        );
        assert!(lines[1].contains("INFO"), "{text}");
    }
}
