//! Under which names the service is told of its callers.

use countersign_verifier::identity::{self, IdentityHeaders};
use http::HeaderName;
use serde::Deserialize;

use super::Checker;

/// The section `[identity_headers]` as the operator wrote it. What is left out has its usual name; an empty name is none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    subject: Option<String>,
    client: Option<String>,
    scopes: Option<String>,
    token_id: Option<String>,
}

impl Checker {
    pub(super) fn identity_headers(&mut self, file: &File) -> IdentityHeaders {
        let written = [
            ("identity_headers.subject", &file.subject, identity::SUBJECT),
            ("identity_headers.client", &file.client, identity::CLIENT),
            ("identity_headers.scopes", &file.scopes, identity::SCOPES),
            ("identity_headers.token_id", &file.token_id, identity::TOKEN_ID),
        ];
        let mut taken: Vec<(&str, HeaderName)> = Vec::new();
        let names = written.map(|(key, written, usual)| {
            let name = match written.as_deref() {
                None => Some(usual),
                Some("") => None,
                Some(text) => self.complaints.accept(key, identity::header_name(text)),
            }?;
            let earlier = taken.iter().find(|(_, other)| identity::are_same(other, &name));
            if let Some((earlier, _)) = earlier {
                self.complaints
                    .push(key, format_args!("is the same header as `{earlier}`"));
            }
            taken.push((key, name.clone()));
            Some(name)
        });
        IdentityHeaders::named(names)
    }
}
