//! Where Envoy asks for decisions, and what of its words is believed. Whatever is not protected by TLS stays on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_mtls::TlsFiles;
use countersign_wire::status::Disclosure;
use serde::Deserialize;

use super::addresses::Local;
use super::{Checker, file};
use crate::ext_authz::Certificates;

/// The section `[ext_authz]` as the operator wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    unix: Option<PathBuf>,
    grpc: Option<String>,
    tls: Option<file::Tls>,
    #[serde(default)]
    disclose_reasons: bool,
    #[serde(default)]
    believe_peer_certificate: bool,
}

/// Where Envoy asks for decisions.
#[derive(Clone, Debug)]
pub struct ExtAuthzConfig {
    /// A unix socket.
    pub unix: Option<PathBuf>,
    /// A loopback address; with required client certificates, any.
    pub grpc: Option<(SocketAddr, Option<TlsFiles>)>,
    /// How much Envoy's callers are told when they are refused.
    pub disclosure: Disclosure,
    /// Whether callers have the certificates that Envoy says.
    pub certificates: Certificates,
}

impl ExtAuthzConfig {
    /// The files of its TLS, if it has any.
    pub(crate) fn tls(&self) -> Option<&TlsFiles> {
        self.grpc.as_ref().and_then(|(_, tls)| tls.as_ref())
    }

    /// What nobody else may listen on.
    pub(super) fn local(&self) -> impl Iterator<Item = Local> + use<> {
        let address = self.grpc.as_ref().map(|(address, _)| *address);
        Local::of_section("ext_authz", self.unix.as_ref(), address)
    }
}

impl Checker {
    pub(super) fn ext_authz(&mut self, file: &File) -> ExtAuthzConfig {
        if file.unix.is_none() && file.grpc.is_none() {
            self.complaints
                .push("ext_authz", "needs `grpc` or `unix`: Envoy could not ask");
        }
        if file.tls.is_some() && file.grpc.is_none() {
            self.complaints
                .push("ext_authz.tls", "is for `grpc`, which is missing");
        }
        let tls = file.tls.as_ref().map(|tls| self.tls(tls));
        let key = "ext_authz.grpc";
        let address = file.grpc.as_ref().and_then(|text| match tls {
            Some(_) => self.address(key, text),
            None => self.loopback(key, text),
        });
        ExtAuthzConfig {
            unix: file.unix.as_ref().map(|path| self.path(path)),
            grpc: address.map(|address| (address, tls)),
            // Envoy's callers are whoever reaches Envoy.
            disclosure: if file.disclose_reasons {
                Disclosure::Precise
            } else {
                Disclosure::Coarse
            },
            certificates: if file.believe_peer_certificate {
                Certificates::Envoys
            } else {
                Certificates::Ignored
            },
        }
    }
}
