//! `countersign agent`: what the sidecar beside an app gives the app. For those who look into why one has no token.

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_proto::agent::v1;
use countersign_proto::agent::v1::token_agent_service_client::TokenAgentServiceClient;
use serde::Serialize;
use tonic::Request;
use tonic::transport::Channel;

use super::local::Local;
use crate::args::duration;
use crate::failure::Failure;
use crate::output::{Output, Paint, Text, Tone};
use crate::present;

const AGENT: Local = Local {
    name: "agent",
    section: "agent",
};

/// What to ask a sidecar for.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Get a token as the app beside the sidecar does, and print it and nothing else
    Token(TokenArgs),
    /// Show what the sidecar keeps, and how long each token will do if the authority stays away
    Status(StatusArgs),
}

/// Where the sidecar's token agent is.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The sidecar's token agent: `unix:///PATH`, or `HOST:PORT` on loopback
    #[arg(
        long,
        env = "COUNTERSIGN_AGENT",
        hide_env_values = true,
        value_name = "ADDRESS"
    )]
    agent: String,

    /// How long to wait for one answer
    #[arg(long, env = "COUNTERSIGN_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

/// Which token.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The audience. May be left out by a client that is registered for one only
    #[arg(long)]
    audience: Option<String>,

    /// A scope; repeat for more. Left out: the default scopes of the audience
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,

    #[command(flatten)]
    agent: AgentArgs,
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Serialize)]
struct Token<'a> {
    access_token: &'a str,
    token_type: &'a str,
    audience: &'a str,
    scopes: &'a [String],
    expires_at: Option<String>,
    refresh_at: Option<String>,
    good_for_ms: i64,
    last_error: &'a str,
}

#[derive(Serialize)]
struct Status {
    tokens: Vec<Kept>,
    max_tokens: u32,
}

#[derive(Serialize)]
struct Kept {
    audience: String,
    scopes: Vec<String>,
    good_for_ms: i64,
    expires_at: Option<String>,
    refresh_at: Option<String>,
    last_error: Option<String>,
    pinned: bool,
}

/// Asks a sidecar's token agent.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: AgentCommand, output: Output) -> Result<(), Failure> {
    match command {
        AgentCommand::Token(args) => token(args, output).await,
        AgentCommand::Status(args) => status(&args.agent, output).await,
    }
}

async fn token(args: TokenArgs, output: Output) -> Result<(), Failure> {
    let mut request = Request::new(v1::GetTokenRequest {
        audience: args.audience.unwrap_or_default(),
        scopes: args.scopes,
    });
    request.set_timeout(args.agent.timeout);
    let answer = connect(&args.agent).await?.get_token(request).await;
    let answer = answer
        .map_err(|status| Failure::answered("no token", &status))?
        .into_inner();
    if !output.is_json() {
        return output.raw(&answer.access_token);
    }
    let token = Token {
        access_token: &answer.access_token,
        token_type: &answer.token_type,
        audience: &answer.audience,
        scopes: &answer.scopes,
        expires_at: present::wire_time(answer.expires_at.as_ref()),
        refresh_at: present::wire_time(answer.refresh_at.as_ref()),
        good_for_ms: answer.good_for_ms,
        last_error: &answer.last_error,
    };
    output.data(&token, |_| String::new())
}

async fn status(args: &AgentArgs, output: Output) -> Result<(), Failure> {
    let mut request = Request::new(v1::GetStatusRequest {});
    request.set_timeout(args.timeout);
    let answer = connect(args).await?.get_status(request).await;
    let answer = answer
        .map_err(|status| Failure::answered("the agent does not say what it keeps", &status))?
        .into_inner();
    let status = Status {
        tokens: answer.tokens.into_iter().map(Kept::from).collect(),
        max_tokens: answer.max_tokens,
    };
    output.data(&status, |paint| status.table(paint))
}

async fn connect(args: &AgentArgs) -> Result<TokenAgentServiceClient<Channel>, Failure> {
    let channel = AGENT.connect(&args.agent, args.timeout).await?;
    Ok(TokenAgentServiceClient::new(channel))
}

impl From<v1::KeptToken> for Kept {
    fn from(kept: v1::KeptToken) -> Self {
        Self {
            expires_at: present::wire_time(kept.expires_at.as_ref()),
            refresh_at: present::wire_time(kept.refresh_at.as_ref()),
            audience: kept.audience,
            scopes: kept.scopes,
            good_for_ms: kept.good_for_ms,
            last_error: Some(kept.last_error).filter(|reason| !reason.is_empty()),
            pinned: kept.pinned,
        }
    }
}

impl Kept {
    fn good_for(&self) -> Text {
        match u64::try_from(self.good_for_ms) {
            Ok(millis) if millis > 0 => {
                Text::toned(present::duration(Duration::from_millis(millis)), Tone::Good)
            }
            Ok(_) | Err(_) => Text::toned("none", Tone::Bad),
        }
    }
}

impl Status {
    fn table(&self, paint: Paint) -> String {
        let row = |kept: &Kept| {
            vec![
                Text::from(kept.audience.clone()),
                present::list(&kept.scopes),
                kept.good_for(),
                present::optional(kept.refresh_at.clone()),
                present::optional(kept.last_error.clone()),
            ]
        };
        paint.table(
            &["AUDIENCE", "SCOPES", "GOOD FOR", "NEXT AT", "LAST ERROR"],
            self.tokens.iter().map(row).collect(),
        )
    }
}
