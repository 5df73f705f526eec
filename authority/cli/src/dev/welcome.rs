//! What is said when everything runs: commands to copy, each of which works as it stands.

use std::path::{Path, PathBuf};

use super::children::{Role, log, ourselves};
use super::layout::{OTHER_AUDIENCE, OTHER_SCOPE};
use crate::connection;
use crate::environment::{Environment, FILE};
use crate::failure::Failure;
use crate::output::{Paint, Tone};

/// One thing to try.
#[derive(Debug)]
struct Block {
    title: String,
    commands: Vec<String>,
}

impl Block {
    fn new(title: &str, commands: Vec<String>) -> Self {
        Self {
            title: title.to_owned(),
            commands,
        }
    }
}

/// Everything there is to say.
#[derive(Debug)]
pub(super) struct Welcome {
    folder: PathBuf,
    parts: Vec<Part>,
    blocks: Vec<Block>,
}

/// What runs.
#[derive(Debug)]
struct Part {
    role: Role,
    address: String,
    process: u32,
}

/// The words for an environment in `folder`.
///
/// # Errors
/// When it is not known which program this is.
pub(super) fn text(environment: &Environment, folder: &Path) -> Result<Welcome, Failure> {
    let program = program()?;
    Ok(Welcome {
        folder: folder.to_owned(),
        parts: parts(environment),
        blocks: Commands {
            environment,
            program,
            dir: dir_option(folder),
        }
        .blocks(),
    })
}

fn parts(environment: &Environment) -> Vec<Part> {
    let processes = &environment.processes;
    let part = |role, address: &str, process| Part {
        role,
        address: address.to_owned(),
        process,
    };
    vec![
        part(
            Role::Authority,
            &environment.authority.grpc,
            processes.authority.pid,
        ),
        part(Role::Sidecar, &environment.sidecar.proxy, processes.sidecar.pid),
        part(Role::Demo, &environment.demo.upstream, processes.demo.pid),
    ]
}

/// The command that starts a part again.
pub(super) fn start_again(role: Role, environment: &Environment) -> String {
    let program = program().unwrap_or_else(|_unknown| "countersign".to_owned());
    let processes = &environment.processes;
    match role {
        Role::Authority => format!(
            "{program} run authority serve --config {}",
            path(&processes.authority.config)
        ),
        Role::Sidecar => format!(
            "{program} run sidecar --config {}",
            path(&processes.sidecar.config)
        ),
        Role::Demo => format!("{program} run demo --listen {}", environment.demo.upstream),
    }
}

fn program() -> Result<String, Failure> {
    ourselves()
        .map(|found| path(&found))
        .map_err(|error| Failure::because("cannot tell which program this is", &error))
}

/// Nothing for the folder that every command finds by itself.
fn dir_option(folder: &Path) -> String {
    if connection::is_default(folder) {
        String::new()
    } else {
        format!(" --dir {}", path(folder))
    }
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

struct Commands<'a> {
    environment: &'a Environment,
    program: String,
    dir: String,
}

