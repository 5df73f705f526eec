//! Many calls at once. Made to a process that is stopped, they wait in its sockets: they are the first that it sees when it goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::task::JoinSet;

use crate::calling::{Method, call};
use crate::report::say;

/// What [`run`] needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The sidecar's plaintext listener.
    #[arg(long)]
    sidecar: SocketAddr,
    /// A file with the token.
    #[arg(long)]
    token: PathBuf,
    /// How many calls.
    #[arg(long)]
    count: usize,
}

/// Makes the calls, and says how many came to what.
pub(crate) async fn run(arguments: &Arguments) {
    let token = std::fs::read_to_string(&arguments.token).expect("a token");
    let mut calls = JoinSet::new();
    for _ in 0..arguments.count {
        let (sidecar, token) = (arguments.sidecar, token.trim_end().to_owned());
        calls.spawn(async move { call(sidecar, Method::Echo, &token).await });
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for answer in calls.join_all().await {
        let what = format!("{:?} {}", answer.code, answer.reason);
        *counts.entry(what.trim_end().to_owned()).or_default() += 1;
    }
    let told = counts.iter().map(|(what, count)| format!("{count} {what}"));
    say(&told.collect::<Vec<_>>().join(", "));
}
