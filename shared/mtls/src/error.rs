//! Why TLS files cannot be put into force.

use std::path::PathBuf;

use crate::files::{FileError, TlsFiles};
use crate::identity::IdentityRefused;

/// The files do not make a usable TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate of the trust roots cannot be a root.
    #[error("`{}` has a certificate that cannot be a trust root", path.display())]
    TrustRoots {
        /// The trust roots.
        path: PathBuf,
        /// What rustls says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Our own certificate does not say who we are.
    #[error("`{}` is no certificate for a workload", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityRefused,
    },
    /// The private key is of another certificate.
    #[error("the key in `{}` is not the key of the certificate in `{}`", private_key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The private key.
        private_key: PathBuf,
    },
    /// rustls refuses the combination.
    #[error("certificate and key cannot be used for TLS")]
    Rustls(#[source] rustls::Error),
    /// The address to connect to is no `https://host[:port]`.
    #[error("`{uri}` is no address of the form `https://host:port`")]
    Address {
        /// What was given.
        uri: String,
    },
    /// The name that the server's certificate must have is no DNS name or IP address.
    #[error("`{name}` is no DNS name or IP address")]
    ServerName {
        /// What was given.
        name: String,
    },
}

impl TlsError {
    /// Says of which files rustls speaks, where it says that they do not belong together.
    pub(crate) fn with_files(self, files: &TlsFiles) -> Self {
        if matches!(self, Self::Rustls(rustls::Error::InconsistentKeys(_))) {
            let (certificate, private_key) = (files.certificate.clone(), files.private_key.clone());
            return Self::KeyMismatch {
                certificate,
                private_key,
            };
        }
        self
    }
}
