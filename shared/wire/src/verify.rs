//! `countersign.verify.v1`: decisions out.

use std::time::Duration;

use countersign_core::Rejection;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::names::Scope;
use countersign_core::staleness::Stale;
use countersign_proto::verify::v1;

use crate::{status, write_time};

/// A length of time in whole milliseconds.
#[must_use]
pub fn write_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

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

/// A request that did not, with what is too old where that is the reason. The caller is the protected service itself, so it is
/// told precisely.
#[must_use]
pub fn write_refused(rejection: Rejection, stale: Option<&Stale>) -> v1::Refused {
    let outcome = rejection.outcome();
    v1::Refused {
        reason: rejection.reason().to_owned(),
        claim: rejection
            .claim()
            .map(|claim| claim.name().to_owned())
            .unwrap_or_default(),
        grpc_code: status::code(outcome).into(),
        http_status: i32::from(status::http_status(outcome)),
        stale: stale.map(|stale| v1::Stale {
            class: stale.class.as_str().to_owned(),
            data: stale.data.name().to_owned(),
            age_ms: stale.age.map(write_millis),
        }),
    }
}
