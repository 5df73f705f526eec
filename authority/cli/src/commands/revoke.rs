//! `countersign revoke`: takes tokens back, and says how far it has come.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use countersign_core::Timestamp;
use countersign_core::names::{CertificateThumbprint, KeyId};
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_runtime::SystemClock;
use serde::Serialize;

use super::reach::{self, WaitArgs};
use super::{pages, token};
use crate::args::key_id;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::Failure;
use crate::output::{Output, Paint, Text};
use crate::{pki, present};

/// What to revoke.
#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// Revoke one token
    Token(RevokeTokenArgs),
    /// Revoke every token that a client was issued until now
    Client(RevokeClientArgs),
    /// Revoke every token with one `sub` that was issued until now
    Subject(RevokeSubjectArgs),
    /// Revoke every token for an audience that was issued until now
    Audience(RevokeAudienceArgs),
    /// Revoke every token bound to a certificate, and give no more over it
    Certificate(RevokeCertificateArgs),
    /// Revoke every token under a signing key, by declaring the key compromised
    Key(RevokeKeyArgs),
    /// Revoke every token that was issued at or before a time
    IssuedBefore(RevokeIssuedBeforeArgs),
    /// Show the revocations in force
    List(RevokeListArgs),
}

/// Which token.
#[derive(Debug, Args)]
pub(crate) struct RevokeTokenArgs {
    /// The token, or `-` to read it from stdin
    #[arg(required_unless_present = "id", conflicts_with = "id")]
    token: Option<String>,

    /// The token's `jti`, when the token itself is not at hand
    #[arg(long, value_name = "JTI")]
    id: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// Which client.
#[derive(Debug, Args)]
pub(crate) struct RevokeClientArgs {
    /// The client
    #[arg(value_name = "CLIENT")]
    client_id: String,

    #[command(flatten)]
    common: Common,
}

/// Which subject.
#[derive(Debug, Args)]
pub(crate) struct RevokeSubjectArgs {
    /// The `sub`: `client:<trust domain>/<client>`
    #[arg(value_name = "SUBJECT")]
    subject: String,

    #[command(flatten)]
    common: Common,
}

/// Which audience.
#[derive(Debug, Args)]
pub(crate) struct RevokeAudienceArgs {
    /// The audience
    #[arg(value_name = "AUDIENCE")]
    audience: String,

    #[command(flatten)]
    common: Common,
}

/// Which certificate.
#[derive(Debug, Args)]
pub(crate) struct RevokeCertificateArgs {
    /// The certificate, PEM
    #[arg(
        value_name = "FILE",
        required_unless_present = "thumbprint",
        conflicts_with = "thumbprint"
    )]
    certificate: Option<PathBuf>,

    /// Its thumbprint (`x5t#S256`), when the certificate itself is not at hand
    #[arg(long, value_name = "THUMBPRINT", allow_hyphen_values = true)]
    thumbprint: Option<String>,

    #[command(flatten)]
    common: Common,
}

impl RevokeCertificateArgs {
    fn thumbprint(&self) -> Result<CertificateThumbprint, Failure> {
        match (&self.certificate, &self.thumbprint) {
            (_, Some(thumbprint)) => {
                CertificateThumbprint::parse(thumbprint).map_err(|invalid| Failure::usage(invalid.expected))
            }
            (Some(certificate), None) => pki::thumbprint(certificate),
            (None, None) => Err(Failure::usage("name a certificate, or `--thumbprint`")),
        }
    }
}

/// Which key.
#[derive(Debug, Args)]
pub(crate) struct RevokeKeyArgs {
    /// The key's `kid`
    #[arg(allow_hyphen_values = true, value_parser = key_id)]
    kid: KeyId,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    common: Common,
}

