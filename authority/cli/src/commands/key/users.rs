//! `countersign key users`: where tokens under a key are still accepted, and to whom they were issued.

use clap::Args;
use countersign_core::names::KeyId;
use countersign_proto::admin::v1;
use serde::Serialize;

use super::listed;
use crate::args::key_id;
use crate::commands::{fleet, reach};
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Paint};
use crate::present;

/// Which key.
#[derive(Debug, Args)]
pub(crate) struct UsersArgs {
    /// The key's `kid`
    #[arg(allow_hyphen_values = true, value_parser = key_id)]
    kid: KeyId,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Users {
    kid: String,
    tokens: u64,
    verifiers: Vec<User>,
}

/// A verifier that accepted tokens under the key.
#[derive(Debug, Serialize)]
struct User {
    spiffe_id: String,
    verifier_id: String,
    tokens: u64,
    last_used_at: Option<String>,
    clients: Vec<String>,
}

/// Shows them.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run(args: UsersArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let users = Users::of(args.kid.as_str(), fleet::list(&connection).await?.verifiers);
    // A key that is gone may have been used; one that nobody used has to be there.
    if users.verifiers.is_empty()
        && !listed(&connection)
            .await?
            .keys
            .iter()
            .any(|key| key.kid == args.kid.as_str())
    {
        let failure = Failure::new(Exit::Failure, format!("there is no key {}", args.kid));
        return Err(failure.next("see `countersign key list`"));
    }
    output.data(&users, |paint| users.table(paint))
}

impl Users {
    fn of(kid: &str, verifiers: Vec<v1::Verifier>) -> Self {
        let mut users: Vec<User> = verifiers
            .into_iter()
            .filter_map(|verifier| User::of(kid, verifier))
            .collect();
        // RFC 3339 in UTC is in the order of time.
        users.sort_by(|one, other| other.last_used_at.cmp(&one.last_used_at));
        Self {
            kid: kid.to_owned(),
            tokens: users.iter().map(|user| user.tokens).sum(),
            verifiers: users,
        }
    }

    fn table(&self, paint: Paint) -> String {
        if self.verifiers.is_empty() {
            return format!(
                "no verifier has accepted a token under {} since the authority started",
                self.kid
            );
        }
        let rows = self.verifiers.iter().map(|user| {
            vec![
                reach::verifier(&user.spiffe_id, &user.verifier_id).into(),
                user.tokens.to_string().into(),
                present::optional(user.last_used_at.clone()),
                present::list(&user.clients),
            ]
        });
        paint.table(&["VERIFIER", "TOKENS", "LAST USED", "CLIENTS"], rows.collect())
    }
}

impl User {
    fn of(kid: &str, verifier: v1::Verifier) -> Option<Self> {
        let usage = verifier.key_usage.into_iter().find(|usage| usage.kid == kid)?;
        Some(Self {
            spiffe_id: verifier.spiffe_id,
            verifier_id: verifier.verifier_id,
            tokens: usage.tokens,
            last_used_at: present::wire_time(usage.last_used_at.as_ref()),
            clients: usage.clients,
        })
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::Timestamp;

    use super::*;

    fn verifier(name: &str, kid: &str, tokens: u64) -> v1::Verifier {
        let used = v1::KeyUsage {
            kid: kid.to_owned(),
            tokens,
            last_used_at: Some(countersign_wire::write_time(Timestamp::from_seconds(
                1_800_000_000 + tokens,
            ))),
            clients: vec!["billing".to_owned(), "orders".to_owned()],
        };
        v1::Verifier {
            spiffe_id: format!("spiffe://dev.test/{name}"),
            key_usage: vec![used],
            ..v1::Verifier::default()
        }
    }

    #[test]
    fn whoever_still_uses_a_key_is_named_with_the_clients_and_the_last_comes_first() {
        let verifiers = || {
            vec![
                verifier("a", "old", 2),
                verifier("b", "new", 9),
                verifier("c", "old", 5),
            ]
        };
        let users = Users::of("old", verifiers());
        assert_eq!(users.tokens, 7);
        let table = users.table(Paint::plain());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].starts_with("spiffe://dev.test/c  5 "), "{table}");
        assert!(lines[2].ends_with("billing orders"), "{table}");
        let nobody = Users::of("other", verifiers());
        assert!(
            nobody
                .table(Paint::plain())
                .starts_with("no verifier has accepted")
        );
    }
}
