//! `countersign trust`: what verifiers hold, in a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_core::Timestamp;
use countersign_core::ports::Clock as _;
use countersign_core::verifier::Moment;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_proto::admin::v1::ExportTrustRequest;
use countersign_runtime::SystemClock;
use countersign_verifier::cache::{TrustFileContent, inspect};
use countersign_wire::trust_file::MAX_TRUST_FILE;
use countersign_wire::write_duration;
use serde::Serialize;

use crate::args::duration;
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};
use crate::output::{Output, Paint, Text, Tone};
use crate::present;

/// What to do with trust in a file.
#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Write the trust of this moment to a file: a sidecar's `trust.warm_start` names it
    Export(ExportArgs),
    /// Verify a file as a sidecar does, and show what is in it
    Show(ShowArgs),
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file to write; `-` is stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file that is there
    #[arg(long)]
    force: bool,

    /// How long sidecars may decide on it; until then receipts and rotations count on one that does
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    lifetime: Duration,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which file, and whom to believe.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The publishing keys to believe, as a sidecar pins them: a JWK Set
    #[arg(long, value_name = "FILE")]
    publishing_keys: PathBuf,
}

/// Shows trust in files, and writes it there.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: TrustCommand, output: Output) -> Result<(), Failure> {
    match command {
        TrustCommand::Export(args) => export(args, output).await,
        TrustCommand::Show(args) => show(&args, output),
    }
}

#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    bytes: usize,
    lifetime_seconds: u64,
}

