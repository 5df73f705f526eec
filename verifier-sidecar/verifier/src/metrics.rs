//! The metrics of decisions and of the trust that they are made on, their names and their labels, once.
//!
//! The registry puts `countersign_` before each name, and `_total` after those of counters. No label holds anything that
//! a caller chooses: clients, tokens and keys are no labels at all (H10).

mod trust;

use countersign_core::Rejection;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::verifier::{Admission, Decision, Denied};

pub use trust::{register_sync, register_trust, register_warm_start};

/// Decisions, their reasons, and what the memory of tokens saved.
#[derive(Clone, Debug)]
pub struct DecisionMetrics {
    decisions: Family<DecisionLabels, Counter>,
    // On the way of every good call, hence looked up once.
    allowed: Counter,
    open: Counter,
    recognized: Counter,
    new_tokens: Counter,
    waits: Family<WaitLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    outcome: &'static str,
}

impl DecisionMetrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let decisions = Family::<DecisionLabels, Counter>::default();
        registry.register(
            "decisions",
            "Decisions about requests, by verdict and stable reason",
            decisions.clone(),
        );
        let lookups = Family::<LookupLabels, Counter>::default();
        registry.register(
            "token_cache_lookups",
            "Tokens looked up in the memory of authentic tokens",
            lookups.clone(),
        );
        let waits = Family::<WaitLabels, Counter>::default();
        registry.register(
            "epoch_waits",
            "Requests that waited for a newer epoch because their key was not known or not active",
            waits.clone(),
        );
        let decided = |decision, reason| decisions.get_or_create_owned(&DecisionLabels { decision, reason });
        // An alert is on the first that comes, and a series that begins with it would not seem to grow.
        let _at_zero = decided("refused", Rejection::SigInvalid.reason());
        let looked_up = |result| lookups.get_or_create_owned(&LookupLabels { result });
        Self {
            allowed: decided("allowed", "token_verified"),
            open: decided("allowed", "method_open"),
            recognized: looked_up("hit"),
            new_tokens: looked_up("miss"),
            decisions,
            waits,
        }
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision) {
        match (&decision.verdict, &decision.observed) {
            (Ok(Admission::Token(_)), _) => self.allowed.inc(),
            (Ok(Admission::Open), None) => self.open.inc(),
            (Ok(Admission::Open), Some(observed)) => self.count_denied("observed", &observed.denied),
            (Err(denied), _) => self.count_denied("refused", denied),
        };
    }

    fn count_denied(&self, decision: &'static str, denied: &Denied) -> u64 {
        let labels = DecisionLabels {
            decision,
            reason: denied.rejection.reason(),
        };
        self.decisions.get_or_create_owned(&labels).inc()
    }

    pub(crate) fn recognized(&self) {
        self.recognized.inc();
    }

    pub(crate) fn new_token(&self) {
        self.new_tokens.inc();
    }

    pub(crate) fn waited(&self, epoch_came: bool) {
        let outcome = if epoch_came { "newer_epoch" } else { "timeout" };
        self.waits.get_or_create_owned(&WaitLabels { outcome }).inc();
    }
}
