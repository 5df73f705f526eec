//! What is no question, and what is no request (G01 to G12, G48).

use bytes::Bytes;

use super::*;

const MALFORMED: (i32, Code, &str) = (400, Code::InvalidArgument, "request_malformed");

fn header(key: &str, value: &str) -> HeadersEntry {
    HeadersEntry {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

type Change = fn(&mut HttpRequest);

/// A good call with a good token, changed.
async fn changed(asking: &Asking, change_it: impl Fn(&mut HttpRequest)) -> Told {
    let mut check = grpc(CALL, &[("authorization", &bearer_of(&asking.token()))]);
    change_it(change(&mut check));
    asking.ask(check).await
}

/// G48: what is no request that came to Envoy is denied, and not an error, which Envoy might let pass.
#[tokio::test]
async fn what_is_no_question_is_denied() {
    let asking = Asking::new();
    let no_request = CheckRequest {
        attributes: Some(AttributeContext::default()),
    };
    let no_http = CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: None }),
            ..AttributeContext::default()
        }),
    };
    for check in [CheckRequest::default(), no_request, no_http] {
        assert_eq!(asking.ask(check).await.refusal(), MALFORMED);
    }
    let changes: [(&str, Change); 11] = [
        ("no path", |http| http.path.clear()),
        ("no method", |http| http.method.clear()),
        ("no host", |http| http.host.clear()),
        ("headers in both forms", |http| {
            http.headers = vec![header("te", "trailers")]
        }),
        ("another path in the headers", |http| {
            http.path = "/test.Open/Do".to_owned()
        }),
        ("another method in the headers", |http| {
            http.method = "GET".to_owned()
        }),
        ("another host in the headers", |http| {
            http.host = "other".to_owned()
        }),
        ("more headers than can be held", |http| {
            let raw = http.header_map.as_mut().expect("headers");
            raw.headers.resize_with(24_577, Default::default);
        }),
        ("a header of two values", |http| {
            let raw = http.header_map.as_mut().expect("headers");
            raw.headers
                .iter_mut()
                .for_each(|header| header.value = "x".to_owned());
        }),
        ("a name that is none", |http| {
            let raw = http.header_map.as_mut().expect("headers");
            raw.headers[5].key = "no name".to_owned();
        }),
        ("a value that is none", |http| {
            let raw = http.header_map.as_mut().expect("headers");
            raw.headers[6].raw_value = Bytes::from_static(b"a\nb");
        }),
    ];
    for (name, change_it) in changes {
        assert_eq!(changed(&asking, change_it).await.refusal(), MALFORMED, "{name}");
    }
    // In the form of a map, a name can be there once only.
    let mut twice = joined(grpc(CALL, &[("authorization", &bearer_of(&asking.token()))]));
    change(&mut twice)
        .headers
        .push(header("Authorization", "Bearer x"));
    assert_eq!(asking.ask(twice).await.refusal(), MALFORMED);
    changed(&asking, |_| {}).await.allowed();
}

/// G08, G09: a field that is there twice, or with bytes that are no text, is malformed; joined by Envoy, too.
#[tokio::test]
async fn credentials_have_one_form() {
    let asking = Asking::new();
    let good = bearer_of(&asking.token());
    let with_bytes = [&good[..], b"\xff\x80"].concat();
    for fields in [
        &[good.as_slice(), good.as_slice()][..],
        &[&good, b"Bearer x"],
        &[b"Bearer x", &good],
        &[&with_bytes],
        &[b"Bearer \xff"],
    ] {
        let fields: Vec<_> = fields.iter().map(|field| ("authorization", *field)).collect();
        for check in [
            grpc(CALL, &fields),
            joined(grpc(CALL, &fields)),
            http("GET", CALL, &fields),
        ] {
            let refusal = asking.ask(check).await;
            assert_eq!(refusal.refusal(), (401, Code::Unauthenticated, "token_malformed"));
        }
    }
}

/// G01, G02, G05, G12: as on the proxy, which has the grammar.
#[tokio::test]
async fn a_grpc_call_has_the_form_that_the_proxy_takes() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    for path in [
        "test.Service/Call",
        "//test.Service/Call",
        "/./test.Service/Call",
        "/x/../test.Service/Call",
        "/test.Service/Call/",
        "/test.Service//Call",
        "/test.Service%2FCall",
        "/test%2eService/Call",
        "/test.Service/Call;v=1",
        "/test.Service/Call?a=b",
        "/test.Service/Call#f",
        "/test.Service\\Call",
        "/test.Service/Call ",
        "/test.Service/C\u{e4}ll",
        "/test.Service",
        "http://service:8080/test.Service/Call",
    ] {
        let told = asking.ask(grpc(path, &[("authorization", &authorization)])).await;
        assert_eq!(told.refusal(), MALFORMED, "{path}");
        assert_eq!(
            told.headers()["grpc-status"],
            "3",
            "{path}: Envoy would make of 400 an error of ours"
        );
    }
    for (name, value) in [
        ("host", &b"elsewhere"[..]),
        ("te", b"gzip"),
        ("grpc-timeout", b"abc"),
        ("grpc-timeout", b"-5S"),
    ] {
        let told = asking
            .ask(grpc(CALL, &[("authorization", &authorization), (name, value)]))
            .await;
        assert_eq!(told.refusal(), MALFORMED, "{name}");
    }
    for host in ["user@service", "[fe80::1%25eth0]", "service:99999", "a b"] {
        let told = changed(&asking, |http| {
            http.host = host.to_owned();
            let raw = http.header_map.as_mut().expect("headers");
            raw.headers[0].raw_value = host.as_bytes().to_vec().into();
        });
        assert_eq!(told.await.refusal(), MALFORMED, "{host}");
    }
}

