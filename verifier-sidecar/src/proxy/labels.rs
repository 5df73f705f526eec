//! What metrics call a method: its name in the configuration, or `_OTHER`.
//!
//! Paths are the caller's to choose, so a path is never a label; the number of series is that of configured methods.

use std::collections::HashMap;

use countersign_core::requirements::MethodPath;

use crate::metrics::MethodLabel;

/// The labels of all methods.
#[derive(Debug)]
pub(crate) struct MethodLabels {
    methods: HashMap<Box<str>, MethodLabel>,
    services: HashMap<Box<str>, MethodLabel>,
    other: MethodLabel,
}

impl MethodLabels {
    /// Labels for these patterns: `/package.Service/Method` or `/package.Service/*`.
    pub(crate) fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Self {
        let mut labels = Self {
            methods: HashMap::new(),
            services: HashMap::new(),
            other: MethodLabel::new("_OTHER"),
        };
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let label = MethodLabel::new(pattern);
            let service = pattern.strip_suffix("/*").and_then(|rest| rest.strip_prefix('/'));
            match service {
                Some(service) => labels.services.insert(service.into(), label),
                None => labels.methods.insert(pattern.into(), label),
            };
        }
        labels
    }

    /// The label of `method`.
    pub(crate) fn find(&self, method: MethodPath<'_>) -> &MethodLabel {
        self.methods
            .get(method.as_str())
            .or_else(|| self.services.get(method.service()))
            .unwrap_or(&self.other)
    }

    /// The label of what is no known method.
    pub(crate) const fn other(&self) -> &MethodLabel {
        &self.other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H10: the paths of callers make no series.
    #[test]
    fn only_configured_methods_are_labels() {
        let labels = MethodLabels::new(["/a.B/C", "/d.E/*"]);
        let label = |path| labels.find(MethodPath::parse(path).expect("a method")).as_str();
        assert_eq!(label("/a.B/C"), "/a.B/C");
        assert_eq!(label("/a.B/D"), "_OTHER");
        assert_eq!(label("/d.E/Anything"), "/d.E/*");
        assert_eq!(label("/d.EE/Anything"), "_OTHER");
    }
}
