//! `countersign observed`: what a sidecar would have refused, were it enforced.

use std::cmp::Reverse;
use std::time::Duration;

use clap::Args;
use countersign_proto::verify::v1;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use serde::Serialize;
use tonic::Request;

use super::local::Local;
use crate::args::duration;
use crate::connection::FolderArgs;
use crate::failure::Failure;
use crate::output::{Output, Paint, Text, Tone};
use crate::present;

const API: Local = Local {
    name: "Verify API",
    section: "verify",
};

/// Where the sidecar's Verify API is.
#[derive(Debug, Args)]
pub(crate) struct ObservedArgs {
    /// The sidecar's Verify API: `unix:///PATH`, or `HOST:PORT` on loopback. Left out: that of the environment
    #[arg(
        long,
        env = "COUNTERSIGN_VERIFY",
        hide_env_values = true,
        value_name = "ADDRESS"
    )]
    verify: Option<String>,

    #[command(flatten)]
    folder: FolderArgs,

    /// How long to wait for the answer
    #[arg(long, env = "COUNTERSIGN_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

impl ObservedArgs {
    fn address(&self) -> Result<String, Failure> {
        if let Some(address) = &self.verify {
            return Ok(address.clone());
        }
        let environment = self.folder.environment()?.ok_or_else(|| {
            Failure::usage("which sidecar is meant is not said")
                .next("name its Verify API: `--verify unix:///PATH`, or `--verify 127.0.0.1:PORT`")
        })?;
        Ok(environment.sidecar.verify_grpc)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    observed: Vec<Observed>,
    others: u64,
}

#[derive(Debug, Serialize)]
struct Observed {
    caller: String,
    method: Option<String>,
    reason: String,
    calls: u64,
    first_at: Option<String>,
    last_at: Option<String>,
}

/// Shows what the sidecar has observed since its start, the most frequent first.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: ObservedArgs, output: Output) -> Result<(), Failure> {
    let channel = API.connect(&args.address()?, args.timeout).await?;
    let mut request = Request::new(v1::ListObservedRequest {});
    request.set_timeout(args.timeout);
    let answer = VerifyServiceClient::new(channel).list_observed(request).await;
    let answer =
        answer.map_err(|status| Failure::answered("the sidecar does not say what it observed", &status))?;
    let report = Report::from(answer.into_inner());
    output.data(&report, |paint| report.table(paint))
}

impl From<v1::ListObservedResponse> for Report {
    fn from(answer: v1::ListObservedResponse) -> Self {
        let mut observed: Vec<_> = answer.observed.into_iter().map(Observed::from).collect();
        observed.sort_by_key(|one| Reverse(one.calls));
        Self {
            observed,
            others: answer.others,
        }
    }
}

impl From<v1::Observed> for Observed {
    fn from(observed: v1::Observed) -> Self {
        Self {
            first_at: present::wire_time(observed.first_at.as_ref()),
            last_at: present::wire_time(observed.last_at.as_ref()),
            caller: observed.caller,
            method: Some(observed.method).filter(|method| !method.is_empty()),
            reason: observed.reason,
            calls: observed.calls,
        }
    }
}

impl Report {
    fn table(&self, paint: Paint) -> String {
        let row = |one: &Observed| {
            vec![
                Text::from(one.caller.clone()),
                one.method
                    .clone()
                    .map_or_else(|| Text::toned("any other", Tone::Faint), Text::from),
                Text::toned(one.reason.clone(), Tone::Bad),
                Text::from(one.calls.to_string()),
                present::optional(one.first_at.clone()),
                present::optional(one.last_at.clone()),
            ]
        };
        let heading = ["CALLER", "METHOD", "REASON", "CALLS", "FIRST", "LAST"];
        let mut shown = paint.table(&heading, self.observed.iter().map(row).collect());
        if self.others > 0 {
            let others = present::count(self.others, "call");
            shown.push_str(&format!("\n\nand {others} that there was no room to tell apart"));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(others: u64) -> Report {
        let observed = |caller: &str, method: &str, calls| v1::Observed {
            method: method.to_owned(),
            reason: "token_missing".to_owned(),
            caller: caller.to_owned(),
            calls,
            first_at: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 0,
            }),
            last_at: None,
        };
        Report::from(v1::ListObservedResponse {
            observed: vec![
                observed("cart", "", 1),
                observed("spiffe://a.test/cart", "/a.A/*", 4711),
            ],
            others,
        })
    }

    #[test]
    fn the_most_frequent_comes_first() {
        let expected = serde_json::json!({
            "observed": [
                {
                    "caller": "spiffe://a.test/cart", "method": "/a.A/*", "reason": "token_missing", "calls": 4711,
                    "first_at": "2027-01-15T08:00:00Z", "last_at": null,
                },
                {
                    "caller": "cart", "method": null, "reason": "token_missing", "calls": 1,
                    "first_at": "2027-01-15T08:00:00Z", "last_at": null,
                },
            ],
            "others": 7,
        });
        assert_eq!(serde_json::json!(report(7)), expected);
    }

    #[test]
    fn people_are_told_what_there_was_no_room_for() {
        let plain = Paint::plain();
        let table = report(7).table(plain);
        for told in [
            "spiffe://a.test/cart",
            "/a.A/*",
            "token_missing",
            "4711",
            "any other",
            "7 calls",
        ] {
            assert!(table.contains(told), "{told}: {table}");
        }
        assert!(!report(0).table(plain).contains("no room"));
    }
}
