//! A sidecar whose authority is off, and whose clock is stepped through more than a day: what it answers, against the table of
//! docs/staleness.md.
//!
//! The sidecar runs under libfaketime, which reads its clocks from a file at every look. Here the file holds one second, so that
//! the clock stands still while the sidecar is asked, and every age is exact.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use countersign_proto::verify::v1::GetStatusRequest;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_runtime::config::parse_duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::calling::{Method, call, now_millis};
use crate::report::{Report, say};

/// The classes of the table, and a method of each in the sidecar's configuration.
const METHODS: [(&str, Method); 3] = [
    ("strict", Method::Collect),
    ("normal", Method::Echo),
    ("tolerant", Method::Expand),
];

const MINUTE: u64 = 60;

/// What [`run`] needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file that the sidecar's clocks are read from.
    #[arg(long)]
    clock: PathBuf,
    /// docs/staleness.md.
    #[arg(long)]
    document: PathBuf,
    /// The sidecar's plaintext listener.
    #[arg(long)]
    sidecar: SocketAddr,
    /// The sidecar's Verify API.
    #[arg(long)]
    verify: SocketAddr,
    /// The sidecar's admin port.
    #[arg(long)]
    admin: SocketAddr,
    /// Tokens, a line each: from when it is good, in seconds since 1970, and the token.
    #[arg(long)]
    tokens: PathBuf,
}

/// A row of the table: from when it holds, which classes decide, the status, and whether the sidecar is ready.
#[derive(Debug)]
struct Row {
    from: Duration,
    /// The same, as it stands there.
    from_text: String,
    decides: [bool; 3],
    status: String,
    ready: bool,
}

/// The table as it stands in the page.
fn table(document: &Path) -> Vec<Row> {
    let page = std::fs::read_to_string(document).expect("the page");
    let (_, table) = page
        .split_once("<!-- staleness table -->")
        .expect("the table is marked");
    let lines = table.trim_start().lines();
    let rows = lines.take_while(|line| line.starts_with('|')).map(row);
    // Two lines are the head.
    rows.skip(2).map(|row| row.expect("a row")).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut cells = line.trim_matches('|').split('|').map(str::trim);
    let from_text = cells.next()?.to_owned();
    let from = parse_duration(&from_text).ok()?;
    let mut decides = || match cells.next()? {
        "decides" => Some(true),
        "refuses" => Some(false),
        _ => None,
    };
    let decides = [decides()?, decides()?, decides()?];
    Some(Row {
        from,
        from_text,
        decides,
        status: cells.next()?.to_owned(),
        ready: cells.next()? == "ready",
    })
}

/// What was found while a row held.
#[derive(Debug, Default)]
struct Found {
    instants: usize,
    calls: usize,
    first: Option<Duration>,
    last: Duration,
    wrong: Vec<String>,
}

/// The sidecar, and what its clock says.
struct Stepped<'a> {
    arguments: &'a Arguments,
    status: VerifyServiceClient<Channel>,
    tokens: Vec<(u64, String)>,
    /// When the last question was sent that the authority answered, in milliseconds since 1970.
    contact: u64,
}

impl Stepped<'_> {
    /// The clock stands at this second.
    fn stand_at(&self, second: u64) {
        let new = self.arguments.clock.with_extension("new");
        std::fs::write(&new, format!("{second}\n")).expect("written");
        std::fs::rename(&new, &self.arguments.clock).expect("in place");
    }

    fn age(&self, second: u64) -> Duration {
        Duration::from_millis((second * 1000).saturating_sub(self.contact))
    }

    async fn told(&mut self) -> (String, Option<i64>) {
        let status = self.status.get_status(GetStatusRequest {}).await;
        let status = status.expect("a status").into_inner();
        (status.freshness, status.age_ms)
    }

    fn token(&self, second: u64) -> &str {
        let good = self.tokens.iter().rev().find(|(from, _)| *from <= second);
        &good.expect("tokens for the whole time").1
    }

    /// Compares every answer at this second with a row.
    async fn compare(&mut self, second: u64, row: &Row, found: &mut Found) {
        let age = self.age(second);
        found.instants += 1;
        found.first.get_or_insert(age);
        found.last = age;
        for ((class, method), decides) in METHODS.into_iter().zip(row.decides) {
            let answer = call(self.arguments.sidecar, method, self.token(second)).await;
            found.calls += 1;
            let expected = if decides {
                (Code::Ok, "")
            } else {
                (Code::Unavailable, "TRUST_STALE")
            };
            if (answer.code, answer.reason.as_str()) != expected {
                found.wrong.push(format!("{class} at {age:?}: {answer:?}"));
            }
        }
        let (freshness, age_ms) = self.told().await;
        let exact = age_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis);
        if freshness != row.status || exact != Some(age) {
            found
                .wrong
                .push(format!("status at {age:?}: {freshness}, {exact:?}"));
        }
        let ready = self.ready().await;
        if ready != row.ready {
            found.wrong.push(format!("/ready at {age:?}: {ready}"));
        }
    }

    async fn ready(&self) -> bool {
        let mut stream = TcpStream::connect(self.arguments.admin)
            .await
            .expect("the admin port listens");
        let request = b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer.starts_with("HTTP/1.1 200 ")
    }
}

