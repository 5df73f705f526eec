//! An app that calls a neighbour through the sidecar, without TLS and without a token. The neighbour is the environment's own
//! service, behind the same sidecar's TLS listener: the way there is as long as to any other.

use std::time::Duration;

use countersign_cli::pki::{Pki, Usage};
use countersign_core::ports::Clock as _;
use countersign_core::spiffe::SpiffeId;
use countersign_harness::dev::{Dev, told};
use countersign_harness::eventually;
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::demo::v1::{ChatRequest, CollectRequest, EchoRequest, ExpandRequest};
use countersign_runtime::SystemClock;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::agent::{SIDECAR, World};

/// A way out on a socket `name.sock`.
fn way_out(dev: &Dev, name: &str, more: &str) -> String {
    format!(
        r#"
[[outbound]]
unix = "{socket}"
upstream = "https://{proxy}"
spiffe_id = "{SIDECAR}"
{more}

[[outbound.route]]
host = "warehouse.example"
audience = "warehouse"

[[outbound.route]]
path = "/countersign.demo.v1.*"
audience = "demo"
scopes = ["demo.call"]
"#,
        socket = dev.path(&format!("{name}.sock")).display(),
        proxy = dev.environment.sidecar.proxy,
    )
}

/// An app's channel to the way out, calling `host`.
fn channel(world: &World, name: &str, host: &str) -> Channel {
    let socket = world.dev.path(&format!("{name}.sock"));
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
    let origin = format!("http://{host}").parse().expect("an address");
    endpoint.origin(origin).connect_lazy()
}

fn app(world: &World) -> DemoServiceClient<Channel> {
    DemoServiceClient::new(channel(world, "out", "stock"))
}

async fn caller(app: &mut DemoServiceClient<Channel>) -> Result<String, Status> {
    let mut request = Request::new(EchoRequest {
        message: "hello".to_owned(),
    });
    request.set_timeout(Duration::from_secs(20));
    let answer = app.echo(request).await?.into_inner();
    Ok(answer.caller.expect("a caller").client_id)
}

/// All four kinds of calls pass as they are, with the token of the client that the sidecar is; also while the authority is away, and
/// after the token was revoked.
#[tokio::test]
async fn calls_out_have_tokens_and_the_app_has_none() {
    let world = World::with(|dev| way_out(dev, "out", "")).await;
    let mut app = app(&world);
    assert_eq!(caller(&mut app).await.expect("allowed"), "app");

    let parts = (0..100).map(|part| CollectRequest {
        message: part.to_string(),
    });
    let collected = app.collect(stream::iter(parts)).await.expect("allowed");
    assert_eq!(collected.into_inner().count, 100);
    let expanded = app
        .expand(ExpandRequest {
            message: "x".repeat(1000),
            count: 5000,
        })
        .await
        .expect("allowed");
    let expanded: Vec<_> = expanded.into_inner().try_collect().await.expect("to its end");
    assert_eq!(expanded.len(), 5000);
    let says = stream::iter(0..100).map(|_| ChatRequest {
        message: "x".to_owned(),
    });
    let chat = app.chat(says).await.expect("allowed").into_inner();
    let heard: Vec<_> = chat.try_collect().await.expect("to its end");
    assert_eq!(heard.len(), 100);

    let token = world.token().await.expect("a token").access_token;
    world.dev.json(&["revoke", "token", &token]);
    assert_eq!(caller(&mut app).await.expect("with another token"), "app");
    assert!(world.token().await.expect("a token").access_token != token);
    world
        .dev
        .kill(world.dev.environment.processes.authority.pid)
        .await;
    assert_eq!(
        caller(&mut app).await.expect("with the token that is kept"),
        "app"
    );
    world.dev.stop().await;
}

/// What no route leads, what brings a token, and what no token is to be had for is not called.
#[tokio::test]
async fn what_may_not_go_out_does_not() {
    let world = World::with(|dev| way_out(dev, "out", "") + &way_out(dev, "own", "own_tokens = true")).await;
    let mut health = HealthClient::new(channel(&world, "out", "stock"));
    let refused = health
        .check(HealthCheckRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(
        told(refused),
        (Code::PermissionDenied, "ROUTE_UNKNOWN".to_owned())
    );

    let with_token = |token: &str| {
        let mut request = Request::new(EchoRequest {
            message: "hello".to_owned(),
        });
        let value = format!("Bearer {token}").parse().expect("a value");
        request.metadata_mut().insert("authorization", value);
        request
    };
    let refused = app(&world).echo(with_token("x")).await.expect_err("refused");
    assert_eq!(told(refused), (Code::InvalidArgument, "TOKEN_PRESENT".to_owned()));
    // Passed on as it is, and judged by the neighbour.
    let mut own = DemoServiceClient::new(channel(&world, "own", "stock"));
    let refused = own.echo(with_token("x")).await.expect_err("refused");
    assert_eq!(
        told(refused),
        (Code::Unauthenticated, "TOKEN_MALFORMED".to_owned())
    );
    let token = world.dev.token(&["--client", "billing"]);
    let answer = own.echo(with_token(&token)).await.expect("allowed").into_inner();
    assert_eq!(answer.caller.expect("a caller").client_id, "billing");

    let mut warehouse = DemoServiceClient::new(channel(&world, "out", "warehouse.example"));
    let refused = caller(&mut warehouse).await.expect_err("there is no such grant");
    let retry = refused.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(
        retry.is_some_and(|delay| delay <= Duration::from_secs(30)),
        "{retry:?}"
    );
    assert_eq!(told(refused), (Code::Unavailable, "INVALID_TARGET".to_owned()));
    world.dev.stop().await;
}

/// I-42: the sidecar's certificate is replaced, and with it what tokens are bound to. No call notices.
#[tokio::test]
async fn a_new_certificate_breaks_no_call_out() {
    let world = World::with(|dev| way_out(dev, "out", "")).await;
    let mut app = app(&world);
    let first = world.token().await.expect("a token").access_token;
    caller(&mut app).await.expect("allowed");

    let now = SystemClock.now();
    let pki = Pki::open(&world.dev.dir().join("pki"), now).expect("the environment's");
    let identity = SpiffeId::parse(SIDECAR).expect("an identity");
    let renewed = pki.leaf("renewed", &identity, Usage::ServerAndClient, now);
    let renewed = renewed.expect("a certificate");
    let text = std::fs::read_to_string(&world.dev.environment.processes.sidecar.config).expect("readable");
    let path = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        line.and_then(|line| line.strip_suffix('"'))
            .expect("a path")
            .to_owned()
    };
    std::fs::copy(&renewed.key, path("private_key")).expect("copied");
    std::fs::copy(&renewed.certificate, path("certificate")).expect("copied");
    eventually("there is a token of the new certificate", async || {
        assert_eq!(caller(&mut app).await.expect("allowed"), "app");
        world.token().await.expect("a token").access_token != first
    })
    .await;
    for _ in 0..100 {
        assert_eq!(caller(&mut app).await.expect("allowed"), "app");
    }
    world.dev.stop().await;
}
