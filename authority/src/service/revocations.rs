//! `RevocationService`: operators take tokens back.

use std::fmt;

use countersign_core::claims::Claims;
use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::names::{ClientId, KeyId, TokenId};
use countersign_core::revocation::RevokedSubject;
use countersign_core::staleness::StalenessBudget;
use countersign_core::verifying::{TrustView, authenticate};
use countersign_core::{BearerToken, Rejection, Timestamp};
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::revocation_service_server::RevocationService;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_wire::admin::{
    read_audience, read_client_id, read_key_id, read_subject_name, read_thumbprint, read_token_id,
    write_revocation,
};
use countersign_wire::status::{self, Failure};
use countersign_wire::{read_time, write_time};
use tonic::{Request, Response, Status};

use super::keys::KeyPolicy;
use super::{Action, Desk, Ended, check_reason, ledger_status, page_size};
use crate::fleet::Fleet;
use crate::ledger::{Done, LedgerError, LedgerPolicy, Revoked};
use crate::store::revocations::{read_subject, write_subject};

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
    /// The tokens of a subject, for an audience, or bound to a certificate, until now.
    AllOf(RevokedSubject),
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
            Self::AllOf(subject) => f.write_str(&write_subject(subject)),
            Self::Key(key_id) => key_id.fmt(f),
            Self::Everything(time) => write!(f, "issued before {time}"),
        }
    }
}

impl Wanted {
    /// Whose entry it makes. None: it makes none.
    fn subject(&self) -> Option<RevokedSubject> {
        match self {
            Self::Token(claims) => Some(RevokedSubject::Token(claims.token_id.clone())),
            Self::TokenId(token_id) => Some(RevokedSubject::Token(token_id.clone())),
            Self::Client(client_id) => Some(RevokedSubject::Client(client_id.clone())),
            Self::AllOf(subject) => Some(subject.clone()),
            Self::Everything(_) => Some(RevokedSubject::Everything),
            Self::UnderCompromisedKey | Self::Key(_) => None,
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
                .and_then(|token_id| if token_id.serial().is_some() {
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
            Some(Subject::SubjectName(subject)) => {
                read_subject_name(&subject).map(|subject| Wanted::AllOf(RevokedSubject::Subject(subject)))
            }
            Some(Subject::Audience(audience)) => {
                read_audience(&audience).map(|audience| Wanted::AllOf(RevokedSubject::Audience(audience)))
            }
            Some(Subject::CertificateThumbprint(thumbprint)) => read_thumbprint(&thumbprint)
                .map(|thumbprint| Wanted::AllOf(RevokedSubject::Certificate(thumbprint))),
            None => Err(status::invalid(
                "subject",
                "is missing: name a token, a token id, a client, a subject, an audience, a certificate, a key or a time",
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
        let ends = match &wanted {
            Wanted::Token(claims) => Some(LedgerPolicy::refused_from(claims.expires_at)),
            // Whoever has the key signs new tokens; and who has the certificate presents those that the workload gets from now on.
            Wanted::UnderCompromisedKey | Wanted::Key(_) | Wanted::AllOf(RevokedSubject::Certificate(_)) => {
                None
            }
            Wanted::TokenId(_) | Wanted::Client(_) | Wanted::AllOf(_) | Wanted::Everything(_) => {
                Some(self.desk.tokens_end())
            }
        };
        let subject = wanted.subject();
        let (done, token_id) = match wanted {
            Wanted::Token(claims) => (ledger.revoke_token(&claims).await, Some(claims.token_id)),
            Wanted::UnderCompromisedKey => (Ok(self.nothing_to_do()), None),
            Wanted::TokenId(token_id) => (ledger.revoke_token_id(token_id.clone()).await, Some(token_id)),
            Wanted::Client(client_id) => (ledger.revoke_client(client_id).await, None),
            Wanted::AllOf(subject) => (ledger.revoke_all_of(subject).await, None),
            Wanted::Key(key_id) => (self.revoke_key(key_id).await, None),
            Wanted::Everything(time) => (ledger.revoke_everything(time).await, None),
        };
        let done = done.map_err(ledger_status)?;
        let token_id = token_id.map_or_else(String::new, |token_id| token_id.as_str().to_owned());
        let entry = subject.and_then(|subject| done.books.trust.revocations().find(&subject));
        Ok(v1::RevokeResponse {
            expires_at: entry.map(|entry| write_time(entry.expires_at)),
            ..self.answer(&done, token_id, ends).await
        })
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
    async fn answer(
        &self,
        done: &Done<Revoked>,
        token_id: String,
        ends: Option<Timestamp>,
    ) -> v1::RevokeResponse {
        let epoch = done.books.trust.epoch();
        v1::RevokeResponse {
            epoch,
            reach: Some(self.desk.reach_soon(&self.fleet, epoch, ends).await),
            token_id,
            already: done.answer == Revoked::Already,
            expires_at: None,
        }
    }

    async fn list(self, request: v1::ListRevocationsRequest) -> Result<v1::ListRevocationsResponse, Status> {
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(read_page_token(token)?),
        };
        let page = self.desk.ledger.list_revocations(after.as_ref(), size);
        let books = self.desk.ledger.books();
        Ok(v1::ListRevocationsResponse {
            revocations: page.revocations.iter().map(write_revocation).collect(),
            next_page_token: page.next.map_or_else(String::new, |last| {
                encode_segment(write_subject(&last).as_bytes())
            }),
            total: u64::try_from(books.trust.revocations().len()).unwrap_or(u64::MAX),
        })
    }
}

fn read_page_token(token: &str) -> Result<RevokedSubject, Status> {
    decode_segment(token.as_bytes())
        .and_then(|last| String::from_utf8(last).ok())
        .and_then(|last| read_subject(&last))
        .ok_or_else(|| status::invalid("page_token", "is not one that was given out here"))
}

/// What is written to the audit trail when it is not found out what is meant: never a token.
fn action(request: &v1::RevokeRequest) -> Action {
    let (name, subject) = match &request.subject {
        None => ("revoke", ""),
        Some(Subject::Token(_)) => ("revoke_token", "(a token)"),
        Some(Subject::TokenId(token_id)) => ("revoke_token", token_id.as_str()),
        Some(Subject::ClientId(client_id)) => ("revoke_client", client_id.as_str()),
        Some(Subject::SubjectName(subject)) => ("revoke_subject", subject.as_str()),
        Some(Subject::Audience(audience)) => ("revoke_audience", audience.as_str()),
        Some(Subject::CertificateThumbprint(_)) => ("revoke_certificate", ""),
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
