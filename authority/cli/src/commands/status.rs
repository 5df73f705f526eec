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
    trust: Trust,
}

#[derive(Debug, Serialize)]
struct Part {
    part: &'static str,
    address: String,
    ready: bool,
    detail: Option<String>,
}

/// What the sidecar trusts. Nothing is known when it does not answer, and of what it holds nothing while it is cold; programs find
/// every part all the same.
#[derive(Debug, Default, Serialize)]
struct Trust {
    issuer: Option<String>,
    audience: Option<String>,
    epoch: Option<u64>,
    state_digest: Option<String>,
    freshness: Option<String>,
    connected: Option<bool>,
    age_ms: Option<i64>,
    refuses_in_ms: Option<i64>,
    keys: Option<u32>,
    revocations: Option<u64>,
    classes: Option<Vec<Class>>,
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
    let asked = trust(&environment.sidecar.verify_grpc).await;
    parts.push(verify_api(&environment.sidecar.verify_grpc, asked.as_ref().err()));
    let status = Status {
        healthy: parts.iter().all(|part| part.ready),
        parts,
        trust: asked.unwrap_or_default(),
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

/// The API by which the sidecar says what it trusts.
fn verify_api(address: &str, why_not: Option<&String>) -> Part {
    Part {
        part: "verify api",
        address: address.to_owned(),
        ready: why_not.is_none(),
        detail: why_not.cloned(),
    }
}

async fn trust(address: &str) -> Result<Trust, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint
        .map_err(|error| ErrorChain(&error).to_string())?
        .connect()
        .await;
    let mut verifier = VerifyServiceClient::new(channel.map_err(|error| ErrorChain(&error).to_string())?);
    let status = verifier.get_status(v1::GetStatusRequest {}).await;
    let status = status.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(Trust::read(status))
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
        match self.trust.sentence() {
            None => parts,
            Some(sentence) => format!("{parts}\n\n{sentence}"),
        }
    }
}

impl Trust {
    fn read(status: v1::GetStatusResponse) -> Self {
        let holds = status.epoch > 0;
        Self {
            issuer: Some(status.issuer),
            audience: Some(status.audience),
            epoch: holds.then_some(status.epoch),
            state_digest: holds.then(|| present::hex(&status.state_digest)),
            freshness: Some(status.freshness),
            connected: Some(status.connected),
            age_ms: status.age_ms,
            refuses_in_ms: status.refuses_in_ms,
            keys: holds.then_some(status.keys),
            revocations: holds.then_some(status.revocations),
            classes: Some(status.classes.into_iter().map(Class::from).collect()),
        }
    }

    /// Nothing when the sidecar does not answer.
    fn sentence(&self) -> Option<String> {
        let freshness = self.freshness.as_ref()?;
        let is_connected = self.connected?;
        let stream = if is_connected {
            "connected"
        } else {
            "not connected"
        };
        let (Some(epoch), Some(keys), Some(revocations)) = (self.epoch, self.keys, self.revocations) else {
            return Some(format!("the sidecar holds no trust yet and is {stream}"));
        };
        let left = if is_connected {
            String::new()
        } else {
            let classes = self.classes.iter().flatten();
            let phrases: Vec<_> = classes.map(Class::phrase).collect();
            format!("; without the authority it {}", phrases.join(", "))
        };
        Some(format!(
            "the sidecar is at epoch {epoch}, {freshness} and {stream}; {}, {}{left}",
            present::count(keys, "key"),
            present::count(revocations, "revocation")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(class: &str, decides: bool, refuses_in_ms: Option<i64>) -> v1::ClassStatus {
        v1::ClassStatus {
            class: class.to_owned(),
            decides,
            refuses_in_ms,
            ..v1::ClassStatus::default()
        }
    }

    fn stale() -> v1::GetStatusResponse {
        v1::GetStatusResponse {
            issuer: "https://auth.example.com".to_owned(),
            audience: "orders".to_owned(),
            epoch: 7,
            state_digest: vec![0xab],
            freshness: "stale".to_owned(),
            age_ms: Some(11_000),
            refuses_in_ms: Some(899_000),
            connected: false,
            keys: 2,
            revocations: 1,
            classes: vec![
                class("normal", true, Some(899_000)),
                class("strict", false, Some(0)),
            ],
        }
    }

    fn cold() -> v1::GetStatusResponse {
        v1::GetStatusResponse {
            epoch: 0,
            freshness: "cold".to_owned(),
            age_ms: None,
            refuses_in_ms: None,
            keys: 0,
            revocations: 0,
            classes: vec![class("normal", false, None)],
            ..stale()
        }
    }

    /// Without the authority the countdown of each class is told; with it, nobody needs it.
    #[test]
    fn the_countdown_of_each_class_is_told_when_it_runs() {
        assert_eq!(
            Trust::read(stale()).sentence().as_deref(),
            Some(
                "the sidecar is at epoch 7, stale and not connected; 2 keys, 1 revocation; without the authority it refuses normal \
                 methods in 14m 59s, refuses strict methods"
            )
        );
        let connected = Trust {
            connected: Some(true),
            ..Trust::read(stale())
        };
        let sentence = connected.sentence().expect("it is known");
        assert!(sentence.ends_with("2 keys, 1 revocation"), "{sentence}");
    }

    #[test]
    fn a_cold_sidecar_is_not_said_to_be_at_an_epoch() {
        assert_eq!(
            Trust::read(cold()).sentence().as_deref(),
            Some("the sidecar holds no trust yet and is not connected")
        );
        assert_eq!(Trust::default().sentence(), None);
    }

    #[test]
    fn programs_find_the_same_parts_whatever_is_known() {
        let json = |trust: Trust| serde_json::to_value(trust).expect("JSON");
        let keys = |value: &serde_json::Value| {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect::<Vec<_>>()
        };
        let (known, cold, unknown) = (
            json(Trust::read(stale())),
            json(Trust::read(cold())),
            json(Trust::default()),
        );
        assert_eq!((keys(&cold), keys(&unknown)), (keys(&known), keys(&known)));
        assert_eq!(
            (&known["epoch"], &known["state_digest"]),
            (&7.into(), &"ab".into())
        );
        for part in ["epoch", "state_digest", "age_ms", "keys", "revocations"] {
            assert!(cold[part].is_null(), "{part}: {cold}");
        }
        assert_eq!(cold["freshness"], "cold");
        let values = unknown.as_object().expect("an object").values();
        assert!(values.into_iter().all(serde_json::Value::is_null), "{unknown}");
    }

    /// Each part is listed whether it answers or not.
    #[tokio::test]
    async fn the_api_that_does_not_answer_is_a_part_as_one_that_does() {
        let answers = verify_api("127.0.0.1:1", None);
        assert!(answers.ready && answers.detail.is_none());
        let asked = trust("127.0.0.1:1").await;
        let silent = verify_api("127.0.0.1:1", asked.as_ref().err());
        assert!(!silent.ready && silent.detail.is_some());
    }
}
