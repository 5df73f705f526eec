//! What lies where in the folder, and who is called what.

use std::path::{Path, PathBuf};

use countersign_core::Timestamp;
use countersign_core::spiffe::SpiffeId;

use super::children::{Children, Role};
use super::ports::Ports;
use crate::demo;
use crate::environment::{
    Authority, BareProcess, Certificate, CertificateClient, Clients, Demo, Environment, Process, Processes,
    SecretClient, Sidecar,
};
use crate::failure::{Exit, Failure};
use crate::files;
use crate::pki::{CertificateFiles, Pki, Usage};

/// `iss` of the tokens.
pub(super) const ISSUER: &str = "https://dev.countersign.test";

/// The trust domain of all identities.
pub(super) const TRUST_DOMAIN: &str = "dev.countersign.test";

/// The audience that the sidecar stands for.
pub(super) const AUDIENCE: &str = "demo";

/// The scope that the demo service's methods need.
pub(super) const SCOPE: &str = "demo.call";

/// A scope that no method needs, to see a call refused that lacks the right one.
pub(super) const OTHER_SCOPE: &str = "demo.other";

/// An audience that no sidecar here stands for, to see a call refused that is meant for another service.
pub(super) const OTHER_AUDIENCE: &str = "warehouse";

/// The client that authenticates by its certificate.
pub(super) const ORDERS: &str = "orders";

/// The client that authenticates by its secret.
pub(super) const BILLING: &str = "billing";

/// Files, folders and identities of an environment.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) trust_roots: PathBuf,
    pub(super) authority: CertificateFiles,
    pub(super) sidecar: CertificateFiles,
    pub(super) operator: CertificateFiles,
    pub(super) orders: CertificateFiles,
    pub(super) billing: CertificateFiles,
    pub(super) authority_config: PathBuf,
    pub(super) sidecar_config: PathBuf,
    pub(super) publishing_keys: PathBuf,
    /// The key that seals the authority's store.
    pub(super) sealing_key: PathBuf,
    pub(super) billing_secret: PathBuf,
    pub(super) authority_store: PathBuf,
    pub(super) sidecar_state: PathBuf,
    pub(super) verify_socket: PathBuf,
    pub(super) ports: Ports,
}

/// A unix socket's path must fit into its address: 104 bytes on macOS, 108 on Linux, with a NUL.
const LONGEST_SOCKET: usize = 103;

/// The identity called `path` in the trust domain.
pub(super) fn identity(path: &str) -> Result<SpiffeId, Failure> {
    SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/{path}"))
        .map_err(|error| Failure::because("cannot name a part", &error))
}

/// The authority's identity.
pub(super) const AUTHORITY_ID: &str = "countersign/authority";
/// The sidecar's.
pub(super) const SIDECAR_ID: &str = "countersign/sidecar/demo";
/// The operator's.
pub(super) const OPERATOR_ID: &str = "countersign/operator";
/// That of the client `orders`.
pub(super) const ORDERS_ID: &str = "service/orders";
/// That of the client `billing`, registered to nobody.
pub(super) const BILLING_ID: &str = "service/billing";

impl Layout {
    /// Makes the folders and certificates that are not there yet.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) fn make(folder: &Path, ports: &Ports, now: Timestamp) -> Result<Self, Failure> {
        let verify_socket = folder.join("sidecar").join("verify.sock");
        if verify_socket.as_os_str().len() > LONGEST_SOCKET {
            let message = format!(
                "`{}` is too long a path for a unix socket",
                verify_socket.display()
            );
            return Err(
                Failure::new(Exit::Failure, message).next("choose a folder with a shorter path: `--dir DIR`")
            );
        }
        for name in ["secrets", "authority", "sidecar", "logs"] {
            files::folder(&folder.join(name))?;
        }
        let pki = Pki::open(&folder.join("pki"), now)?;
        let leaf = |name: &str, path: &str, usage| pki.leaf(name, &identity(path)?, usage, now);
        Ok(Self {
            authority: leaf("authority", AUTHORITY_ID, Usage::Server)?,
            sidecar: leaf("sidecar", SIDECAR_ID, Usage::ServerAndClient)?,
            operator: leaf("operator", OPERATOR_ID, Usage::Client)?,
            orders: leaf(ORDERS, ORDERS_ID, Usage::Client)?,
            billing: leaf(BILLING, BILLING_ID, Usage::Client)?,
            trust_roots: pki.trust_roots().to_owned(),
            authority_config: folder.join("authority.toml"),
            sidecar_config: folder.join("sidecar.toml"),
            publishing_keys: folder.join("publishing-keys.json"),
            sealing_key: folder.join("secrets").join("sealing-key"),
            billing_secret: folder.join("secrets").join(BILLING),
            authority_store: folder.join("authority").join("store.redb"),
            sidecar_state: folder.join("sidecar").join("trust"),
            verify_socket,
            ports: *ports,
        })
    }

    /// The environment as `dev.json` says it.
    ///
    /// # Errors
    /// When a part has ended.
    pub(super) fn environment(&self, ports: &Ports, children: &Children) -> Result<Environment, Failure> {
        Ok(Environment {
            issuer: ISSUER.to_owned(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            ca_cert: self.trust_roots.clone(),
            authority: Authority {
                grpc: ports.authority(),
                metrics: ports.authority_metrics(),
            },
            sidecar: Sidecar {
                proxy: ports.proxy(),
                proxy_plaintext: ports.proxy_plaintext(),
                verify_uds: self.verify_socket.clone(),
                verify_grpc: ports.verify(),
                admin: ports.admin(),
            },
            demo: Demo {
                service: demo::SERVICE.to_owned(),
                method: demo::METHOD.to_owned(),
                audience: AUDIENCE.to_owned(),
                scope: SCOPE.to_owned(),
                upstream: ports.demo(),
            },
            clients: self.clients(),
            operator: Certificate {
                cert: self.operator.certificate.clone(),
                key: self.operator.key.clone(),
            },
            processes: Processes {
                authority: Process {
                    pid: children.pid(Role::Authority)?,
                    config: self.authority_config.clone(),
                },
                sidecar: Process {
                    pid: children.pid(Role::Sidecar)?,
                    config: self.sidecar_config.clone(),
                },
                demo: BareProcess {
                    pid: children.pid(Role::Demo)?,
                },
            },
        })
    }

    fn clients(&self) -> Clients {
        Clients {
            orders: CertificateClient {
                client_id: ORDERS.to_owned(),
                cert: self.orders.certificate.clone(),
                key: self.orders.key.clone(),
            },
            billing: SecretClient {
                client_id: BILLING.to_owned(),
                secret_file: self.billing_secret.clone(),
                cert: self.billing.certificate.clone(),
                key: self.billing.key.clone(),
            },
        }
    }
}
