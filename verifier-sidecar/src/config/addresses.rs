//! Where the sidecar listens. Whatever is not protected by TLS stays on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_mtls::TlsFiles;

use super::{Checker, ListenerConfig, ServiceConfig, VerifyConfig, file};
use crate::proxy::UpstreamAddress;
use crate::server::Disclosures;

/// What is served to this machine only, by the key that it is configured with.
#[derive(Clone, Debug)]
pub(super) enum Local {
    Unix(String, PathBuf),
    Tcp(String, SocketAddr),
}

impl Local {
    /// What a section with the keys `unix` and `grpc` has.
    pub(super) fn of_section(
        section: &str,
        unix: Option<&PathBuf>,
        grpc: Option<SocketAddr>,
    ) -> impl Iterator<Item = Self> + use<> {
        let unix = unix.map(|path| Self::Unix(format!("{section}.unix"), path.clone()));
        let grpc = grpc.map(|address| Self::Tcp(format!("{section}.grpc"), address));
        unix.into_iter().chain(grpc)
    }

    fn key(&self) -> &str {
        match self {
            Self::Unix(key, _) | Self::Tcp(key, _) => key,
        }
    }

    fn is_at(&self, upstream: &UpstreamAddress) -> bool {
        match (self, upstream) {
            (Self::Tcp(_, own), UpstreamAddress::Tcp(addresses)) => {
                addresses.iter().any(|address| collide(*address, *own))
            }
            (Self::Unix(_, own), UpstreamAddress::Unix(path)) => resolved(own) == resolved(path),
            (Self::Tcp(..), UpstreamAddress::Unix(_)) | (Self::Unix(..), UpstreamAddress::Tcp(_)) => false,
        }
    }

    fn tcp(&self) -> Option<(&String, SocketAddr)> {
        match self {
            Self::Tcp(key, address) => Some((key, *address)),
            Self::Unix(..) => None,
        }
    }

    fn unix(&self) -> Option<(&String, PathBuf)> {
        match self {
            Self::Unix(key, path) => Some((key, resolved(path))),
            Self::Tcp(..) => None,
        }
    }
}

impl Checker {
    pub(super) fn listener(&mut self, key: &str, file: &file::Listener) -> Option<ListenerConfig> {
        let tls = file.tls.as_ref().map(|tls| self.tls(tls));
        let address_key = format!("{key}.address");
        let address = match (&tls, file.plaintext) {
            (Some(_), false) => self.address(&address_key, &file.address),
            (None, true) => self.loopback(&address_key, &file.address),
            (Some(_), true) => {
                self.complaints.push(key, "has both `tls` and `plaintext`");
                None
            }
            (None, false) => {
                self.complaints
                    .push(key, "needs `tls`, or `plaintext = true` on a loopback address");
                None
            }
        };
        if tls.is_none() && file.client_certificates.is_some() {
            self.complaints.push(
                &format!("{key}.client_certificates"),
                "is for `tls`, without which nobody shows one",
            );
        }
        let certificates = file.client_certificates.unwrap_or_default().into();
        let own = file.upstream.as_ref();
        Some(ListenerConfig {
            app: own.and_then(|own| self.app(&format!("{key}.upstream"), own)),
            address: address?,
            tls: tls.map(|files| (files, certificates)),
            disclosures: Disclosures::unless_said(file.disclose_reasons),
            grpc_only: file.grpc_only,
        })
    }

    pub(super) fn verify(&mut self, file: &file::Verify) -> VerifyConfig {
        VerifyConfig {
            unix: file.unix.as_ref().map(|path| self.path(path)),
            grpc: file
                .grpc
                .as_ref()
                .and_then(|address| self.loopback("verify.grpc", address)),
        }
    }

    pub(super) fn tls(&self, tls: &file::Tls) -> TlsFiles {
        TlsFiles {
            certificate: self.path(&tls.certificate),
            private_key: self.path(&tls.private_key),
            trust_roots: self.path(&tls.trust_roots),
        }
    }

    pub(super) fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text
            .parse()
            .map_err(|_error| "is no address of the form `127.0.0.1:8080` or `[::1]:8080`");
        self.complaints.accept(key, parsed)
    }

    pub(super) fn loopback(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = self.address(key, text)?;
        if address.ip().is_loopback() {
            return Some(address);
        }
        self.complaints.push(
            key,
            "has no TLS, so it must be a loopback address such as 127.0.0.1",
        );
        None
    }

    /// No two of the listeners may want one port (C07), and none of them may be a service: a call would be passed on from
    /// the sidecar to itself, for ever.
    pub(super) fn check_distinct(
        &mut self,
        listeners: &[ListenerConfig],
        local: &[Local],
        admin: Option<SocketAddr>,
        services: &[(String, &ServiceConfig)],
    ) {
        let named = listeners.iter().enumerate();
        let mut taken: Vec<(String, SocketAddr)> = named
            .map(|(index, listener)| (format!("listener.{index}.address"), listener.address))
            .collect();
        let addresses = local.iter().filter_map(Local::tcp);
        taken.extend(addresses.map(|(key, address)| (key.clone(), address)));
        taken.extend(admin.map(|address| ("admin".to_owned(), address)));
        for (index, (key, address)) in taken.iter().enumerate() {
            let earlier = taken
                .iter()
                .take(index)
                .find(|(_, other)| collide(*address, *other));
            if let Some((other, _)) = earlier {
                self.complaints
                    .push(key, format_args!("wants the same port as `{other}`"));
            }
        }
        self.check_sockets(local);
        let served: Vec<Local> = taken
            .into_iter()
            .map(|(key, address)| Local::Tcp(key, address))
            .chain(local.iter().filter(|local| local.unix().is_some()).cloned())
            .collect();
        for (key, service) in services {
            self.check_elsewhere(key, service, &served);
        }
    }

    /// The service that `key` says is none of what the sidecar serves.
    pub(super) fn check_elsewhere(&mut self, key: &str, service: &ServiceConfig, served: &[Local]) {
        let Some(address) = service.known_address() else {
            return;
        };
        if let Some(itself) = served.iter().find(|local| local.is_at(&address)) {
            self.complaints
                .push(key, format_args!("is the sidecar itself, at `{}`", itself.key()));
        }
    }

    /// The later of two that want one socket would take it from the earlier.
    fn check_sockets(&mut self, local: &[Local]) {
        let sockets: Vec<_> = local.iter().filter_map(Local::unix).collect();
        for (index, (key, path)) in sockets.iter().enumerate() {
            let earlier = sockets.iter().take(index).find(|(_, other)| other == path);
            if let Some((other, _)) = earlier {
                self.complaints
                    .push(key, format_args!("is the same socket as `{other}`"));
            }
        }
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // An IPv4 address has a second spelling in IPv6.
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let overlap = ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
    // Port 0 is a new one each time.
    one.port() != 0 && one.port() == other.port() && overlap
}

/// Where `path` leads, as far as there is something: sockets are made at the start.
fn resolved(path: &Path) -> PathBuf {
    let in_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize()
        .ok()
        .or_else(in_folder)
        .unwrap_or_else(|| path.to_owned())
}