/// Until when.
#[derive(Debug, Args)]
pub(crate) struct RevokeIssuedBeforeArgs {
    /// The time: RFC 3339 in UTC (`2027-01-15T08:00:00Z`), seconds since 1970, or `now`
    #[arg(value_parser = moment)]
    time: Moment,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    common: Common,
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct RevokeListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
struct Common {
    /// Why; goes into the audit record
    #[arg(long)]
    reason: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Now,
    At(Timestamp),
}

fn moment(text: &str) -> Result<Moment, String> {
    if text == "now" {
        return Ok(Moment::Now);
    }
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => Some(seconds),
        Err(_not_a_number) => humantime::parse_rfc3339(text)
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map(|since| since.as_secs()),
    };
    seconds
        .map(|seconds| Moment::At(Timestamp::from_seconds(seconds)))
        .ok_or_else(|| "write `2027-01-15T08:00:00Z`, seconds since 1970, or `now`".to_owned())
}

#[derive(Debug, Serialize)]
struct Revoked {
    revoked: Target,
    already: bool,
}

/// What is revoked, in the words of `revoke list`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Target {
    kind: &'static str,
    subject: Option<String>,
    issued_before: Option<String>,
    forgotten_at: Option<String>,
}

impl Target {
    /// Of a token that was given whole, the authority says which it is.
    fn of(subject: &Subject, answer: &v1::RevokeResponse) -> Self {
        let (kind, name) = match subject {
            Subject::Token(_) | Subject::TokenId(_) => ("token", Some(answer.token_id.clone())),
            Subject::ClientId(id) => ("client", Some(id.clone())),
            Subject::SubjectName(name) => ("subject", Some(name.clone())),
            Subject::Audience(audience) => ("audience", Some(audience.clone())),
            Subject::KeyId(kid) => ("key", Some(kid.clone())),
            Subject::IssuedBefore(_) => ("everything", None),
            Subject::CertificateThumbprint(thumbprint) => {
                let thumbprint = countersign_wire::admin::read_thumbprint(thumbprint);
                (
                    "certificate",
                    thumbprint.ok().map(|thumbprint| thumbprint.to_string()),
                )
            }
        };
        let issued_before = match subject {
            Subject::IssuedBefore(time) => present::wire_time(Some(time)),
            Subject::Token(_)
            | Subject::TokenId(_)
            | Subject::ClientId(_)
            | Subject::SubjectName(_)
            | Subject::Audience(_)
            | Subject::KeyId(_)
            | Subject::CertificateThumbprint(_) => None,
        };
        Self {
            kind,
            subject: name.filter(|name| !name.is_empty()),
            issued_before,
            forgotten_at: present::wire_time(answer.expires_at.as_ref()),
        }
    }

    /// A line about the end of the entry, where something has to be done before: no other outlives what it is about.
    fn end(&self) -> Option<String> {
        let until = self
            .forgotten_at
            .as_ref()
            .filter(|_| self.kind == "certificate")?;
        Some(format!(
            "\nkept until {until}: a certificate that is good for longer has to be revoked again before then"
        ))
    }
}

/// Revokes, or shows what is revoked.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: RevokeCommand, output: Output) -> Result<(), Failure> {
    match command {
        RevokeCommand::Token(args) => {
            let subject = match (args.token, args.id) {
                (_, Some(id)) => Subject::TokenId(id),
                (Some(token), None) => Subject::Token(token::read(&token)?),
                (None, None) => return Err(Failure::usage("name a token, or `--id`")),
            };
            revoke("token", subject, &args.common, output).await
        }
        RevokeCommand::Client(args) => {
            let what = format!("tokens of client {}", args.client_id);
            revoke(&what, Subject::ClientId(args.client_id), &args.common, output).await
        }
        RevokeCommand::Subject(args) => {
            let what = format!("tokens of subject {}", args.subject);
            revoke(&what, Subject::SubjectName(args.subject), &args.common, output).await
        }
        RevokeCommand::Audience(args) => {
            let what = format!("tokens for audience {}", args.audience);
            revoke(&what, Subject::Audience(args.audience), &args.common, output).await
        }
        RevokeCommand::Certificate(args) => {
            let thumbprint = args.thumbprint()?;
            let what = format!("tokens bound to certificate {thumbprint}");
            let subject = Subject::CertificateThumbprint(thumbprint.as_bytes().to_vec());
            revoke(&what, subject, &args.common, output).await
        }
        RevokeCommand::Key(args) => {
            let consequence = "every token under this key is refused from now on, everywhere";
            output.confirm(consequence, args.kid.as_str(), args.yes)?;
            let what = format!("tokens under key {}", args.kid);
            revoke(&what, Subject::KeyId(args.kid.to_string()), &args.common, output).await
        }
        RevokeCommand::IssuedBefore(args) => {
            let time = match args.time {
                Moment::Now => SystemClock.now(),
                Moment::At(time) => time,
            };
            let consequence = format!(
                "every token issued until {} is refused, whoever holds it",
                present::time(time)
            );
            output.confirm(&consequence, "everything", args.yes)?;
            let what = format!("all tokens issued until {}", present::time(time));
            let subject = Subject::IssuedBefore(countersign_wire::write_time(time));
            revoke(&what, subject, &args.common, output).await
        }
        RevokeCommand::List(args) => list(&args.connection, output).await,
    }
}

