//! The decision as Envoy takes it: what becomes of the request's headers, or the answer in the service's place; and what Envoy's
//! access log and its other filters may know.
//!
//! A gRPC caller gets the very status that the proxy would send, details included: Envoy fills in from the HTTP status only what
//! the headers of a denial leave out.

use std::collections::BTreeMap;

use countersign_core::names::Scope;
use countersign_core::trust::Epoch;
use countersign_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use countersign_proto::envoy::config::core::v3::{HeaderValue as Header, HeaderValueOption};
use countersign_proto::envoy::service::auth::v3::check_response::HttpResponse;
use countersign_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use countersign_proto::envoy::r#type::v3::HttpStatus;
use countersign_proto::google::rpc::Status;
use countersign_verifier::identity::{CLIENT, IdentityHeaders, SCOPES, SUBJECT, TOKEN_ID};
use countersign_verifier::verifier::{Admission, Decision, Denied};
use countersign_wire::status::{self, Disclosure};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use super::request::Kind;
use crate::proxy::{Refusal, TokenForwarding};

/// Lets a request with these headers pass, as it was decided.
pub(super) fn allowed(
    admission: &Admission,
    decided: &Decision,
    headers: &HeaderMap,
    names: &IdentityHeaders,
    tokens: TokenForwarding,
) -> CheckResponse {
    let mut told = HeaderMap::new();
    if let Admission::Token(admitted) = admission {
        names.tell(admitted.identity(), &mut told);
    }
    // Those that we set are overwritten; Envoy removes after it has set.
    let mut removed: Vec<String> = reserved(headers, names)
        .into_iter()
        .filter(|name| !told.contains_key(name))
        .map(|name| name.as_str().to_owned())
        .collect();
    if tokens == TokenForwarding::Withhold {
        removed.push(AUTHORIZATION.as_str().to_owned());
    }
    CheckResponse {
        status: Some(rpc_status(Code::Ok, String::new())),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: options(&told),
            headers_to_remove: removed,
        })),
        dynamic_metadata: Some(admitted_metadata(admission, decided)),
    }
}

/// The names that a service could take for our word: those that are chosen, the usual ones, and whatever else the request has of
/// them. Envoy may have been told not to show all of its headers.
fn reserved(headers: &HeaderMap, names: &IdentityHeaders) -> Vec<HeaderName> {
    let mut reserved: Vec<HeaderName> = names.names().cloned().collect();
    let usual = [SUBJECT, CLIENT, SCOPES, TOKEN_ID].into_iter();
    let others = headers.keys().filter(|name| names.claim(name)).cloned();
    for name in usual.chain(others) {
        if !reserved.contains(&name) {
            reserved.push(name);
        }
    }
    reserved
}

/// Does not let a request of this kind pass. What its caller is told is what the proxy would answer.
pub(super) fn denied(refusal: &Refusal, kind: Kind, epoch: Epoch, disclosure: Disclosure) -> CheckResponse {
    let told = refusal.status(disclosure);
    let http = refusal.respond_http(disclosure);
    let http_status = http.status().as_u16();
    let (mut headers, body) = match kind {
        // The message is in the headers.
        Kind::Grpc => {
            let mut headers = refusal.respond::<()>(disclosure).into_parts().0.headers;
            headers.remove(CONTENT_TYPE);
            (headers, String::new())
        }
        Kind::Http => (http.headers().clone(), http.into_body()),
    };
    if let Some(seconds) = retry_after(&told) {
        headers.insert(RETRY_AFTER, seconds);
    }
    CheckResponse {
        status: Some(rpc_status(told.code(), refusal.reason().to_owned())),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: i32::from(http_status),
            }),
            headers: options(&headers),
            body,
        })),
        dynamic_metadata: Some(refused_metadata(refusal, epoch)),
    }
}

/// How soon to come again, where the refusal is not for the request's own fault.
fn retry_after(told: &tonic::Status) -> Option<HeaderValue> {
    (told.code() == Code::Unavailable).then(|| HeaderValue::from(status::RETRY_AFTER.as_secs()))
}

fn rpc_status(code: Code, message: String) -> Status {
    Status {
        code: code.into(),
        message,
        details: Vec::new(),
    }
}

/// Each header in the place of all of its name.
fn options(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    let option = |(name, value): (&HeaderName, &HeaderValue)| HeaderValueOption {
        header: Some(Header {
            key: name.as_str().to_owned(),
            // All of ours are ASCII: names by their grammars, the rest as it is written here.
            value: value.to_str().unwrap_or_default().to_owned(),
            raw_value: Vec::new(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    };
    headers.iter().map(option).collect()
}

fn admitted_metadata(admission: &Admission, decided: &Decision) -> Struct {
    let mut fields = match (admission, &decided.observed) {
        (Admission::Token(_), _) => decision("allowed", "token_verified", decided.epoch),
        (Admission::Open, None) => decision("allowed", "method_open", decided.epoch),
        (Admission::Open, Some(observed)) => {
            decision("observed", observed.denied.rejection.reason(), decided.epoch)
        }
    };
    if let Admission::Token(admitted) = admission {
        let claims = admitted.claims();
        let scopes = claims.scopes.iter().map(Scope::as_str).map(text);
        fields.extend([
            ("client".to_owned(), text(claims.client_id.as_str())),
            ("subject".to_owned(), text(&claims.subject.to_string())),
            ("scopes".to_owned(), list(scopes.collect())),
            ("token_id".to_owned(), text(claims.token_id.as_str())),
        ]);
    }
    Struct { fields }
}

/// Envoy is told precisely, however little its callers are.
fn refused_metadata(refusal: &Refusal, epoch: Epoch) -> Struct {
    let mut fields = decision("refused", refusal.reason(), epoch);
    if let Refusal::Rejected(Denied {
        stale: Some(stale), ..
    }) = refusal
    {
        fields.insert("stale".to_owned(), text(stale.data.name()));
        fields.insert("class".to_owned(), text(stale.class.as_str()));
        if let Some(age) = stale.age {
            fields.insert("age_seconds".to_owned(), number(age.as_secs()));
        }
    }
    Struct { fields }
}

fn decision(decision: &str, reason: &str, epoch: Epoch) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("decision".to_owned(), text(decision)),
        ("reason".to_owned(), text(reason)),
        ("epoch".to_owned(), number(epoch)),
    ])
}

fn text(text: &str) -> Value {
    value(ValueKind::StringValue(text.to_owned()))
}

fn list(values: Vec<Value>) -> Value {
    value(ValueKind::ListValue(ListValue { values }))
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "JSON's numbers; exact up to 2^53, which no epoch reaches"
)]
fn number(number: u64) -> Value {
    value(ValueKind::NumberValue(number as f64))
}

const fn value(kind: ValueKind) -> Value {
    Value { kind: Some(kind) }
}
