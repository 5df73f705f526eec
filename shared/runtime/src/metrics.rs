//! The registry that a process's metrics live in, and who the process is.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A registry for metrics named `countersign_...`, with `countersign_build_info` in it.
///
/// Names are registered without the prefix, without a unit that is given separately, and counters without `_total`:
/// the encoder adds all three.
#[must_use]
pub fn registry(binary: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("countersign");
    let build = Info::new([("binary", binary), ("version", version)]);
    registry.register("build", "Which program of which version this is", build);
    registry
}

#[cfg(test)]
mod tests {
    #[test]
    fn build_info_names_program_and_version() {
        let mut text = String::new();
        let registry = super::registry("countersign-sidecar", "1.2.3");
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let line = r#"countersign_build_info{binary="countersign-sidecar",version="1.2.3"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
