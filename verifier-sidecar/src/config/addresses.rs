//! Where the sidecar listens and where its service is. Whatever is not protected by TLS stays on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use countersign_mtls::TlsFiles;
use countersign_wire::status::Disclosure;

use super::{Checker, ListenerConfig, VerifyConfig, file};
use crate::proxy::UpstreamAddress;

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
    /// At least one, unless callers connect to Envoy.
    pub(super) fn listeners(&mut self, files: &[file::Listener], behind_envoy: bool) -> Vec<ListenerConfig> {
        if files.is_empty() && !behind_envoy {
            self.complaints
                .push("listener", "is missing: callers could not connect");
        }
        let listeners = files.iter().enumerate();
        listeners
            .filter_map(|(index, file)| self.listener(&format!("listener.{index}"), file))
            .collect()
    }

    fn listener(&mut self, key: &str, file: &file::Listener) -> Option<ListenerConfig> {
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
        // Whoever shows a certificate is known; on plaintext anybody may ask.
        let disclosure = if file.disclose_reasons.unwrap_or(tls.is_some()) {
            Disclosure::Precise
        } else {
            Disclosure::Coarse
        };
        Some(ListenerConfig {
            address: address?,
            tls,
            disclosure,
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

    /// No two of the listeners may want one port (C07), and none of them may be the service: a call would be passed on from
    /// the sidecar to itself, for ever.
    pub(super) fn check_distinct(
        &mut self,
        listeners: &[ListenerConfig],
        local: &[Local],
        admin: Option<SocketAddr>,
        upstream: Option<&UpstreamAddress>,
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
        if let Some(upstream) = upstream {
            self.check_elsewhere("upstream", upstream, &served);
        }
    }

    /// What `key` says, `upstream`, is none of what the sidecar serves.
    pub(super) fn check_elsewhere(&mut self, key: &str, upstream: &UpstreamAddress, served: &[Local]) {
        if let Some(itself) = served.iter().find(|local| local.is_at(upstream)) {
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

    pub(super) fn upstream(&mut self, text: &str) -> Option<UpstreamAddress> {
        let parsed = parse_upstream(text).ok_or(
            "is neither `http://` with 127.0.0.1, [::1] or localhost and a port, nor `unix:///` with a path",
        );
        self.complaints.accept("upstream", parsed)
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

pub(super) fn parse_upstream(text: &str) -> Option<UpstreamAddress> {
    if let Some(path) = text.strip_prefix("unix://") {
        let is_absolute = path.starts_with('/') && path.len() > 1;
        return is_absolute.then(|| UpstreamAddress::Unix(PathBuf::from(path)));
    }
    let authority = text.strip_prefix("http://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let ips: Vec<IpAddr> = match authority.strip_prefix("localhost:") {
        Some(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => vec![authority.parse::<SocketAddr>().ok()?.ip()],
    };
    let port: u16 = authority.rsplit_once(':')?.1.parse().ok()?;
    let is_usable = port != 0 && ips.iter().all(IpAddr::is_loopback);
    is_usable.then(|| UpstreamAddress::Tcp(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
}
