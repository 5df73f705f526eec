//! Connections to the service that the app calls.
//!
//! Over TLS they show our certificate, and tokens are bound to it or to its SPIFFE ID. When it changes, calls with tokens that the new
//! one proves go over new connections, and those over the old ones end by themselves.

use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_core::binding::PeerCertificate;
use countersign_core::claims::Confirmation;
use countersign_mtls::ClientTls;
use http::Uri;
use http::uri::{Authority, Scheme};

use crate::agent::Token;
use crate::proxy::{Dial, Upstream, UpstreamAddress};
use crate::server::Keepalive;

/// The service that the app calls.
#[derive(Debug)]
pub(crate) struct Neighbour {
    name: Arc<str>,
    dial: Dial,
    connections: usize,
    /// What it is called where routes name no host; nothing: as the app calls it.
    authority: Option<Authority>,
    current: ArcSwap<Generation>,
}

/// Connections that show one certificate, or none.
#[derive(Debug)]
pub(super) struct Generation {
    certificate: Option<PeerCertificate>,
    pub(super) upstream: Upstream,
}

impl Neighbour {
    /// The service at `address` on this machine, without TLS.
    pub(crate) fn plaintext(address: UpstreamAddress, connections: usize) -> Self {
        Self::new(Dial::Plaintext(address), connections, None)
    }

    /// The service at `uri`, an `https` address.
    pub(crate) fn over_tls(uri: &Uri, tls: Arc<ClientTls>, keepalive: Keepalive, connections: usize) -> Self {
        let dial = Dial::Tls {
            uri: uri.to_string(),
            tls,
            keepalive,
        };
        Self::new(dial, connections, uri.authority().cloned())
    }

    fn new(dial: Dial, connections: usize, authority: Option<Authority>) -> Self {
        let first = Generation {
            certificate: certificate(&dial),
            upstream: Upstream::dialling(dial.clone(), connections),
        };
        Self {
            name: dial.to_string().into(),
            dial,
            connections,
            authority,
            current: ArcSwap::from_pointee(first),
        }
    }

    /// The same service, over connections of its own.
    pub(crate) fn over_others(&self) -> Self {
        Self::new(self.dial.clone(), self.connections, self.authority.clone())
    }

    /// Where it is, for people.
    pub(super) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The connections for a call with `token`.
    pub(super) fn for_token(&self, token: Option<&Token>) -> Arc<Generation> {
        let current = self.current.load_full();
        let shown = certificate(&self.dial);
        let is_of_another = match token.map(|token| &token.claims().confirmation) {
            Some(bound @ (Confirmation::Certificate(_) | Confirmation::SpiffeId(_))) => {
                !bound.is_proven_by(shown.as_ref())
            }
            Some(Confirmation::Unbound | Confirmation::Unsupported) | None => false,
        };
        // INVARIANT (one certificate): a token of the new one does not go over connections with the old one.
        if current.certificate == shown || is_of_another {
            return current;
        }
        let next = Arc::new(Generation {
            certificate: shown,
            upstream: Upstream::dialling(self.dial.clone(), self.connections),
        });
        // Of several who see the change at once, one makes the next, and all go over that.
        let before = self.current.compare_and_swap(&current, Arc::clone(&next));
        if Arc::ptr_eq(&before, &current) {
            next
        } else {
            self.current.load_full()
        }
    }

    /// What is called when the app calls `uri`, by a route that names a host or not.
    pub(super) fn target(&self, uri: &Uri, is_host_named: bool) -> Result<Uri, http::uri::InvalidUriParts> {
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(match self.dial {
            Dial::Plaintext(_) => Scheme::HTTP,
            Dial::Tls { .. } => Scheme::HTTPS,
        });
        if let Some(authority) = self.authority.as_ref().filter(|_| !is_host_named) {
            parts.authority = Some(authority.clone());
        }
        Uri::from_parts(parts)
    }
}

fn certificate(dial: &Dial) -> Option<PeerCertificate> {
    match dial {
        Dial::Plaintext(_) => None,
        Dial::Tls { tls, .. } => Some(tls.certificate()),
    }
}
