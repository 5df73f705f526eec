//! Calls out: where the app makes them, whom they reach, and the routes that say with which tokens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_core::names::{Audience, Scope};
use countersign_core::spiffe::SpiffeId;
use countersign_mtls::ExpectedServer;
use http::Uri;
use http::uri::Authority;
use serde::Deserialize;

use super::Checker;
use super::addresses::Local;
use crate::agent::TokenKey;
use crate::outbound::{Paths, Route};
use crate::proxy::UpstreamAddress;

/// One `[[outbound]]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    address: Option<String>,
    unix: Option<PathBuf>,
    upstream: String,
    spiffe_id: Option<String>,
    server_name: Option<String>,
    trust_roots: Option<PathBuf>,
    #[serde(default)]
    own_tokens: bool,
    #[serde(default)]
    route: Vec<RouteFile>,
}

/// One `[[outbound.route]]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    host: Option<String>,
    path: Option<String>,
    audience: String,
    #[serde(default)]
    scopes: Vec<String>,
}

/// A way out to one neighbour.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// Where the app calls.
    pub listen: LocalAddress,
    /// Whom it reaches.
    pub neighbour: NeighbourConfig,
    /// Which calls, with which tokens. The first that leads a call is taken.
    pub routes: Vec<Route>,
    /// Whether calls may bring their own credential.
    pub own_tokens: bool,
}

/// An address that only this machine reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// Loopback.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Where the neighbour is.
#[derive(Clone, Debug)]
pub enum NeighbourConfig {
    /// On this machine, without TLS.
    Plaintext(UpstreamAddress),
    /// Anywhere, over TLS with our certificate.
    Tls {
        /// Its address.
        uri: Uri,
        /// Who must answer there.
        server: ExpectedServer,
        /// The roots that its certificate comes from; none: those of the authority's.
        trust_roots: Option<PathBuf>,
    },
}

impl Checker {
    pub(super) fn outbound(&mut self, files: &[File]) -> Vec<OutboundConfig> {
        let named = files.iter().enumerate();
        let ways: Vec<OutboundConfig> = named
            .filter_map(|(index, file)| self.way_out(&format!("outbound.{index}"), file))
            .collect();
        // A call would go round for ever.
        let served: Vec<Local> = local(&ways).collect();
        for (index, way) in ways.iter().enumerate() {
            if let NeighbourConfig::Plaintext(address) = &way.neighbour {
                self.check_elsewhere(&format!("outbound.{index}.upstream"), address, &served);
            }
        }
        ways
    }

    /// Every complaint is made before anything is given up.
    fn way_out(&mut self, key: &str, file: &File) -> Option<OutboundConfig> {
        let listen = self.local_address(key, file);
        let neighbour = self.neighbour(key, file);
        let routes = self.routes(key, &file.route);
        Some(OutboundConfig {
            listen: listen?,
            neighbour: neighbour?,
            routes,
            own_tokens: file.own_tokens,
        })
    }

    fn local_address(&mut self, key: &str, file: &File) -> Option<LocalAddress> {
        match (&file.address, &file.unix) {
            (Some(address), None) => self
                .loopback(&format!("{key}.address"), address)
                .map(LocalAddress::Tcp),
            (None, Some(path)) => Some(LocalAddress::Unix(self.path(path))),
            (Some(_), Some(_)) | (None, None) => {
                self.complaints.push(key, "needs either `address` or `unix`");
                None
            }
        }
    }

    fn neighbour(&mut self, key: &str, file: &File) -> Option<NeighbourConfig> {
        let upstream = format!("{key}.upstream");
        if let Some(uri) = https(&file.upstream) {
            let spiffe_id = file.spiffe_id.as_deref().map(SpiffeId::parse).transpose();
            let spiffe_id = self.complaints.accept(&format!("{key}.spiffe_id"), spiffe_id);
            return Some(NeighbourConfig::Tls {
                uri,
                server: ExpectedServer {
                    spiffe_id: spiffe_id?,
                    server_name: file.server_name.clone(),
                },
                trust_roots: file.trust_roots.as_deref().map(|path| self.path(path)),
            });
        }
        if file.spiffe_id.is_some() || file.server_name.is_some() || file.trust_roots.is_some() {
            self.complaints.push(
                key,
                "says who must answer, and `upstream` is no `https` address that could tell",
            );
        }
        // A token over a network without TLS is everybody's.
        let parsed = super::addresses::parse_upstream(&file.upstream).ok_or(
            "is none of `https://host:port`, `http://` with 127.0.0.1, [::1] or localhost and a port, and `unix:///` with a path",
        );
        self.complaints
            .accept(&upstream, parsed)
            .map(NeighbourConfig::Plaintext)
    }

    fn routes(&mut self, key: &str, files: &[RouteFile]) -> Vec<Route> {
        if files.is_empty() {
            self.complaints.push(
                key,
                "needs a `[[outbound.route]]`: without one every call would be refused",
            );
        }
        let mut routes: Vec<Route> = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            let key = format!("{key}.route.{index}");
            let Some(route) = self.route(&key, file) else {
                continue;
            };
            if let Some(earlier) = routes.iter().find(|earlier| earlier.hides(&route)) {
                self.complaints.push(
                    &key,
                    format_args!("leads no call: `{earlier}` comes before `{route}`"),
                );
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, key: &str, file: &RouteFile) -> Option<Route> {
        let is_host = |host: &String| host.parse::<Authority>().is_ok() && !host.contains('@');
        if !file.host.as_ref().is_none_or(is_host) {
            self.complaints
                .push(&format!("{key}.host"), "is no host, nor host and port");
        }
        let paths = file.path.as_deref().map_or(Ok(Paths::All), Paths::parse);
        let paths = self.complaints.accept(&format!("{key}.path"), paths);
        let audience = Audience::parse(&file.audience);
        let audience = self.complaints.accept(&format!("{key}.audience"), audience);
        let mut scopes = BTreeSet::new();
        for name in &file.scopes {
            let scope = self
                .complaints
                .accept(&format!("{key}.scopes"), Scope::parse(name));
            scopes.extend(scope);
        }
        Some(Route {
            host: file.host.clone(),
            paths: paths?,
            key: TokenKey {
                audience: Some(audience?),
                scopes,
            },
        })
    }
}

/// Where calls out are made.
pub(super) fn local(ways: &[OutboundConfig]) -> impl Iterator<Item = Local> {
    let ways = ways.iter().enumerate();
    ways.map(|(index, way)| match &way.listen {
        LocalAddress::Tcp(address) => Local::Tcp(format!("outbound.{index}.address"), *address),
        LocalAddress::Unix(path) => Local::Unix(format!("outbound.{index}.unix"), path.clone()),
    })
}

fn https(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let has_host = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
    (uri.scheme_str() == Some("https") && is_bare && has_host).then_some(uri)
}