async fn revoke(what: &str, subject: Subject, common: &Common, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&common.connection).await?;
    let request = v1::RevokeRequest {
        reason: common.reason.clone().unwrap_or_default(),
        subject: Some(subject.clone()),
    };
    let answer = connection.revocations().revoke(request).await;
    let answer = answer
        .map_err(|status| Failure::answered(&format!("cannot revoke {what}"), &status))?
        .into_inner();
    let revoked = Revoked {
        revoked: Target::of(&subject, &answer),
        already: answer.already,
    };
    let mut told = sentence(what, &answer.token_id, answer.already);
    told.extend(revoked.revoked.end());
    reach::tell(&connection, &revoked, &told, answer.reach, common.wait, output).await
}

/// `token_id` is which token, where it was one.
fn sentence(what: &str, token_id: &str, already: bool) -> String {
    let space = if token_id.is_empty() { "" } else { " " };
    let already = if already {
        // It was revoked before, or has expired: the authority does not say which.
        " (nothing to do: refused already)"
    } else {
        ""
    };
    format!("revoked {what}{space}{token_id}{already}")
}

#[derive(Debug, Serialize)]
struct Revocations {
    total: u64,
    revocations: Vec<Revocation>,
}

#[derive(Debug, Serialize)]
struct Revocation {
    kind: &'static str,
    subject: Option<String>,
    issued_before: Option<String>,
    forgotten_at: Option<String>,
}

async fn list(args: &ConnectionArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(args).await?;
    let records = all(&connection).await?;
    let listed = Revocations {
        total: u64::try_from(records.len()).unwrap_or(u64::MAX),
        revocations: records.into_iter().filter_map(Revocation::read).collect(),
    };
    output.data(&listed, |paint| listed.table(paint))
}

/// Every revocation in force.
///
/// # Errors
/// When the authority does not answer.
pub(crate) async fn all(connection: &Connection) -> Result<Vec<v1::RevocationRecord>, Failure> {
    let mut service = connection.revocations();
    let listed = pages::all("cannot list the revocations", async |page_token| {
        let request = v1::ListRevocationsRequest {
            page_size: pages::SIZE,
            page_token,
        };
        let page = service.list_revocations(request).await?.into_inner();
        Ok((page.revocations, page.next_page_token))
    });
    listed.await
}

impl Revocation {
    fn read(record: v1::RevocationRecord) -> Option<Self> {
        use v1::revocation_record::Subject;
        let (kind, subject) = match record.subject? {
            Subject::TokenId(id) => ("token", Some(id)),
            Subject::ClientId(id) => ("client", Some(id)),
            Subject::Everything(_) => ("everything", None),
            Subject::SubjectName(subject) => ("subject", Some(subject)),
            Subject::Audience(audience) => ("audience", Some(audience)),
            Subject::CertificateThumbprint(thumbprint) => {
                let thumbprint = countersign_wire::admin::read_thumbprint(&thumbprint).ok()?;
                ("certificate", Some(thumbprint.to_string()))
            }
        };
        Some(Self {
            kind,
            subject,
            issued_before: present::wire_time(record.issued_before.as_ref()),
            forgotten_at: present::wire_time(record.expires_at.as_ref()),
        })
    }
}

