//! `countersign token`: get a token, or look at one.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_core::issuing::CLIENT_CREDENTIALS;
use countersign_proto::token::v1;
use serde::Serialize;

use super::inspect::{self, InspectArgs};
use crate::args::duration;
use crate::connection::{self, Caller, Connection, ConnectionArgs};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::files;
use crate::output::Output;

/// What to do with a token.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Get a token, and print it and nothing else
    Get(GetArgs),
    /// Explain each check on a token: passed, failed, and why
    Inspect(InspectArgs),
}

/// Which token.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The client. May be left out where the certificate says it
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,

    /// The file with the client's secret, or `-` for stdin; without one, the certificate proves who it is
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// The audience. May be left out by a client that is registered for one only, and in a development environment, where
    /// it is the demo service
    #[arg(long)]
    audience: Option<String>,

    /// A scope; repeat for more. Left out: the default scopes of the audience
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,

    /// The lifetime. Left out: the authority's default
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    lifetime: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Issued<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_in: i64,
    scopes: &'a [String],
    audience: &'a str,
}

/// Gets a token or looks at one.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: TokenCommand, output: Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Get(args) => get(args, output).await,
        TokenCommand::Inspect(args) => inspect::run(args, output).await,
    }
}

async fn get(args: GetArgs, output: Output) -> Result<(), Failure> {
    let environment = connection::environment(&args.connection)?;
    let client = match (&args.client, &environment) {
        (Some(client), _) => client.clone(),
        // Only an environment knows several certificates and has to be told which.
        (None, Some(_)) if args.connection.cert.is_none() => {
            return Err(Failure::usage("which client asks is not said").next("add `--client orders`"));
        }
        (None, _) => String::new(),
    };
    let secret_file = secret_file(&args, &client, environment.as_ref());
    if secret_file.is_some() && client.is_empty() {
        return Err(Failure::usage("a secret belongs to a client").next("add `--client CLIENT`"));
    }
    if let Some(path) = secret_file
        .as_deref()
        .filter(|path| files::is_open_to_others(path))
    {
        let name = path.display();
        output.warn(&format!(
            "others may read the secret in `{name}`; use `chmod 600 {name}`"
        ));
    }
    let audience = args
        .audience
        .clone()
        .or_else(|| environment.map(|found| found.demo.audience));
    let audience = audience.unwrap_or_default();
    let asked = asked(&audience);
    let request = v1::IssueTokenRequest {
        grant_type: CLIENT_CREDENTIALS.to_owned(),
        audience,
        scopes: args.scopes.clone(),
        client_id: client.clone(),
        client_secret: secret_file
            .as_deref()
            .map(files::line)
            .transpose()?
            .unwrap_or_default(),
        lifetime_seconds: args.lifetime.map(seconds),
    };
    let connection = Connection::open(&args.connection, Caller::Client(&client)).await?;
    let answer = connection.tokens().issue_token(request).await;
    let answer = answer
        .map_err(|status| Failure::answered(&asked, &status))?
        .into_inner();
    if !output.is_json() {
        return output.raw(&answer.access_token);
    }
    let issued = Issued {
        access_token: &answer.access_token,
        token_type: &answer.token_type,
        expires_in: answer.expires_in,
        scopes: &answer.scopes,
        audience: &answer.audience,
    };
    output.data(&issued, |_| String::new())
}

/// What failed, when it did: the audience may be one that nobody named.
fn asked(audience: &str) -> String {
    match audience {
        "" => "no token".to_owned(),
        audience => format!("no token for the audience `{audience}`"),
    }
}

fn secret_file(args: &GetArgs, client: &str, environment: Option<&Environment>) -> Option<PathBuf> {
    args.secret_file.clone().or_else(|| {
        let billing = &environment?.clients.billing;
        (billing.client_id == client).then(|| billing.secret_file.clone())
    })
}

fn seconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}

/// The token that `argument` is, or that stdin holds when it is `-`. Whitespace around it comes from copying and is not part
/// of it.
///
/// # Errors
/// When stdin cannot be read or is empty, or `argument` names a file: a token on the command line is the token itself.
pub(crate) fn read(argument: &str) -> Result<String, Failure> {
    if argument != "-" && Path::new(argument).is_file() {
        let message = format!("`{argument}` is a file, and no token");
        return Err(Failure::usage(message).next(format!("give what is in it on stdin: `- <{argument}`")));
    }
    if argument != "-" {
        return Ok(argument.trim().to_owned());
    }
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no token on stdin")
            .next("pipe one in: `countersign token get ... | countersign token inspect -`"));
    }
    files::line(Path::new("-")).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In an environment it is not on the command line.
    #[test]
    fn whoever_gets_no_token_is_told_for_which_audience() {
        assert_eq!(asked("demo"), "no token for the audience `demo`");
        assert_eq!(asked(""), "no token");
    }
}
