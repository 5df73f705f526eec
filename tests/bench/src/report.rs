//! What a run prints.

use std::collections::BTreeMap;

use serde::Serialize;

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// What was done.
    pub(crate) what: String,
    /// How much of it.
    pub(crate) value: f64,
    /// In which unit.
    pub(crate) unit: &'static str,
}

/// Ours against the floor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// The subcommand.
    pub(crate) name: &'static str,
    /// The least that the job can cost.
    pub(crate) floor: Measured,
    /// What it costs here.
    pub(crate) ours: Measured,
    /// Ours by the floor.
    pub(crate) ratio: f64,
    /// What is aimed at, in words.
    pub(crate) target: &'static str,
    /// Whether it is reached, where something is aimed at.
    pub(crate) met: Option<bool>,
    /// What else was measured on the way, with the unit in the name.
    pub(crate) details: BTreeMap<&'static str, f64>,
}

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Cores that the run could use.
    cores: usize,
    /// The build's profile: numbers of a debug build mean nothing.
    profile: &'static str,
    comparisons: Vec<Comparison>,
}

impl Report {
    pub(crate) fn new(comparisons: Vec<Comparison>) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            comparisons,
        }
    }
}