/// I-14, F14, F42: a call of each class and the status, at each minute and in the seconds before and after each change.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) {
    let table = table(&arguments.document);
    let channel = Endpoint::from_shared(format!("http://{}", arguments.verify)).expect("an address");
    let mut sidecar = Stepped {
        arguments,
        status: VerifyServiceClient::new(channel.connect_lazy()),
        tokens: tokens(&arguments.tokens),
        contact: 0,
    };
    let started = now_millis() / 1000 + 1;
    sidecar.stand_at(started);
    let (_, age_ms) = sidecar.told().await;
    let age_ms = u64::try_from(age_ms.expect("it was confirmed")).expect("an age");
    sidecar.contact = started * 1000 - age_ms;

    let mut found: Vec<Found> = table.iter().map(|_| Found::default()).collect();
    for second in seconds(&table, started, sidecar.contact) {
        sidecar.stand_at(second);
        let age = sidecar.age(second);
        let holds = table.iter().zip(&mut found).rfind(|(row, _)| row.from <= age);
        let (row, found) = holds.expect("the table begins with nothing");
        sidecar.compare(second, row, found).await;
    }
    for (row, found) in table.iter().zip(&found) {
        tell(row, found, report);
    }
}

fn tokens(file: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(file).expect("tokens");
    let lines = text.lines().map(|line| line.split_once(' ').expect("two words"));
    lines
        .map(|(from, token)| (from.parse().expect("seconds"), token.to_owned()))
        .collect()
}

/// Every minute until two after the last change, and the last second before each change and the first one after.
fn seconds(table: &[Row], started: u64, contact: u64) -> BTreeSet<u64> {
    let changes = table.iter().filter(|row| !row.from.is_zero()).map(|row| {
        let from = u64::try_from(row.from.as_millis()).expect("a time");
        (contact + from).div_ceil(1000)
    });
    let around = changes
        .flat_map(|change| [change - 1, change])
        .collect::<Vec<_>>();
    let end = around.last().expect("a change") + 2 * MINUTE;
    let minutes = (started..=end).step_by(usize::try_from(MINUTE).expect("a number"));
    minutes.chain(around).collect()
}

fn tell(row: &Row, found: &Found, report: &mut Report) {
    let classes = METHODS.iter().zip(row.decides).map(|((class, _), decides)| {
        let does = if decides { "decides" } else { "refuses" };
        format!("{class} {does}")
    });
    let first = found.first.unwrap_or_default();
    report.check(
        found.instants > 0 && found.wrong.is_empty(),
        &format!(
            "from {} on: {}, {}: {} calls at {} instants, the first at {first:?}, the last at {:?}",
            row.from_text,
            classes.collect::<Vec<_>>().join(", "),
            row.status,
            found.calls,
            found.instants,
            found.last
        ),
    );
    for wrong in found.wrong.iter().take(5) {
        say(&format!("      {wrong}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_stands() {
        let read = row("| 15m10s | refuses | refuses | decides | stale | not ready |").expect("a row");
        assert_eq!(
            (read.from, read.decides),
            (Duration::from_secs(910), [false, false, true])
        );
        assert_eq!((read.status.as_str(), read.ready), ("stale", false));
        assert!(row("| 15m10s | refuses | maybe | decides | stale | not ready |").is_none());
    }

    #[test]
    fn the_instants_are_the_minutes_and_the_seconds_around_each_change() {
        let change = row("| 1m30s | refuses | refuses | refuses | stale | ready |").expect("a row");
        let seconds = seconds(&[change], 1001, 1_000_250);
        // Confirmed at 1000.25, so at 1090 the age is a quarter of a second short of the change.
        let expected = [1001, 1061, 1090, 1091, 1121, 1181];
        assert_eq!(seconds.into_iter().collect::<Vec<_>>(), expected);
    }
}
