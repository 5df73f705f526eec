//! Classes of methods, their budgets, and numbers that contradict each other.

use countersign_core::names::Scope;

use super::*;

/// What is added to the least file, on which line of it the complaint is, and what it says.
const CONTRADICTIONS: [(&str, usize, &str); 11] = [
    (
        "[trust]\nheartbeat = \"5s\"\n",
        2,
        "`trust.heartbeat`: 5s is not less than half of 10s",
    ),
    (
        "[staleness]\nwarn_after = \"5s\"\n",
        2,
        "`staleness.warn_after`: 5s is less than three times `trust.heartbeat`, 2s",
    ),
    (
        "[staleness]\nwarn_after = \"15m10s\"\n",
        2,
        "`staleness.warn_after`: 15m10s never comes: after a lease of 10s and the longest budget, 15m of `normal`, every call is refused from 15m10s on",
    ),
    (
        "[staleness]\nwarn_after = \"30s\"\ndefault_class = \"strict\"\n",
        2,
        "`staleness.warn_after`: 30s never comes: after a lease of 10s and the longest budget, 0s of `strict`, every call is refused from 10s on",
    ),
    (
        "[staleness.class.batch]\nrevocations = \"15m\"\nkeys = \"8d\"\n",
        3,
        "`staleness.class.batch.keys`: 8d is over 7d",
    ),
    (
        "[staleness]\ndefault_class = \"stirct\"\n",
        2,
        "`staleness.default_class`: there is no class `stirct`: there is normal, strict, tolerant",
    ),
    (
        "[[method]]\npath = \"/a.B/C\"\nclass = \"loose\"\n",
        3,
        "`method.0.class`: there is no class `loose`",
    ),
    (
        "[[method]]\npath = \"/a.B/C\"\nopen = true\nclass = \"strict\"\n",
        1,
        "`method.0`: has `open = true` and asks for something",
    ),
    (
        "[staleness.class.Batch]\nrevocations = \"15m\"\nkeys = \"15m\"\n",
        1,
        "`staleness.class.Batch`: a class is 1 to 32",
    ),
    (
        "[trust]\nrefuse_after = \"15m\"\n",
        2,
        "`trust.refuse_after`: is gone: say `revocations` and `keys` in `[staleness.class.normal]`",
    ),
    (
        "[trust]\nwarn_after = \"1m\"\n",
        2,
        "`trust.warn_after`: is gone: it is `warn_after` in `[staleness]` now",
    ),
];

const CLASSES: &str = r#"
[staleness]
default_class = "batch"
[staleness.class.batch]
revocations = "1h"
keys = "2m"
[staleness.class.strict]
revocations = "0s"
keys = "5s"
[staleness.class.idle]
revocations = "1m"
keys = "1m"
[[method]]
path = "/a.B/Strict"
class = "strict"
[[method]]
path = "/a.B/Scoped"
scopes = ["orders.write"]
class = "tolerant"
[[method]]
path = "/a.B/Bound"
bound = true
"#;

/// C03: numbers of staleness that contradict each other, each with its line and the numbers in question.
#[test]
fn staleness_that_contradicts_itself_is_refused_with_its_numbers() {
    let line = LEAST.lines().count();
    for (more, at, told) in CONTRADICTIONS {
        let complaints = complaints_about(more);
        let place = format!("sidecar.toml:{}: ", line + at);
        assert_eq!(complaints.lines().count(), 1, "{more}: {complaints}");
        assert!(
            complaints.contains(&place) && complaints.contains(told),
            "{more}: {complaints}"
        );
    }
}

/// C03: so many classes are no classes, and half of a budget is none.
#[test]
fn classes_are_bounded_and_whole() {
    let many: String = (0..14)
        .map(|n| format!("[staleness.class.c{n}]\nrevocations = \"1m\"\nkeys = \"1m\"\n"))
        .collect();
    assert!(complaints_about(&many).contains("there are 17 classes with those built in: 16 are the most"));
    // One budget without the other is no class: which of the two counts would be a guess.
    let complaints = complaints_about("[staleness.class.normal]\nkeys = \"1m\"\n");
    assert!(complaints.contains("missing field `revocations`"), "{complaints}");
}

/// What is just not a contradiction.
#[test]
fn staleness_at_its_bounds_is_accepted() {
    for more in [
        "[trust]\nheartbeat = \"4s999ms\"\n",
        "[staleness]\nwarn_after = \"6s\"\n",
        "[staleness]\nwarn_after = \"15m9s\"\n",
        "[staleness.class.normal]\nrevocations = \"7d\"\nkeys = \"7d\"\n",
        // Nothing was said of warnings, so nothing contradicts.
        "[staleness]\ndefault_class = \"strict\"\n",
    ] {
        parse(&format!("{LEAST}{more}")).expect(more);
    }
}

/// Methods belong to the class that is named for them, else to the default; only classes in use are counted on.
#[test]
fn methods_belong_to_classes() {
    let top = LEAST.replacen("admin = ", "default_scopes = [\"orders.read\"]\nadmin = ", 1);
    let config = parse(&format!("{top}{CLASSES}")).expect("good");
    let asks = |path: &str| {
        let method = MethodPath::parse(path).expect("a method");
        let Access::Protected(asks) = &config.methods.find(method).access else {
            panic!("{path} is open");
        };
        let scopes: Vec<_> = asks.scopes.iter().map(Scope::as_str).collect();
        (
            asks.class.class.to_string(),
            asks.class.budget.shortest().as_secs(),
            scopes.join(" "),
        )
    };
    let expected = |class: &str, budget, scopes: &str| (class.to_owned(), budget, scopes.to_owned());
    // With nothing but a class: what the default asks for.
    assert_eq!(asks("/a.B/Strict"), expected("strict", 0, "orders.read"));
    assert_eq!(asks("/a.B/Scoped"), expected("tolerant", 86_400, "orders.write"));
    assert_eq!(asks("/a.B/Bound"), expected("batch", 120, ""));
    assert_eq!(asks("/a.B/Other"), expected("batch", 120, "orders.read"));
    let used: Vec<_> = config
        .trust
        .staleness
        .budgets()
        .into_iter()
        .map(|class| class.class.to_string())
        .collect();
    assert_eq!(used, ["batch", "strict", "tolerant"]);
    assert_eq!(config.trust.staleness.default_class.class.as_str(), "batch");
}

/// What the numbers come to, for whoever sets them.
#[test]
fn what_the_numbers_come_to_is_said() {
    let config = parse(&format!("{LEAST}{CLASSES}")).expect("good");
    assert_eq!(
        config.implied().to_string(),
        "with leases of 10s, which are the authority's to grant (at most 1m is believed):\n\
         class `batch` (default): goes on for 2m10s after the last contact; if this sidecar is cut off, a revocation is unnoticed \
         for at most 2m10s\n\
         class `strict`: goes on for 10s after the last contact; if this sidecar is cut off, a revocation is unnoticed for at most \
         10s\n\
         class `tolerant`: goes on for 1d10s after the last contact; if this sidecar is cut off, a revoked token is unnoticed for \
         at most 1h5s, when it has expired, and a compromised key for at most 1d10s\n\
         class `idle`: no method belongs to it\n\
         what no `[[method]]` names takes any good token for `orders`: there are no `default_scopes`"
    );
}
