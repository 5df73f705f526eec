//! The demo service over a real connection.

use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use super::*;

async fn running() -> Channel {
    let listener = listen("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, std::future::pending()));
    Channel::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_lazy()
}

#[tokio::test]
async fn echo_shows_what_the_sidecar_says_of_the_caller() {
    let mut demo = DemoServiceClient::new(running().await);
    let mut request = Request::new(v1::EchoRequest {
        message: "hello".to_owned(),
    });
    for (name, value) in [
        ("x-countersign-subject", "client:dev.test/orders"),
        ("x-countersign-client", "orders"),
        ("x-countersign-scopes", "a b"),
        ("x-countersign-token-id", "1.0"),
    ] {
        request
            .metadata_mut()
            .insert(name, value.parse().expect("a value"));
    }
    let answer = demo.echo(request).await.expect("an answer").into_inner();
    assert_eq!(answer.message, "hello");
    let caller = answer.caller.expect("a caller");
    assert_eq!(caller.subject, "client:dev.test/orders");
    assert_eq!(caller.client_id, "orders");
    assert_eq!(caller.scopes, ["a", "b"]);
    assert_eq!(caller.token_id, "1.0");
}

#[tokio::test]
async fn all_four_kinds_of_call_answer() {
    let mut demo = DemoServiceClient::new(running().await);
    let messages = || futures_util::stream::iter(["a", "b", "c"].map(str::to_owned));
    let collected = demo
        .collect(messages().map(|message| v1::CollectRequest { message }))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!((collected.count, collected.message.as_str()), (3, "a b c"));
    let expand = v1::ExpandRequest {
        message: "x".to_owned(),
        count: 3,
    };
    let expanded = demo.expand(expand).await.expect("an answer").into_inner();
    let indices: Vec<u32> = expanded
        .map(|answer| answer.expect("an answer").index)
        .collect()
        .await;
    assert_eq!(indices, [0, 1, 2]);
    let chat = demo
        .chat(messages().map(|message| v1::ChatRequest { message }))
        .await
        .expect("an answer")
        .into_inner();
    let said: Vec<(u32, String)> = chat
        .map(|answer| answer.expect("an answer"))
        .map(|answer| (answer.index, answer.message))
        .collect()
        .await;
    assert_eq!(
        said,
        [(0, "a".to_owned()), (1, "b".to_owned()), (2, "c".to_owned())]
    );
}

#[tokio::test]
async fn nobody_can_ask_for_more_than_is_bounded() {
    let mut demo = DemoServiceClient::new(running().await);
    let too_many = v1::ExpandRequest {
        message: String::new(),
        count: MOST_ANSWERS + 1,
    };
    assert_eq!(
        demo.expand(too_many).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    let part = || v1::CollectRequest {
        message: "x".repeat(LONGEST_TEXT),
    };
    let parts = futures_util::stream::iter([part(), part()]);
    assert_eq!(
        demo.collect(parts).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn it_is_on_loopback_only() {
    let address = "192.0.2.1:0".parse().expect("an address");
    assert!(matches!(listen(address).await, Err(DemoError::NotLoopback(_))));
}

#[tokio::test]
async fn reflection_knows_its_own_service_and_what_refusals_carry_and_no_other_of_ours() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let mut reflection = ServerReflectionClient::new(running().await);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".to_owned()),
        MessageRequest::FileContainingSymbol("countersign.admin.v1.KeyService".to_owned()),
    ];
    let asked = asked.map(|request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    });
    let answers = reflection
        .server_reflection_info(futures_util::stream::iter(asked))
        .await;
    let mut answers = answers.expect("answers").into_inner();
    let listed = answers.message().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
        panic!("no list: {listed:?}");
    };
    let mut names: Vec<&str> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    let detail = answers.message().await.expect("an answer").expect("an answer");
    assert!(
        matches!(
            detail.message_response,
            Some(MessageResponse::FileDescriptorResponse(_))
        ),
        "{detail:?}"
    );
    let hidden = answers.message().await;
    let found = matches!(
        hidden
            .as_ref()
            .ok()
            .and_then(|answer| answer.as_ref()?.message_response.as_ref()),
        Some(MessageResponse::FileDescriptorResponse(_))
    );
    assert!(!found, "{hidden:?}");
}