/// Where trust goes.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Stdout,
    /// In place of what is there.
    Over(&'a Path),
    /// Where nothing is.
    New(&'a Path),
}

impl<'a> Place<'a> {
    /// Where `args` say, if it can go there. `is_shown` is whether stdout is a terminal.
    fn choose(args: &'a ExportArgs, is_shown: bool, is_json: bool) -> Result<Self, Failure> {
        let path = args.out.as_path();
        if path == Path::new("-") {
            let why_not = if is_shown {
                "the trust is not text, and stdout is a terminal"
            } else if is_json {
                "stdout is to be both the trust and the JSON"
            } else {
                return Ok(Self::Stdout);
            };
            return Err(Failure::usage(why_not).next("name a file, or send stdout to one and leave `--json`"));
        }
        if args.force {
            return Ok(Self::Over(path));
        }
        if path.exists() {
            let message = format!("`{}` is there already", path.display());
            return Err(Failure::new(Exit::Failure, message).next("replace it with `--force`"));
        }
        Ok(Self::New(path))
    }
}

async fn export(args: ExportArgs, output: Output) -> Result<(), Failure> {
    let place = Place::choose(&args, output.is_shown(), output.is_json())?;
    let connection = Connection::operator(&args.connection).await?;
    let bytes = received(&connection, args.lifetime).await?;
    match place {
        Place::Stdout => return output.bytes(&bytes),
        Place::Over(path) => files::write(path, &bytes, Audience::Everybody)?,
        Place::New(path) => files::write_first(path, &bytes, Audience::Everybody)?,
    }
    let exported = Exported {
        bytes: bytes.len(),
        file: args.out,
        lifetime_seconds: args.lifetime.as_secs(),
    };
    output.data(&exported, |_| {
        let lifetime = present::duration(args.lifetime);
        format!(
            "wrote {} bytes to `{}`\nit expires in {lifetime}; until then receipts and rotations count on a sidecar that starts from it",
            exported.bytes,
            exported.file.display()
        )
    })
}

/// The whole file.
async fn received(connection: &Connection, lifetime: Duration) -> Result<Vec<u8>, Failure> {
    let answered = |status: tonic::Status| Failure::answered("cannot export the trust", &status);
    let late = |_elapsed| Failure::new(Exit::Unavailable, "the authority takes too long to answer");
    let mut trust = connection.trust();
    let request = ExportTrustRequest {
        lifetime: Some(write_duration(lifetime)),
    };
    let opening = tokio::time::timeout(connection.timeout, trust.export_trust(request));
    let mut pieces = opening.await.map_err(late)?.map_err(answered)?.into_inner();
    let mut bytes = Vec::new();
    loop {
        let next = tokio::time::timeout(connection.timeout, pieces.message());
        let Some(piece) = next.await.map_err(late)?.map_err(answered)? else {
            return Ok(bytes);
        };
        bytes.extend(piece.piece);
        if bytes.len() > MAX_TRUST_FILE {
            return Err(Failure::new(
                Exit::Failure,
                "the authority sends more than a trust file has",
            ));
        }
    }
}

/// What a file says.
#[derive(Debug, Serialize)]
struct Shown {
    issuer: String,
    epoch: u64,
    state_digest: String,
    stated_at: String,
    age_seconds: u64,
    expires_at: String,
    expired: bool,
    signed_by: String,
    revocations: usize,
    deltas: usize,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
struct Key {
    kid: String,
    algorithm: &'static str,
    state: &'static str,
}

fn show(args: &ShowArgs, output: Output) -> Result<(), Failure> {
    let pinned = files::read(&args.publishing_keys)?;
    let pinned = PinnedKeys::read(&pinned, &AwsLc)
        .map_err(|error| Failure::because("the publishing keys cannot be used", &error))?;
    let now = SystemClock.now_millis();
    let moment = Moment {
        elapsed: SystemClock.elapsed(),
        wall_millis: now,
    };
    let bytes = files::read(&args.file)?;
    let content = inspect(&bytes.into(), &pinned, moment).map_err(|why| {
        let message = format!(
            "`{}` is no good trust file: {}",
            args.file.display(),
            why.reason()
        );
        Failure {
            reason: Some(why.reason().to_owned()),
            ..Failure::new(Exit::Refused, message)
        }
    })?;
    let shown = Shown::of(&content, now);
    output.data(&shown, |paint| shown.table(paint))?;
    if shown.expired {
        let message = format!("`{}` has expired: no sidecar starts from it", args.file.display());
        return Err(Failure {
            reason: Some("expired".to_owned()),
            ..Failure::new(Exit::Refused, message).next("export another: `countersign trust export`")
        });
    }
    Ok(())
}

impl Shown {
    fn of(content: &TrustFileContent, now_millis: u64) -> Self {
        let stated = content.heartbeat.authority_time_millis;
        // One that does not say so is no good trust file.
        let expires = content.heartbeat.expires_at_millis.unwrap_or_default();
        let now = Timestamp::from_seconds(now_millis / 1000);
        let keys = content.state.keys().keys().iter();
        Self {
            issuer: content.state.issuer().as_str().to_owned(),
            epoch: content.state.epoch(),
            state_digest: present::hex(content.state.digest()),
            stated_at: present::time(Timestamp::from_seconds(stated / 1000)),
            expires_at: present::time(Timestamp::from_seconds(expires / 1000)),
            expired: expires <= now_millis,
            age_seconds: now_millis.saturating_sub(stated) / 1000,
            signed_by: content.key_id.clone(),
            revocations: content.state.revocations().len(),
            deltas: content.deltas,
            keys: keys
                .map(|key| Key {
                    kid: key.jwk.key_id().as_str().to_owned(),
                    algorithm: key.jwk.algorithm().name(),
                    state: key.times.state(now).name(),
                })
                .collect(),
        }
    }

    fn table(&self, paint: Paint) -> String {
        let line = |name: &str, value: String| vec![Text::toned(name, Tone::Faint), value.into()];
        let age = present::duration(Duration::from_secs(self.age_seconds));
        let rows = vec![
            line("issuer", self.issuer.clone()),
            line("epoch", self.epoch.to_string()),
            line("stated at", format!("{}, {age} ago", self.stated_at)),
            line("expires at", self.expires_at.clone()),
            line("signed by", self.signed_by.clone()),
            line("revocations", self.revocations.to_string()),
        ];
        let keys = self
            .keys
            .iter()
            .map(|key| vec![key.kid.as_str().into(), key.algorithm.into(), key.state.into()]);
        format!(
            "{}\n\n{}",
            paint.table(&["TRUST", ""], rows),
            paint.table(&["KEY", "ALGORITHM", "STATE"], keys.collect())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: &Path, force: bool) -> ExportArgs {
        ExportArgs {
            out: out.to_owned(),
            force,
            lifetime: Duration::from_secs(60),
            connection: ConnectionArgs::default(),
        }
    }

    #[test]
    fn trust_goes_to_stdout_where_somebody_can_take_it() {
        let args = args(Path::new("-"), false);
        assert_eq!(Place::choose(&args, false, false).expect("a pipe"), Place::Stdout);
        for (is_shown, is_json) in [(true, false), (true, true), (false, true)] {
            let refused = Place::choose(&args, is_shown, is_json).expect_err("nobody can");
            assert_eq!(refused.exit, Exit::Usage);
        }
    }

    #[test]
    fn no_file_is_replaced_without_being_told_to() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (kept, forced) = (args(file.path(), false), args(file.path(), true));
        assert!(Place::choose(&kept, true, true).is_err());
        let over = Place::choose(&forced, true, true).expect("is told to");
        assert_eq!(over, Place::Over(file.path()));
        let other = file.path().with_extension("other");
        let new = args(&other, false);
        assert_eq!(
            Place::choose(&new, true, true).expect("is free"),
            Place::New(&other)
        );
    }
}
