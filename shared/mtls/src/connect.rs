//! Why a connection to a server could not be made, in words that say what to do.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as RustlsError, OtherError};

use crate::identity::IdentityRefused;
use crate::verifiers::WrongServer;

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, or nobody listens.
    #[error("`{address}` cannot be reached")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("`{address}` did not answer within {within:?}")]
    TimedOut {
        /// Host and port.
        address: String,
        /// The time given.
        within: Duration,
    },
    /// The server requires a client certificate, and got none.
    #[error("the server requires a client certificate; configure `certificate` and `private_key`")]
    CertificateRequired,
    /// The server refused our certificate.
    #[error(
        "the server refused our certificate ({alert}); is it in force, and from a root that the server trusts?"
    )]
    CertificateRefused {
        /// The TLS alert that it sent.
        alert: String,
    },
    /// The server's certificate does not come from our trust roots, or not for this name.
    #[error("the server's certificate is not trusted; check `trust_roots` and the name in the address")]
    ServerUntrusted(#[source] RustlsError),
    /// The server is somebody else.
    #[error("the server is not who it should be")]
    WrongServer(#[source] Arc<dyn Error + Send + Sync>),
    /// The server does not speak HTTP/2; or, where that is asked for, HTTP/1.1.
    #[error("the server does not speak the protocol that is asked for, HTTP/2 or HTTP/1.1")]
    NoHttp2,
    /// The handshake failed for another reason.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

impl ConnectError {
    /// The connect error in the chain of causes of `error`, if one is there: tonic wraps it several times.
    #[must_use]
    pub fn in_chain<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        causes(error).find_map(|cause| cause.downcast_ref())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are non-exhaustive")]
    pub(crate) fn of_handshake(error: io::Error) -> Self {
        let Some(rustls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<RustlsError>())
        else {
            return Self::Handshake(error);
        };
        match rustls {
            RustlsError::AlertReceived(AlertDescription::CertificateRequired) => Self::CertificateRequired,
            RustlsError::AlertReceived(alert) if is_about_certificate(*alert) => Self::CertificateRefused {
                alert: format!("{alert:?}"),
            },
            RustlsError::NoApplicationProtocol
            | RustlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NoHttp2,
            RustlsError::InvalidCertificate(CertificateError::Other(why)) if is_about_identity(why) => {
                Self::WrongServer(Arc::clone(&why.0))
            }
            RustlsError::InvalidCertificate(_) => Self::ServerUntrusted(rustls.clone()),
            _ => Self::Handshake(error),
        }
    }
}

fn is_about_identity(why: &OtherError) -> bool {
    why.0.is::<WrongServer>() || why.0.is::<IdentityRefused>()
}

const fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