impl Commands<'_> {
    fn blocks(&self) -> Vec<Block> {
        let mut blocks = self.allowed();
        blocks.extend(self.refused());
        blocks.extend(self.operated());
        blocks
    }

    fn allowed(&self) -> Vec<Block> {
        let environment = self.environment;
        let authority = &environment.authority.grpc;
        vec![
            Block::new(
                "see which services the authority has",
                vec![self.grpcurl(&self.orders(), authority, "list")],
            ),
            Block::new(
                "get a token with grpcurl: `orders` proves who it is by its certificate",
                vec![self.issue()],
            ),
            Block::new(
                "get a token with our own command, and call the demo service through its sidecar",
                vec![self.token("orders", ""), self.call_over_tls()],
            ),
            Block::new(
                "the same without TLS: `billing` proves who it is by a secret, so its token is bound to no certificate",
                vec![self.token("billing", ""), self.call_in_plaintext(true)],
            ),
        ]
    }

    fn refused(&self) -> Vec<Block> {
        let call = || self.call_in_plaintext(true);
        vec![
            Block::new(
                "call without a token: refused, with the reason",
                vec![self.call_in_plaintext(false)],
            ),
            Block::new(
                "call with a token that lacks the scope: refused",
                vec![self.token("billing", &format!(" --scope {OTHER_SCOPE}")), call()],
            ),
            Block::new(
                "call with a token for another service: refused",
                vec![
                    self.token("billing", &format!(" --audience {OTHER_AUDIENCE}")),
                    call(),
                ],
            ),
            Block::new(
                "see what is wrong with that token",
                vec![format!("echo $TOKEN | {}", self.ours("token inspect", " -"))],
            ),
        ]
    }

    fn operated(&self) -> Vec<Block> {
        let environment = self.environment;
        vec![
            Block::new(
                "rotate the signing key; tokens of the old one stay good",
                vec![self.ours("key rotate", "")],
            ),
            Block::new(
                "revoke all tokens of `billing`; it may get new ones",
                vec![
                    self.token("billing", ""),
                    self.ours("revoke client", " billing"),
                    self.call_in_plaintext(true),
                ],
            ),
            Block::new(
                "kill the authority: calls are verified all the same",
                vec![
                    self.token("orders", ""),
                    format!("kill -9 {}", environment.processes.authority.pid),
                    self.call_over_tls(),
                    self.ours("status", ""),
                ],
            ),
            Block::new(
                "start the authority again",
                vec![start_again(Role::Authority, environment)],
            ),
        ]
    }

    fn token(&self, client: &str, rest: &str) -> String {
        format!(
            "TOKEN=$({})",
            self.ours("token get", &format!(" --client {client}{rest}"))
        )
    }

    /// A command of our own, with the environment named before its arguments.
    fn ours(&self, command: &str, arguments: &str) -> String {
        format!("{} {command}{}{arguments}", self.program, self.dir)
    }

    /// The options by which grpcurl is the client `orders`.
    fn orders(&self) -> String {
        let orders = &self.environment.clients.orders;
        let (ca, cert, key) = (
            path(&self.environment.ca_cert),
            path(&orders.cert),
            path(&orders.key),
        );
        format!("-cacert {ca} -cert {cert} -key {key}")
    }

    fn grpcurl(&self, options: &str, address: &str, what: &str) -> String {
        format!("grpcurl {options} {address} {what}")
    }

    fn issue(&self) -> String {
        let request = format!(
            r#"{{"grant_type": "client_credentials", "audience": "{}"}}"#,
            self.environment.demo.audience
        );
        let options = format!("{} -d {}", self.orders(), quoted(&request));
        let method = "countersign.token.v1.TokenService/IssueToken";
        self.grpcurl(&options, &self.environment.authority.grpc, method)
    }

    fn call_over_tls(&self) -> String {
        self.call(
            &format!("{}{BEARER}", self.orders()),
            &self.environment.sidecar.proxy,
        )
    }

    fn call_in_plaintext(&self, with_token: bool) -> String {
        let header = if with_token { BEARER } else { "" };
        let address = &self.environment.sidecar.proxy_plaintext;
        self.call(&format!("-plaintext{header}"), address)
    }

    fn call(&self, options: &str, address: &str) -> String {
        let options = format!("{options} -d {}", quoted(r#"{"message": "hello"}"#));
        let demo = &self.environment.demo;
        self.grpcurl(&options, address, &format!("{}/{}", demo.service, demo.method))
    }
}

/// Only with the call itself: reflection is open, and asked first.
const BEARER: &str = r#" -rpc-header "authorization: Bearer $TOKEN""#;

impl Welcome {
    /// The text for people. All that is no command is a comment, so that a shell can read it too.
    pub(super) fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        for line in self.summary().lines() {
            text.push_str(&paint.text(Tone::Faint, &format!("# {line}")));
            text.push('\n');
        }
        for block in &self.blocks {
            text.push('\n');
            text.push_str(&paint.text(Tone::Strong, &format!("# {}", block.title)));
            for command in &block.commands {
                text.push('\n');
                text.push_str(command);
            }
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&paint.text(
            Tone::Faint,
            "# Ctrl-C stops everything; what is registered is kept",
        ));
        text
    }

    fn summary(&self) -> String {
        let rows = self.parts.iter().map(|part| {
            vec![
                part.role.name().into(),
                part.address.as_str().into(),
                part.process.to_string().into(),
                log(&self.folder, part.role).display().to_string().into(),
            ]
        });
        let table = Paint::plain().table(&["PART", "ADDRESS", "PROCESS", "LOG"], rows.collect());
        format!("{table}\nall of it is in {}", self.folder.join(FILE).display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::tests::example;

    #[test]
    fn a_shell_reads_every_word_as_one() {
        for (text, expected) in [
            ("/tmp/dev", "/tmp/dev"),
            ("/tmp/my dev", "'/tmp/my dev'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn each_block_is_a_title_and_commands_with_whole_paths() {
        let welcome = text(&example(), Path::new("/d")).expect("words");
        let text = welcome.render(Paint::plain());
        for wanted in [
            "grpcurl -cacert /d/ca.pem -cert /d/orders.pem -key /d/orders-key.pem 127.0.0.1:1 list\n",
            "token get --dir /d --client orders)\n",
            "-rpc-header \"authorization: Bearer $TOKEN\" -d '{\"message\": \"hello\"}' 127.0.0.1:3 s/m\n",
            "grpcurl -plaintext -d '{\"message\": \"hello\"}' 127.0.0.1:4 s/m\n",
            "kill -9 1\n",
            "run authority serve --config /d/authority.toml\n",
            "/d/dev.json",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let program = line
                .trim_start_matches("TOKEN=$(")
                .trim_start_matches("echo $TOKEN | ");
            let known =
                program.starts_with('/') || program.starts_with("grpcurl ") || program.starts_with("kill ");
            assert!(known, "{line}");
        }
    }
}
