//! Where callers connect, and who of them is an operator or a verifier. Whoever lists nobody lets nobody in: an empty list
//! is a complaint, never "anybody" (C04).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use countersign_core::spiffe::{SpiffeId, TrustDomain};

use super::{Checker, file};
use crate::authorize::{Identities, Roles};

impl Checker {
    pub(super) fn addresses(&mut self, file: &file::File) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let listen = self.address("listen", &file.listen);
        let admin = self.address("admin", &file.admin);
        if admin.is_some_and(|admin| !admin.ip().is_loopback()) {
            self.complaints.push(
                "admin",
                "has no TLS, so it must be a loopback address such as 127.0.0.1",
            );
        }
        if let (Some(listen), Some(admin)) = (listen, admin)
            && collide(listen, admin)
        {
            self.complaints.push("admin", "wants the same port as `listen`");
        }
        (listen, admin)
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text
            .parse()
            .map_err(|_error| "is no address of the form `127.0.0.1:8443` or `[::1]:8443`");
        self.complaints.accept(key, parsed)
    }

    pub(super) fn roles(
        &mut self,
        access: &file::Access,
        trust_domain: Option<&TrustDomain>,
    ) -> Option<Roles> {
        let operators = self.operators(&access.operators, trust_domain);
        let verifiers = self.verifiers(&access.verifiers, trust_domain);
        for operator in &operators {
            if verifiers.iter().any(|verifiers| verifiers.contain(operator)) {
                self.complaints.push(
                    "access.operators",
                    format_args!("`{operator}` is also a verifier: one identity has one role"),
                );
            }
        }
        Some(Roles {
            trust_domain: trust_domain?.clone(),
            operators,
            verifiers,
        })
    }

    fn operators(&mut self, names: &[String], trust_domain: Option<&TrustDomain>) -> BTreeSet<SpiffeId> {
        let key = "access.operators";
        if names.is_empty() {
            self.complaints
                .push(key, "is empty: nobody could register a client or revoke a token");
        }
        let mut operators = BTreeSet::new();
        for name in names {
            let Some(operator) = self.complaints.accept(key, SpiffeId::parse(name)) else {
                continue;
            };
            self.check_domain(key, operator.trust_domain(), trust_domain);
            if !operators.insert(operator) {
                self.complaints.push(key, format_args!("`{name}` is there twice"));
            }
        }
        operators
    }

    fn verifiers(&mut self, names: &[String], trust_domain: Option<&TrustDomain>) -> Vec<Identities> {
        let key = "access.verifiers";
        if names.is_empty() {
            self.complaints
                .push(key, "is empty: no verifier could get keys and revocations");
        }
        let mut verifiers = Vec::new();
        for name in names {
            let Some(identities) = self.complaints.accept(key, Identities::parse(name)) else {
                continue;
            };
            self.check_domain(key, identities.trust_domain(), trust_domain);
            if verifiers.contains(&identities) {
                self.complaints.push(key, format_args!("`{name}` is there twice"));
            }
            verifiers.push(identities);
        }
        verifiers
    }

    fn check_domain(&mut self, key: &str, found: &TrustDomain, expected: Option<&TrustDomain>) {
        if expected.is_some_and(|expected| expected != found) {
            self.complaints
                .push(key, format_args!("`{found}` is not the `trust_domain`"));
        }
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    // Port 0 is a new one each time.
    one.port() != 0 && one.port() == other.port() && overlap
}
