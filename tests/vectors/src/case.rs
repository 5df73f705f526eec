//! One row of the table.

use countersign_core::bearer::from_authorization;
use countersign_core::requirements::Requirements;
use countersign_core::trust::TrustState;
use countersign_core::verifying::{Presentation, VerifiedToken, verify};
use countersign_core::{Rejection, Timestamp};

use crate::setting::Setting;

/// The answer that a case must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The request passes.
    Accept,
    /// The request is refused for this reason.
    Reject(Rejection),
}

/// On what connection the request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It does not matter.
    Any,
    /// With the certificate of [`Setting::holder`].
    Holder,
    /// With that of [`Setting::renewed`].
    Renewed,
    /// With that of [`Setting::revoked`].
    Revoked,
    /// Without a certificate.
    Nobody,
}

/// What the method called asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A token for the audience.
    Plain,
    /// Also the scope [`Setting::scope`].
    Scoped,
    /// Also a token bound to the caller's certificate, or to its SPIFFE ID.
    Bound,
}

impl Method {
    /// Every kind of method.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Scoped, Self::Bound];

    /// The requirements of the method.
    #[must_use]
    pub fn requirements(self, setting: &Setting) -> Requirements {
        Requirements {
            scopes: match self {
                Self::Scoped => vec![setting.scope.clone()],
                Self::Plain | Self::Bound => Vec::new(),
            },
            bound: self == Self::Bound,
            ..Requirements::default()
        }
    }
}

/// One request and the answer that it must get.
#[derive(Clone, Debug)]
pub struct Case {
    /// The line of the catalogue, such as `T31`.
    pub id: &'static str,
    /// What is special about the request.
    pub name: String,
    /// The values of its `authorization` fields.
    pub authorization: Vec<Vec<u8>>,
    /// The connection.
    pub peer: Peer,
    /// The method called.
    pub method: Method,
    /// Whether the answer holds for [`Setting::now`] only, to the second. A running verifier cannot be asked these.
    pub frozen_clock: bool,
    /// The answer.
    pub expected: Expected,
}

impl Case {
    /// Whether the `authorization` fields can stand in an HTTP/2 request: no control characters, and together with the
    /// rest of the request below the usual limit of 16 KiB for a header list.
    #[must_use]
    pub fn is_sendable(&self) -> bool {
        let allowed = |byte: &u8| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f);
        let length: usize = self.authorization.iter().map(Vec::len).sum();
        length <= 12 * 1024
            && self.authorization.iter().flatten().all(allowed)
            && self
                .authorization
                .iter()
                .all(|value| value.trim_ascii() == value.as_slice())
    }

    /// The token, when the request has exactly one well-formed `authorization` field.
    #[must_use]
    pub fn token(&self) -> Option<&[u8]> {
        from_authorization(self.authorization.iter().map(Vec::as_slice)).ok()
    }

    /// The answer of core to this request, at [`Setting::now`].
    ///
    /// # Errors
    /// The [`Rejection`].
    pub fn decide(&self, setting: &Setting) -> Result<VerifiedToken, Rejection> {
        self.decide_at(setting, &setting.trust_state(), setting.now)
    }

    /// The answer of core to this request on `state`, at another time.
    ///
    /// # Errors
    /// The [`Rejection`].
    pub fn decide_at(
        &self,
        setting: &Setting,
        state: &TrustState,
        now: Timestamp,
    ) -> Result<VerifiedToken, Rejection> {
        let token = from_authorization(self.authorization.iter().map(Vec::as_slice))?;
        let requirements = self.method.requirements(setting);
        let presented = Presentation {
            peer_certificate: match self.peer {
                Peer::Holder => Some(&setting.holder),
                Peer::Renewed => Some(&setting.renewed),
                Peer::Revoked => Some(&setting.revoked),
                Peer::Any | Peer::Nobody => None,
            },
            requirements: &requirements,
        };
        let view = setting.view(state);
        verify(token, Ok(view), &setting.expectations(), &presented, now)
    }

    /// With `method` in place of the plain one.
    #[must_use]
    pub(crate) const fn calling(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// On the connection `peer`.
    #[must_use]
    pub(crate) const fn presented_by(mut self, peer: Peer) -> Self {
        self.peer = peer;
        self
    }

    /// True to the second only.
    #[must_use]
    pub(crate) const fn frozen(mut self) -> Self {
        self.frozen_clock = true;
        self
    }
}