impl Revocations {
    fn table(&self, paint: Paint) -> String {
        if self.revocations.is_empty() {
            return "nothing is revoked".to_owned();
        }
        let rows = self.revocations.iter().map(|revocation| {
            vec![
                Text::from(revocation.kind),
                present::optional(revocation.subject.clone()),
                present::optional(revocation.issued_before.clone()),
                present::optional(revocation.forgotten_at.clone()),
            ]
        });
        paint.table(&["KIND", "WHOSE", "ISSUED UNTIL", "KEPT UNTIL"], rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_three_ways() {
        let at = Moment::At(Timestamp::from_seconds(1_800_000_000));
        assert_eq!(moment("now"), Ok(Moment::Now));
        assert_eq!(moment("1800000000"), Ok(at));
        assert_eq!(moment("2027-01-15T08:00:00Z"), Ok(at));
        for wrong in ["", "yesterday", "-5", "1969-01-01T00:00:00Z"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_answer_says_what_was_revoked_and_whether_it_was_already() {
        assert_eq!(sentence("token", "1.0", false), "revoked token 1.0");
        assert_eq!(
            sentence("token", "", true),
            "revoked token (nothing to do: refused already)"
        );
    }

    /// Whoever reads what was revoked reads it as `revoke list` says it, whatever it was.
    #[test]
    fn what_is_revoked_has_one_form() {
        let thumbprint = CertificateThumbprint::new([7; 32]);
        let time = countersign_wire::write_time(Timestamp::from_seconds(1_800_000_000));
        let of = |subject: Subject, token_id: &str| {
            let answer = v1::RevokeResponse {
                token_id: token_id.to_owned(),
                expires_at: Some(time),
                ..v1::RevokeResponse::default()
            };
            serde_json::to_value(Target::of(&subject, &answer)).expect("JSON")
        };
        let at = "2027-01-15T08:00:00Z";
        let named = |kind: &str, subject: &str| serde_json::json!({ "kind": kind, "subject": subject, "issued_before": null, "forgotten_at": at });
        for (subject, token_id, expected) in [
            (Subject::Token("a.b.c".to_owned()), "1.0", named("token", "1.0")),
            (Subject::TokenId("1.0".to_owned()), "1.0", named("token", "1.0")),
            (
                Subject::ClientId("billing".to_owned()),
                "",
                named("client", "billing"),
            ),
            (Subject::SubjectName("s".to_owned()), "", named("subject", "s")),
            (
                Subject::Audience("demo".to_owned()),
                "",
                named("audience", "demo"),
            ),
            (Subject::KeyId("k".to_owned()), "", named("key", "k")),
            (
                Subject::CertificateThumbprint(thumbprint.as_bytes().to_vec()),
                "",
                named("certificate", &thumbprint.to_string()),
            ),
        ] {
            assert_eq!(of(subject, token_id), expected);
        }
        assert_eq!(
            of(Subject::IssuedBefore(time), ""),
            serde_json::json!({
                "kind": "everything", "subject": null, "issued_before": at, "forgotten_at": at,
            })
        );
    }

    /// A certificate may be good for longer than its entry is kept. Of all else nothing is left by then.
    #[test]
    fn whoever_revokes_a_certificate_is_told_until_when() {
        let answer = v1::RevokeResponse {
            expires_at: Some(countersign_wire::write_time(Timestamp::from_seconds(
                1_800_000_000,
            ))),
            ..v1::RevokeResponse::default()
        };
        let certificate = Subject::CertificateThumbprint(vec![7; 32]);
        let told = Target::of(&certificate, &answer).end().expect("is told");
        assert!(told.starts_with("\nkept until 2027-01-15T08:00:00Z: "), "{told}");
        assert_eq!(
            Target::of(&certificate, &v1::RevokeResponse::default()).end(),
            None
        );
        assert_eq!(
            Target::of(&Subject::ClientId("billing".to_owned()), &answer).end(),
            None
        );
    }
}
