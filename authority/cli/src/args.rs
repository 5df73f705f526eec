//! The command line as a whole: what every command has in common, and the list of commands.

use std::time::Duration;

use clap::{Parser, Subcommand};
use countersign_core::names::KeyId;
use countersign_runtime::config::parse_duration;

use crate::commands::agent::AgentCommand;
use crate::commands::client::ClientCommand;
use crate::commands::completions::CompletionsArgs;
use crate::commands::fleet::FleetArgs;
use crate::commands::key::KeyCommand;
use crate::commands::observed::ObservedArgs;
use crate::commands::revoke::RevokeCommand;
use crate::commands::run::RunArgs;
use crate::commands::status::StatusArgs;
use crate::commands::token::TokenCommand;
use crate::commands::trust::TrustCommand;
use crate::dev::DevArgs;
use crate::output::ColourChoice;

const AFTER_HELP: &str = "\
Exit codes:
  0   it worked
  1   it did not work
  2   the command line makes no sense
  3   refused: a token is not good, or the caller may not
  4   unavailable: somebody cannot be reached or cannot answer now; try again
  64  a configuration file is not acceptable

Try it out:
  countersign dev                           # starts everything, and prints commands to try
  countersign token get --client orders     # in another terminal";

/// Issues, rotates and revokes access tokens for gRPC services.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Write JSON for programs instead of text for people
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,

    /// When to use colour
    #[arg(
        long,
        global = true,
        help_heading = "Output",
        value_enum,
        value_name = "WHEN",
        default_value_t
    )]
    pub(crate) color: ColourChoice,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Talk(Box<Talk>),
    /// Run one part of an environment
    #[command(hide = true)]
    Run(RunArgs),
}

/// The commands of this program itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Talk {
    /// Start a whole development environment: authority, sidecar and a demo service
    Dev(DevArgs),
    /// Get tokens, and see what is wrong with one
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask the sidecar beside an app for the app's tokens
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Register the clients that may ask for tokens
    #[command(subcommand)]
    Client(ClientCommand),
    /// Move signing keys through their life
    #[command(subcommand)]
    Key(KeyCommand),
    /// Take tokens back
    #[command(subcommand)]
    Revoke(RevokeCommand),
    /// Show the verifiers and how far each is; put one out of service
    Fleet(FleetArgs),
    /// Take the trust that verifiers hold along in a file, for starts without the authority
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Show what a sidecar would have refused, were it enforced
    Observed(ObservedArgs),
    /// Show whether the parts of an environment run and agree
    Status(StatusArgs),
    /// Write a completion script for a shell
    Completions(CompletionsArgs),
}

impl Talk {
    /// The command's name, for traces.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Dev(_) => "countersign dev",
            Self::Token(_) => "countersign token",
            Self::Agent(_) => "countersign agent",
            Self::Client(_) => "countersign client",
            Self::Key(_) => "countersign key",
            Self::Revoke(_) => "countersign revoke",
            Self::Fleet(_) => "countersign fleet",
            Self::Trust(_) => "countersign trust",
            Self::Observed(_) => "countersign observed",
            Self::Status(_) => "countersign status",
            Self::Completions(_) => "countersign completions",
        }
    }
}

/// Reads a duration as configuration files write it: `90s`, `15m`, `2h30m`.
///
/// # Errors
/// The text to show when it is none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|invalid| invalid.to_string())
}

/// Reads a `kid`. One in 64 begins with `-`, so arguments that take it have `allow_hyphen_values`, and what looks like one that
/// clap does not know arrives here.
///
/// # Errors
/// The text to show when it is none.
pub(crate) fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).map_err(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(
                help.contains(&format!("\n  {:<3}", exit.number())),
                "{exit:?}: {help}"
            );
        }
    }

    #[test]
    fn the_roles_that_dev_starts_are_not_advertised() {
        let help = Cli::command().render_help().to_string();
        for shown in [
            "dev",
            "token",
            "agent",
            "client",
            "key",
            "revoke",
            "fleet",
            "trust",
            "observed",
            "status",
            "completions",
        ] {
            assert!(help.contains(&format!("\n  {shown}")), "{shown}: {help}");
        }
        assert!(!help.contains("\n  run"), "{help}");
    }

    /// A secret on the command line is in everybody's process list.
    #[test]
    fn no_option_takes_a_secret() {
        fn visit(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let harmless = ["secret_file", "with_secret", "secret_id"].contains(&name);
                assert!(
                    !name.contains("secret") || harmless,
                    "{}: {name}",
                    command.get_name()
                );
                assert!(!name.contains("password"), "{}: {name}", command.get_name());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    /// Thumbprints are base64url, in which `-` is a letter like any other.
    #[test]
    fn thumbprints_may_begin_with_a_hyphen() {
        let letters = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
        for letter in letters {
            let thumbprint = format!("-{letter}{}", "j".repeat(41));
            for command in [
                &["key", "activate"][..],
                &["key", "activate", "--force", "r"],
                &["key", "retire"],
                &["key", "users"],
                &["key", "compromise", "--yes", "--reason", "r"],
                &["revoke", "key", "--yes", "--reason", "r"],
                &["revoke", "certificate", "--thumbprint"],
                &["client", "create", "a", "--thumbprint"],
                &["client", "update", "a", "--thumbprint"],
            ] {
                let line = [&["countersign"], command, &[&thumbprint]].concat();
                let read = Cli::try_parse_from(&line);
                assert!(read.is_ok(), "{line:?}: {read:?}");
            }
            let options_after = [
                "countersign",
                "key",
                "compromise",
                &thumbprint,
                "--reason",
                "r",
                "--yes",
            ];
            assert!(Cli::try_parse_from(options_after).is_ok(), "{thumbprint}");
        }
    }

    #[test]
    fn an_option_that_is_misspelt_is_no_key() {
        for misspelt in ["--reasn", "-y", "--Yes"] {
            let line = ["countersign", "key", "compromise", misspelt, "--reason", "r"];
            let error = Cli::try_parse_from(line).expect_err("is refused");
            assert!(error.to_string().contains(misspelt), "{error}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("2h30m"), Ok(Duration::from_secs(9000)));
        for wrong in ["5", "-1s", "soon", "", "1month", "1y", "10us", "1h 30m", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
