//! `RevocationService`: operators take tokens back.

use std::fmt;

use countersign_core::claims::Claims;
use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::names::{ClientId, KeyId, TokenId};
use countersign_core::staleness::StalenessBudget;
use countersign_core::verifying::{TrustView, authenticate};
use countersign_core::{BearerToken, Rejection, Timestamp};
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::revocation_service_server::RevocationService;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_wire::admin::{read_client_id, read_key_id, read_token_id, write_revocation};
use countersign_wire::read_time;
use countersign_wire::status::{self, Failure};
use tonic::{Request, Response, Status};

use super::issuing::TokenIds;
use super::keys::KeyPolicy;
use super::{Action, Desk, Ended, check_reason, ledger_status, page_size};
use crate::fleet::Fleet;
use crate::ledger::{Done, LedgerError, Revoked};

/// The service.
#[derive(Clone, Debug)]
pub struct Revocations {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
    /// The rules for keys.
    pub keys: KeyPolicy,
}

/// What is to be revoked, read and found.
enum Wanted {
    /// One token. Shown whole, it is one that was signed here.
    Token(Box<Claims>),
    /// A token under a key whose tokens are all refused already. Its claims cannot be trusted.
    UnderCompromisedKey,
    /// One token, by its identifier.
    TokenId(TokenId),
    /// A client's tokens.
    Client(ClientId),
    /// A key.
    Key(KeyId),
    /// All tokens up to a time.
    Everything(Timestamp),
}

/// How it stands in the audit trail.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(claims) => write!(f, "{} of {}", claims.token_id, claims.client_id),
            Self::UnderCompromisedKey => f.write_str("(a token under a compromised key)"),
            Self::TokenId(token_id) => token_id.fmt(f),
            Self::Client(client_id) => client_id.fmt(f),
            Self::Key(key_id) => key_id.fmt(f),
            Self::Everything(time) => write!(f, "issued before {time}"),
        }
    }
}

impl Revocations {
    async fn revoke(self, request: v1::RevokeRequest) -> Ended<v1::RevokeResponse> {
        match self.read(request) {
            Ok(wanted) => Ended {
                subject: Some(wanted.to_string()),
                result: self.take_back(wanted).await,
            },
            Err(status) => Ended::from(Err(status)),
        }
    }

    fn read(&self, request: v1::RevokeRequest) -> Result<Wanted, Status> {
        check_reason(&request.reason)?;
        match request.subject {
            Some(Subject::Token(token)) => self.presented(&token),
            Some(Subject::TokenId(token_id)) => read_token_id(&token_id)
                .and_then(|token_id| if TokenIds::could_give(&token_id) {
                    Ok(Wanted::TokenId(token_id))
                } else {
                    // Accepted, it would look as if a token had been revoked.
                    Err(status::invalid("token_id", "is no `jti` of this authority: two lower-case hexadecimal numbers and a point between"))
                }),
            Some(Subject::ClientId(client_id)) => read_client_id(&client_id).map(Wanted::Client),
            Some(Subject::KeyId(key_id)) => read_key_id(&key_id).map(Wanted::Key),
            Some(Subject::IssuedBefore(time)) => read_time(&time)
                .filter(|time| *time <= self.desk.ledger.timeline().now())
                .map(Wanted::Everything)
                .ok_or_else(|| status::invalid("issued_before", "is no time in the past")),
            Some(Subject::SubjectName(_) | Subject::Audience(_) | Subject::CertificateThumbprint(_)) | None => Err(status::invalid(
                "subject",
                "is missing: name a token, a token id, a client, a key or a time",
            )),
        }
    }

    /// Reads a token that need not be valid any more: it must be one that a key of ours signed.
    fn presented(&self, token: &str) -> Result<Wanted, Status> {
        let token = BearerToken::new(token.as_bytes())
            .map_err(|_length| status::invalid("token", "is empty or over 8 KiB"))?;
        let books = self.desk.ledger.books();
        let view = TrustView::current(&books.trust);
        match authenticate(token.as_bytes(), Ok(view), &StalenessBudget::STRICT) {
            Ok((_, authentic)) => Ok(Wanted::Token(Box::new(authentic.claims().clone()))),
            Err(Rejection::KeyRevoked) => Ok(Wanted::UnderCompromisedKey),
            Err(_not_ours) => Err(status::failed(Failure::TokenNotOurs)),
        }
    }

