//! The ports of an environment: those asked for, else those of the last run, else any that are free.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use countersign_core::ports::{Entropy as _, EntropyFailed};
use countersign_crypto::AwsLc;
use tokio::net::TcpListener;

use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Ports asked for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Ports (left out: those of the last run, or any that are free)")]
pub(super) struct PortArgs {
    /// The authority's gRPC port
    #[arg(long, value_name = "PORT")]
    authority_port: Option<u16>,

    /// The authority's metrics and health
    #[arg(long, value_name = "PORT")]
    authority_metrics_port: Option<u16>,

    /// The sidecar's proxy over mutual TLS
    #[arg(long, value_name = "PORT")]
    proxy_port: Option<u16>,

    /// The sidecar's proxy in plaintext
    #[arg(long, value_name = "PORT")]
    proxy_plaintext_port: Option<u16>,

    /// The sidecar's Verify API
    #[arg(long, value_name = "PORT")]
    verify_port: Option<u16>,

    /// The sidecar's metrics and health
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,

    /// The demo service
    #[arg(long, value_name = "PORT")]
    demo_port: Option<u16>,
}

/// How many ports there are.
const COUNT: usize = 7;

impl PortArgs {
    const fn all(&self) -> [(&'static str, Option<u16>); COUNT] {
        [
            ("--authority-port", self.authority_port),
            ("--authority-metrics-port", self.authority_metrics_port),
            ("--proxy-port", self.proxy_port),
            ("--proxy-plaintext-port", self.proxy_plaintext_port),
            ("--verify-port", self.verify_port),
            ("--admin-port", self.admin_port),
            ("--demo-port", self.demo_port),
        ]
    }
}

/// The ports of the last run, in the same order.
fn of_last_run(environment: &Environment) -> [Option<u16>; COUNT] {
    let (authority, sidecar) = (&environment.authority, &environment.sidecar);
    [
        &authority.grpc,
        &authority.metrics,
        &sidecar.proxy,
        &sidecar.proxy_plaintext,
        &sidecar.verify_grpc,
        &sidecar.admin,
        &environment.demo.upstream,
    ]
    .map(|address| address.rsplit_once(':')?.1.parse().ok())
}

/// The ports chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports([u16; COUNT]);

impl Ports {
    /// Chooses.
    ///
    /// # Errors
    /// When a port that is asked for cannot be had.
    pub(super) async fn choose(
        wanted: &PortArgs,
        earlier: Option<&Environment>,
        output: Output,
    ) -> Result<Self, Failure> {
        let last = earlier.map_or([None; COUNT], of_last_run);
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::with_capacity(COUNT);
        for (option, port) in wanted.all() {
            if let Some(port) = port {
                held.push((
                    option,
                    bind(port).await.map_err(|error| taken(option, port, &error))?,
                ));
            }
        }
        let mut chosen = [0; COUNT];
        for ((slot, (option, wanted)), last) in chosen.iter_mut().zip(wanted.all()).zip(last) {
            *slot = match (wanted, last) {
                (Some(port), _) => port,
                (None, last) => {
                    let listener = free(last).await?;
                    let port = listener.local_addr().map_or(0, |address| address.port());
                    if last.is_some_and(|last| last != port) {
                        output.note(&format!(
                            "port {} is taken; using {port}",
                            last.unwrap_or_default()
                        ));
                    }
                    held.push((option, listener));
                    port
                }
            };
        }
        Ok(Self(chosen))
    }

    fn address(self, index: usize) -> String {
        let port = self.0.get(index).copied().unwrap_or_default();
        format!("{}:{port}", Ipv4Addr::LOCALHOST)
    }

    /// The authority's gRPC address.
    pub(super) fn authority(self) -> String {
        self.address(0)
    }

    /// The authority's metrics and health.
    pub(super) fn authority_metrics(self) -> String {
        self.address(1)
    }

    /// The sidecar's proxy over mutual TLS.
    pub(super) fn proxy(self) -> String {
        self.address(2)
    }

    /// The sidecar's proxy in plaintext.
    pub(super) fn proxy_plaintext(self) -> String {
        self.address(3)
    }

    /// The sidecar's Verify API.
    pub(super) fn verify(self) -> String {
        self.address(4)
    }

    /// The sidecar's metrics and health.
    pub(super) fn admin(self) -> String {
        self.address(5)
    }

    /// The demo service.
    pub(super) fn demo(self) -> String {
        self.address(6)
    }
}

async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Where ports are looked for: below those that systems give to outgoing connections (from 32768 on Linux, from 49152
/// elsewhere), so that none of these takes the port of a part that is about to start, or to be started again.
const RANGE: std::ops::Range<u16> = 15_000..30_000;

/// How many are tried. With a thousandth of the range in use, two would do.
const TRIES: usize = 64;

/// A listener on the port of the last run, or on any other.
async fn free(last: Option<u16>) -> Result<TcpListener, Failure> {
    if let Some(port) = last
        && let Ok(listener) = bind(port).await
    {
        return Ok(listener);
    }
    for _ in 0..TRIES {
        let port = any().map_err(|error| Failure::because("cannot choose a port", &error))?;
        if let Ok(listener) = bind(port).await {
            return Ok(listener);
        }
    }
    bind(0)
        .await
        .map_err(|error| Failure::because("no port is free", &error))
}

/// A port of the range, by chance, so that two environments that start at once do not want the same.
fn any() -> Result<u16, EntropyFailed> {
    let mut random = [0; 2];
    AwsLc.fill(&mut random)?;
    let width = RANGE.end - RANGE.start;
    Ok(RANGE.start + u16::from_be_bytes(random) % width)
}

fn taken(option: &str, port: u16, error: &std::io::Error) -> Failure {
    let mut failure = Failure::because(&format!("port {port} cannot be had"), error);
    failure.exit = Exit::Unavailable;
    failure.next(format!("stop whoever uses it, or choose another: `{option}`"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::output::ColourChoice;

    const OUTPUT: fn() -> Output = || Output::new(true, ColourChoice::Never);

    #[tokio::test]
    async fn every_part_gets_a_port_of_its_own() {
        let ports = Ports::choose(&PortArgs::default(), None, OUTPUT())
            .await
            .expect("ports");
        let distinct: BTreeSet<u16> = ports.0.into_iter().collect();
        assert_eq!(distinct.len(), COUNT);
        assert!(distinct.iter().all(|port| RANGE.contains(port)), "{distinct:?}");
    }

    #[tokio::test]
    async fn a_port_that_is_asked_for_is_had_or_refused() {
        let listener = bind(0).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let wanted = PortArgs {
            demo_port: Some(port),
            ..PortArgs::default()
        };
        let refused = Ports::choose(&wanted, None, OUTPUT()).await.expect_err("taken");
        assert_eq!(refused.exit, Exit::Unavailable);
        assert!(refused.next.is_some_and(|next| next.contains("--demo-port")));
        drop(listener);
        let ports = Ports::choose(&wanted, None, OUTPUT()).await.expect("ports");
        assert_eq!(ports.demo(), format!("127.0.0.1:{port}"));
    }
}
