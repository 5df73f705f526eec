//! `countersign.token.v1`: requests in, tokens out.

use countersign_core::issuing::{Granted, TokenRequest};
use countersign_core::names::Scope;
use countersign_proto::token::v1;

/// What is asked for. Credentials stay behind: they are read where the client is authenticated.
#[must_use]
pub fn read_request(request: &v1::IssueTokenRequest) -> TokenRequest {
    TokenRequest {
        grant_type: request.grant_type.clone(),
        audience: request.audience.clone(),
        scopes: request.scopes.clone(),
        lifetime_seconds: request.lifetime_seconds,
    }
}

/// The answer with `access_token`.
#[must_use]
pub fn write_response(access_token: String, granted: &Granted) -> v1::IssueTokenResponse {
    v1::IssueTokenResponse {
        access_token,
        token_type: "Bearer".to_owned(),
        expires_in: i64::try_from(granted.lifetime.as_secs()).unwrap_or(i64::MAX),
        scopes: granted
            .scopes
            .iter()
            .map(|scope: &Scope| scope.as_str().to_owned())
            .collect(),
        audience: granted.audience.as_str().to_owned(),
    }
}
