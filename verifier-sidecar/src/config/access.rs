//! What methods ask for. Whoever lists nothing allows nobody: an empty list is a complaint, never "anybody" (C04).

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::names::Scope;
use countersign_core::requirements::{Access, MethodTable, Mode, Requirements};

use super::Checker;
use super::file::{File, Method};
use super::staleness::Classes;

const HEALTH: &[&str] = &["/grpc.health.v1.Health/*"];

const REFLECTION: &[&str] = &[
    "/grpc.reflection.v1.ServerReflection/*",
    "/grpc.reflection.v1alpha.ServerReflection/*",
];

/// Whether `file` guards what it names, and leaves what it does not to any good token: a rule that is forgotten guards nothing.
pub(super) fn others_unguarded(file: &File) -> bool {
    let guards = |method: &Method| method.scopes.is_some() || method.bound;
    file.default_scopes.is_none() && file.method.iter().any(guards)
}

impl Checker {
    pub(super) fn methods(&mut self, file: &File, classes: &Classes) -> MethodTable {
        let default = Requirements {
            scopes: self.scopes("default_scopes", file.default_scopes.as_deref()),
            bound: false,
            class: Arc::clone(&classes.default),
        };
        let mut table = MethodTable::new(default.clone()).by_default(file.mode.into());
        for (index, method) in file.method.iter().enumerate() {
            let key = format!("method.{index}");
            if let Some(access) = self.access(&key, method, &default, classes) {
                let mode = method.mode.unwrap_or(file.mode).into();
                self.set(&mut table, (&format!("{key}.path"), &method.path), access, mode);
            }
        }
        let switches = [
            ("open_health", file.open_health, HEALTH),
            ("open_reflection", file.open_reflection, REFLECTION),
        ];
        for (key, _, paths) in switches.iter().filter(|(_, on, _)| *on) {
            for path in *paths {
                self.set(&mut table, (key, path), Access::Open, Mode::Enforce);
            }
        }
        table
    }

    fn set(&mut self, table: &mut MethodTable, (key, path): (&str, &str), access: Access, mode: Mode) {
        match table.set_in(mode, path, access) {
            Ok(true) => {}
            Ok(false) => self
                .complaints
                .push(key, format_args!("`{path}` is there already")),
            Err(invalid) => self.complaints.push(key, invalid),
        }
    }

    fn access(
        &mut self,
        key: &str,
        method: &Method,
        default: &Requirements,
        classes: &Classes,
    ) -> Option<Access> {
        let asks = method.scopes.is_some() || method.bound;
        // Outer: whether one is named. Inner: whether there is such a class.
        let class = method.class.as_deref();
        let class = class.map(|name| self.class(&format!("{key}.class"), name, classes));
        match (method.open, asks, class) {
            (true, false, None) => Some(Access::Open),
            (false, true, class) => Some(Access::Protected(Requirements {
                scopes: self.scopes(&format!("{key}.scopes"), method.scopes.as_deref()),
                bound: method.bound,
                class: class.unwrap_or_else(|| Some(Arc::clone(&default.class)))?,
            })),
            (false, false, Some(class)) => Some(Access::Protected(Requirements {
                class: class?,
                ..default.clone()
            })),
            (true, _, _) => {
                self.complaints
                    .push(key, "has `open = true` and asks for something: remove one");
                None
            }
            (false, false, None) if method.mode.is_some() => Some(Access::Protected(default.clone())),
            (false, false, None) => {
                self.complaints.push(
                    key,
                    "needs `open = true`, `scopes`, `bound = true`, `class` or `mode`",
                );
                None
            }
        }
    }

    fn scopes(&mut self, key: &str, names: Option<&[String]>) -> Vec<Scope> {
        let Some(names) = names else {
            return Vec::new();
        };
        if names.is_empty() {
            self.complaints
                .push(key, "is empty: leave it out if no scope is asked for");
        }
        let mut seen = BTreeSet::new();
        let mut scopes = Vec::with_capacity(names.len());
        for name in names {
            let scope = self.complaints.accept(key, Scope::parse(name));
            if !seen.insert(name) {
                self.complaints.push(key, format_args!("`{name}` is there twice"));
            }
            scopes.extend(scope);
        }
        scopes
    }
}
