//! `dev.json`: where everything of a development environment is. Written by `countersign dev` once all is ready, read by
//! every other command, and by scripts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};

/// The file's name in the folder of an environment.
pub const FILE: &str = "dev.json";

/// A development environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// `iss` of its tokens.
    pub issuer: String,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// The certificate that all others come from.
    pub ca_cert: PathBuf,
    /// Where the authority is.
    pub authority: Authority,
    /// Where the sidecar is.
    pub sidecar: Sidecar,
    /// The service behind the sidecar.
    pub demo: Demo,
    /// The clients registered.
    pub clients: Clients,
    /// The operator's certificate.
    pub operator: Certificate,
    /// What runs.
    pub processes: Processes,
}

/// The authority's addresses, `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// gRPC over mutual TLS.
    pub grpc: String,
    /// `/metrics`, `/live`, `/ready`.
    pub metrics: String,
}

/// The sidecar's addresses, `host:port`, and its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// The proxy, over mutual TLS.
    pub proxy: String,
    /// The proxy in plaintext, for unbound tokens.
    pub proxy_plaintext: String,
    /// The Verify API's unix socket.
    pub verify_uds: PathBuf,
    /// The Verify API on loopback.
    pub verify_grpc: String,
    /// `/metrics`, `/live`, `/ready`.
    pub admin: String,
}

/// The demo service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demo {
    /// Its name.
    pub service: String,
    /// The name of its unary method.
    pub method: String,
    /// The audience that the sidecar stands for.
    pub audience: String,
    /// The scope that its methods need.
    pub scope: String,
    /// Where it really is, behind the sidecar.
    pub upstream: String,
}

/// The clients registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// Authenticates by its certificate.
    pub orders: CertificateClient,
    /// Authenticates by its secret.
    pub billing: SecretClient,
}

/// A client whose certificate is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateClient {
    /// Its identifier.
    pub client_id: String,
    /// Its certificate.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
}

/// A client with a secret. Its certificate is registered to nobody; it only opens the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretClient {
    /// Its identifier.
    pub client_id: String,
    /// The file with its secret.
    pub secret_file: PathBuf,
    /// Its certificate.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The processes of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processes {
    /// The authority.
    pub authority: Process,
    /// The sidecar.
    pub sidecar: Process,
    /// The demo service.
    pub demo: BareProcess,
}

/// A process with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its configuration.
    pub config: PathBuf,
}

/// A process without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BareProcess {
    /// Its id.
    pub pid: u32,
}

impl Environment {
    /// The environment in `folder`.
    ///
    /// # Errors
    /// When none runs there, or its file is not readable.
    pub fn load(folder: &Path) -> Result<Self, Failure> {
        Self::find(folder)?.ok_or_else(|| {
            let folder = folder.display();
            let message = format!("no development environment runs in `{folder}`");
            Failure::new(Exit::Unavailable, message).next(format!(
                "start one, in another terminal: `countersign dev --dir {folder}`"
            ))
        })
    }

    /// The environment in `folder`, if one runs there.
    ///
    /// # Errors
    /// When its file is there and not readable, or somebody else may have written it: it says which key proves who we
    /// are, to whom our secrets are sent, and whom to believe.
    pub fn find(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        for path in [folder, &path] {
            if !files::is_only_ours(path)? {
                let message = format!(
                    "`{}` belongs to another user, or others may write to it: what it says is not trusted",
                    path.display()
                );
                return Err(
                    Failure::new(Exit::Failure, message).next("name another environment: `--dir DIR`")
                );
            }
        }
        let content = files::read(&path)?;
        let read = serde_json::from_slice(&content);
        read.map(Some).map_err(|error| {
            Failure::because(&format!("cannot read `{}`", path.display()), &error)
                .next("let `countersign dev` write it anew")
        })
    }

