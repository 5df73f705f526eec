//! The section `[ext_authz]`.

use countersign_wire::status::Disclosure;

use super::*;
use crate::ext_authz::Certificates;

const TLS: &str = "tls = { certificate = \"a\", private_key = \"b\", trust_roots = \"c\" }\n";

fn section(lines: &str) -> Result<Config, String> {
    parse(&format!("{LEAST}[ext_authz]\n{lines}"))
}

#[test]
fn envoy_asks_here_or_anywhere_over_tls() {
    assert!(parse(LEAST).expect("good").ext_authz.is_none());
    let config = section("grpc = \"127.0.0.1:9003\"\n").expect("good");
    let plain = config.ext_authz.expect("there");
    assert_eq!((plain.unix, plain.disclosure), (None, Disclosure::Coarse));
    assert_eq!(plain.certificates, Certificates::Ignored);
    assert!(matches!(plain.grpc, Some((address, None)) if address.port() == 9003));

    let more = "unix = \"authz.sock\"\ndisclose_reasons = true\nbelieve_peer_certificate = true\n";
    let config = section(&format!("grpc = \"0.0.0.0:9003\"\n{TLS}{more}")).expect("good");
    let all = config.ext_authz.expect("there");
    assert!(
        all.unix
            .is_some_and(|path| path.is_absolute() && path.ends_with("authz.sock"))
    );
    assert!(matches!(all.grpc, Some((address, Some(_))) if address.ip().is_unspecified()));
    assert_eq!(
        (all.disclosure, all.certificates),
        (Disclosure::Precise, Certificates::Envoys)
    );
}

/// C01, C05, C07.
#[test]
fn what_envoy_could_not_ask_is_refused() {
    for (lines, needle) in [
        ("", "`ext_authz`: needs `grpc` or `unix`"),
        ("disclose_reasons = true\n", "`ext_authz`: needs `grpc` or `unix`"),
        (
            &format!("unix = \"a\"\n{TLS}"),
            "`ext_authz.tls`: is for `grpc`, which is missing",
        ),
        ("grpc = \"0.0.0.0:9003\"\n", "`ext_authz.grpc`: has no TLS"),
        ("grpc = \"localhost:9003\"\n", "`ext_authz.grpc`: is no address"),
        (
            "grpc = \"127.0.0.1:8080\"\n",
            "`ext_authz.grpc`: wants the same port as `listener.0.address`",
        ),
        (
            "grpc = \"127.0.0.1:50051\"\n",
            "`upstream`: is the sidecar itself, at `ext_authz.grpc`",
        ),
        (
            "unix = \"a\"\n[verify]\nunix = \"a\"\n",
            "`ext_authz.unix`: is the same socket as `verify.unix`",
        ),
        (
            "grpc = \"127.0.0.1:1\"\nfailure_mode_allow = true\n",
            "unknown field `failure_mode_allow`",
        ),
        (
            &format!(
                "grpc = \"0.0.0.0:9003\"\n{}",
                TLS.replace(", trust_roots = \"c\"", "")
            ),
            "missing field `trust_roots`",
        ),
    ] {
        let complaints = section(lines).expect_err(lines);
        assert!(complaints.contains(needle), "{lines}: {complaints}");
    }
}
