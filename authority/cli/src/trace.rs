//! What goes with every call: the trace that it belongs to (W3C Trace Context), and how long it may take.
//!
//! With a collector configured (`OTEL_EXPORTER_OTLP_ENDPOINT`) the command is a span of its own and its calls are below
//! it; without one, it still starts a trace, so that the logs and spans of whoever is called belong together.

use std::time::Duration;

use countersign_core::ports::Entropy as _;
use countersign_crypto::AwsLc;
use countersign_runtime::trace_context;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::failure::{Exit, Failure};
use crate::present;

/// The trace of one command.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    parent: MetadataValue<Ascii>,
    timeout: Option<Duration>,
}

impl Trace {
    /// A new trace, for calls that may take `timeout` each.
    ///
    /// # Errors
    /// When the random source fails.
    pub(crate) fn start(timeout: Duration) -> Result<Self, Failure> {
        let mut random = [0_u8; 24];
        AwsLc
            .fill(&mut random)
            .map_err(|error| Failure::because("cannot start a trace", &error))?;
        let (trace, span) = random.split_at(16);
        let parent = format!("00-{}-{}-01", present::hex(trace), present::hex(span));
        let parent = parent
            .parse()
            .map_err(|_not_ascii| Failure::new(Exit::Failure, "cannot start a trace"))?;
        Ok(Self {
            parent,
            timeout: Some(timeout),
        })
    }

    /// The same, for a stream that lasts until one side has had enough of it.
    #[must_use]
    pub(crate) fn endless(&self) -> Self {
        Self {
            parent: self.parent.clone(),
            timeout: None,
        }
    }
}

impl Interceptor for Trace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("traceparent", self.parent.clone());
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        // The span of this command takes the place of ours, if there is one.
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        trace_context::inject(&mut headers);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_command_is_of_one_trace_and_has_a_deadline() {
        let mut trace = Trace::start(Duration::from_secs(3)).expect("a trace");
        let endless = trace.endless().call(Request::new(())).expect("a request");
        assert!(endless.metadata().get("grpc-timeout").is_none());
        let mut sent = || {
            let request = trace.call(Request::new(())).expect("a request");
            let field = |name: &str| {
                request
                    .metadata()
                    .get(name)
                    .expect("there")
                    .to_str()
                    .expect("text")
                    .to_owned()
            };
            (field("traceparent"), field("grpc-timeout"))
        };
        let (parent, timeout) = sent();
        let parts: Vec<&str> = parent.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2]
        );
        assert!(
            parent
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        );
        assert_eq!(timeout, "3000000u");
        assert_eq!(sent().0, parent);
        let followed = endless.metadata().get("traceparent").expect("there");
        assert_eq!(followed.to_str().expect("text"), parent);
        let other = Trace::start(Duration::from_secs(3)).expect("a trace");
        assert_ne!(other.parent, parent);
    }
}
