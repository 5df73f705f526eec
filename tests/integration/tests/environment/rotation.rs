//! Rotation under a running load of calls: not one of them fails.
#![expect(clippy::print_stdout, reason = "the counts are part of the report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use countersign_harness::dev::{Dev, Through};
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::{KeyState, ListKeysRequest};
use countersign_proto::demo::v1::EchoRequest;
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::start;

/// Callers at the same time.
const CALLERS: usize = 4;

/// Rotations made while they call.
const ROTATIONS: usize = 3;

/// Calls with one token, before the next is fetched: most tokens are new, so that the first under a new key is met at once.
const CALLS_PER_TOKEN: usize = 5;

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    calls: AtomicU64,
    tokens: AtomicU64,
}

async fn fetch_token(authority: &Channel, audience: &str) -> AsciiMetadataValue {
    let request = IssueTokenRequest {
        grant_type: "client_credentials".to_owned(),
        audience: audience.to_owned(),
        ..Default::default()
    };
    let mut tokens = TokenServiceClient::new(authority.clone());
    let token = tokens
        .issue_token(request)
        .await
        .expect("a token is issued")
        .into_inner()
        .access_token;
    format!("Bearer {token}").parse().expect("a header value")
}

/// Fetches tokens and calls until told to stop. Any failure is the test's.
async fn call_on(load: Arc<Load>, authority: Channel, sidecar: Channel, audience: String) {
    let mut demo = DemoServiceClient::new(sidecar);
    while !load.stop.load(Ordering::Relaxed) {
        let token = fetch_token(&authority, &audience).await;
        load.tokens.fetch_add(1, Ordering::Relaxed);
        for _ in 0..CALLS_PER_TOKEN {
            let mut request = Request::new(EchoRequest {
                message: "hello".to_owned(),
            });
            request.metadata_mut().insert("authorization", token.clone());
            let answer = demo.echo(request).await.expect("not one call fails").into_inner();
            assert_eq!(
                answer.caller.expect("the sidecar told who calls").client_id,
                "orders"
            );
            load.calls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn signing_key(dev: &Dev) -> String {
    let mut keys = KeyServiceClient::new(dev.operator());
    let keys = keys
        .list_keys(ListKeysRequest {})
        .await
        .expect("the authority answers")
        .into_inner()
        .keys;
    let active: Vec<_> = keys
        .into_iter()
        .filter(|key| key.state() == KeyState::Active)
        .collect();
    assert_eq!(active.len(), 1, "exactly one key signs");
    active.into_iter().next().expect("one").kid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_one_call_fails_while_keys_rotate() {
    let dev = start().await;
    let (load, audience) = (Arc::new(Load::default()), dev.environment.demo.audience.clone());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (authority, sidecar) = (dev.orders(), dev.channel(Through::Tls("orders")));
            tokio::spawn(call_on(Arc::clone(&load), authority, sidecar, audience.clone()))
        })
        .collect();
    for _ in 0..ROTATIONS {
        let before = signing_key(&dev).await;
        let rotated = tokio::task::block_in_place(|| dev.run(&["key", "rotate"]));
        assert!(
            rotated.status.success(),
            "{}",
            String::from_utf8_lossy(&rotated.stderr)
        );
        assert_ne!(signing_key(&dev).await, before, "another key signs now");
    }
    load.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("not one call failed");
    }
    let (calls, tokens) = (
        load.calls.load(Ordering::Relaxed),
        load.tokens.load(Ordering::Relaxed),
    );
    println!("{calls} calls with {tokens} tokens over {ROTATIONS} rotations, none failed");
    assert!(tokens > 20, "too few tokens to show anything");
}
