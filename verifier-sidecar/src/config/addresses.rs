//! Where the sidecar listens and where its service is. Whatever is not protected by TLS stays on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use countersign_mtls::TlsFiles;
use countersign_wire::status::Disclosure;

use super::{Checker, ListenerConfig, VerifyConfig, file};
use crate::proxy::UpstreamAddress;

impl Checker {
    pub(super) fn listeners(&mut self, files: &[file::Listener]) -> Vec<ListenerConfig> {
        if files.is_empty() {
            self.complaints
                .push("listener", "is missing: callers could not connect");
        }
        let listeners = files.iter().enumerate();
        listeners
            .filter_map(|(index, file)| self.listener(&format!("listener.{index}"), file))
            .collect()
    }

    fn listener(&mut self, key: &str, file: &file::Listener) -> Option<ListenerConfig> {
        let tls = file.tls.as_ref().map(|tls| TlsFiles {
            certificate: self.path(&tls.certificate),
            private_key: self.path(&tls.private_key),
            trust_roots: self.path(&tls.trust_roots),
        });
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

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
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
        verify: &VerifyConfig,
        admin: Option<SocketAddr>,
        upstream: Option<&UpstreamAddress>,
    ) {
        let named = listeners.iter().enumerate();
        let mut taken: Vec<(String, SocketAddr)> = named
            .map(|(index, listener)| (format!("listener.{index}.address"), listener.address))
            .collect();
        taken.extend(verify.grpc.map(|address| ("verify.grpc".to_owned(), address)));
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
        let itself = match upstream {
            Some(UpstreamAddress::Tcp(addresses)) => {
                let is_service = |own: SocketAddr| addresses.iter().any(|address| collide(*address, own));
                let found = taken.iter().find(|(_, own)| is_service(*own));
                found.map(|(key, _)| key.as_str())
            }
            Some(UpstreamAddress::Unix(path)) => {
                let own = verify.unix.as_deref();
                own.filter(|own| resolved(own) == resolved(path))
                    .map(|_| "verify.unix")
            }
            None => None,
        };
        if let Some(key) = itself {
            self.complaints
                .push("upstream", format_args!("is the sidecar itself, at `{key}`"));
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

fn parse_upstream(text: &str) -> Option<UpstreamAddress> {
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
