//! The decision as Envoy takes it: what becomes of the request's headers, or the answer in the service's place; and what Envoy's
//! access log and its other filters may know.
//!
//! A gRPC caller gets the very status that the proxy would send, details included: Envoy fills in from the HTTP status only what
//! the headers of a denial leave out.

use bytes::Bytes;
use countersign_core::names::Scope;
use countersign_core::trust::Epoch;
use countersign_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use countersign_verifier::identity::{IdentityHeaders, USUAL};
use countersign_verifier::verifier::{Admission, Decision, Denied};
use countersign_wire::protobuf::Writer;
use countersign_wire::status::{self, Disclosure};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use tonic::Code;

use super::request::Kind;
use crate::proxy::{Refusal, TokenForwarding};

/// Bytes that an answer usually has fewer of.
const USUAL_LENGTH: usize = 1024;

// The fields that are written, by message (proto/envoy/service/auth/v3/external_auth.proto).

/// Those of `CheckResponse`.
mod response {
    pub(super) const STATUS: u32 = 1;
    pub(super) const DENIED: u32 = 2;
    pub(super) const OK: u32 = 3;
    pub(super) const METADATA: u32 = 4;
}

/// Those of `DeniedHttpResponse`, and of `OkHttpResponse`.
mod http_response {
    pub(super) const STATUS: u32 = 1;
    pub(super) const HEADERS: u32 = 2;
    pub(super) const BODY: u32 = 3;
    pub(super) const HEADERS_TO_REMOVE: u32 = 5;
}

/// Those of `HeaderValueOption`.
mod option {
    pub(super) const HEADER: u32 = 1;
    pub(super) const APPEND_ACTION: u32 = 3;
}

/// Those of `google.protobuf.Value`.
mod value {
    pub(super) const NUMBER: u32 = 2;
    pub(super) const STRING: u32 = 3;
    pub(super) const LIST: u32 = 6;
}

/// The first and the second field: of `Status` code and message, of `HeaderValue` and entries of maps key and value.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// Lets a request with these headers pass, as it was decided.
pub(super) fn allowed(
    admission: &Admission,
    decided: &Decision,
    headers: &HeaderMap,
    names: &IdentityHeaders,
    tokens: TokenForwarding,
) -> Bytes {
    let told: Vec<_> = match admission {
        Admission::Token(admitted) => names.told(admitted.identity()).collect(),
        Admission::Open => Vec::new(),
    };
    // Those that we set are overwritten; Envoy removes after it has set.
    let is_told = |name: &HeaderName| told.iter().any(|(told, _)| *told == name);
    let mut removed = reserved(headers, names);
    removed.retain(|name| !is_told(name));
    if tokens == TokenForwarding::Withhold {
        removed.push(&AUTHORIZATION);
    }
    Writer::framed(USUAL_LENGTH, |answer| {
        write_status(answer, Code::Ok, "");
        answer.message(response::OK, |ok| {
            write_headers(ok, told.iter().copied());
            for name in &removed {
                ok.text(http_response::HEADERS_TO_REMOVE, name);
            }
        });
        answer.message(response::METADATA, |metadata| {
            write_admitted(metadata, admission, decided);
        });
    })
}

/// The names that a service could take for our word: those that are chosen, the usual ones, and whatever else the request has of
/// them. Envoy may have been told not to show all of its headers.
fn reserved<'a>(headers: &'a HeaderMap, names: &'a IdentityHeaders) -> Vec<&'a HeaderName> {
    let mut reserved: Vec<&HeaderName> = names.names().collect();
    let others = headers.keys().filter(|name| names.claim(name));
    for name in USUAL.iter().chain(others) {
        if !reserved.contains(&name) {
            reserved.push(name);
        }
    }
    reserved
}

