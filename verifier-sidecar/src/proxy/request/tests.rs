use http::Request;

use super::*;
use countersign_verifier::verifier::Denied;

fn form(
    build: impl FnOnce(http::request::Builder) -> http::request::Builder,
) -> Result<(String, Option<Duration>), Refusal> {
    let request = Request::builder()
        .method("POST")
        .uri("http://service:50051/pkg.Svc/Do")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (parts, ()) = build(request).body(()).expect("a request").into_parts();
    let form = read(&parts, &parts.uri)?;
    Ok((form.method.as_str().to_owned(), form.timeout))
}

const MALFORMED: Refusal = Refusal::Rejected(Denied {
    rejection: Rejection::RequestMalformed,
    stale: None,
});

#[test]
fn a_plain_call_is_read() {
    let read = form(|request| request.header("grpc-timeout", "250m"));
    assert_eq!(
        read,
        Ok(("/pkg.Svc/Do".to_owned(), Some(Duration::from_millis(250))))
    );
}

/// G01, G02: the whole of `:path` is judged, the query too.
#[test]
fn what_is_not_exactly_a_method_is_malformed() {
    for path in [
        "//pkg.Svc/Do",
        "/./pkg.Svc/Do",
        "/pkg.Svc/Do/",
        "/pkg.Svc%2FDo",
        "/pkg.Svc/Do?a=b",
        "/pkg.Svc/Do?",
        "/pkg.Svc/Do;v=1",
        "/",
    ] {
        let uri = format!("http://service{path}");
        assert_eq!(
            form(|request| request.uri(uri.as_str())),
            Err(MALFORMED),
            "{path}"
        );
    }
}

/// G03: another HTTP method is no call.
#[test]
fn only_post_is_a_call() {
    for method in ["GET", "post", "PUT", "OPTIONS", "TRACE", "CONNECT", "PRI"] {
        assert_eq!(
            form(|request| request.method(method)),
            Err(Refusal::NotACall),
            "{method}"
        );
    }
    assert_eq!(form(|request| request.uri("*")), Err(Refusal::NotACall));
}

/// G05: one name for the server, and nothing in it that readers differ on.
#[test]
fn the_server_has_one_name() {
    for authority in [
        "service",
        "service:50051",
        "10.0.0.1:1",
        "[::1]",
        "[2001:db8::1]:443",
        "a_b.c-d",
    ] {
        assert!(is_host_and_port(authority), "{authority}");
        let uri = format!("http://{authority}/pkg.Svc/Do");
        assert!(
            form(|request| request.uri(uri.as_str()).header("host", authority)).is_ok(),
            "{authority}"
        );
    }
    for authority in [
        "",
        ":1",
        "user@service",
        "user:pass@service",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]:1",
        "service:",
        "service:65536",
        "service:+1",
        "a b",
        "[::1",
        "::1",
        "[::1]x",
        "a%2eb",
    ] {
        assert!(!is_host_and_port(authority), "{authority}");
    }
    assert_eq!(
        form(|request| request.uri("/pkg.Svc/Do")),
        Err(MALFORMED),
        "no authority"
    );
    for host in ["other", "service", "SERVICE:50051", "service:50051, other"] {
        assert_eq!(
            form(|request| request.header("host", host)),
            Err(MALFORMED),
            "{host}"
        );
    }
    let twice = form(|request| request.header("host", "service:50051").header("host", "evil"));
    assert_eq!(twice, Err(MALFORMED));
}

/// G10, G09: one content type, exactly ours.
#[test]
fn only_grpc_with_protobuf_is_served() {
    let with = |types: &[&str]| {
        let (mut parts, ()) = Request::post("http://service/pkg.Svc/Do")
            .body(())
            .expect("a request")
            .into_parts();
        for value in types {
            parts
                .headers
                .append(CONTENT_TYPE, value.parse().expect("a value"));
        }
        read(&parts, &parts.uri.clone()).map(|_| ())
    };
    for good in ["application/grpc", "application/grpc+proto"] {
        assert_eq!(with(&[good]), Ok(()), "{good}");
    }
    for bad in [
        &[][..],
        &["text/plain"],
        &["application/grpc-web"],
        &["application/grpc+json"],
        &["application/grpcx"],
        &["application/grpc", "text/plain"],
        &["application/grpc, text/plain"],
    ] {
        assert_eq!(with(bad), Err(Refusal::NotGrpc), "{bad:?}");
    }
}

/// G11: absent is accepted, anything but `trailers` is not.
#[test]
fn te_is_trailers_or_absent() {
    let (mut parts, ()) = Request::post("http://service/pkg.Svc/Do")
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request")
        .into_parts();
    let uri = parts.uri.clone();
    assert!(read(&parts, &uri).is_ok());
    parts.headers.insert(TE, HeaderValue::from_static("gzip"));
    assert_eq!(read(&parts, &uri).map(|_| ()), Err(MALFORMED));
}

/// G12: the grammar's limits, one on either side.
#[test]
fn deadlines_follow_the_grammar() {
    let seconds = Duration::from_secs;
    for (text, expected) in [
        ("1S", seconds(1)),
        ("99999999H", seconds(99_999_999 * 3600)),
        ("00000001M", seconds(60)),
        ("5m", Duration::from_millis(5)),
        ("7u", Duration::from_micros(7)),
        ("9n", Duration::from_nanos(9)),
        ("0S", Duration::ZERO),
    ] {
        assert_eq!(
            parse_timeout(&HeaderValue::from_static(text)),
            Some(expected),
            "{text}"
        );
    }
    for text in [
        "1",
        "-5S",
        "abc",
        "999999999H",
        "",
        "S",
        "1s",
        "+1S",
        " 1S",
        "1 S",
        "1.5S",
        "1SS",
    ] {
        assert_eq!(
            form(|request| request.header("grpc-timeout", text)),
            Err(MALFORMED),
            "{text:?}"
        );
    }
    let twice = form(|request| request.header("grpc-timeout", "1S").header("grpc-timeout", "2S"));
    assert_eq!(twice, Err(MALFORMED));
}
