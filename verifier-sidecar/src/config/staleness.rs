//! How long decisions go on without the authority: the classes of methods, their budgets, and whether the numbers agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::freshness::StalenessRules;
use countersign_core::names::ClassName;
use countersign_core::staleness::{
    ClassBudget, DEFAULT_LEASE, Data, MAX_BUDGET, MAX_CLASSES, StalenessBudget,
};
use countersign_runtime::config::{PeriodOrZero, Written};

use super::file::{File, Staleness, Trust};
use super::{Checker, defaults};
use countersign_verifier::sync::HEARTBEAT_PERIOD;

/// The classes that a file can name: those built in, as it changed them, and its own.
pub(super) struct Classes {
    all: BTreeMap<ClassName, Arc<ClassBudget>>,
    pub(super) default: Arc<ClassBudget>,
}

impl Classes {
    /// Those that the file has a budget for and no method belongs to.
    pub(super) fn unused(&self, file: &File) -> Vec<ClassName> {
        let declared = file
            .staleness
            .class
            .keys()
            .filter_map(|name| self.all.get(name.as_str()));
        let unused = declared.filter(|class| !self.is_used(&class.class, file));
        unused.map(|class| class.class.clone()).collect()
    }

    fn is_used(&self, class: &ClassName, file: &File) -> bool {
        let mut named = file.method.iter().filter_map(|method| method.class.as_deref());
        *class == self.default.class || named.any(|name| name == class.as_str())
    }

    /// The default class, then the others that methods belong to.
    fn used(&self, file: &File) -> Vec<Arc<ClassBudget>> {
        let others = self
            .all
            .values()
            .filter(|class| class.class != self.default.class);
        let used = others.filter(|class| self.is_used(&class.class, file));
        [&self.default].into_iter().chain(used).cloned().collect()
    }
}

impl Checker {
    pub(super) fn classes(&mut self, staleness: &Staleness) -> Classes {
        let built_in = [
            ClassBudget::strict(),
            ClassBudget::normal(),
            ClassBudget::tolerant(),
        ];
        let mut all: BTreeMap<_, _> = built_in
            .into_iter()
            .map(|class| (class.class.clone(), Arc::new(class)))
            .collect();
        for (name, class) in &staleness.class {
            let key = format!("staleness.class.{name}");
            let Some(name) = self.complaints.accept(&key, ClassName::parse(name)) else {
                continue;
            };
            let budget = StalenessBudget {
                revocations: self.budget(&key, Data::Revocations, class.revocations),
                keys: self.budget(&key, Data::Keys, class.keys),
            };
            let class = ClassBudget {
                class: name.clone(),
                budget,
            };
            all.insert(name, Arc::new(class));
        }
        if all.len() > MAX_CLASSES {
            let count = all.len();
            self.complaints.push(
                "staleness.class",
                format_args!("there are {count} classes with those built in: {MAX_CLASSES} are the most"),
            );
        }
        let mut classes = Classes {
            all,
            default: Arc::new(ClassBudget::default()),
        };
        let default = staleness.default_class.as_deref();
        let default = default.unwrap_or(classes.default.class.as_str());
        if let Some(default) = self.class("staleness.default_class", default, &classes) {
            classes.default = default;
        }
        classes
    }

    fn budget(&mut self, class: &str, data: Data, budget: PeriodOrZero) -> Duration {
        if budget.get() > MAX_BUDGET {
            let most = Written(MAX_BUDGET);
            self.complaints.push(
                &format!("{class}.{}", data.name()),
                format_args!("{budget} is over {most}"),
            );
        }
        budget.get()
    }

    /// The class of this name, or a complaint about `key`.
    pub(super) fn class(&mut self, key: &str, name: &str, classes: &Classes) -> Option<Arc<ClassBudget>> {
        let found = classes.all.get(name).cloned();
        if found.is_none() {
            let names: Vec<_> = classes.all.keys().map(ClassName::as_str).collect();
            self.complaints.push(
                key,
                format_args!("there is no class `{name}`: there is {}", names.join(", ")),
            );
        }
        found
    }

    pub(super) fn staleness(&mut self, file: &File, classes: &Classes) -> StalenessRules {
        self.complain_of_what_is_gone(&file.trust);
        let heartbeat = file.trust.heartbeat.map_or(HEARTBEAT_PERIOD, Into::into);
        let rules = StalenessRules {
            warn_after: file.staleness.warn_after.map_or(defaults::WARN_AFTER, Into::into),
            default_class: Arc::clone(&classes.default),
            classes: classes.used(file),
        };
        self.check_heartbeat(heartbeat);
        if file.staleness.warn_after.is_some() {
            self.check_warning(heartbeat, &rules);
        }
        rules
    }

    /// A lease has to survive one lost ping. How long it is, is the authority's to say; here the usual length is what can be known.
    fn check_heartbeat(&mut self, heartbeat: Duration) {
        if heartbeat >= DEFAULT_LEASE / 2 {
            let (heartbeat, lease) = (Written(heartbeat), Written(DEFAULT_LEASE));
            self.complaints.push(
                "trust.heartbeat",
                format_args!(
                    "{heartbeat} is not less than half of {lease}, which authorities grant leases for: one lost ping would end a lease"
                ),
            );
        }
    }

    fn check_warning(&mut self, heartbeat: Duration, rules: &StalenessRules) {
        let key = "staleness.warn_after";
        let warn_after = Written(rules.warn_after);
        if rules.warn_after < heartbeat.saturating_mul(3) {
            let heartbeat = Written(heartbeat);
            self.complaints.push(
                key,
                format_args!(
                    "{warn_after} is less than three times `trust.heartbeat`, {heartbeat}: one lost heartbeat would be an alarm"
                ),
            );
        }
        let longest = rules.classes.iter().max_by_key(|class| class.budget.shortest());
        let Some(longest) = longest else { return };
        let refuses = longest.budget.shortest().saturating_add(DEFAULT_LEASE);
        if rules.warn_after >= refuses {
            let (class, budget) = (&longest.class, Written(longest.budget.shortest()));
            let (lease, refuses) = (Written(DEFAULT_LEASE), Written(refuses));
            self.complaints.push(
                key,
                format_args!(
                    "{warn_after} never comes: after a lease of {lease} and the longest budget, {budget} of `{class}`, every call is refused from {refuses} on"
                ),
            );
        }
    }

    fn complain_of_what_is_gone(&mut self, trust: &Trust) {
        if trust.refuse_after.is_some() {
            self.complaints.push(
                "trust.refuse_after",
                "is gone: say `revocations` and `keys` in `[staleness.class.normal]`, which count from the end of a lease",
            );
        }
        if trust.warn_after.is_some() {
            self.complaints.push(
                "trust.warn_after",
                "is gone: it is `warn_after` in `[staleness]` now",
            );
        }
    }
}