/// G03, G10: what is no call of a gRPC method, in the words of both protocols.
#[tokio::test]
async fn what_is_no_call_is_told_so() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    let fields = [("authorization", authorization.as_slice())];
    for (method, path) in [
        ("GET", CALL),
        ("post", CALL),
        ("CONNECT", CALL),
        ("OPTIONS", "*"),
        ("POST", "*"),
    ] {
        let mut check = grpc(path, &fields);
        change(&mut check).method = method.to_owned();
        change(&mut check).header_map.as_mut().expect("headers").headers[2].raw_value = method.into();
        let told = asking.ask(check).await;
        assert_eq!(
            told.refusal(),
            (405, Code::Unimplemented, "not_a_call"),
            "{method} {path}"
        );
        assert_eq!(told.headers()["allow"], "POST");
    }
    for content_type in [
        "application/grpc+json",
        "application/grpc+thrift",
        "application/grpc+",
    ] {
        let told = asking
            .ask(question(
                "POST",
                CALL,
                &[("content-type", content_type.as_bytes()), fields[0]],
            ))
            .await;
        assert_eq!(
            told.refusal(),
            (415, Code::Unimplemented, "not_grpc"),
            "{content_type}"
        );
        assert_eq!(told.headers()["grpc-status"], "12");
    }
    let told = asking
        .ask(question(
            "POST",
            CALL,
            &[
                ("content-type", b"application/grpc"),
                ("content-type", b"text/plain"),
                fields[0],
            ],
        ))
        .await;
    assert_eq!(told.refusal().2, "not_grpc");
}

/// The same for requests that are no gRPC.
#[tokio::test]
async fn methods_that_are_no_requests_for_something_are_not_taken() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    let fields = [("authorization", authorization.as_slice())];
    for method in ["CONNECT", "TRACE", "get", "BREW"] {
        let told = asking.ask(http(method, "/orders/17", &fields)).await;
        assert_eq!(
            told.refusal(),
            (405, Code::Unimplemented, "not_a_call"),
            "{method}"
        );
        assert_eq!(
            told.headers()["allow"],
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        );
    }
}

/// G02, for requests that are no gRPC: one path, one reading; the query is not judged.
#[tokio::test]
async fn other_requests_have_a_path_with_one_reading() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    let fields = [("authorization", authorization.as_slice())];
    for path in [
        "/orders/../healthz",
        "/orders/./17",
        "//orders/17",
        "/orders/17/",
        "/orders/%31",
        "/orders;a=b/17",
        "/orders/17#f",
        "/healthz%00",
        "/orders\\17",
        "orders/17",
    ] {
        let told = asking.ask(http("GET", path, &fields)).await;
        assert_eq!(told.refusal(), MALFORMED, "{path}");
    }
    let elsewhere = [fields[0], ("host", b"elsewhere")];
    assert_eq!(
        asking.ask(http("GET", "/orders/17", &elsewhere)).await.refusal(),
        MALFORMED
    );
    for target in [
        "/orders/17",
        "/orders/17/items",
        "/orders/17?x=/../healthz&y=%2e",
        CALL,
    ] {
        asking.ask(http("GET", target, &fields)).await.allowed();
    }
    asking.ask(http("GET", "/healthz?verbose", &[])).await.allowed();
    // What no rule names asks for the default.
    let told = asking.ask(http("GET", "/", &fields)).await;
    assert_eq!(told.refusal().2, "scope_insufficient");
}

/// A call of a method asks for the same, whatever it is dressed up as.
#[tokio::test]
async fn no_content_type_is_a_way_around_a_rule() {
    let asking = Asking::new();
    let authorization = bearer_of(&asking.token());
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/json",
        "Application/GRPC",
        "text/plain",
        "",
    ] {
        let with = |path| {
            let content_type = ("content-type", content_type.as_bytes());
            question("POST", path, &[content_type, ("authorization", &authorization)])
        };
        asking.ask(with(CALL)).await.allowed();
        let told = asking.ask(with("/test.Admin/Do")).await;
        assert_eq!(told.refusal().2, "scope_insufficient", "{content_type}");
    }
}
