//! The table of hostile tokens (T01 to T95), sent to a running sidecar: the proxy and the Verify API give the same answer
//! as the pure core (I-18).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests; the counts are part of the report"
)]

use std::collections::BTreeSet;

use countersign_core::ports::Clock as _;
use countersign_harness::raw::{Answer, Connection};
use countersign_harness::sidecar::{RunningSidecar, Stance};
use countersign_proto::verify::v1::VerifyRequest;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_runtime::SystemClock;
use countersign_vectors::{Case, Expected, Method, Peer, Setting, cases};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const fn path(method: Method) -> &'static str {
    match method {
        Method::Plain => "/countersign.demo.v1.DemoService/Echo",
        Method::Scoped => "/countersign.demo.v1.DemoService/Collect",
        Method::Bound => "/countersign.demo.v1.DemoService/Expand",
    }
}

fn stance(setting: &Setting) -> Stance {
    let methods = format!(
        "[[method]]\npath = \"{}\"\nscopes = [\"{}\"]\n\n[[method]]\npath = \"{}\"\nbound = true\n",
        path(Method::Scoped),
        setting.scope,
        path(Method::Bound),
    );
    Stance {
        issuer: setting.issuer.to_string(),
        trust_domain: setting.trust_domain.to_string(),
        audience: setting.audience.to_string(),
        methods,
    }
}

/// A sidecar that trusts what the table's setting says, and the rows that can be sent to it.
async fn running() -> (RunningSidecar, Setting, Vec<Case>) {
    let mut setting = Setting::at(SystemClock.now());
    let sidecar = RunningSidecar::start(&stance(&setting)).await;
    setting.holder = sidecar.holder.certificate();
    setting.renewed = sidecar.renewed.certificate();
    setting.revoked = sidecar.revoked.certificate();
    sidecar.trust_now(setting.trust_state());
    let rows: Vec<Case> = cases(&setting)
        .into_iter()
        .filter(|case| case.is_sendable() && !case.frozen_clock)
        .collect();
    let ids: BTreeSet<&str> = rows.iter().map(|case| case.id).collect();
    println!("{} rows of {} lines", rows.len(), ids.len());
    assert!(rows.len() > 300 && ids.len() > 70, "the table has shrunk");
    (sidecar, setting, rows)
}

fn expected(case: &Case) -> (Code, String, Option<String>) {
    match case.expected {
        Expected::Accept => (Code::Ok, String::new(), None),
        Expected::Reject(rejection) => (
            countersign_wire::status::code(rejection.outcome()),
            rejection.reason().to_owned(),
            rejection.claim().map(|claim| claim.name().to_owned()),
        ),
    }
}

/// A connection of each peer.
struct Connections {
    holder: Connection,
    renewed: Connection,
    revoked: Connection,
    nobody: Connection,
}

impl Connections {
    async fn to(sidecar: &RunningSidecar) -> Self {
        Self {
            holder: sidecar.connect_as(&sidecar.holder).await,
            renewed: sidecar.connect_as(&sidecar.renewed).await,
            revoked: sidecar.connect_as(&sidecar.revoked).await,
            nobody: sidecar.connect_in_plaintext().await,
        }
    }
}

async fn through_the_proxy(case: &Case, connections: &Connections) -> Answer {
    let connection = match case.peer {
        Peer::Any | Peer::Holder => &connections.holder,
        Peer::Renewed => &connections.renewed,
        Peer::Revoked => &connections.revoked,
        Peer::Nobody => &connections.nobody,
    };
    connection.call(path(case.method), &case.authorization).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_answers_every_row_as_core_does() {
    let (sidecar, _setting, rows) = running().await;
    let connections = Connections::to(&sidecar).await;
    let mut wrong = Vec::new();
    for case in &rows {
        // Twice: the second answer may come from what is remembered of the first (I-19).
        for round in ["first", "again"] {
            let Answer { code, reason, claim } = through_the_proxy(case, &connections).await;
            if (code, reason.clone(), claim.clone()) != expected(case) {
                wrong.push(format!(
                    "{} {} ({round}): {code:?} {reason} {claim:?}",
                    case.id, case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    sidecar.stop().await;
}

async fn by_the_verify_api(
    case: &Case,
    setting: &Setting,
    api: &mut VerifyServiceClient<Channel>,
) -> (Code, String, Option<String>) {
    let shown = match case.peer {
        Peer::Any | Peer::Holder => Some(&setting.holder),
        Peer::Renewed => Some(&setting.renewed),
        Peer::Revoked => Some(&setting.revoked),
        Peer::Nobody => None,
    };
    let spiffe_id = shown.and_then(|shown| shown.spiffe_id.as_ref());
    let request = VerifyRequest {
        token: String::new(),
        authorization: case.authorization.clone(),
        path: path(case.method).to_owned(),
        peer_certificate_sha256: shown.map_or_else(Vec::new, |shown| shown.thumbprint.as_bytes().to_vec()),
        peer_spiffe_id: spiffe_id.map_or_else(String::new, |id| id.as_str().to_owned()),
    };
    let answer = api
        .verify(request)
        .await
        .expect("the question is understood")
        .into_inner();
    match answer.verdict.expect("a verdict") {
        Verdict::Allowed(_) => (Code::Ok, String::new(), None),
        Verdict::Refused(refused) => {
            let claim = (!refused.claim.is_empty()).then_some(refused.claim);
            (Code::from_i32(refused.grpc_code), refused.reason, claim)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verify_api_answers_every_row_as_core_does() {
    let (sidecar, setting, rows) = running().await;
    let address = sidecar.addresses.verify_grpc.expect("the API is served");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut api = VerifyServiceClient::new(endpoint.connect_lazy());
    let mut wrong = Vec::new();
    for case in &rows {
        let found = by_the_verify_api(case, &setting, &mut api).await;
        if found != expected(case) {
            wrong.push(format!("{} {}: {found:?}", case.id, case.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    sidecar.stop().await;
}
