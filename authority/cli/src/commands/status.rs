//! `countersign status`: whether the parts of a development environment run and agree.

use std::time::Duration;

use clap::Args;
use countersign_proto::verify::v1;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_runtime::ErrorChain;
use serde::Serialize;
use tonic::transport::Endpoint;

use crate::connection::FolderArgs;
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Paint, Text, Tone};
use crate::present;
use crate::probe::{Readiness, readiness};

/// Where.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Serialize)]
struct Status {
    healthy: bool,
    parts: Vec<Part>,
    trust: Option<Trust>,
}

#[derive(Debug, Serialize)]
struct Part {
    part: &'static str,
    address: String,
    ready: bool,
    detail: Option<String>,
}

/// What the sidecar trusts.
#[derive(Debug, Serialize)]
struct Trust {
    issuer: String,
    audience: String,
    epoch: u64,
    state_digest: String,
    freshness: String,
    connected: bool,
    age_ms: Option<i64>,
    refuses_in_ms: Option<i64>,
    keys: u32,
    revocations: u64,
    classes: Vec<Class>,
}

/// Until when calls of one class of methods are decided.
#[derive(Debug, Serialize)]
struct Class {
    class: String,
    decides: bool,
    refuses_in_ms: Option<i64>,
}

/// Shows how the parts are. Fails with [`Exit::Unavailable`] when one of them is not ready.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: StatusArgs, output: Output) -> Result<(), Failure> {
    let environment = args.folder.environment()?.ok_or_else(|| {
        Failure::usage("which environment is meant is not said").next("name it: `--dir DIR`")
    })?;
    let mut parts = vec![
        admin(
            "authority",
            &environment.authority.grpc,
            &environment.authority.metrics,
        )
        .await,
        admin("sidecar", &environment.sidecar.proxy, &environment.sidecar.admin).await,
        demo(&environment).await,
    ];
    let trust = match trust(&environment).await {
        Ok(trust) => Some(trust),
        Err(why) => {
            parts.push(verify_api(&environment, why));
            None
        }
    };
    let status = Status {
        healthy: parts.iter().all(|part| part.ready),
        parts,
        trust,
    };
    output.data(&status, |paint| status.table(paint))?;
    if status.healthy {
        Ok(())
    } else {
        Err(Failure::new(Exit::Unavailable, "not everything is ready")
            .next("see the logs in the environment's folder"))
    }
}

async fn admin(part: &'static str, address: &str, port: &str) -> Part {
    let (ready, detail) = match readiness(port).await {
        Readiness::Ready => (true, None),
        Readiness::NotReady(why) | Readiness::Unreachable(why) => (false, Some(why)),
    };
    Part {
        part,
        address: address.to_owned(),
        ready,
        detail,
    }
}

async fn demo(environment: &Environment) -> Part {
    let address = environment.demo.upstream.clone();
    let detail = tokio::net::TcpStream::connect(&address)
        .await
        .err()
        .map(|error| error.to_string());
    Part {
        part: "demo",
        address,
        ready: detail.is_none(),
        detail,
    }
}

/// The API that did not answer.
fn verify_api(environment: &Environment, why: String) -> Part {
    Part {
        part: "verify api",
        address: environment.sidecar.verify_grpc.clone(),
        ready: false,
        detail: Some(why),
    }
}

async fn trust(environment: &Environment) -> Result<Trust, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", environment.sidecar.verify_grpc));
    let channel = endpoint
        .map_err(|error| ErrorChain(&error).to_string())?
        .connect()
        .await;
    let mut verifier = VerifyServiceClient::new(channel.map_err(|error| ErrorChain(&error).to_string())?);
    let status = verifier.get_status(v1::GetStatusRequest {}).await;
    let status = status.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(Trust {
        issuer: status.issuer,
        audience: status.audience,
        epoch: status.epoch,
        state_digest: present::hex(&status.state_digest),
        freshness: status.freshness,
        connected: status.connected,
        age_ms: status.age_ms,
        refuses_in_ms: status.refuses_in_ms,
        keys: status.keys,
        revocations: status.revocations,
        classes: status.classes.into_iter().map(Class::from).collect(),
    })
}

impl From<v1::ClassStatus> for Class {
    fn from(status: v1::ClassStatus) -> Self {
        Self {
            class: status.class,
            decides: status.decides,
            refuses_in_ms: status.refuses_in_ms,
        }
    }
}

impl Class {
    fn phrase(&self) -> String {
        let class = &self.class;
        match self.refuses_in_ms.and_then(|millis| u64::try_from(millis).ok()) {
            Some(millis) if self.decides => {
                let left = present::duration(Duration::from_millis(millis));
                format!("refuses {class} methods in {left}")
            }
            Some(_) | None => format!("refuses {class} methods"),
        }
    }
}

impl Status {
    fn table(&self, paint: Paint) -> String {
        let rows = self.parts.iter().map(|part| {
            let state = if part.ready {
                Text::toned("ready", Tone::Good)
            } else {
                Text::toned("not ready", Tone::Bad)
            };
            vec![
                part.part.into(),
                part.address.as_str().into(),
                state,
                present::optional(part.detail.clone()),
            ]
        });
        let parts = paint.table(&["PART", "ADDRESS", "STATE", "DETAIL"], rows.collect());
        match &self.trust {
            None => parts,
            Some(trust) => format!("{parts}\n\n{}", trust.sentence()),
        }
    }
}

impl Trust {
    fn sentence(&self) -> String {
        let stream = if self.connected {
            "connected"
        } else {
            "not connected"
        };
        let left = if self.connected {
            String::new()
        } else {
            let phrases: Vec<_> = self.classes.iter().map(Class::phrase).collect();
            format!("; without the authority it {}", phrases.join(", "))
        };
        format!(
            "the sidecar is at epoch {}, {} and {stream}; {}, {}{left}",
            self.epoch,
            self.freshness,
            present::count(self.keys, "key"),
            present::count(self.revocations, "revocation")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(class: &str, decides: bool, refuses_in_ms: Option<i64>) -> Class {
        Class {
            class: class.to_owned(),
            decides,
            refuses_in_ms,
        }
    }

    /// Without the authority the countdown of each class is told; with it, nobody needs it.
    #[test]
    fn the_countdown_of_each_class_is_told_when_it_runs() {
        let mut trust = Trust {
            issuer: "https://auth.example.com".to_owned(),
            audience: "orders".to_owned(),
            epoch: 7,
            state_digest: String::new(),
            freshness: "stale".to_owned(),
            connected: false,
            age_ms: Some(11_000),
            refuses_in_ms: Some(899_000),
            keys: 2,
            revocations: 1,
            classes: vec![
                class("normal", true, Some(899_000)),
                class("strict", false, Some(0)),
            ],
        };
        assert_eq!(
            trust.sentence(),
            "the sidecar is at epoch 7, stale and not connected; 2 keys, 1 revocation; without the authority it refuses normal \
             methods in 14m 59s, refuses strict methods"
        );
        trust.connected = true;
        assert!(trust.sentence().ends_with("2 keys, 1 revocation"));
    }
}
