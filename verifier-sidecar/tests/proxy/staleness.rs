//! After the authority is lost: what calls are answered, against the table that operators read.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::ports::Clock as _;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{GetStatusRequest, VerifyRequest};
use countersign_runtime::config::parse_duration;
use countersign_verifier::test_util;
use tonic::transport::Channel;

use crate::admin::get;
use crate::support::{Setup, Sidecar, channel, claims_with};

const PAGE: &str = include_str!("../../../docs/staleness.md");

const CLASSES: [&str; 3] = ["strict", "normal", "tolerant"];

const METHODS: &str = r#"
[[method]]
path = "/a.A/strict"
class = "strict"
[[method]]
path = "/a.A/tolerant"
class = "tolerant"
"#;

const MINUTE: Duration = Duration::from_secs(60);

/// A row of the table: from when it holds, which classes decide, the status, and whether the sidecar is ready.
struct Row {
    from: Duration,
    decides: [bool; 3],
    status: String,
    ready: bool,
}

/// The table as it stands in the page.
fn table() -> Vec<Row> {
    let (_, table) = PAGE
        .split_once("<!-- staleness table -->")
        .expect("the table is marked");
    let rows = table
        .trim_start()
        .lines()
        .take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| {
        row.trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
    });
    let mut cells = cells.collect::<Vec<_>>().into_iter();
    let head = cells.next().expect("a head");
    assert_eq!(
        head,
        ["From", "`strict`", "`normal`", "`tolerant`", "Status", "`/ready`"]
    );
    let rows = cells.skip(1).map(|row| Row {
        from: parse_duration(row[0]).expect("a time"),
        decides: [row[1], row[2], row[3]].map(|cell| match cell {
            "decides" => true,
            "refuses" => false,
            other => panic!("{other}"),
        }),
        status: row[4].to_owned(),
        ready: row[5] == "ready",
    });
    rows.collect()
}

/// The reason of the refusal, if it is one, and the class and age that are told with it.
async fn ask(
    client: &mut VerifyServiceClient<Channel>,
    token: &str,
    path: &str,
) -> Option<(String, Option<(String, Option<i64>)>)> {
    let request = VerifyRequest {
        token: token.to_owned(),
        path: path.to_owned(),
        ..VerifyRequest::default()
    };
    let answer = client.verify(request).await.expect("an answer").into_inner();
    match answer.verdict.expect("a verdict") {
        Verdict::Allowed(_) => None,
        Verdict::Refused(refused) => Some((
            refused.reason,
            refused.stale.map(|stale| (stale.class, stale.age_ms)),
        )),
    }
}

/// I-14, F14, H07: minute by minute, and a second before and at every change, the sidecar answers what the table in the
/// documentation says; and with the first contact everything is back.
#[tokio::test]
async fn answers_match_the_documented_table_minute_by_minute() {
    let sidecar = Sidecar::with(Setup {
        more: METHODS.to_owned(),
        ..Setup::default()
    })
    .await;
    let mut client = VerifyServiceClient::new(channel(sidecar.addresses.verify_grpc.expect("an address")));
    test_util::confirm(&sidecar.trust, Duration::from_secs(10));
    let contact = sidecar.clock.elapsed();
    let table = table();
    assert_eq!(table.first().map(|row| row.from), Some(Duration::ZERO));
    let last = table.last().expect("rows").from;
    let minutes = (0..)
        .map(|minute| minute * MINUTE)
        .take_while(|age| *age < last + 2 * MINUTE);
    let changes = table.iter().map(|row| row.from).filter(|from| !from.is_zero());
    let ages: BTreeSet<_> = changes
        .flat_map(|from| [from - Duration::from_secs(1), from])
        .chain(minutes)
        .collect();
    for age in ages {
        sidecar.clock.advance(contact + age - sidecar.clock.elapsed());
        let row = table.iter().rfind(|row| row.from <= age).expect("a row");
        compare(&sidecar, &mut client, row, age).await;
    }
    test_util::confirm(&sidecar.trust, Duration::from_secs(10));
    compare(&sidecar, &mut client, &table[0], Duration::ZERO).await;
}

async fn compare(sidecar: &Sidecar, client: &mut VerifyServiceClient<Channel>, row: &Row, age: Duration) {
    let token = sidecar.issuer.token(&claims_with(|claims| {
        claims.issued_at = sidecar.clock.now();
        claims.not_before = None;
        claims.expires_at = claims.issued_at.saturating_add(MINUTE);
    }));
    let age_ms = i64::try_from(age.as_millis()).expect("a time");
    for (class, decides) in CLASSES.into_iter().zip(row.decides) {
        let refused = ask(client, &token, &format!("/a.A/{class}")).await;
        let stale = || ("trust_stale".to_owned(), Some((class.to_owned(), Some(age_ms))));
        assert_eq!(refused, (!decides).then(stale), "{class} after {age:?}");
    }
    let [_, normal, _] = row.decides;
    assert_eq!(
        ask(client, &token, "").await.is_none(),
        normal,
        "without a method after {age:?}"
    );
    let status = client
        .get_status(GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(
        (status.freshness.as_str(), status.age_ms),
        (row.status.as_str(), Some(age_ms))
    );
    // The default class first.
    let told: Vec<_> = status
        .classes
        .iter()
        .map(|class| (class.class.as_str(), class.decides))
        .collect();
    let [strict, normal, tolerant] = row.decides;
    assert_eq!(
        told,
        [("normal", normal), ("strict", strict), ("tolerant", tolerant)],
        "{age:?}"
    );
    for class in &status.classes {
        let goes_on = 10_000 + i64::try_from(class.revocations_ms).expect("a time");
        let left = class.refuses_in_ms.expect("a countdown");
        // The very instant at which a lease ends is just after it, by less than can be told.
        assert!(
            left.abs_diff((goes_on - age_ms).max(0)) <= 1,
            "{}: {left}",
            class.class
        );
    }
    if !age.as_secs().is_multiple_of(60) {
        let expected = if row.ready { 200 } else { 503 };
        assert_eq!(get(sidecar, "/ready").await.0, expected, "{age:?}");
    }
}

/// The countdown of each class in use is a gauge.
#[tokio::test]
async fn the_countdown_of_each_class_is_a_metric() {
    let sidecar = Sidecar::with(Setup {
        more: METHODS.to_owned(),
        ..Setup::default()
    })
    .await;
    test_util::confirm(&sidecar.trust, Duration::from_secs(10));
    for (pass, left) in [
        (0, ["10.0", "910.0", "86410.0"]),
        (11, ["0.0", "899.0", "86399.0"]),
    ] {
        sidecar.clock.advance(Duration::from_secs(pass));
        let (_, metrics) = get(&sidecar, "/metrics").await;
        for (class, left) in CLASSES.into_iter().zip(left) {
            let line = format!("countersign_trust_refuses_in_seconds{{class=\"{class}\"}} {left}");
            assert!(metrics.lines().any(|has| has == line), "{line}: {metrics}");
        }
        for (class, budget) in CLASSES.into_iter().zip(["0.0", "900.0", "86400.0"]) {
            let line = format!("countersign_trust_budget_seconds{{class=\"{class}\"}} {budget}");
            assert!(metrics.lines().any(|has| has == line), "{line}: {metrics}");
        }
    }
}
