//! The apps behind the sidecar: where they are, and which calls reach which.

use super::*;
use crate::proxy::Speaks;

#[test]
fn the_service_is_on_this_machine() {
    for upstream in [
        "http://localhost:1",
        "http://127.0.0.1:50051/",
        "https://127.0.0.1:50051",
        "https://localhost:50051/",
        "http://[::1]:50051",
        "unix:///run/app.sock",
    ] {
        assert!(
            parse(&LEAST.replacen("http://127.0.0.1:50051", upstream, 1)).is_ok(),
            "{upstream}"
        );
    }
    for upstream in [
        "http://10.0.0.1:1",
        "http://example.com:1",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:1/path",
        "unix://run/app.sock",
        "unix:///",
        "127.0.0.1:1",
        "http://localhost:x",
        "http://localhost.evil:1",
        "http://localhost:+1",
        "https://10.0.0.1:1",
        "https://service.example.com:1",
        "https://user@localhost:1",
        "https://localhost:1/path",
    ] {
        let complaints = complaints_with("http://127.0.0.1:50051", upstream);
        assert!(complaints.contains("`upstream`"), "{upstream}: {complaints}");
    }
}

/// C03, C07: a sidecar in front of itself would pass each call on to itself for ever.
#[test]
fn the_service_is_not_the_sidecar_itself() {
    let tls = "tls = { certificate = \"a\", private_key = \"b\", trust_roots = \"c\" }\n";
    for (upstream, more, listener) in [
        ("http://127.0.0.1:8080", String::new(), "listener.0.address"),
        ("https://127.0.0.1:8080", String::new(), "listener.0.address"),
        ("http://localhost:8080", String::new(), "listener.0.address"),
        ("http://127.0.0.1:9902", String::new(), "admin"),
        (
            "http://[::1]:7",
            "[verify]\ngrpc = \"[::1]:7\"\n".to_owned(),
            "verify.grpc",
        ),
        (
            "http://127.0.0.1:7",
            format!("[[listener]]\naddress = \"0.0.0.0:7\"\n{tls}"),
            "listener.1.address",
        ),
        (
            "http://127.0.0.1:7",
            format!("[[listener]]\naddress = \"[::]:7\"\n{tls}"),
            "listener.1.address",
        ),
        (
            "http://127.0.0.1:7",
            format!("[[listener]]\naddress = \"[::ffff:127.0.0.1]:7\"\n{tls}"),
            "listener.1.address",
        ),
    ] {
        let text = format!("{}{more}", LEAST.replace("http://127.0.0.1:50051", upstream));
        let complaint = format!("`upstream`: is the sidecar itself, at `{listener}`");
        let complaints = parse(&text).expect_err(upstream);
        assert!(complaints.contains(&complaint), "{upstream} {more}: {complaints}");
    }
    for (upstream, more) in [
        ("http://[::1]:8080", String::new()),
        ("http://127.0.0.2:8080", String::new()),
        (
            "http://127.0.0.1:7",
            format!("[[listener]]\naddress = \"10.0.0.1:7\"\n{tls}"),
        ),
    ] {
        let text = format!("{}{more}", LEAST.replace("http://127.0.0.1:50051", upstream));
        assert_eq!(parse(&text).err(), None, "{upstream} {more}");
    }
}

/// C03, C07: the same for a socket, whatever leads to it.
#[test]
fn the_service_is_not_the_sidecars_own_socket() {
    let (folder, file) = folder();
    let linked = folder.path().join("linked");
    std::os::unix::fs::symlink(folder.path(), &linked).expect("linked");
    let refused = |socket: &Path| {
        let text = LEAST.replace("http://127.0.0.1:50051", &format!("unix://{}", socket.display()));
        let parsed = Config::parse(&file, &format!("{text}[verify]\nunix = \"verify.sock\"\n"));
        parsed.is_err_and(|complaints| {
            complaints
                .to_string()
                .contains("`upstream`: is the sidecar itself, at `verify.unix`")
        })
    };
    assert!(refused(&folder.path().join("verify.sock")));
    assert!(refused(&folder.path().join("linked/verify.sock")));
    assert!(!refused(&folder.path().join("service.sock")));
    assert!(!refused(Path::new("/nowhere/verify.sock")));
}

