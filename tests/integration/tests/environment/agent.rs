//! An app that handles no secret: it gets its tokens from the sidecar beside it, whatever becomes of the authority.

use std::path::Path;
use std::time::Duration;

use countersign_harness::dev::{Dev, told};
use countersign_harness::eventually;
use countersign_proto::agent::v1::token_agent_service_client::TokenAgentServiceClient;
use countersign_proto::agent::v1::{GetStatusRequest, GetTokenRequest, GetTokenResponse, KeptToken};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::start;

/// The identity of the environment's sidecar, which is a client's as well.
pub(crate) const SIDECAR: &str = "spiffe://dev.countersign.test/countersign/sidecar/demo";

/// Writes a copy of `config` as `name` beside it, changed.
fn changed(config: &Path, name: &str, change: impl FnOnce(String) -> String) -> String {
    let text = std::fs::read_to_string(config).expect("a configuration");
    let path = config.with_file_name(name);
    std::fs::write(&path, change(text)).expect("written");
    path.to_str().expect("text").to_owned()
}

/// An environment whose sidecar is a client, and gives the app tokens on a socket.
pub(crate) struct World {
    pub(crate) dev: Dev,
    agent: TokenAgentServiceClient<Channel>,
}

impl World {
    async fn start() -> Self {
        Self::with(|_dev| String::new()).await
    }

    /// The same with `more` at the end of the sidecar's configuration.
    pub(crate) async fn with(more: impl FnOnce(&Dev) -> String) -> Self {
        let mut dev = start().await;
        let more = more(&dev);
        let grant = ["--spiffe-id", SIDECAR, "--grant", "demo=demo.call"];
        dev.text(&[&["client", "create", "app"][..], &grant].concat());
        dev.kill(dev.environment.processes.sidecar.pid).await;
        let socket = dev.path("agent.sock");
        let config = changed(
            &dev.environment.processes.sidecar.config,
            "with-agent.toml",
            |text| format!("{text}\n[agent]\nunix = \"{}\"\n{more}", socket.display()),
        );
        dev.restart(&["run", "sidecar", "--config", &config]);
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
        let agent = TokenAgentServiceClient::new(endpoint.connect_lazy());
        eventually("the agent answers", async || {
            agent.clone().get_status(GetStatusRequest {}).await.is_ok()
        })
        .await;
        Self { dev, agent }
    }

    pub(crate) async fn token(&self) -> Result<GetTokenResponse, Status> {
        let request = GetTokenRequest {
            audience: "demo".to_owned(),
            scopes: vec!["demo.call".to_owned()],
        };
        let answer = self.agent.clone().get_token(request).await?;
        Ok(answer.into_inner())
    }

    async fn kept(&self) -> KeptToken {
        let status = self.agent.clone().get_status(GetStatusRequest {}).await;
        let status = status.expect("an answer").into_inner();
        status.tokens.into_iter().next().expect("one is kept")
    }