    /// Writes the environment's file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, folder: &Path) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::because("cannot write JSON", &error))?;
        files::write(
            &folder.join(FILE),
            format!("{json}\n").as_bytes(),
            Audience::Everybody,
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn example() -> Environment {
        serde_json::from_value(serde_json::json!({
            "issuer": "https://dev.test",
            "trust_domain": "dev.test",
            "ca_cert": "/d/ca.pem",
            "authority": { "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:2" },
            "sidecar": {
                "proxy": "127.0.0.1:3",
                "proxy_plaintext": "127.0.0.1:4",
                "verify_uds": "/d/verify.sock",
                "verify_grpc": "127.0.0.1:5",
                "admin": "127.0.0.1:6",
            },
            "demo": { "service": "s", "method": "m", "audience": "a", "scope": "p", "upstream": "127.0.0.1:7" },
            "clients": {
                "orders": { "client_id": "orders", "cert": "/d/orders.pem", "key": "/d/orders-key.pem" },
                "billing": {
                    "client_id": "billing",
                    "secret_file": "/d/billing",
                    "cert": "/d/billing.pem",
                    "key": "/d/billing-key.pem",
                },
            },
            "operator": { "cert": "/d/operator.pem", "key": "/d/operator-key.pem" },
            "processes": {
                "authority": { "pid": 1, "config": "/d/authority.toml" },
                "sidecar": { "pid": 2, "config": "/d/sidecar.toml" },
                "demo": { "pid": 3 },
            },
        }))
        .expect("an environment")
    }

    /// Scripts read these names.
    #[test]
    fn the_file_has_exactly_the_names_that_are_promised() {
        let folder = tempfile::tempdir().expect("a folder");
        example().store(folder.path()).expect("written");
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join(FILE)).expect("there")).expect("JSON");
        let mut names = Vec::new();
        collect("", &json, &mut names);
        names.sort();
        let mut promised = [
            "issuer",
            "trust_domain",
            "ca_cert",
            "authority.grpc",
            "authority.metrics",
            "sidecar.proxy",
            "sidecar.proxy_plaintext",
            "sidecar.verify_uds",
            "sidecar.verify_grpc",
            "sidecar.admin",
            "demo.service",
            "demo.method",
            "demo.audience",
            "demo.scope",
            "demo.upstream",
            "clients.orders.client_id",
            "clients.orders.cert",
            "clients.orders.key",
            "clients.billing.client_id",
            "clients.billing.secret_file",
            "clients.billing.cert",
            "clients.billing.key",
            "operator.cert",
            "operator.key",
            "processes.authority.pid",
            "processes.authority.config",
            "processes.sidecar.pid",
            "processes.sidecar.config",
            "processes.demo.pid",
        ];
        promised.sort_unstable();
        assert_eq!(names, promised);
        assert_eq!(Environment::load(folder.path()).expect("readable"), example());
    }

    fn collect(prefix: &str, value: &serde_json::Value, names: &mut Vec<String>) {
        let Some(object) = value.as_object() else {
            names.push(prefix.to_owned());
            return;
        };
        for (name, value) in object {
            let name = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            collect(&name, value, names);
        }
    }

    /// Anybody can make the default folder before us, and put an authority of his own in it.
    #[test]
    fn an_environment_that_others_may_have_written_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        example().store(folder.path()).expect("written");
        let file = folder.path().join(FILE);
        let find = || Environment::find(folder.path());
        assert!(find().expect("ours").is_some());
        for (path, mode, back) in [(&file, 0o666, 0o644), (&folder.path().to_owned(), 0o770, 0o700)] {
            let set = |mode| {
                let permissions = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(path, permissions).expect("set");
            };
            set(mode);
            let failure = find().expect_err("not trusted");
            assert!(failure.message.contains("others may write"), "{failure}");
            set(back);
        }
        assert!(find().expect("ours again").is_some());
    }

    #[test]
    fn a_folder_without_one_says_how_to_start_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let failure = Environment::load(folder.path()).expect_err("none");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(
            failure
                .next
                .is_some_and(|next| next.contains("countersign dev --dir"))
        );
    }
}
