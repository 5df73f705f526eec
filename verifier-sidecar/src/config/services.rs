//! Where a service is: one behind the sidecar, or one that the app calls. Whatever is not protected by TLS stays on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use countersign_core::spiffe::SpiffeId;
use countersign_mtls::ExpectedServer;
use http::Uri;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Checker;
use crate::proxy::{Speaks, UpstreamAddress};

/// A service as the operator wrote it.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Its address.
    pub(super) uri: String,
    /// Who must answer there.
    pub(super) spiffe_id: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) trust_roots: Option<PathBuf>,
}

/// `upstream = "http://..."`, or with who must answer, `upstream = { uri = "https://...", spiffe_id = "..." }`.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub(super) service: Written,
    pub(super) speaks: Speaks,
}

/// Which HTTP an app speaks, where it is not both.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Http1,
    Http2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    uri: String,
    spiffe_id: Option<String>,
    server_name: Option<String>,
    trust_roots: Option<PathBuf>,
    protocol: Option<Protocol>,
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressOrTable;

        impl<'de> Visitor<'de> for AddressOrTable {
            type Value = Upstream;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with `uri`")
            }

            fn visit_str<E: de::Error>(self, uri: &str) -> Result<Upstream, E> {
                Ok(Upstream {
                    service: Written {
                        uri: uri.to_owned(),
                        ..Written::default()
                    },
                    speaks: Speaks::Both,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Upstream {
                    service: Written {
                        uri: table.uri,
                        spiffe_id: table.spiffe_id,
                        server_name: table.server_name,
                        trust_roots: table.trust_roots,
                    },
                    speaks: match table.protocol {
                        None => Speaks::Both,
                        Some(Protocol::Http1) => Speaks::Http1,
                        Some(Protocol::Http2) => Speaks::Http2,
                    },
                })
            }
        }

        deserializer.deserialize_any(AddressOrTable)
    }
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceConfig {
    /// On this machine, without TLS.
    Plaintext(UpstreamAddress),
    /// Anywhere, over TLS with our certificate.
    Tls(TlsServiceConfig),
}

/// A service over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsServiceConfig {
    /// Its address.
    pub uri: Uri,
    /// Who must answer there.
    pub server: ExpectedServer,
    /// The roots that its certificate comes from; none: those of the authority's.
    pub trust_roots: Option<PathBuf>,
}

impl ServiceConfig {
    /// Its addresses, as far as the configuration alone tells them: of a name, nothing.
    pub(super) fn known_address(&self) -> Option<UpstreamAddress> {
        match self {
            Self::Plaintext(address) => Some(address.clone()),
            Self::Tls(service) => {
                let (host, port) = (service.uri.host()?, service.uri.port_u16().unwrap_or(443));
                let ips = ips(host)?.into_iter();
                Some(UpstreamAddress::Tcp(
                    ips.map(|ip| SocketAddr::new(ip, port)).collect(),
                ))
            }
        }
    }

    pub(super) fn is_on_this_machine(&self) -> bool {
        match self.known_address() {
            Some(UpstreamAddress::Tcp(addresses)) => {
                addresses.iter().all(|address| address.ip().is_loopback())
            }
            Some(UpstreamAddress::Unix(_)) => true,
            None => false,
        }
    }
}

impl Checker {
    /// The service that `key` speaks of, with its address at `address_key`.
    pub(super) fn service(
        &mut self,
        key: &str,
        address_key: &str,
        written: &Written,
    ) -> Option<ServiceConfig> {
        if let Some(uri) = https(&written.uri) {
            let spiffe_id = written.spiffe_id.as_deref().map(SpiffeId::parse).transpose();
            let spiffe_id = self.complaints.accept(&format!("{key}.spiffe_id"), spiffe_id);
            return Some(ServiceConfig::Tls(TlsServiceConfig {
                uri,
                server: ExpectedServer {
                    spiffe_id: spiffe_id?,
                    server_name: written.server_name.clone(),
                },
                trust_roots: written.trust_roots.as_deref().map(|path| self.path(path)),
            }));
        }
        if written.spiffe_id.is_some() || written.server_name.is_some() || written.trust_roots.is_some() {
            self.complaints.push(
                key,
                "says who must answer, and has no `https` address that could tell",
            );
        }
        let parsed = parse_plaintext(&written.uri).ok_or(
            "is none of `https://host:port`, `http://` with 127.0.0.1, [::1] or localhost and a port, and `unix:///` with a path",
        );
        let parsed = self.complaints.accept(address_key, parsed);
        parsed.map(ServiceConfig::Plaintext)
    }
}

fn parse_plaintext(text: &str) -> Option<UpstreamAddress> {
    if let Some(path) = text.strip_prefix("unix://") {
        let is_absolute = path.starts_with('/') && path.len() > 1;
        return is_absolute.then(|| UpstreamAddress::Unix(PathBuf::from(path)));
    }
    let authority = text.strip_prefix("http://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority.rsplit_once(':')?;
    let port: NonZeroU16 = port.parse().ok().filter(|_| !port.starts_with('+'))?;
    let ips = ips(host)?;
    let addresses = || ips.iter().map(|ip| SocketAddr::new(*ip, port.get())).collect();
    ips.iter()
        .all(IpAddr::is_loopback)
        .then(|| UpstreamAddress::Tcp(addresses()))
}

/// The addresses of `host`, where it is written as one or is this machine.
fn ips(host: &str) -> Option<Vec<IpAddr>> {
    if host == "localhost" {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let ip = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok()?.into(),
        None => host.parse::<Ipv4Addr>().ok()?.into(),
    };
    Some(vec![ip])
}

fn https(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let has_host = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
    (uri.scheme_str() == Some("https") && is_bare && has_host).then_some(uri)
}
