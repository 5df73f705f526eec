//! The table T, section by section.

mod authorization;
mod binding;
mod claims;
mod form;
mod header;
mod signature;
mod times;

use countersign_core::{Claim, Rejection};

use crate::case::{Case, Expected, Method, Peer};
use crate::setting::{Role, Setting};
use crate::workshop::Object;

/// Every case for `setting`. The order matters in one place: T89 and T90 are sequences, for verifiers that remember.
#[must_use]
pub fn cases(setting: &Setting) -> Vec<Case> {
    let mut table = Table {
        setting,
        cases: Vec::new(),
    };
    authorization::add(&mut table);
    form::add(&mut table);
    header::add(&mut table);
    signature::add(&mut table);
    claims::add(&mut table);
    times::add(&mut table);
    binding::add(&mut table);
    table.cases
}

/// The table in the making.
struct Table<'a> {
    setting: &'a Setting,
    cases: Vec<Case>,
}

impl Table<'_> {
    /// A request with these `authorization` fields.
    fn fields(&mut self, id: &'static str, name: &str, authorization: &[&[u8]], expected: Expected) {
        self.case(Case {
            id,
            name: name.to_owned(),
            authorization: authorization.iter().map(|field| field.to_vec()).collect(),
            peer: Peer::Any,
            method: Method::Plain,
            frozen_clock: false,
            expected,
        });
    }

    /// A request with `token` as its bearer token.
    fn token(&mut self, id: &'static str, name: &str, token: impl AsRef<[u8]>, expected: Expected) {
        self.case(bearer(id, name, token, expected));
    }

    /// A request with a token under the active key, whose payload is `payload`.
    fn payload(&mut self, id: &'static str, name: &str, payload: &Object, expected: Expected) {
        let token = self.setting.token(Role::Active, payload);
        self.token(id, name, token, expected);
    }

    /// A request with a token under the active key, whose header is `header`.
    fn header(&mut self, id: &'static str, name: &str, header: &Object, expected: Expected) {
        let token = self
            .setting
            .token_with(Role::Active, header, &self.setting.payload());
        self.token(id, name, token, expected);
    }

    fn case(&mut self, case: Case) {
        self.cases.push(case);
    }
}

fn bearer(id: &'static str, name: &str, token: impl AsRef<[u8]>, expected: Expected) -> Case {
    Case {
        id,
        name: name.to_owned(),
        authorization: vec![[b"Bearer ", token.as_ref()].concat()],
        peer: Peer::Any,
        method: Method::Plain,
        frozen_clock: false,
        expected,
    }
}

const ACCEPT: Expected = Expected::Accept;
const MALFORMED: Expected = Expected::Reject(Rejection::TokenMalformed);
const SIG_INVALID: Expected = Expected::Reject(Rejection::SigInvalid);
const ALG_NOT_ALLOWED: Expected = Expected::Reject(Rejection::AlgNotAllowed);
const FORBIDDEN: Expected = Expected::Reject(Rejection::HeaderForbidden);

const fn reject(rejection: Rejection) -> Expected {
    Expected::Reject(rejection)
}

const fn wrong(claim: Claim) -> Expected {
    Expected::Reject(Rejection::ClaimMalformed(claim))
}
