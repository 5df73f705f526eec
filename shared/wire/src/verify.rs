//! `countersign.verify.v1`: decisions out.

use countersign_core::Rejection;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::names::Scope;
use countersign_proto::verify::v1;

use crate::{status, write_time};

/// A token that passed.
#[must_use]
pub fn write_allowed(claims: &Claims, audience: &str) -> v1::Allowed {
    v1::Allowed {
        subject: claims.subject.to_string(),
        client_id: claims.client_id.as_str().to_owned(),
        scopes: claims
            .scopes
            .iter()
            .map(|scope: &Scope| scope.as_str().to_owned())
            .collect(),
        token_id: claims.token_id.as_str().to_owned(),
        audience: audience.to_owned(),
        issued_at: Some(write_time(claims.issued_at)),
        expires_at: Some(write_time(claims.expires_at)),
        open_method: false,
        bound: claims.confirmation != Confirmation::Unbound,
    }
}

/// A request that did not. The caller is the protected service itself, so it is told precisely.
#[must_use]
pub fn write_refused(rejection: Rejection) -> v1::Refused {
    let outcome = rejection.outcome();
    v1::Refused {
        reason: rejection.reason().to_owned(),
        claim: rejection
            .claim()
            .map(|claim| claim.name().to_owned())
            .unwrap_or_default(),
        grpc_code: status::code(outcome).into(),
        http_status: i32::from(status::http_status(outcome)),
    }
}
