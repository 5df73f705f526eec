//! What methods ask for. Whoever lists nothing allows nobody: an empty list is a complaint, never "anybody" (C04).

use std::collections::BTreeSet;

use countersign_core::names::Scope;
use countersign_core::requirements::{Access, MethodTable, Requirements};

use super::Checker;
use super::file::{File, Method};

const HEALTH: &[&str] = &["/grpc.health.v1.Health/*"];

const REFLECTION: &[&str] = &[
    "/grpc.reflection.v1.ServerReflection/*",
    "/grpc.reflection.v1alpha.ServerReflection/*",
];

impl Checker {
    pub(super) fn methods(&mut self, file: &File) -> MethodTable {
        let default = self.scopes("default_scopes", file.default_scopes.as_deref());
        let mut table = MethodTable::new(Requirements {
            scopes: default,
            ..Requirements::default()
        });
        for (index, method) in file.method.iter().enumerate() {
            let key = format!("method.{index}");
            if let Some(access) = self.access(&key, method) {
                self.set(&mut table, (&format!("{key}.path"), &method.path), access);
            }
        }
        let switches = [
            ("open_health", file.open_health, HEALTH),
            ("open_reflection", file.open_reflection, REFLECTION),
        ];
        for (key, _, paths) in switches.iter().filter(|(_, on, _)| *on) {
            for path in *paths {
                self.set(&mut table, (key, path), Access::Open);
            }
        }
        table
    }

    fn set(&mut self, table: &mut MethodTable, (key, path): (&str, &str), access: Access) {
        match table.set(path, access) {
            Ok(true) => {}
            Ok(false) => self
                .complaints
                .push(key, format_args!("`{path}` is there already")),
            Err(invalid) => self.complaints.push(key, invalid),
        }
    }

    fn access(&mut self, key: &str, method: &Method) -> Option<Access> {
        let asks = method.scopes.is_some() || method.bound;
        match (method.open, asks) {
            (true, false) => Some(Access::Open),
            (false, true) => {
                let scopes = self.scopes(&format!("{key}.scopes"), method.scopes.as_deref());
                Some(Access::Protected(Requirements {
                    scopes,
                    bound: method.bound,
                    ..Requirements::default()
                }))
            }
            (true, true) => {
                self.complaints
                    .push(key, "has `open = true` and asks for something: remove one");
                None
            }
            (false, false) => {
                self.complaints
                    .push(key, "needs `open = true`, `scopes` or `bound = true`");
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
