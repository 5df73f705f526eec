//! The section `[agent]`.

use super::*;

#[test]
fn an_agent_is_served_where_it_is_named_and_nowhere_else() {
    let silent = parse(LEAST).expect("good").agent;
    assert!(!silent.is_served());
    assert_eq!(silent.limits, defaults::AGENT);
    let agent = "[agent]\nunix = \"agent.sock\"\ngrpc = \"127.0.0.1:0\"\nmax_tokens = 3\nidle = \"5m\"\n";
    let agent = parse(&format!("{LEAST}{agent}")).expect("good").agent;
    assert!(agent.is_served());
    assert!(agent.unix.expect("a socket").ends_with("agent.sock"));
    assert_eq!((agent.limits.max_tokens, agent.limits.idle.as_secs()), (3, 300));
}

/// C07: whoever reaches it gets tokens, so it is for this machine only, and its socket is nobody else's.
#[test]
fn an_agent_is_for_this_machine_only_and_bounded() {
    for (more, needle) in [
        ("[agent]\ngrpc = \"10.0.0.1:9903\"\n", "`agent.grpc`: has no TLS"),
        (
            "[agent]\ngrpc = \"127.0.0.1:9902\"\n",
            "`admin`: wants the same port as `agent.grpc`",
        ),
        (
            "[verify]\nunix = \"one.sock\"\n[agent]\nunix = \"one.sock\"\n",
            "`agent.unix`: is the same socket as `verify.unix`",
        ),
        (
            "[agent]\nmax_tokens = 0\n",
            "`agent.max_tokens`: is not between 1 and 4096",
        ),
        (
            "[agent]\nmax_tokens = 5000\n",
            "`agent.max_tokens`: is not between 1 and 4096",
        ),
        ("[agent]\nidle = \"0s\"\n", "idle"),
        ("[agent]\nsecret = \"x\"\n", "unknown field `secret`"),
    ] {
        let complaints = complaints_about(more);
        assert!(complaints.contains(needle), "{more}: {complaints}");
    }
    let upstream = LEAST.replace("http://127.0.0.1:50051", "http://127.0.0.1:9903");
    let complaints = parse(&format!("{upstream}[agent]\ngrpc = \"127.0.0.1:9903\"\n")).expect_err("a loop");
    assert!(
        complaints.contains("`upstream`: is the sidecar itself, at `agent.grpc`"),
        "{complaints}"
    );
}
