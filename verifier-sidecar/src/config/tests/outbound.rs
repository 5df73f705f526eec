//! The sections `[[outbound]]`.

use super::*;

const WAY: &str = r#"
[[outbound]]
address = "127.0.0.1:9910"
upstream = "https://stock.example.com:8443"
"#;

const ROUTE: &str = "[[outbound.route]]\naudience = \"stock\"\n";

#[test]
fn a_way_out_says_where_to_whom_and_with_which_tokens() {
    let config = parse(EXAMPLE).expect("the example");
    let way = config.outbound.first().expect("one");
    assert_eq!(
        way.listen,
        LocalAddress::Tcp("127.0.0.1:9910".parse().expect("an address"))
    );
    let ServiceConfig::Tls(TlsServiceConfig { uri, server, .. }) = &way.neighbour else {
        panic!("{way:?}")
    };
    assert_eq!(
        uri.authority().expect("a host").as_str(),
        "stock.example.com:8443"
    );
    assert!(server.spiffe_id.is_some());
    assert_eq!(way.routes.len(), 1);
    assert_eq!(
        format!("{} {}", way.routes[0].calls, way.routes[0].key),
        "*/shop.v1.Stock/* stock stock.read"
    );
    assert!(!way.own_tokens);
    let unix = WAY.replace("address = \"127.0.0.1:9910\"", "unix = \"out.sock\"");
    let unix = parse(&format!("{LEAST}{unix}{ROUTE}")).expect("good");
    assert!(matches!(&unix.outbound[0].listen, LocalAddress::Unix(path) if path.ends_with("out.sock")));
}

/// C07 and the rule of all addresses: what is not protected by TLS stays on this machine, for it carries a token.
#[test]
fn a_way_out_stays_on_this_machine_or_goes_over_tls() {
    let address = "address = \"127.0.0.1:9910\"";
    let upstream = "https://stock.example.com:8443";
    for (from, to, needle) in [
        (address, "", "`outbound.0`: needs either `address` or `unix`"),
        (
            address,
            "address = \"127.0.0.1:1\"\nunix = \"a\"",
            "`outbound.0`: needs either",
        ),
        (
            address,
            "address = \"10.0.0.1:9\"",
            "`outbound.0.address`: has no TLS",
        ),
        (
            address,
            "address = \"127.0.0.1:9902\"",
            "wants the same port as `outbound.0.address`",
        ),
        (
            upstream,
            "http://stock.example.com:80",
            "`outbound.0.upstream`: is none of",
        ),
        (
            upstream,
            "http://10.0.0.1:80",
            "`outbound.0.upstream`: is none of",
        ),
        (
            upstream,
            "https://stock/path",
            "`outbound.0.upstream`: is none of",
        ),
        (
            upstream,
            "https://user@stock:1",
            "`outbound.0.upstream`: is none of",
        ),
        (
            "upstream = \"https://stock.example.com:8443\"",
            "upstream = \"http://127.0.0.1:1\"\nspiffe_id = \"spiffe://a.b/c\"",
            "no `https` address that could tell",
        ),
    ] {
        let way = WAY.replacen(from, to, 1);
        let complaints = complaints_about(&format!("{way}{ROUTE}"));
        assert!(complaints.contains(needle), "{to}: {complaints}");
    }
}

#[test]
fn routes_are_of_their_form_and_each_leads_something() {
    for (routes, needle) in [
        ("", "`outbound.0`: needs a `[[outbound.route]]`"),
        (
            "[[outbound.route]]\naudience = \"a b\"\n",
            "`outbound.0.route.0.audience`",
        ),
        (
            "[[outbound.route]]\naudience = \"a\"\nscopes = [\"*\"]\n",
            "`outbound.0.route.0.scopes`",
        ),
        (
            "[[outbound.route]]\naudience = \"a\"\npath = \"/a.B\"\n",
            "`outbound.0.route.0.path`: is none of",
        ),
        (
            "[[outbound.route]]\naudience = \"a\"\nhost = \"x/y\"\n",
            "`outbound.0.route.0.host`: is no host",
        ),
        (
            "[[outbound.route]]\naudience = \"a\"\n[[outbound.route]]\naudience = \"b\"\npath = \"/a.B/*\"\n",
            "`outbound.0.route.1`: leads no call: `*/*` comes before `*/a.B/*`",
        ),
    ] {
        let complaints = complaints_about(&format!("{WAY}{routes}"));
        assert!(complaints.contains(needle), "{routes}: {complaints}");
    }
}

/// A call would go round for ever.
#[test]
fn a_way_out_does_not_lead_back_into_it() {
    let looped = WAY.replace("https://stock.example.com:8443", "http://127.0.0.1:9910");
    let complaints = complaints_about(&format!("{looped}{ROUTE}"));
    assert!(
        complaints.contains("`outbound.0.upstream`: is the sidecar itself, at `outbound.0.address`"),
        "{complaints}"
    );
}