    async fn take_back(&self, wanted: Wanted) -> Result<v1::RevokeResponse, Status> {
        let ledger = &self.desk.ledger;
        let (done, token_id) = match wanted {
            Wanted::Token(claims) => (ledger.revoke_token(&claims).await, Some(claims.token_id)),
            Wanted::UnderCompromisedKey => (Ok(self.nothing_to_do()), None),
            Wanted::TokenId(token_id) => (ledger.revoke_token_id(token_id.clone()).await, Some(token_id)),
            Wanted::Client(client_id) => (ledger.revoke_client(client_id).await, None),
            Wanted::Key(key_id) => (self.revoke_key(key_id).await, None),
            Wanted::Everything(time) => (ledger.revoke_everything(time).await, None),
        };
        let done = done.map_err(ledger_status)?;
        let token_id = token_id.map_or_else(String::new, |token_id| token_id.as_str().to_owned());
        Ok(self.answer(&done, token_id).await)
    }

    async fn revoke_key(&self, key_id: KeyId) -> Result<Done<Revoked>, LedgerError> {
        let ledger = &self.desk.ledger;
        let books = ledger.books();
        let known = books.ring.find(&key_id);
        if known.is_some_and(|key| key.times().compromised_at.is_some()) {
            return Ok(self.nothing_to_do());
        }
        let done = ledger.compromise_key(key_id, self.keys.algorithm).await?;
        Ok(Done {
            answer: Revoked::Now,
            books: done.books,
        })
    }

    fn nothing_to_do(&self) -> Done<Revoked> {
        Done {
            answer: Revoked::Already,
            books: self.desk.ledger.books(),
        }
    }

    /// Says how far it has come.
    async fn answer(&self, done: &Done<Revoked>, token_id: String) -> v1::RevokeResponse {
        let epoch = done.books.trust.epoch();
        let reach = self.fleet.reach_soon(epoch).await;
        v1::RevokeResponse {
            epoch,
            verifiers: reach.connected,
            in_force: reach.acknowledged,
            token_id,
            already: done.answer == Revoked::Already,
            reach: None,
        }
    }

    async fn list(self, request: v1::ListRevocationsRequest) -> Result<v1::ListRevocationsResponse, Status> {
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(read_page_token(token)?),
        };
        let page = self.desk.ledger.list_revocations(after, size).await;
        let page = page.map_err(ledger_status)?;
        let books = self.desk.ledger.books();
        Ok(v1::ListRevocationsResponse {
            revocations: page.revocations.iter().map(write_revocation).collect(),
            next_page_token: page
                .next
                .map_or_else(String::new, |name| encode_segment(name.as_bytes())),
            total: u64::try_from(books.trust.revocations().len()).unwrap_or(u64::MAX),
        })
    }
}

fn read_page_token(token: &str) -> Result<String, Status> {
    decode_segment(token.as_bytes())
        .and_then(|name| String::from_utf8(name).ok())
        .filter(|name| name.len() <= 128)
        .ok_or_else(|| status::invalid("page_token", "is not one that was given out here"))
}

/// What is written to the audit trail when it is not found out what is meant: never a token.
fn action(request: &v1::RevokeRequest) -> Action {
    let (name, subject) = match &request.subject {
        None | Some(Subject::SubjectName(_) | Subject::Audience(_) | Subject::CertificateThumbprint(_)) => {
            ("revoke", "")
        }
        Some(Subject::Token(_)) => ("revoke_token", "(a token)"),
        Some(Subject::TokenId(token_id)) => ("revoke_token", token_id.as_str()),
        Some(Subject::ClientId(client_id)) => ("revoke_client", client_id.as_str()),
        Some(Subject::KeyId(key_id)) => ("revoke_key", key_id.as_str()),
        Some(Subject::IssuedBefore(_)) => ("revoke_everything", ""),
    };
    // A whole token in the wrong field is not written down. No identifier is longer than 64 bytes, no token shorter.
    let subject = if subject.len() > 64 {
        "(malformed)"
    } else {
        subject
    };
    Action::new(name, subject).because(&request.reason)
}

#[tonic::async_trait]
impl RevocationService for Revocations {
    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let revocations = self.clone();
        self.desk
            .serve(request, action, |request| revocations.revoke(request))
            .await
    }

    async fn list_revocations(
        &self,
        request: Request<v1::ListRevocationsRequest>,
    ) -> Result<Response<v1::ListRevocationsResponse>, Status> {
        let action = |_: &v1::ListRevocationsRequest| Action::new("list_revocations", "");
        let revocations = self.clone();
        self.desk
            .serve(request, action, |request| revocations.list(request))
            .await
    }
}