/// With who must answer, a service may be anywhere; without, only here.
#[test]
fn a_service_elsewhere_has_to_show_who_it_is() {
    let upstream = "upstream = \"http://127.0.0.1:50051\"";
    let with = |table: &str| {
        let uri = "https://service.example.com:50051";
        LEAST.replacen(upstream, &format!("upstream = {{ uri = \"{uri}\"{table} }}"), 1)
    };
    for pinned in [
        ", spiffe_id = \"spiffe://prod.example.com/orders\"",
        ", trust_roots = \"service-ca.crt\"",
        ", trust_roots = \"service-ca.crt\", server_name = \"orders\"",
    ] {
        let config = parse(&with(pinned)).unwrap_or_else(|complaints| panic!("{pinned}: {complaints}"));
        let Some(ServiceConfig::Tls(service)) = config.apps.default.clone().map(|app| app.service) else {
            panic!("{:?}", config.apps)
        };
        assert_eq!(service.uri.host(), Some("service.example.com"));
        assert_eq!(service.server.spiffe_id.is_some(), pinned.contains("spiffe_id"));
        let roots = service.trust_roots;
        assert_eq!(roots.is_some(), pinned.contains("trust_roots"));
        assert!(roots.is_none_or(|roots| roots.is_absolute() && roots.ends_with("service-ca.crt")));
    }
    for (unpinned, needle) in [
        ("", "`upstream`: is not on this machine: say who must answer"),
        (", server_name = \"orders\"", "`upstream`: is not on this machine"),
        (", spiffe_id = \"orders\"", "`upstream.spiffe_id`"),
        (", spiffe = \"x\"", "unknown field `spiffe`"),
    ] {
        let complaints = parse(&with(unpinned)).expect_err(unpinned);
        assert!(complaints.contains(needle), "{unpinned}: {complaints}");
    }
    for (written, needle) in [
        ("{ spiffe_id = \"spiffe://a.b/c\" }", "missing field `uri`"),
        (
            "{ uri = \"http://127.0.0.1:1\", spiffe_id = \"spiffe://a.b/c\" }",
            "`upstream`: says who must answer, and has no `https` address",
        ),
        ("50051", "an address, or a table with `uri`"),
    ] {
        let complaints = complaints_with(upstream, &format!("upstream = {written}"));
        assert!(complaints.contains(needle), "{written}: {complaints}");
    }
}

const ROUTES: &str = r#"
[[route]]
host = "stock.example.com"
upstream = "http://127.0.0.1:50052"
[[route]]
path = "/shop.v1.Prices/*"
upstream = "unix:///run/prices.sock"
"#;

/// A listener for one app alone.
const OWN: &str = r#"
[[listener]]
address = "127.0.0.1:8081"
plaintext = true
upstream = "http://127.0.0.1:50053"
"#;

#[test]
fn apps_are_chosen_by_listener_and_by_route() {
    let config = parse(&format!("{LEAST}{OWN}{ROUTES}")).expect("good");
    let routes: Vec<_> = config
        .apps
        .routes
        .iter()
        .map(|route| route.calls.to_string())
        .collect();
    assert_eq!(routes, ["stock.example.com/*", "*/shop.v1.Prices/*"]);
    assert!(config.apps.default.is_some());
    let own: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| listener.app.is_some())
        .collect();
    assert_eq!(own, [false, true]);
    let without = LEAST.replace("upstream = \"http://127.0.0.1:50051\"\n", "");
    let config = parse(&format!("{without}{ROUTES}")).expect("what no route leads is refused");
    assert_eq!(config.apps.default, None);
}

/// C01, C03, C04: what leads nowhere, or never.
#[test]
fn routes_lead_something_and_every_listener_leads_somewhere() {
    let without = LEAST.replace("upstream = \"http://127.0.0.1:50051\"\n", "");
    let own = LEAST.replace(
        "plaintext = true",
        "plaintext = true\nupstream = \"http://127.0.0.1:50053\"",
    );
    let route = |entry: &str| format!("{LEAST}[[route]]\n{entry}\n");
    for (text, needle) in [
        (without.clone(), "`listener.0`: leads nowhere"),
        (format!("{without}{OWN}"), "`listener.0`: leads nowhere"),
        (own.clone(), "`upstream`: leads no call"),
        (format!("{own}{ROUTES}"), "`route.0`: leads no call"),
        (
            route("upstream = \"http://127.0.0.1:50052\""),
            "`route.0`: needs `host` or `path`",
        ),
        (
            route("host = \"a/b\"\nupstream = \"http://127.0.0.1:50052\""),
            "`route.0.host`: is no host",
        ),
        (
            route("path = \"/a/../b\"\nupstream = \"http://127.0.0.1:50052\""),
            "`route.0.path`: is none of",
        ),
        (
            route("path = \"/*\"\nupstream = \"http://127.0.0.1:50052\""),
            "`route.0.path`: is none of",
        ),
        (route("path = \"/a.B/*\""), "missing field `upstream`"),
        (
            route("host = \"a\"\nupstream = \"http://10.0.0.1:1\""),
            "`route.0.upstream`: is none of",
        ),
        (
            route("host = \"a\"\nupstream = \"http://127.0.0.1:8080\""),
            "`route.0.upstream`: is the sidecar itself, at `listener.0.address`",
        ),
        (
            format!("{LEAST}{}", OWN.replace("50053", "8080")),
            "`listener.1.upstream`: is the sidecar itself, at `listener.0.address`",
        ),
        (
            format!(
                "{LEAST}{ROUTES}[[route]]\nhost = \"STOCK.example.com:8443\"\npath = \"/a.B/*\"\nupstream = \"unix:///a\"\n"
            ),
            "`route.2`: leads no call: `stock.example.com/*` comes before `STOCK.example.com:8443/a.B/*`",
        ),
        (
            format!("{LEAST}{ROUTES}[[route]]\naudience = \"a\"\nhost = \"b\"\nupstream = \"unix:///a\"\n"),
            "unknown field `audience`",
        ),
    ] {
        let complaints = parse(&text).expect_err(needle);
        assert!(complaints.contains(needle), "{text}: {complaints}");
    }
}