    /// How many tokens the authority has issued.
    async fn issued(&self) -> u64 {
        let mut stream = TcpStream::connect(&self.dev.environment.authority.metrics)
            .await
            .expect("connects");
        let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        let is_count = |line: &&str| {
            line.starts_with("countersign_tokens_issued_total{") && line.contains("result=\"issued\"")
        };
        let count = text
            .lines()
            .find(is_count)
            .and_then(|line| line.rsplit(' ').next());
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// What so many callers are given who ask at once.
    async fn tokens_at_once(&self, callers: usize) -> Vec<String> {
        let calls: Vec<_> = (0..callers)
            .map(|_| {
                let mut agent = self.agent.clone();
                tokio::spawn(async move {
                    let request = GetTokenRequest {
                        audience: "demo".to_owned(),
                        scopes: vec!["demo.call".to_owned()],
                    };
                    agent.get_token(request).await.expect("a token").into_inner()
                })
            })
            .collect();
        let mut tokens = Vec::new();
        for call in calls {
            tokens.push(call.await.expect("no panic").access_token);
        }
        tokens
    }
}

/// Issue 4, 5: any number of callers cause one request at the authority. I-08: a token that was revoked is not given out any more,
/// from the moment that its revocation is everywhere.
#[tokio::test]
async fn a_thousand_callers_cost_the_authority_one_token_and_a_revoked_one_is_replaced() {
    let world = World::start().await;
    let before = world.issued().await;
    let tokens = world.tokens_at_once(1000).await;
    let first = tokens.first().expect("one").clone();
    assert!(tokens.iter().all(|token| *token == first));
    assert_eq!(world.issued().await, before + 1);

    let inspected = world.dev.run(&["--json", "token", "inspect", &first]);
    let inspected = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(
        inspected.contains("client:dev.countersign.test/app"),
        "{inspected}"
    );

    let answer = world.token().await.expect("a token");
    assert_eq!(
        (answer.token_type.as_str(), answer.audience.as_str()),
        ("Bearer", "demo")
    );
    assert_eq!(answer.scopes, ["demo.call"]);
    assert_eq!(answer.last_error, "");
    let agent = format!("unix://{}", world.dev.path("agent.sock").display());
    let ask = [
        "agent",
        "token",
        "--audience",
        "demo",
        "--scope",
        "demo.call",
        "--agent",
        &agent,
    ];
    let printed = world.dev.plain(&ask);
    assert_eq!(printed, format!("{}\n", answer.access_token), "and nothing else");
    let status = world.dev.plain(&["agent", "status", "--agent", &agent]);
    assert!(
        status.contains("demo.call") && status.contains("GOOD FOR"),
        "{status}"
    );
    // Of 15 minutes, less ten seconds and those that have passed.
    assert!(
        (800_000..=890_000).contains(&answer.good_for_ms),
        "{}",
        answer.good_for_ms
    );
    let revoked = world.dev.json(&["revoke", "token", &answer.access_token]);
    assert_eq!(revoked["complete"], true, "{revoked}");
    let next = world.token().await.expect("another");
    assert!(
        next.access_token != answer.access_token,
        "it was served after its revocation"
    );
    world.dev.stop().await;
}

/// F14: the authority is away, and the app goes on; it is back, and the token is renewed without anybody's doing.
#[tokio::test]
async fn an_app_goes_on_while_the_authority_is_away() {
    let mut world = World::start().await;
    let authority = world.dev.environment.processes.authority.clone();
    let config = changed(&authority.config, "short-lives.toml", |text| {
        text.replacen(
            "[limits]\n",
            "[tokens]\ndefault_lifetime = \"20s\"\n[limits]\n",
            1,
        )
    });
    let run = ["run", "authority", "serve", "--config", &config];
    world.dev.kill(authority.pid).await;
    world.dev.restart(&run);
    eventually("the authority answers", async || world.token().await.is_ok()).await;
    let first = world.token().await.expect("a token");
    world.dev.kill_last();
    eventually("the next token does not come", async || {
        world.kept().await.last_error == "authority_unreachable"
    })
    .await;
    let served = world.token().await.expect("a token");
    assert_eq!(served.access_token, first.access_token);
    assert_eq!(served.last_error, "authority_unreachable");
    assert!(served.good_for_ms > 0);

    eventually("it is not served to its very end", async || {
        let refused = world.token().await;
        refused.is_err_and(|status| {
            let (code, reason) = told(status);
            (code, reason.as_str()) == (Code::Unavailable, "AUTHORITY_UNREACHABLE")
        })
    })
    .await;
    assert_eq!(world.kept().await.good_for_ms, 0);
    world.dev.restart(&run);
    eventually("there is a new one", async || world.kept().await.good_for_ms > 0).await;
    let renewed = world.token().await.expect("a token");
    assert!(renewed.access_token != first.access_token);
    assert_eq!(renewed.last_error, "");
    world.dev.stop().await;
}

/// What the authority refuses is told to the app, with its reason, and not asked for again by everybody who asks.
#[tokio::test]
async fn an_app_is_told_why_it_gets_no_token() {
    let world = World::start().await;
    let mut agent = world.agent.clone();
    for (audience, scope, code, reason) in [
        ("warehouse", None, Code::InvalidArgument, "INVALID_TARGET"),
        ("demo", Some("demo.other"), Code::InvalidArgument, "INVALID_SCOPE"),
        ("de\u{6d}o*", None, Code::InvalidArgument, "INVALID_ARGUMENT"),
    ] {
        let request = GetTokenRequest {
            audience: audience.to_owned(),
            scopes: scope.map(str::to_owned).into_iter().collect(),
        };
        let refused = agent.get_token(request).await.expect_err("refused");
        assert_eq!(told(refused), (code, reason.to_owned()));
    }
    world.dev.text(&["client", "disable", "app"]);
    let began = tokio::time::Instant::now();
    let refused = world.token().await.expect_err("refused");
    assert_eq!(
        told(refused),
        (Code::Unauthenticated, "INVALID_CLIENT".to_owned())
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    world.dev.stop().await;
}
