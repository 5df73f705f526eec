//! rustls' own certificate verification, and after it the question who the certificate names.
//!
//! The answer is given inside the handshake, so that a peer without an identity gets a TLS alert and no connection.

use std::sync::Arc;

use countersign_core::spiffe::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::PeerIdentity;

/// More intermediates than this are not looked at; real chains have one or two.
const MAX_INTERMEDIATES: usize = 8;

/// The server is somebody else than the one that was meant to be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the server is `{}`, not `{expected}`", found.as_ref().map_or("nobody by SPIFFE ID", SpiffeId::as_str))]
pub(crate) struct WrongServer {
    pub(crate) expected: SpiffeId,
    pub(crate) found: Option<SpiffeId>,
}

#[derive(Debug)]
pub(crate) struct ClientVerifier(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of roots in the clear tell a stranger about us, and no client of ours chooses by them.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_length(intermediates)?;
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        PeerIdentity::from_der(end_entity).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) inner: Arc<dyn ServerCertVerifier>,
    pub(crate) expected: Option<SpiffeId>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_length(intermediates)?;
        let verified =
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let found = PeerIdentity::from_der(end_entity).map_err(refused)?.spiffe_id;
        match &self.expected {
            Some(expected) if found.as_ref() != Some(expected) => Err(refused(WrongServer {
                expected: expected.clone(),
                found,
            })),
            Some(_) | None => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn check_length(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
    Ok(())
}

fn refused(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

fn tls12() -> Error {
    Error::General("only TLS 1.3 is spoken".to_owned())
}
