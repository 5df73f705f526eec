//! `countersign status`: whether the parts of a development environment run and agree.

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
    })
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
        let seconds = |millis: i64| {
            present::duration(std::time::Duration::from_millis(
                u64::try_from(millis).unwrap_or_default(),
            ))
        };
        let stream = if self.connected {
            "connected"
        } else {
            "not connected"
        };
        let left = match self.refuses_in_ms {
            Some(left) if !self.connected => {
                format!("; without the authority it refuses in {}", seconds(left))
            }
            _ => String::new(),
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
