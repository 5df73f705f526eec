//! What a listener counted, for whoever publishes metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{AlertDescription, CertificateError, Error as RustlsError};

use crate::identity::IdentityRefused;

/// Why a connection did not become a peer. The names are stable: they are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// No client certificate where one is required.
    NoCertificate,
    /// The client's certificate is expired or not yet valid.
    CertificateNotInForce,
    /// The client's certificate is not from our roots, or is not a client's.
    CertificateUntrusted,
    /// The client's certificate identifies nobody.
    IdentityRefused,
    /// The peer did not agree to HTTP/2 by ALPN.
    NoHttp2,
    /// The peer refused our certificate.
    RefusedByPeer,
    /// Not TLS, not TLS 1.3, or a violation of the protocol.
    Protocol,
    /// The peer went away.
    Disconnected,
    /// Not finished in time.
    TimedOut,
}

impl HandshakeFailure {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::NoCertificate,
        Self::CertificateNotInForce,
        Self::CertificateUntrusted,
        Self::IdentityRefused,
        Self::NoHttp2,
        Self::RefusedByPeer,
        Self::Protocol,
        Self::Disconnected,
        Self::TimedOut,
    ];

    /// The stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::CertificateNotInForce => "certificate_not_in_force",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::IdentityRefused => "identity_refused",
            Self::NoHttp2 => "no_http2",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Protocol => "protocol",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
        }
    }

    pub(crate) fn of(error: &std::io::Error) -> Self {
        let rustls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<RustlsError>());
        rustls.map_or(Self::Disconnected, Self::of_rustls)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are non-exhaustive")]
    fn of_rustls(error: &RustlsError) -> Self {
        match error {
            RustlsError::NoCertificatesPresented => Self::NoCertificate,
            RustlsError::InvalidCertificate(error) => Self::of_certificate(error),
            RustlsError::NoApplicationProtocol => Self::NoHttp2,
            RustlsError::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired,
            ) => Self::RefusedByPeer,
            _ => Self::Protocol,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are non-exhaustive")]
    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::CertificateNotInForce,
            CertificateError::Other(why) if why.0.is::<IdentityRefused>() => Self::IdentityRefused,
            _ => Self::CertificateUntrusted,
        }
    }

    fn counter(self) -> usize {
        Self::ALL.iter().position(|one| *one == self).unwrap_or_default()
    }
}

/// How often connections failed for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedCount {
    /// Why.
    pub failure: HandshakeFailure,
    /// How often since the start.
    pub count: u64,
}

/// The counters of one listener. All only grow.
#[derive(Debug, Default)]
pub struct ListenerStats {
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    full: AtomicU64,
    refused: [AtomicU64; HandshakeFailure::ALL.len()],
}

impl ListenerStats {
    /// Connections handed to the server.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Errors of the listening socket itself, such as no free file descriptors.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// How often accepting paused because a limit was reached.
    #[must_use]
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Connections that ended before they were handed to the server, by reason.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedCount> {
        let counts = HandshakeFailure::ALL.iter().zip(&self.refused);
        counts
            .map(|(failure, count)| RefusedCount {
                failure: *failure,
                count: count.load(Ordering::Relaxed),
            })
            .collect()
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self, failure: HandshakeFailure) {
        if let Some(count) = self.refused.get(failure.counter()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