/// Does not let a request of this kind pass. What its caller is told is what the proxy would answer.
pub(super) fn denied(refusal: &Refusal, kind: Kind, epoch: Epoch, disclosure: Disclosure) -> Bytes {
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
    Writer::framed(USUAL_LENGTH, |answer| {
        write_status(answer, told.code(), refusal.reason());
        answer.message(response::DENIED, |denied| {
            denied.message(http_response::STATUS, |status| {
                status.number(FIRST, http_status.into());
            });
            write_headers(denied, headers.iter());
            denied.text(http_response::BODY, &body);
        });
        answer.message(response::METADATA, |metadata| {
            write_refused(metadata, refusal, epoch)
        });
    })
}

/// How soon to come again, where the refusal is not for the request's own fault.
fn retry_after(told: &tonic::Status) -> Option<HeaderValue> {
    (told.code() == Code::Unavailable).then(|| HeaderValue::from(status::RETRY_AFTER.as_secs()))
}

fn write_status(answer: &mut Writer, code: Code, message: &str) {
    answer.message(response::STATUS, |status| {
        status.number(FIRST, i32::from(code).unsigned_abs());
        status.text(SECOND, message);
    });
}

/// Each header in the place of all of its name.
fn write_headers<'a>(answer: &mut Writer, headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in headers {
        answer.message(http_response::HEADERS, |option| {
            option.message(option::HEADER, |header| {
                header.text(FIRST, name);
                // All of ours are ASCII: names by their grammars, the rest as it is written here.
                header.text(SECOND, value.to_str().unwrap_or_default());
            });
            let action = i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd);
            option.number(option::APPEND_ACTION, action.unsigned_abs());
        });
    }
}

fn write_admitted(metadata: &mut Writer, admission: &Admission, decided: &Decision) {
    match (admission, &decided.observed) {
        (Admission::Token(_), _) => write_decision(metadata, "allowed", "token_verified", decided.epoch),
        (Admission::Open, None) => write_decision(metadata, "allowed", "method_open", decided.epoch),
        (Admission::Open, Some(observed)) => {
            let reason = observed.denied.rejection.reason();
            write_decision(metadata, "observed", reason, decided.epoch);
        }
    }
    if let Admission::Token(admitted) = admission {
        let claims = admitted.claims();
        write_text(metadata, "client", claims.client_id.as_str());
        write_text(metadata, "subject", &claims.subject.to_string());
        entry(metadata, "scopes", |value| {
            value.message(value::LIST, |list| {
                for scope in &claims.scopes {
                    list.message(FIRST, |value| value.text(value::STRING, Scope::as_str(scope)));
                }
            });
        });
        write_text(metadata, "token_id", claims.token_id.as_str());
    }
}

/// Envoy is told precisely, however little its callers are.
fn write_refused(metadata: &mut Writer, refusal: &Refusal, epoch: Epoch) {
    write_decision(metadata, "refused", refusal.reason(), epoch);
    if let Refusal::Rejected(Denied {
        stale: Some(stale), ..
    }) = refusal
    {
        write_text(metadata, "stale", stale.data.name());
        write_text(metadata, "class", stale.class.as_str());
        if let Some(age) = stale.age {
            write_number(metadata, "age_seconds", age.as_secs());
        }
    }
}

fn write_decision(metadata: &mut Writer, decision: &str, reason: &str, epoch: Epoch) {
    write_text(metadata, "decision", decision);
    write_text(metadata, "reason", reason);
    write_number(metadata, "epoch", epoch);
}

fn write_text(metadata: &mut Writer, name: &str, text: &str) {
    entry(metadata, name, |value| value.text(value::STRING, text));
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "JSON's numbers; exact up to 2^53, which no epoch reaches"
)]
fn write_number(metadata: &mut Writer, name: &str, number: u64) {
    entry(metadata, name, |value| value.double(value::NUMBER, number as f64));
}

/// An entry of a `google.protobuf.Struct`.
fn entry(metadata: &mut Writer, name: &str, write: impl FnOnce(&mut Writer)) {
    metadata.message(FIRST, |entry| {
        entry.text(FIRST, name);
        entry.message(SECOND, write);
    });
}