/// Whoever is asked, and calls nobody, needs no service.
#[test]
fn without_listeners_there_needs_to_be_no_service() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:8080\"\nplaintext = true\n";
    let without = LEAST
        .replace("upstream = \"http://127.0.0.1:50051\"\n", "")
        .replace(listener, "");
    for served in [
        "[ext_authz]\ngrpc = \"127.0.0.1:1\"\n",
        "[verify]\nunix = \"verify.sock\"\n",
        "[agent]\nunix = \"agent.sock\"\n",
    ] {
        let config = parse(&format!("{without}{served}"));
        let config = config.unwrap_or_else(|complaints| panic!("{served}: {complaints}"));
        assert!(config.listeners.is_empty() && config.apps.default.is_none());
        let routed = parse(&format!("{without}{served}{ROUTES}")).expect_err(served);
        assert!(routed.contains("`route.0`: leads no call"), "{routed}");
    }
    let complaints = parse(&without).expect_err("nobody could connect");
    assert!(complaints.contains("`listener`: is missing"), "{complaints}");
    // As it had to be, once.
    assert_eq!(
        parse(&format!(
            "{}[verify]\nunix = \"a\"\n",
            LEAST.replace(listener, "")
        ))
        .err(),
        None
    );
}

/// Certificates are required where nothing is said, and shown to nobody without TLS.
#[test]
fn certificates_of_callers_are_required_unless_it_is_said_otherwise() {
    let tls = |more: &str| {
        format!(
            "{LEAST}[[listener]]\naddress = \"0.0.0.0:8443\"\ntls = {{ certificate = \"a\", private_key = \"b\", trust_roots = \"c\" }}\n{more}"
        )
    };
    let certificates = |more: &str| {
        let config = parse(&tls(more)).expect("good");
        config.listeners[1].tls.as_ref().expect("TLS").1
    };
    assert_eq!(certificates(""), ClientCertificates::Required);
    assert_eq!(
        certificates("client_certificates = \"required\"\n"),
        ClientCertificates::Required
    );
    assert_eq!(
        certificates("client_certificates = \"optional\"\n"),
        ClientCertificates::Optional
    );
    let complaints = parse(&tls("client_certificates = \"none\"\n")).expect_err("C05");
    assert!(complaints.contains("unknown variant `none`"), "{complaints}");
    let complaints = complaints_with(
        "plaintext = true",
        "plaintext = true\nclient_certificates = \"optional\"",
    );
    assert!(
        complaints.contains("`listener.0.client_certificates`: is for `tls`"),
        "{complaints}"
    );
}

/// An app may speak one HTTP alone. gRPC needs HTTP/2, so before one of HTTP/1.1 there is a listener that takes more than gRPC.
#[test]
fn an_app_may_speak_one_http_alone() {
    let speaking = |protocol: &str| {
        LEAST.replace(
            "upstream = \"http://127.0.0.1:50051\"",
            &format!("upstream = {{ uri = \"http://127.0.0.1:50051\"{protocol} }}"),
        )
    };
    for (protocol, expected) in [
        ("", Speaks::Both),
        (", protocol = \"http1\"", Speaks::Http1),
        (", protocol = \"http2\"", Speaks::Http2),
    ] {
        let config = parse(&speaking(protocol)).expect("valid");
        assert_eq!(
            config.apps.default.map(|app| app.speaks),
            Some(expected),
            "{protocol}"
        );
    }
    let complaints = parse(&speaking(", protocol = \"http3\"")).expect_err("unknown");
    assert!(complaints.contains("http3"), "{complaints}");

    let http1 = ", protocol = \"http1\"";
    let grpc_only = speaking(http1).replacen("[[listener]]\n", "[[listener]]\ngrpc_only = true\n", 1);
    assert!(grpc_only.contains("grpc_only"), "{grpc_only}");
    let complaints = parse(&grpc_only).expect_err("no gRPC there");
    assert!(complaints.contains("`upstream`: gets no call"), "{complaints}");
    let another = "[[listener]]\naddress = \"127.0.0.1:8081\"\nplaintext = true\n";
    assert_eq!(parse(&format!("{grpc_only}{another}")).err(), None);
    let own = "grpc_only = true\nupstream = { uri = \"http://127.0.0.1:7\", protocol = \"http1\" }\n";
    let complaints = parse(&format!("{}{another}{own}", speaking(""))).expect_err("no gRPC there");
    assert!(
        complaints.contains("`listener.1.upstream`: gets no call"),
        "{complaints}"
    );
}
